"""Memory for gradients that is kept from step to step, or shared.

torch makes a new tensor for each gradient in each step. Fresh memory costs a page fault every 4 KiB, and the token
embedding's dense gradient, nearly all of it zeros, is cleared in full. A parameter whose gradient is kept has its
gradient written into the same memory each time: a matmul's result directly, an embedding's by clearing the rows of the
step before and adding those of this one. Where the optimizer takes its step as soon as a gradient is complete, all
matrices share that memory, and an embedding's gradient is made some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .backends import native_cpu

# Called with a parameter and its whole gradient in parts: (rows, gradient of these rows). May change the parameter.
Consumer = Callable[[nn.Parameter, Iterable[tuple[slice, Tensor]]], None]
# Called with a weight [out, in], its gradient as products dyᵀ x of parts of the outputs, and whether dy W is needed (of
# one product alone), which it returns. Changes the weight.
LinearStep = Callable[[nn.Parameter, Sequence[tuple[Tensor, Tensor]], bool], Tensor | None]

# Rows of an embedding whose gradient is made at a time: for the widest models 6 MB.
PART_ROWS = 1024


class SharedMemory:
    """Memory for the one matrix whose gradient is being made; as large as the largest so far."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float32)

    def like(self, matrix: Tensor) -> Tensor:
        """An uninitialised matrix of the same shape; the one before is overwritten."""
        if self._memory.numel() < matrix.numel():
            self._memory = torch.empty(matrix.numel(), dtype=torch.float32)
        return self._memory[: matrix.numel()].view(matrix.shape)


class KeptGradient:
    """Adds to ``parameter.grad``, whose memory it owns; with a consumer, hands the gradient over instead.

    ``parameter.grad`` is ``None`` before the first contribution of a step, as after
    ``optimizer.zero_grad(set_to_none=True)``. With a consumer there is one contribution in a step.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        consumer: Consumer | None = None,
        linear_step: LinearStep | None = None,
        shared: SharedMemory | None = None,
    ) -> None:
        self._parameter, self._consumer, self._linear_step = parameter, consumer, linear_step
        self._shared = shared or SharedMemory()
        self._memory: Tensor | None = None
        # Of an embedding: rows that may hold something else than 0, and torch's count of writes to the memory after
        # they were last cleared. Another count means that others have written to it, too.
        self._written: Tensor | None = None
        self._version = -1

    def steps_at_once(self, dy: Tensor) -> bool:
        """Whether :meth:`step_at_once` is the way for so few rows."""
        return self._linear_step is not None and 0 < len(dy) <= native_cpu.FEW_ROWS

    def step_at_once(self, dy: Tensor, x: Tensor, *, input_needed: bool) -> Tensor | None:
        """dy W if it is needed, and then the step of W with the gradient dyᵀ x."""
        assert self._linear_step is not None
        return self._linear_step(self._parameter, [(dy, x)], input_needed)

    def add_matmul(self, dy: Tensor, x: Tensor) -> None:
        """Adds dyᵀ x; dy [rows, out], x [rows, in]."""
        self.add_matmuls((dy, x))

    def add_matmuls(self, *products: tuple[Tensor, Tensor]) -> None:
        """Adds the products dyᵀ x of parts of the outputs, one behind the other."""
        parameter = self._parameter
        if self._linear_step is not None and all(map(self.steps_at_once, (dy for dy, _ in products))):
            self._linear_step(parameter, products, False)
            return
        if self._consumer is not None:
            gradient = self._shared.like(parameter)
            _write(products, gradient)
            self._consumer(parameter, [(slice(None), gradient)])
            return
        if parameter.grad is not None:
            for part, (dy, x) in zip(_parts(products, parameter.grad), products, strict=True):
                part.addmm_(dy.t(), x)
            return
        if self._memory is None:
            self._memory = torch.empty(parameter.shape)
        _write(products, self._memory)
        parameter.grad = self._memory

    def add_rows(self, dy: Tensor, index: Tensor | None) -> None:
        """Adds the rows of dy [rows, width] to the rows that ``index`` names; without it, to the first row."""
        parameter = self._parameter
        if self._consumer is not None:
            self._consumer(parameter, self._parts(dy, index))
            return
        rows = torch.zeros(1, dtype=torch.int64) if index is None else index.long()
        if parameter.grad is None:
            parameter.grad = self._cleared()
        elif parameter.grad is not self._memory:  # somebody else's
            parameter.grad.index_add_(0, rows.expand(len(dy)), dy)
            return
        assert self._written is not None
        self._written[rows] = True
        native_cpu.embedding_backward(dy, index, parameter.grad)

    def _cleared(self) -> Tensor:
        """The memory, all zeros."""
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

    def _parts(self, dy: Tensor, index: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """The dense gradient, PART_ROWS rows at a time; rows of one index are added in their order."""
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


def _parts(products: Sequence[tuple[Tensor, Tensor]], matrix: Tensor) -> tuple[Tensor, ...]:
    """The rows of the matrix that each product takes."""
    return matrix.split([dy.shape[1] for dy, _ in products])


def _write(products: Sequence[tuple[Tensor, Tensor]], out: Tensor) -> None:
    for part, (dy, x) in zip(_parts(products, out), products, strict=True):
        torch.mm(dy.t(), x, out=part)


def keep_gradients(
    parameters: Iterable[nn.Parameter], consumer: Consumer | None = None, linear_step: LinearStep | None = None
) -> None:
    """Gives each trained fp32 matrix on the CPU memory for its gradient.

    From then on, ops of this package write the gradients of these parameters to ``.grad`` themselves, and
    ``torch.autograd.grad`` does not see them; a training loop calls this, a user of single ops does not.

    Parameters
    ----------
    parameters : iterable of parameters
    consumer : callable, optional
        Takes (parameter, parts) as soon as a matrix's gradient is complete, where ``parts`` yields (slice of rows,
        gradient of these rows); then ``.grad`` stays ``None``, and a matrix must be used once in a forward pass.
    linear_step : callable, optional
        Takes the place of the consumer for a contiguous weight whose gradient is a product of few rows: (weight,
        products, whether the input's gradient is needed); see ``LinearStep``.
    """
    shared = SharedMemory()
    for parameter in parameters:
        if parameter.requires_grad and parameter.dim() == 2 and native_cpu.serves(parameter):
            at_once = linear_step if parameter.is_contiguous() else None
            parameter.kept_gradient = KeptGradient(parameter, consumer, at_once, shared)  # type: ignore[attr-defined]


def forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Undoes :func:`keep_gradients`; autograd handles the gradients of these parameters again."""
    for parameter in parameters:
        if kept_gradient(parameter) is not None:
            del parameter.kept_gradient  # type: ignore[attr-defined]


def kept_gradient(parameter: Tensor) -> KeptGradient | None:
    """What :func:`keep_gradients` gave this parameter."""
    return getattr(parameter, "kept_gradient", None)
