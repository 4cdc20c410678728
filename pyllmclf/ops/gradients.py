"""Gradient buffers: memory that gradients are written into every step.

torch allocates a tensor for each gradient in each step. Fresh memory costs a page fault every 4 KiB, and the token
embedding's dense gradient, nearly all zeros, is cleared in full. A parameter with a buffer has its gradient written
into the same memory each time: a matmul's result directly, an embedding's by clearing the rows of the previous step and
adding those of this one. Where the optimizer takes its step as soon as a gradient is complete, all matrices share one
buffer, and an embedding's gradient is computed some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .backends import native_cpu

# Takes a parameter and its whole gradient in slices: (rows, gradient of these rows). May change the parameter.
Consumer = Callable[[nn.Parameter, Iterable[tuple[slice, Tensor]]], None]
# Takes a weight [out, in], its gradient as products dyᵀ x, each for some of the outputs, and whether to return dy W (of
# a single product). Changes the weight.
LinearStep = Callable[[nn.Parameter, Sequence[tuple[Tensor, Tensor]], bool], Tensor | None]

# Rows of an embedding's gradient that are computed at a time: 6 MB for the widest models.
PART_ROWS = 1024


class SharedBuffer:
    """Memory for one matrix at a time, as large as the largest matrix so far."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float32)

    def like(self, matrix: Tensor) -> Tensor:
        """Returns an uninitialised fp32 matrix of the same shape, in the memory of the previous one."""
        if self._memory.numel() < matrix.numel():
            self._memory = torch.empty(matrix.numel(), dtype=torch.float32)
        return self._memory[: matrix.numel()].view(matrix.shape)


