"""Device and compute dtype: from what the user says to what torch takes."""

from __future__ import annotations

import torch

from .errors import ResourceError, UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Compute capability from which tensor cores take bfloat16 (Ampere).
BF16_CAPABILITY = (8, 0)
DEVICES = "'auto', 'cpu', 'cuda' or 'cuda:N'"


def resolve_device(name: str | torch.device) -> torch.device:
    """``"auto"`` is the first CUDA device if there is one, else the CPU.

    Raises
    ------
    UsageError
        If it is neither a CPU nor a CUDA device.
    ResourceError
        If it is not to be had on this machine.
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
    """``"auto"`` is bfloat16 on CUDA devices that compute it, else float32."""
    if name == "auto":
        # Not torch.cuda.is_bf16_supported(): that says yes where bfloat16 is emulated, too.
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise UsageError(f"dtype={name!r} is unknown; it is 'auto', {', '.join(map(repr, DTYPES))}.")
    return DTYPES[name]
