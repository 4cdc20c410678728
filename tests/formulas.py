"""Compares outputs and gradients of an op with a formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from cases import TOLERANCE, relative_error
from torch import Tensor

from pyllmclf import UsageError
from pyllmclf.ops.dispatch import active_backend

Op = Callable[..., Tensor]


def compare(op: Op, formula: Op, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Compares output and every gradient of ``op`` in ``dtype`` with ``formula`` in float64."""
    ours = [t.detach().clone().to(dtype).requires_grad_() for t in inputs]
    if active_backend() == "native" and dtype != torch.float32:
        with pytest.raises(UsageError, match="float32 on the CPU"):
            op(*ours)
        return
    theirs = [t.detach().clone().double().requires_grad_() for t in ours]
    actual, expected = op(*ours), formula(*theirs)
    assert actual.dtype == dtype and actual.shape == expected.shape
    assert relative_error(actual.detach(), expected.detach()) < TOLERANCE[dtype]
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (actual * weight.to(dtype)).sum().backward()
    (expected * weight).sum().backward()
    gradients = [(mine.grad, other.grad) for mine, other in zip(ours, theirs, strict=True)]
    largest = max((float(expected.abs().max()) for _, expected in gradients if expected.numel()), default=0.0)
    for mine, other in gradients:
        if other.numel() and float(other.abs().max()) == 0.0:
            # The true gradient is zero (a text of one token attends to itself alone): compared on the others' scale.
            assert float(mine.abs().max()) <= TOLERANCE[dtype] * largest
        else:
            assert relative_error(mine, other) < TOLERANCE[dtype]


def attention_formula(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    causal: bool,
    window: tuple[int, int] | None = None,
) -> Tensor:
    """Attention as one dense softmax over all rows of all texts; the mask separates the texts."""
    text = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    allowed = text[:, None] == text[None, :]
    if causal:
        allowed = allowed & (torch.arange(len(text))[:, None] >= torch.arange(len(text))[None, :])
    if window is not None:
        # Positions of rows of one text differ as the rows do.
        distance = torch.arange(len(text))[None, :] - torch.arange(len(text))[:, None]
        allowed = allowed & (distance >= -window[0]) & (distance <= window[1])
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    scores = torch.where(allowed, scores, -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp() if scores.numel() else scores
    return torch.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdim=True), v)
