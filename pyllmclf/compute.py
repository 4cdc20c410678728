"""Where and how a model is computed: device, dtype and backend, and everything else that its bits depend on."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from . import _C
from .distributed import local_device
from .errors import ResourceError, UsageError
from .ops.dispatch import active_backend, check_backend
from .version import __version__

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Compute capability from which tensor cores take bfloat16 (Ampere).
BF16_CAPABILITY = (8, 0)
DEVICES = "'auto', 'cpu', 'cuda' or 'cuda:N'"


@dataclass(frozen=True)
class Compute:
    """Device, dtype and backend of a computation.

    Attributes
    ----------
    device : torch.device
    dtype : torch.dtype
        Of the activations and the matmuls; parameters stay in fp32.
    backend : {"auto", "reference", "native", "triton"}
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    backend: str = "auto"

    @classmethod
    def resolve(cls, device: str | torch.device = "auto", dtype: str = "auto", backend: str = "auto") -> Compute:
        """Resolves what a user says; ``"auto"`` is the best that this machine has.

        Raises
        ------
        UsageError
            If a name is unknown, or the backend does not run on the device.
        ResourceError
            If the device is unavailable.
        """
        found = resolve_device(device)
        return cls(found, resolve_dtype(dtype, found), check_backend(backend, found))

    @classmethod
    def of_process(cls, device: str, dtype: str, backend: str) -> Compute:
        """As :meth:`resolve`; of the GPUs of a machine, the one of this process."""
        found = local_device(resolve_device(device))
        return cls(found, resolve_dtype(dtype, found), check_backend(backend, found))

    @property
    def dtype_name(self) -> str:
        """The dtype's name without torch's prefix."""
        return str(self.dtype).removeprefix("torch.")

    def numerics(self) -> dict[str, object]:
        """What can change the bits of floating-point results, as JSON can hold it: threads, backend, processor,
        libraries and their settings.
        """
        gpu = [torch.cuda.get_device_name(self.device)] if self.device.type == "cuda" else []
        return {
            "threads": torch.get_num_threads(),
            "backend": active_backend() if self.backend == "auto" else self.backend,
            "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability(), *gpu],
            "precision": [torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32],
            "mkldnn": bool(torch.backends.mkldnn.enabled),
            "pyllmclf": __version__,
            "torch": torch.__version__,
        }


def resolve_device(name: str | torch.device) -> torch.device:
    """``"auto"`` is the first CUDA device if there is one, else the CPU.

    Raises
    ------
    UsageError
        If the name is that of neither a CPU nor a CUDA device.
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


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``"auto"`` is bfloat16 on CUDA devices that compute it, else float32.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    if name == "auto":
        # torch.cuda.is_bf16_supported() also says yes where bfloat16 is emulated.
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise UsageError(f"dtype={name!r} is unknown; it is 'auto', {', '.join(map(repr, DTYPES))}.")
    return DTYPES[name]


@cache
def code_sha256() -> str:
    """Hash of all code that computes: between two commits with one version number, results may differ."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    spec = find_spec("pyllmclf.kernels")  # not imported: triton may be missing
    kernels = [] if spec is None else [Path(path) for path in spec.submodule_search_locations or ()]
    for folder in (root / "ops", root / "models", *kernels):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(Path(_C.__file__).read_bytes())
    return digest.hexdigest()
