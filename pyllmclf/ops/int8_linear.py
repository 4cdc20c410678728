"""Linear layer in int8, for classifying: weights with a scale per output, rows with a scale of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UsageError
from .backends import native_cpu
from .dispatch import Choice, choices, implementation

choices(
    "int8_linear",
    cpu=Choice("native", "torch's int8 matmul where the processor has instructions for it, else one of int16 pairs"),
    cuda=Choice("reference", "for CPUs", native="no"),
)

LARGEST = 127


@dataclass(frozen=True)
class Int8Weight:
    """A weight in int8.

    Attributes
    ----------
    values : int8 tensor, shape [out, in]
    scales : fp32 tensor, shape [out]
    factors : fp32 tensor, shape [in], or None
        The weight is ``values * scales[:, None] * factors``, and rows are multiplied by ``factors`` before they are
        rounded. ``None``: 1.
    """

    values: Tensor
    scales: Tensor
    factors: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, factors: Tensor | None = None) -> Int8Weight:
        """Quantises a weight, fp32 [out, in], divided by the factors: each output by its largest magnitude."""
        with torch.inference_mode(False), torch.no_grad():
            weight = weight.detach().float() if factors is None else weight.detach().float() / factors
            return cls(*_quantized(weight), factors)

    @cached_property
    def packed(self) -> Tensor:
        """The values for the core's own product, int16; made when they are first used, beside the values."""
        with torch.inference_mode(False), torch.no_grad():
            return native_cpu.packed_int8(self.values)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """:func:`int8_linear` with this weight."""
        return int8_linear(x, self, bias)


def int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    """Computes x Wᵀ + b with each row of x rounded to int8 by its own scale, and sums in int32. It has no gradient.

    Parameters
    ----------
    x : fp32 tensor, shape [rows, in]
    weight : Int8Weight, shape [out, in]
    bias : fp32 tensor, shape [out], optional

    Returns
    -------
    fp32 tensor, shape [rows, out]

    Raises
    ------
    UsageError
        If shapes don't fit each other, a gradient is required, or the chosen backend can't compute this.
    """
    if x.dim() != 2 or x.shape[1] != weight.values.shape[1]:
        raise UsageError(f"int8_linear: shapes {tuple(x.shape)} and {tuple(weight.values.shape)} don't fit.")
    if torch.is_grad_enabled() and x.requires_grad:
        raise UsageError("int8_linear has no gradient; it is for classifying.")
    native = implementation("int8_linear", x, weight.scales, bias) == "native"
    if not len(x):
        return x.new_empty(0, len(weight.scales))
    if not native:
        q, scales = _quantized(_times(x, weight.factors))
        y = (q.double() @ weight.values.double().t()).float() * (scales[:, None] * weight.scales)
        return y if bias is None else y + bias
    if not native_cpu.torch_multiplies_int8():
        return native_cpu.int8_linear(x, weight.factors, weight.packed, weight.scales, bias)
    q, scales = native_cpu.quantize_rows(x, weight.factors)
    product = torch._int_mm(q, weight.values.t())
    return native_cpu.dequantize_rows(product, scales, weight.scales, bias)


def _times(x: Tensor, factors: Tensor | None) -> Tensor:
    return x if factors is None else x * factors


def _quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in int8, and their scales; a row that is not finite has the scale NaN."""
    scales = x.abs().amax(1) / LARGEST + (x - x).sum(1) if x.numel() else x.new_zeros(len(x))
    q = x * torch.where(scales > 0, 1 / scales, 0.0)[:, None]
    return q.round().nan_to_num(0.0).to(torch.int8), scales
