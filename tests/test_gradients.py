"""Gradients in buffers, and gradients passed to a consumer, against those of autograd."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from cases import relative_error
from torch import Tensor

from pyllmclf import ops


def test_gradient_buffers_are_those_of_autograd(generator: torch.Generator) -> None:
    """Several steps and micro-batches: memory is written again, rows of the step before are cleared."""
    tables = [
        torch.nn.Parameter(torch.randn(size, generator=generator)) for size in [(20, 8), (5, 8), (1, 8), (6, 8), (9, 8)]
    ]
    copies = [torch.nn.Parameter(t.detach().clone()) for t in tables]
    ops.use_gradient_buffers(tables)
    memory = []
    for _ in range(3):
        for parameters in (tables, copies):
            for parameter in parameters:
                parameter.grad = None
        for _ in range(2):
            ids = torch.randint(0, 20, (7,), generator=generator)
            positions = torch.randint(0, 5, (7,), generator=generator)
            factor = torch.randn(7, 6, generator=generator)
            for token, position, kind, weight, fused in (tables, copies):
                x = ops.embedding(ids, positions, token, position, kind)
                q, kv = ops.query_key_value(x, torch.tensor([5, 0]), fused)
                ((ops.linear(x, weight) * factor).sum() + q.square().sum() + kv.square().sum()).backward()
        for kept, plain in zip(tables, copies, strict=True):
            assert relative_error(kept.grad, plain.grad) < 1e-6
        memory.append([t.grad.data_ptr() for t in tables])
    assert memory[0] == memory[1] == memory[2]


@pytest.mark.filterwarnings("ignore:grad and param do not obey")
def test_gradient_buffers_that_others_write_to(generator: torch.Generator) -> None:
    """Rows that others changed, and a gradient of somebody else's, are no part of a later step."""
    table = torch.nn.Parameter(torch.randn(20, 8, generator=generator))
    position = torch.nn.Parameter(torch.randn(5, 8, generator=generator).t().contiguous().t())  # strides turned
    copies = [torch.nn.Parameter(t.detach().clone()) for t in (table, position)]
    ops.use_gradient_buffers([table, position])
    for step in range(4):
        ids, positions = torch.randint(0, 20, (7,), generator=generator), torch.randint(0, 5, (7,), generator=generator)
        for pair in ((table, position), copies):
            for parameter in pair:
                parameter.grad = torch.ones(parameter.shape) if step == 2 else None
            (ops.embedding(ids, positions, *pair) * 2).sum().backward()
        for kept, plain in zip((table, position), copies, strict=True):
            assert torch.equal(kept.grad, plain.grad)
            kept.grad.mul_(torch.nan)  # as clipping by a norm that is not finite


def test_gradient_buffers_set_to_zero(generator: torch.Generator) -> None:
    """As ``optimizer.zero_grad(set_to_none=False)`` does."""
    table, position = (torch.nn.Parameter(torch.randn(n, 8, generator=generator)) for n in (20, 5))
    ops.use_gradient_buffers([table, position])
    for _ in range(3):
        ids = torch.randint(0, 20, (7,), generator=generator)
        for parameter in (table, position):
            if parameter.grad is not None:
                parameter.grad.zero_()
        ops.embedding(ids, torch.zeros(7, dtype=torch.int32), table, position).sum().backward()
        assert torch.equal(table.grad[:, 0], ids.bincount(minlength=20).float())
        assert position.grad[0].tolist() == [7.0] * 8 and not position.grad[1:].any()


def test_gradients_handed_to_a_consumer(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole matrices and parts of embeddings are the gradients of autograd, in the same bits."""
    monkeypatch.setattr("pyllmclf.ops.gradients.PART_ROWS", 8)
    tables = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in [(20, 8), (5, 8), (1, 8), (6, 8)]]
    copies = [torch.nn.Parameter(t.detach().clone()) for t in tables]
    found: dict[torch.nn.Parameter, Tensor] = {}

    def consume(parameter: torch.nn.Parameter, parts: Iterable[tuple[slice, Tensor]]) -> None:
        assert parameter not in found
        found[parameter] = torch.full_like(parameter, torch.nan)
        for rows, gradient in parts:
            found[parameter][rows] = gradient

    ops.use_gradient_buffers(tables, consume)
    for _ in range(2):
        found.clear()
        ids = torch.tensor([0, 7, 8, 19, 8, 0, 8])
        positions = torch.randint(0, 5, (7,), generator=generator)
        for parameters in (tables, copies):
            token, position, kind, weight = parameters
            for parameter in parameters:
                parameter.grad = None
            (ops.linear(ops.embedding(ids, positions, token, position, kind), weight) * 2).sum().backward()
        for parameter, copy in zip(tables, copies, strict=True):
            assert parameter.grad is None
            assert torch.equal(found[parameter], copy.grad)
    ops.drop_gradient_buffers(tables)
    ops.linear(torch.randn(7, 8, generator=generator), tables[3]).sum().backward()
    assert tables[3].grad is not None
