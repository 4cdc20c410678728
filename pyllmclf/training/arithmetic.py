"""What the bits of a sum depend on, besides the sum."""

from __future__ import annotations

import platform

import torch

from ..ops.dispatch import active_backend
from ..version import __version__


def machine_arithmetic(device: torch.device, backend: str) -> dict[str, object]:
    """Processor, libraries and what is set in them, as JSON can hold it."""
    gpu = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    return {
        "threads": torch.get_num_threads(),
        "backend": active_backend() if backend == "auto" else backend,
        "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability(), *gpu],
        "precision": [torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32],
        "mkldnn": bool(torch.backends.mkldnn.enabled),
        "pyllmclf": __version__,
        "torch": torch.__version__,
    }
