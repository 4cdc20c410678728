"""Attention with one query per text without the other rows' keys and values, against that with them."""

from __future__ import annotations

import pytest
import torch
from cases import offsets, relative_error
from torch import Tensor

from pyllmclf import UsageError, ops
from pyllmclf.ops.pooled_attention import PooledAttentionFunction

LENGTHS = (9, 1, 17, 5)
AT = (8, 0, 3, 0)  # the last row, the only one, one between, the first
HEADS, WIDTH = 4, 24


def inputs(fused: bool, bias: bool, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    count = 1 if fused else 3
    sizes: list[tuple[int, ...]] = [(sum(LENGTHS), WIDTH), *[(3 * WIDTH // count, WIDTH)] * count]
    sizes += [(3 * WIDTH // count,)] * count if bias else []
    return [torch.randn(size, generator=generator, dtype=dtype) / size[-1] ** 0.25 for size in sizes]


def attend(x: Tensor, *given: Tensor, count: int, causal: bool, p: float) -> Tensor:
    cu = offsets(LENGTHS)
    at = torch.tensor(AT, dtype=torch.int32)
    ids = torch.arange(len(LENGTHS))
    key = ops.DropoutKey(5, 6, 2, 1, ids, ids.repeat_interleave(torch.tensor(LENGTHS)), torch.arange(sum(LENGTHS)))
    return ops.pooled_attention(
        x, cu[:-1].long() + at, given[:count], given[count:] or [None] * count, cu, max(LENGTHS), at,
        heads=HEADS, causal=causal, scale=0.4, dropout_p=p, dropout_key=key,
    )  # fmt: skip


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_outputs_and_gradients(fused: bool, bias: bool, causal: bool, p: float) -> None:
    """In fp32 against keys and values of all rows in float64."""
    count = 1 if fused else 3
    found = []
    for dtype, backend in ((torch.float32, "native"), (torch.float64, "reference")):
        tensors = [t.to(dtype).requires_grad_() for t in inputs(fused, bias, torch.float64)]
        with ops.use_backend(backend):
            out = attend(*tensors, count=count, causal=causal, p=p)
        assert (type(out.grad_fn).__name__ == "PooledAttentionFunctionBackward") is (backend == "native")
        factor = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        found.append([out.detach(), *torch.autograd.grad(out, tensors, factor.to(dtype))])
    for i, (mine, exact) in enumerate(zip(*found, strict=True)):
        if bias and i == len(found[0]) - (1 if fused else 2):  # the keys' bias has no gradient
            keys = slice(WIDTH, 2 * WIDTH) if fused else slice(None)
            assert not mine[keys].any() and exact[keys].abs().max() < 1e-12
        if exact.abs().max() > 1e-12:
            assert relative_error(mine, exact) < 1e-5
    if not p:
        return
    undropped = attend(*inputs(fused, bias, torch.float32), count=count, causal=causal, p=0.0)
    assert relative_error(undropped, found[1][0]) > 1e-2


def test_gradients_nobody_needs_are_not_computed() -> None:
    x, *given = inputs(False, True, torch.float32)
    given[1].requires_grad_()
    out = attend(x, *given, count=3, causal=True, p=0.0)
    assert isinstance(out.grad_fn, torch.autograd.graph.Node)
    (dk,) = torch.autograd.grad(out.sum(), [given[1]])
    assert dk.abs().max() > 0


def test_gradient_buffers() -> None:
    """Of the fused matrix and of three, as autograd's."""
    for fused in (True, False):
        x, *given = inputs(fused, True, torch.float32)
        count = 1 if fused else 3
        parameters = [torch.nn.Parameter(t) for t in given]
        plain = torch.autograd.grad(attend(x, *parameters, count=count, causal=True, p=0.0).square().sum(), parameters)
        ops.use_gradient_buffers(parameters)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = None
            attend(x, *parameters, count=count, causal=True, p=0.0).square().sum().backward()
        for parameter, expected in zip(parameters, plain, strict=True):
            assert parameter.grad is not None and torch.equal(parameter.grad, expected)


def test_short_texts_take_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where texts have fewer rows than there are heads."""
    called: list[int] = []
    monkeypatch.setattr(PooledAttentionFunction, "apply", lambda *_: called.append(1) or torch.zeros(1))
    cu = offsets((3, 4))
    x, weight = torch.zeros(7, WIDTH), torch.zeros(3 * WIDTH, WIDTH)
    at = torch.tensor([0, 0], dtype=torch.int32)
    for heads in (4, 3):
        ops.pooled_attention(x, cu[:-1].long(), [weight], [None], cu, 4, at, heads=heads, causal=True, scale=1.0)
    assert len(called) == 1


def test_what_is_refused() -> None:
    x, weight, bias = inputs(True, True, torch.float32)
    cu, at = offsets(LENGTHS), torch.tensor(AT, dtype=torch.int32)

    def call(weights: list[Tensor], biases: list[Tensor | None], heads: int = HEADS, p: float = 0.0) -> None:
        ops.pooled_attention(
            x, cu[:-1].long(), weights, biases, cu, 17, at, heads=heads, causal=True, scale=1.0, dropout_p=p
        )

    for wrong in (
        lambda: call([weight, weight], [bias, bias]),
        lambda: call([weight[:-1]], [bias]),
        lambda: call([weight], [bias, bias]),
        lambda: call([weight], [bias], heads=5),
        lambda: call([weight], [bias], p=0.5),
    ):
        with pytest.raises(UsageError, match="pooled_attention"):
            wrong()
