"""Triton backend: whether the kernels can compute an op, and the arguments that they take.

The kernels run on CUDA devices. With ``TRITON_INTERPRET=1`` in the environment at start-up they run on the CPU, slowly,
for tests.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..philox import DropoutKey

if TYPE_CHECKING:
    from ...kernels.philox import Dropout

# The interpreter computes bfloat16 wrongly.
DTYPES = {"cuda": (torch.float32, torch.bfloat16, torch.float16), "cpu": (torch.float32, torch.float16)}
MAX_HEAD_DIM = 256
# Triton emits no matrix instructions for older GPUs.
LEAST_CAPABILITY = (8, 0)


@cache
def installed() -> bool:
    """Whether the triton package is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")


@cache
def missing(device: torch.device) -> str | None:
    """Why the kernels can't run on a device, for an error message; ``None`` if they can."""
    if not installed():
        return "needs the triton package (pip install 'pyllmclf[triton]')"
    if interpreted():
        if device.type == "cpu":
            return None
        return "runs in Triton's interpreter (TRITON_INTERPRET=1), which takes tensors on the CPU"
    if device.type != "cuda":
        return "needs a CUDA device"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"needs a GPU of compute capability {'.'.join(map(str, LEAST_CAPABILITY))} or newer"
    return None


def serves(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels take these tensors: of one supported dtype, on one device, outside autocast."""
    device = first.device
    kind = device.type
    if missing(device) is not None or first.dtype not in DTYPES[kind] or torch.is_autocast_enabled(kind):
        return False
    return all(t is None or (t.dtype is first.dtype and t.device == first.device) for t in others)


def why_not(first: Tensor) -> str:
    """Why :func:`serves` is false, for an error message."""
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES.get(first.device.type, ()))
    return missing(first.device) or f"computes {dtypes} on one device, without autocast"


def attention_dropout(p: float, key: DropoutKey | None) -> Dropout | None:
    """The kernels' dropout of attention probabilities, or ``None`` for a rate of 0."""
    if p == 0.0 or key is None:
        return None
    from ...kernels.philox import Dropout

    return Dropout.make(p, key.seed, key.step, key.stream, key.example_ids)


def row_dropout(p: float, key: DropoutKey) -> Dropout:
    """The kernels' dropout of packed rows."""
    from ...kernels.philox import Dropout

    positions = key.row_positions.to(torch.int32).contiguous()
    return Dropout.make(p, key.seed, key.step, key.stream, key.row_example_ids.contiguous(), positions)


def dropout_rows(x: Tensor, p: float, key: DropoutKey) -> Tensor:
    """Computes x * mask / (1 - p), shape and dtype of ``x`` [rows, channels]."""
    from ...kernels import dropout

    return dropout.dropout_rows(readable(x), row_dropout(p, key))


def readable(x: Tensor) -> Tensor:
    """Returns ``x``, or a contiguous copy if its last axis is strided."""
    return x if x.stride(-1) == 1 else x.contiguous()


def lora_ways(x: Tensor, weight: Tensor, rank: int, *, forced: bool) -> tuple[str, str, str]:
    """How a LoRA layer computes its forward product, its input's gradient and its thin gradients.

    The rules of :func:`pyllmclf.kernels.configs.lora_way` decide, unless ``forced``: then Triton computes all.

    Parameters
    ----------
    x : tensor, shape [rows, in]
    weight : tensor, shape [out, in]
    rank : int
    forced : bool

    Returns
    -------
    forward, input_gradient, thin : str
        As the attributes of :class:`pyllmclf.ops.lora_linear.Way`.
    """
    from ...kernels.configs import lora_way
    from ...kernels.lora_linear import THIN_RANK

    outputs, inputs = weight.shape
    forward_kind = "expanding" if outputs > inputs else "contracting"
    gradient_kind = "expanding" if inputs > outputs else "contracting"
    forward, input_gradient, thin = (
        "fused" if forced else lora_way(product, 8 * x.element_size(), len(x), min(weight.shape), rank, x.device)
        for product in (forward_kind, gradient_kind, "thin")
    )
    return forward, input_gradient, thin if rank <= THIN_RANK else "in place"
