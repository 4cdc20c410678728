"""Memory for gradients that is kept from step to step.

torch makes a new tensor for each gradient in each step. Fresh memory costs a page fault every 4 KiB, and the token
embedding's dense gradient, nearly all of it zeros, is cleared in full. A parameter whose gradient is kept has its
gradient written into the same memory each time: a matmul's result directly, an embedding's by clearing the rows of the
step before and adding those of this one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import native


class KeptGradient:
    """Adds to ``parameter.grad``, whose memory it owns.

    ``parameter.grad`` is ``None`` before the first contribution of a step, as after
    ``optimizer.zero_grad(set_to_none=True)``.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self._parameter = parameter
        self._memory: Tensor | None = None
        self._rows: list[Tensor] = []  # of an embedding: those that may hold something else than 0

    def add_matmul(self, dy: Tensor, x: Tensor) -> None:
        """Adds dyᵀ x; dy [rows, out], x [rows, in]."""
        parameter = self._parameter
        if parameter.grad is not None:
            parameter.grad.addmm_(dy.t(), x)
            return
        if self._memory is None:
            self._memory = torch.empty_like(parameter)
        torch.mm(dy.t(), x, out=self._memory)
        parameter.grad = self._memory

    def add_rows(self, dy: Tensor, index: Tensor | None) -> None:
        """Adds the rows of dy [rows, width] to the rows that ``index`` names; without it, to the first row."""
        parameter = self._parameter
        if parameter.grad is None:
            if self._memory is None:
                self._memory = torch.zeros_like(parameter)
            for rows in self._rows:
                self._memory.index_fill_(0, rows, 0.0)
            self._rows.clear()
            parameter.grad = self._memory
        self._rows.append(torch.zeros(1, dtype=torch.int64) if index is None else index.unique().long())
        native.embedding_backward(dy, index, parameter.grad)


def keep_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives each trained fp32 matrix on the CPU memory of its own for its gradient.

    From then on, ops of this package write the gradients of these parameters to ``.grad`` themselves, and
    ``torch.autograd.grad`` does not see them; a training loop calls this, a user of single ops does not.
    """
    for parameter in parameters:
        if parameter.requires_grad and parameter.dim() == 2 and native.serves(parameter):
            parameter.kept_gradient = KeptGradient(parameter)  # type: ignore[attr-defined]


def kept_gradient(parameter: Tensor) -> KeptGradient | None:
    """What :func:`keep_gradients` gave this parameter."""
    return getattr(parameter, "kept_gradient", None)
