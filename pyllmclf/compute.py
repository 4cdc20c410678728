"""Device, dtype and backend of a computation, and what else can change floating-point results."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from . import _C
from .errors import ResourceError, UsageError
from .forked import make_forks_safe
from .ops.backends import native_cpu
from .ops.dispatch import active_backend, check_backend
from .version import __version__

make_forks_safe()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Least compute capability whose tensor cores multiply bfloat16 (Ampere).
BF16_CAPABILITY = (8, 0)
# The dtype that "auto" means.
DTYPE_VARIABLE = "PYLLMCLF_DTYPE"
DEVICES = "'auto', 'cpu', 'cuda' or 'cuda:N'"


@dataclass(frozen=True)
class Compute:
    """Device, dtype and backend of a computation.

    Attributes
    ----------
    device : torch.device
    dtype : torch.dtype
        Dtype of the activations and matmuls, on a CPU of the matmuls' operands alone; parameters stay in fp32.
    backend : {"auto", "reference", "native", "triton"}
        Implementation of the ops.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    backend: str = "auto"

    @classmethod
    def resolve(cls, device: str | torch.device = "auto", dtype: str = "auto", backend: str = "auto") -> Compute:
        """Resolves a user's arguments; ``"auto"`` is the best that this machine has.

        Raises
        ------
        UsageError
            If a name is unknown, the backend does not run on the device, or ``PYLLMCLF_SIMD`` names no SIMD build that
            runs here.
        ResourceError
            If the device is unavailable.
        """
        resolved = resolve_device(device)
        check_backend(backend, resolved)
        native_cpu.simd_level()
        plain = (active_backend() if backend == "auto" else backend) == "reference"
        return cls(resolved, resolve_dtype(dtype, resolved, fast=not plain), backend)

    @property
    def dtype_name(self) -> str:
        """Name of the dtype, without ``torch.``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def rounds_operands(self) -> bool:
        """Whether the matmuls' operands alone are in bfloat16, as on a CPU."""
        return self.dtype is torch.bfloat16 and self.device.type == "cpu"

    def numerics(self) -> dict[str, object]:
        """What can change floating-point results, as types that JSON has: threads, backend, processor, library versions
        and settings.
        """
        simd = native_cpu.simd_level()
        gpu = [torch.cuda.get_device_name(self.device)] if self.device.type == "cuda" else []
        return {
            "threads": torch.get_num_threads(),
            "backend": active_backend() if self.backend == "auto" else self.backend,
            "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability(), simd, *gpu],
            "precision": [torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32],
            "mkldnn": bool(torch.backends.mkldnn.enabled),
            "pyllmclf": __version__,
            "torch": torch.__version__,
        }


def resolve_device(name: str | torch.device) -> torch.device:
    """Resolves a device; ``"auto"`` is the first CUDA device if there is one, else the CPU.

    Raises
    ------
    UsageError
        If the name is neither a CPU's nor a CUDA device's.
    ResourceError
        If the device is unavailable on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device={name!r} is unknown; it is {DEVICES}.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device={name!r} is not supported; it is {DEVICES}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"device={name!r}: torch sees no CUDA device here; use 'cpu' or 'auto'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"device={name!r}: there are {torch.cuda.device_count()} CUDA devices.")
    return device


def resolve_dtype(name: str, device: torch.device, *, fast: bool = True) -> torch.dtype:
    """Resolves a dtype; ``"auto"`` is what the environment variable ``PYLLMCLF_DTYPE`` says.

    Without it, ``"auto"`` is bfloat16 where the device multiplies it faster, else float32.

    Parameters
    ----------
    name : str
    device : torch.device
    fast : bool
        Whether the ops run on their fast paths; otherwise ``"auto"`` is float32 on a CPU.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    named = f"dtype={name!r}"
    if name == "auto" and os.environ.get(DTYPE_VARIABLE):
        name = os.environ[DTYPE_VARIABLE]
        named = f"{DTYPE_VARIABLE}={name!r}"
    if name == "auto":
        return torch.bfloat16 if multiplies_bf16_faster(device) and (fast or device.type != "cpu") else torch.float32
    if name not in DTYPES:
        raise UsageError(f"{named} is unknown; it is 'auto', {', '.join(map(repr, DTYPES))}.")
    return DTYPES[name]


def multiplies_bf16_faster(device: torch.device) -> bool:
    """Whether matmuls in bfloat16 are faster than in float32 on a device."""
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported() is also true where bfloat16 is emulated.
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return native_cpu.multiplies_bf16_faster()


@cache
def code_sha256() -> str:
    """SHA-256 of the code of ops, models and kernels: two commits with one version number may compute differently."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    spec = find_spec("pyllmclf.kernels")  # not imported: triton may be missing
    kernels = [] if spec is None else [Path(path) for path in spec.submodule_search_locations or ()]
    for folder in (root / "ops", root / "models", *kernels):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(Path(_C.__file__).read_bytes())
    return digest.hexdigest()
