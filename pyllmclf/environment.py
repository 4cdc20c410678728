"""What this installation can do."""

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
    """Versions, SIMD level, CUDA part, devices, and which implementation of each op runs.

    Returns
    -------
    dict
        What :func:`show_config` prints, as JSON can hold it.
    """
    import torch

    from . import _C
    from .ops.dispatch import BACKENDS, TABLE, active_backend
    from .version import __version__

    build = _C.build_config()
    devices, why_none = _C.cuda_devices()
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
        "cuda_unavailable": why_none or None,
        "torch_cuda_available": torch.cuda.is_available(),
        "backends": list(BACKENDS),
        "backend": active_backend(),
        "ops": {
            op: {name: {"auto": c.installed, "why": c.why} for name, c in choices.items()}
            for op, choices in sorted(TABLE.items())
        },
    }


def show_config() -> None:
    """Prints versions, SIMD level, CUDA part, devices, and which implementation of each op runs, and why."""
    found = config()
    native = found["native"]
    cuda = f"nvcc {native['cuda']}, {' '.join(native['cuda_architectures'])}" if native["cuda"] else "not built"
    lines = [
        f"pyllmclf {found['pyllmclf']} on Python {found['python']}, {found['platform']}",
        f"  torch       {found['torch']}, {found['torch_threads']} threads",
        f"  triton      {found['triton'] or 'not installed'}",
        f"  native core {native['compiler']}, SIMD {native['simd']}",
        f"  CUDA part   {cuda}",
    ]
    for device in found["cuda_devices"]:
        capability = ".".join(map(str, device["capability"]))
        runs = f"runs sm_{device['code_version']} code" if device["code_version"] else "can't run this build's code"
        lines.append(f"  device      {device['name']}, {capability}, {device['memory'] / 2**30:.0f} GiB, {runs}")
    if not found["cuda_devices"]:
        lines.append(f"  device      CPU only ({found['cuda_unavailable'] or 'no CUDA device'})")
    lines.append(f"  backends    {', '.join(found['backends'])}; now {found['backend']!r}; with 'auto':")
    for op, devices in found["ops"].items():
        lines += [f"    {op:<12} {name:<5} {c['auto']:<10} {c['why']}" for name, c in devices.items()]
    print("\n".join(lines))
