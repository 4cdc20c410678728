"""Versions, devices and backends of this installation."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata
from typing import Any


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def config() -> dict[str, Any]:
    """Collects versions, SIMD level, CUDA build, devices, and which implementation of each op runs.

    Returns
    -------
    dict
        The content of :func:`show_config`'s text, as types that JSON has.
    """
    import torch

    from . import _C
    from .compute import Compute
    from .ops.dispatch import BACKENDS, TABLE, active_backend
    from .version import __version__

    computes = {"cpu": Compute.resolve("cpu")} | (
        {"cuda": Compute.resolve("cuda")} if torch.cuda.is_available() else {}
    )
    build = _C.build_config()
    devices, no_device_reason = _C.cuda_devices()
    return {
        "pyllmclf": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "triton": _version("triton"),
        "triton_importable": importlib.util.find_spec("triton") is not None,
        "tiktoken": _version("tiktoken"),
        "tokenizers": _version("tokenizers"),
        "native": {
            "compiler": build["compiler"],
            "simd": build["simd"],
            "cuda": build["cuda"],
            "cuda_architectures": build["cuda_architectures"].split(),
        },
        "cuda_devices": [dict(d, capability=list(d["capability"])) for d in devices],
        "cuda_unavailable": no_device_reason or None,
        "torch_cuda_available": torch.cuda.is_available(),
        "dtypes": {name: compute.dtype_name for name, compute in computes.items()},
        "backends": list(BACKENDS),
        "backend": active_backend(),
        "ops": {
            op: {name: {"auto": c.installed, "why": c.why} for name, c in choices.items()}
            for op, choices in sorted(TABLE.items())
        },
    }


def show_config() -> None:
    """Prints versions, SIMD level, CUDA build, devices, and which implementation of each op runs, and why."""
    info = config()
    native = info["native"]
    cuda = f"nvcc {native['cuda']}, {' '.join(native['cuda_architectures'])}" if native["cuda"] else "not built"
    lines = [
        f"pyllmclf {info['pyllmclf']} on Python {info['python']}, {info['platform']}",
        f"  torch       {info['torch']}, {info['torch_threads']} threads",
        f"  triton      {info['triton'] or 'not installed'}",
        f"  native core {native['compiler']}, SIMD {native['simd']}",
        f"  CUDA part   {cuda}",
    ]
    for device in info["cuda_devices"]:
        capability = ".".join(map(str, device["capability"]))
        runs = f"runs sm_{device['code_version']} code" if device["code_version"] else "can't run this build's code"
        lines.append(f"  device      {device['name']}, {capability}, {device['memory'] / 2**30:.0f} GiB, {runs}")
    if not info["cuda_devices"]:
        lines.append(f"  device      CPU only ({info['cuda_unavailable'] or 'no CUDA device'})")
    lines.append(
        f"  dtype       with 'auto': {', '.join(f'{dtype} on {name}' for name, dtype in info['dtypes'].items())}"
    )
    lines.append(f"  backends    {', '.join(info['backends'])}; now {info['backend']!r}; with 'auto':")
    for op, devices in info["ops"].items():
        lines += [f"    {op:<12} {name:<5} {c['auto']:<10} {c['why']}" for name, c in devices.items()]
    print("\n".join(lines))
