"""Linear layer. torch computes fp32 matmuls, by the faster of its two libraries; the native core few rows and bf16."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .backends import native_cpu, reference
from .dispatch import Choice, check_operands, choices, implementation
from .functions import apply
from .gradients import GradientBuffer, gradient_buffer, transposed_product

choices(
    "linear",
    cpu=Choice("native", "torch's matmuls in fp32, its own in bf16; gradients are written into buffers"),
    cuda=Choice("reference", "torch's matmuls", native="needless"),
)

# Below this many rows, inputs or outputs, oneDNN's set-up of a call costs more than its kernel gains. With a weight of
# ONEDNN_WIDE inputs and outputs it gains even for a single row, where memory bandwidth is the limit.
ONEDNN_MIN_SIZE = 64
ONEDNN_WIDE = 512
# Up to this many rows, a product's operands are never rounded.
FEW_ROWS = native_cpu.FEW_ROWS
# oneDNN compiles a matmul for each shape and keeps it, and so does torch's layer above it, in each thread: 0.6 MB a
# shape, up to 1,024 each. Every packed batch has another number of rows: a step has a dozen shapes, which hardly recur.
ONEDNN_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
ONEDNN_CACHED_SHAPES = 64


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, operands: torch.dtype | None = None) -> Tensor:
    """Computes x Wᵀ + b.

    Parameters
    ----------
    x : tensor, shape [rows, in]
    weight : tensor, shape [out, in]
    bias : tensor, shape [out], optional
    operands : torch.dtype, optional
        ``torch.bfloat16``: the fp32 operands of this product, and of those for the gradients, are rounded to it; sums
        and results stay in fp32. Products of up to :data:`FEW_ROWS` rows are not rounded. The weight may be in bf16
        then, unless it is trained.

    Returns
    -------
    tensor, shape [rows, out]
        In the dtype of ``x``, or that of autocast.

    Raises
    ------
    UsageError
        If shapes don't fit each other, or the chosen backend can't compute this.
    """
    check_shapes("linear", x, weight, bias)
    if implementation("linear", x, unless_kept(weight, operands), bias) == "native":
        return apply(LinearFunction, x, weight, bias, operands)
    return reference.linear(x, weight, bias, operands=rounding(x, operands))


def unless_kept(weight: Tensor, operands: torch.dtype | None) -> Tensor | None:
    """The weight as the choice of an implementation reads it: ``None`` where the native core takes it in bf16."""
    kept = weight.dtype is torch.bfloat16 and operands is torch.bfloat16 and weight.is_cpu
    return None if kept else weight


def check_shapes(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises :class:`UsageError` unless x is [rows, in], weight [out, in] and bias [out]."""
    fits = x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [tuple(t.shape) for t in (x, weight, bias) if t is not None]
        raise UsageError(f"{op}: shapes {shapes} of rows, weight (and bias) don't fit.")


def rounding(x: Tensor, operands: torch.dtype | None) -> torch.dtype | None:
    """The dtype that the operands of a product with rows x are rounded to; ``None`` where they stay as they are.

    Memory bandwidth for the weight limits a product of few rows: rounding would gain nothing.

    Raises
    ------
    UsageError
        If ``operands`` is neither bfloat16 nor ``None``.
    """
    if operands is None:  # before len(x): a tracer would take the number of rows for a constant
        return None
    check_operands(operands)
    return operands if len(x) > FEW_ROWS else None


def rounded(x: Tensor, operands: torch.dtype | None) -> Tensor:
    """Rows as a product takes them: bf16 where :func:`rounding` says so, else ``x``."""
    return x if rounding(x, operands) is None else native_cpu.to_bf16(x)


@cache
def _onednn_is_faster() -> bool:
    """Whether oneDNN's matmuls beat MKL's: by a sixth to a third with AVX-512, not with AVX2.

    Bounds oneDNN's caches, which read the environment at their first use; values that the user has set remain.
    """
    for name in ONEDNN_CACHES:
        os.environ.setdefault(name, str(ONEDNN_CACHED_SHAPES))
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _use_onednn(x: Tensor, weight: Tensor) -> bool:
    if not x.is_cpu or x.dtype is not torch.float32:
        return False
    narrow = min(weight.shape)
    large = narrow >= ONEDNN_WIDE or min(len(x), narrow) >= ONEDNN_MIN_SIZE
    return large and len(x) > 0 and _onednn_is_faster() and bool(torch.backends.mkldnn.enabled)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x Wᵀ + b without autograd; shapes as for :func:`linear`. Either operand may be in bf16."""
    if x.dtype is torch.bfloat16 and x.is_cpu:
        return native_cpu.bf16_linear(x, weight, bias)
    few = 0 < len(x) <= native_cpu.FEW_ROWS and weight.is_contiguous() and x.dtype is torch.float32
    if few and native_cpu.serves(x, weight, bias, also=torch.bfloat16):
        return native_cpu.linear_forward(x, weight, bias)
    weight = _widened(x, weight)
    if _use_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Computes dY W without autograd, shape [rows, in]. Either operand may be in bf16."""
    if dy.dtype is torch.bfloat16 and dy.is_cpu:
        return native_cpu.bf16_linear(dy, weight, transposed=True)
    weight = _widened(dy, weight)
    return product(dy, weight.t(), None) if _use_onednn(dy, weight) else dy @ weight


def _widened(x: Tensor, weight: Tensor) -> Tensor:
    return weight.float() if x.dtype is torch.float32 and weight.dtype is torch.bfloat16 else weight


def weight_gradient(buffer: GradientBuffer | None, dy: Tensor, x: Tensor) -> Tensor | None:
    """Returns dYᵀ X, shape [out, in], or writes it into the buffer and returns ``None``."""
    if buffer is None:
        return transposed_product(dy, x)
    buffer.add_matmul(dy, x)
    return None


def linear_gradients(
    buffer: GradientBuffer | None,
    dy: Tensor,
    inputs: Callable[[], Tensor],
    weight: Tensor,
    *,
    input_needed: bool,
    weight_needed: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients (dY W, dYᵀ X) of a product whose input is recomputed; the second is ``None`` if the buffer has it.

    Parameters
    ----------
    buffer : GradientBuffer or None
    dy : tensor, shape [rows, out]
        Rounded as the product's operands.
    inputs : callable
        Returns X, shape [rows, in], as the product took it.
    weight : tensor, shape [out, in]
    input_needed, weight_needed : bool
    """
    if weight_needed and buffer is not None and buffer.takes_fused_step(dy):
        return buffer.fused_step(dy, inputs(), input_needed=input_needed), None
    # The weight's gradient comes last: its consumer may change the weight.
    dx = input_gradient(dy, weight) if input_needed else None
    return dx, weight_gradient(buffer, dy, inputs()) if weight_needed else None


class LinearFunction(torch.autograd.Function):
    """Saves x as it is multiplied. Computes only the gradients that are needed; the weight's goes into its buffer if it
    has one."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, operands: torch.dtype | None) -> Tensor:
        x = rounded(x, operands)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.buffer, ctx.operands = gradient_buffer(weight), operands
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dbias = dy.sum(0) if needs_bias else None
        dy = rounded(dy, ctx.operands)
        dx, dweight = linear_gradients(
            ctx.buffer, dy, lambda: x, weight, input_needed=needs_x, weight_needed=needs_weight
        )
        return dx, dweight, dbias, None