class GradientBuffer:
    """Adds to ``parameter.grad``, whose memory it owns, or passes the gradient to a consumer.

    ``parameter.grad`` is ``None`` before the first contribution of a step, as after
    ``optimizer.zero_grad(set_to_none=True)``. With a consumer, a step has one contribution.

    Parameters
    ----------
    parameter : fp32 parameter on the CPU, shape [rows, columns]
    consumer : callable, optional
        Takes the complete gradient; ``parameter.grad`` then stays ``None``.
    linear_step : callable, optional
        Takes the consumer's place for products of few rows and in bf16; see ``LinearStep``.
    shared : SharedBuffer, optional
        Memory for the gradient that the consumer reads.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        consumer: Consumer | None = None,
        linear_step: LinearStep | None = None,
        shared: SharedBuffer | None = None,
    ) -> None:
        self._parameter, self._consumer, self._linear_step = parameter, consumer, linear_step
        self._shared = shared or SharedBuffer()
        self._memory: Tensor | None = None
        # For an embedding: rows that may be nonzero, and torch's count of writes to the memory when they were last
        # cleared. A higher count means that other code has written to the memory, too.
        self._written: Tensor | None = None
        self._version = -1

    def takes_fused_step(self, dy: Tensor) -> bool:
        """Whether :meth:`fused_step` is faster for dy [rows, out]: in bf16, or with few rows."""
        return self._linear_step is not None and (dy.dtype is torch.bfloat16 or 0 < len(dy) <= native_cpu.FEW_ROWS)

    def fused_step(self, dy: Tensor, x: Tensor, *, input_needed: bool) -> Tensor | None:
        """Returns dy W [rows, in] if needed, then takes the optimizer's step of W with the gradient dyᵀ x."""
        assert self._linear_step is not None
        return self._linear_step(self._parameter, [(dy, x)], input_needed)

    def add_matmul(self, dy: Tensor, x: Tensor) -> None:
        """Adds dyᵀ x; dy [rows, out], x [rows, in]."""
        self.add_matmuls((dy, x))

    def add_matmuls(self, *products: tuple[Tensor, Tensor]) -> None:
        """Adds products dyᵀ x, whose rows are concatenated to those of the parameter."""
        parameter = self._parameter
        if self._linear_step is not None and all(map(self.takes_fused_step, (dy for dy, _ in products))):
            self._linear_step(parameter, products, False)
            return
        if self._consumer is not None:
            gradient = self._shared.like(parameter)
            _write(products, gradient)
            self._consumer(parameter, [(slice(None), gradient)])
            return
        if parameter.grad is not None:
            for part, (dy, x) in zip(_split_rows(products, parameter.grad), products, strict=True):
                transposed_product(dy, x, part, accumulate=True)
            return
        if self._memory is None:
            self._memory = torch.empty(parameter.shape)
        _write(products, self._memory)
        parameter.grad = self._memory

    def add_rows(self, dy: Tensor, index: Tensor | None) -> None:
        """Adds the rows of dy [rows, width] to the rows ``index`` [rows], or to row 0 without an index."""
        parameter = self._parameter
        if self._consumer is not None:
            self._consumer(parameter, self._slices(dy, index))
            return
        rows = torch.zeros(1, dtype=torch.int64) if index is None else index.long()
        if parameter.grad is None:
            parameter.grad = self._cleared()
        elif parameter.grad is not self._memory:  # set by other code
            parameter.grad.index_add_(0, rows.expand(len(dy)), dy)
            return
        assert self._written is not None
        self._written[rows] = True
        native_cpu.embedding_backward(dy, index, parameter.grad)

    def _cleared(self) -> Tensor:
        """Returns the memory, all zeros."""
        if self._memory is None or self._written is None:
            self._memory = torch.zeros(self._parameter.shape)
            self._written = torch.zeros(len(self._memory), dtype=torch.bool)
        elif self._memory._version != self._version:
            self._memory.zero_()
        else:
            self._memory.index_fill_(0, self._written.nonzero().squeeze(1), 0.0)
        self._written.zero_()
        self._version = self._memory._version
        return self._memory

    def _slices(self, dy: Tensor, index: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """Yields the dense gradient, PART_ROWS rows at a time; rows of one index are added in their order."""
        count, width = self._parameter.shape
        if index is None:
            index = torch.zeros(len(dy), dtype=torch.int32)
        index, order = index.sort(stable=True)
        dy = dy.index_select(0, order)
        starts = torch.arange(0, count + PART_ROWS, PART_ROWS, dtype=index.dtype)
        bounds = torch.searchsorted(index, starts).tolist()
        memory = dy.new_zeros(min(PART_ROWS, count), width)
        for i, (first, last) in enumerate(pairwise(bounds)):
            begin = i * PART_ROWS
            end = min(begin + PART_ROWS, count)
            rows = index[first:last] - begin
            if last > first:
                native_cpu.embedding_backward(dy[first:last], rows, memory)
            yield slice(begin, end), memory[: end - begin]
            memory.index_fill_(0, rows.long(), 0.0)


def _split_rows(products: Sequence[tuple[Tensor, Tensor]], matrix: Tensor) -> tuple[Tensor, ...]:
    """Splits the rows of a matrix by the products dyᵀ x that fill them."""
    return matrix.split([dy.shape[1] for dy, _ in products])


def _write(products: Sequence[tuple[Tensor, Tensor]], out: Tensor) -> None:
    for part, (dy, x) in zip(_split_rows(products, out), products, strict=True):
        transposed_product(dy, x, part)


def transposed_product(dy: Tensor, x: Tensor, out: Tensor | None = None, *, accumulate: bool = False) -> Tensor:
    """Computes dYᵀ X in fp32, shape [out, in], into ``out`` if it is given, or adds it there.

    Parameters
    ----------
    dy, x : fp32 or bf16 tensors, shapes [rows, out] and [rows, in]
        Of one dtype; bf16 as :func:`pyllmclf.ops.backends.native_cpu.to_bf16` rounds it.
    out : fp32 tensor, shape [out, in], optional
    accumulate : bool
    """
    if dy.dtype is torch.bfloat16:
        out = torch.empty(dy.shape[1], x.shape[1]) if out is None else out
        if out.is_contiguous():
            native_cpu.bf16_weight_gradient(dy, x, out, accumulate=accumulate)
            return out
        product = transposed_product(dy, x)
        return out.add_(product) if accumulate else out.copy_(product)
    if out is None:
        return dy.t() @ x
    return out.addmm_(dy.t(), x) if accumulate else torch.mm(dy.t(), x, out=out)


def use_gradient_buffers(
    parameters: Iterable[nn.Parameter], consumer: Consumer | None = None, linear_step: LinearStep | None = None
) -> None:
    """Attaches a gradient buffer to each trained fp32 matrix on the CPU.

    The ops of this package then write the gradients of these parameters to ``.grad`` themselves, and
    ``torch.autograd.grad`` does not see them. Training loops call this; users of single ops do not.

    Parameters
    ----------
    parameters : iterable of parameters
    consumer : callable, optional
        Takes (parameter, slices) as soon as a matrix's gradient is complete; ``slices`` yields (rows, gradient of these
        rows). ``.grad`` then stays ``None``, and a forward pass may use a matrix only once.
    linear_step : callable, optional
        Takes the consumer's place for a contiguous weight whose gradient is a product of few rows or in bf16: (weight,
        products, whether the input's gradient is needed); see ``LinearStep``.
    """
    shared = SharedBuffer()
    for parameter in parameters:
        if parameter.requires_grad and parameter.dim() == 2 and native_cpu.serves(parameter):
            fused = linear_step if parameter.is_contiguous() else None
            parameter.gradient_buffer = GradientBuffer(parameter, consumer, fused, shared)  # type: ignore[attr-defined]


def drop_gradient_buffers(parameters: Iterable[nn.Parameter]) -> None:
    """Detaches the buffers of :func:`use_gradient_buffers`; autograd handles these gradients again."""
    for parameter in parameters:
        if gradient_buffer(parameter) is not None:
            del parameter.gradient_buffer  # type: ignore[attr-defined]


def gradient_buffer(parameter: Tensor) -> GradientBuffer | None:
    """The parameter's buffer, or ``None``."""
    return getattr(parameter, "gradient_buffer", None)
