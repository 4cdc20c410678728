"""The native CPU ops: same bits for any number of threads, every element written, invalid input refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from cases import offsets, relative_error
from formulas import compare
from torch import Tensor

from pyllmclf import ops
from pyllmclf.ops.backends import native_cpu as native


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def native_results(count: int, generator: torch.Generator) -> list[Tensor]:
    """Outputs and gradients of every native op on this number of threads."""
    lengths = (600, 1, 33, 90)
    cu, rows = offsets(lengths), sum(lengths)
    inputs = [
        torch.randn(size, generator=generator).requires_grad_() for size in [(rows, 96), (rows, 32), (32,), (32,)]
    ]
    qkv, x, weight, bias = inputs
    tables = [torch.randn(size, generator=generator).requires_grad_() for size in [(50, 32), (700, 32), (2, 32)]]
    terms = [torch.randn(size, generator=generator).requires_grad_() for size in [(2, 5), (5, 2, 16), (5, 2, 16)]]
    buckets = torch.randint(0, 5, (1199,), generator=generator, dtype=torch.int32)
    ids = torch.randint(0, 50, (rows,), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths])
    key = ops.DropoutKey(1, 2, 3, 1, torch.arange(4), torch.arange(4).repeat_interleave(cu.diff()), positions)
    with threads(count), ops.use_backend("native"):
        outputs = [
            ops.attention_packed(qkv, cu, 600, heads=2, causal=True, dropout_p=0.1, dropout_key=key),
            *ops.layer_norm(x, weight, bias, 1e-5, x),
            ops.gelu(x, bias, "tanh"),
            ops.gelu(x, bias, "none"),
            ops.embedding(ids, positions, *tables),
            ops.embedding_layer_norm(ids, positions, *tables, weight, bias, 1e-5),
            ops.dropout(x, 0.1, key),
            ops.relative_attention(
                *(part.unflatten(1, (2, 16)) for part in qkv.chunk(3, dim=1)),
                cu,
                cu,
                600,
                600,
                buckets=buckets,
                bias=terms[0],
                position_keys=terms[1],
                position_queries=terms[2],
                dropout_p=0.1,
                dropout_key=key,
            ),
        ]
        factors = [torch.randn(t.shape, generator=generator) for t in outputs]
        # Not summed into one loss: torch's sum over threads is another order.
        torch.autograd.backward(outputs, factors)
    return [t.detach() for t in outputs] + [t.grad for t in (*inputs, *tables, *terms) if t.grad is not None]


def test_native_ops_give_the_same_bits_for_any_number_of_threads() -> None:
    one, two, three = (native_results(n, torch.Generator().manual_seed(7)) for n in (1, 2, 3))
    assert len(one) == 19
    for a, b, c in zip(one, two, three, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_native_ops_write_every_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that start as NaN give the same bits."""
    expected = native_results(2, torch.Generator().manual_seed(7))
    filled = []

    def with_nan(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args, **kwargs) -> Tensor:
            filled.append(make(*args, **kwargs))
            return filled[-1].fill_(math.nan) if filled[-1].is_floating_point() else filled[-1]

        return made

    monkeypatch.setattr(torch, "empty_like", with_nan(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", with_nan(Tensor.new_empty))
    found = native_results(2, torch.Generator().manual_seed(7))
    assert len(filled) > 14
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_native_ops_refuse_what_does_not_fit() -> None:
    x = torch.zeros(4, 2, 8)
    positions = torch.zeros(4, dtype=torch.int32)
    with ops.use_backend("native"):
        for broken in ([0, 3], [1, 4], [0, 5, 4]):
            cu = torch.tensor(broken, dtype=torch.int32)
            with pytest.raises(ValueError, match="cu_seqlens"):
                ops.attention(x, x, x, cu, cu, 4, 4, causal=True, query_positions=positions)
        with pytest.raises(ValueError, match="no keys"):
            ops.attention(x, x, x, offsets((2, 2)), offsets((4, 0)), 2, 4, causal=True, query_positions=positions)
        with pytest.raises(ValueError, match="negative"):
            ops.attention(x, x, x, offsets((4,)), offsets((4,)), 4, 4, causal=True, query_positions=positions - 1)
        tables = torch.zeros(3, 8), torch.zeros(2, 8)
        with pytest.raises(IndexError, match="vocabulary"):
            ops.embedding(torch.tensor([3]), torch.tensor([0]), *tables)
        with pytest.raises(IndexError, match="positions"):
            ops.embedding(torch.tensor([2]), torch.tensor([2]), *tables)


def test_large_results_of_native_ops(generator: torch.Generator) -> None:
    """From 4 MB on, results are stored past the caches."""
    rows, width = 1400, 768
    x, residual = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, width, generator=generator, dtype=torch.float64)
    with ops.use_backend("native"):
        compare(
            lambda x, r, w, b: torch.cat(ops.layer_norm(x, w, b, 1e-5, r)),
            lambda x, r, w, b: torch.cat([F.layer_norm(x + r, (width,), w, b, 1e-5), x + r]),
            [x, residual, weight, bias],
            torch.float32,
        )
        for approximate in ("tanh", "none"):
            compare(
                lambda x, b, approximate=approximate: ops.gelu(x, b, approximate),
                lambda x, b, approximate=approximate: F.gelu(x + b, approximate=approximate),
                [x, bias],
                torch.float32,
            )


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_native_gelu_far_from_zero(approximate: str) -> None:
    x = torch.cat([torch.linspace(-60, 60, 4001), torch.tensor([-1e30, 1e30, -float("inf"), float("inf")])])
    x = torch.cat([x, x[:11]])[None].requires_grad_()
    exact = x.detach().double().requires_grad_()
    with ops.use_backend("native"):
        found = ops.gelu(x, None, approximate)
    expected = F.gelu(exact, approximate=approximate)
    finite = x.detach().abs() < 1e29
    for a, b in [
        (found, expected),
        (torch.autograd.grad(found[finite].sum(), x)[0], torch.autograd.grad(expected[finite].sum(), exact)[0]),
    ]:
        assert ((a.double() - b).abs() <= 2e-6 * (1 + b.abs()))[finite].all()
    assert found[0, 4001:4005].tolist()[1::2] == [pytest.approx(1e30), float("inf")]
    assert abs(found[0, 4001].item()) < 1e-7
    assert ops.gelu(torch.tensor([[float("nan")]]), None, approximate).isnan().all()


def test_backward_under_autocast(generator: torch.Generator) -> None:
    """Native gradients stay fp32 where matmuls of the backward pass are in half precision."""
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in [(9, 8), (8,), (5, 8), (5,)]]
    plain = torch.autograd.grad(ops.gelu_linear(*inputs).sum(), inputs)
    out = ops.gelu_linear(*inputs).sum()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(out, inputs)
    for a, b in zip(found, plain, strict=True):
        assert relative_error(a, b) < 0.05


def test_native_gradcheck(generator: torch.Generator) -> None:
    """Numerical derivatives in fp32, whose own error is far above that of the formulas compared elsewhere."""
    x, weight, bias = (torch.randn(s, generator=generator).requires_grad_() for s in [(3, 8), (8,), (8,)])
    settings = {"eps": 1e-2, "atol": 2e-2, "rtol": 2e-2}
    with ops.use_backend("native"), pytest.warns(UserWarning, match="double precision"):
        assert torch.autograd.gradcheck(lambda *t: ops.layer_norm(*t, 1e-5), (x, weight, bias), **settings)
        assert torch.autograd.gradcheck(ops.gelu, (x, bias), **settings)
        qkv = torch.randn(5, 24, generator=generator).requires_grad_()
        cu = offsets((3, 2))
        assert torch.autograd.gradcheck(
            lambda t: ops.attention_packed(t, cu, 3, heads=2, causal=True), (qkv,), **settings
        )


@pytest.mark.parametrize("count", [1, 2], ids=lambda count: f"{count} threads")
@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 2, 768), (24, 203, 37), (5, 768, 256)], ids=str)
def test_few_rows(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> None:
    """Against float64, and the step against torch's own AdamW; parts of wider rows, as attention's heads are."""
    with threads(count):
        check_few_rows(shape, generator)


def check_few_rows(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    rows, outputs, inputs = shape
    dy, x = (torch.randn(rows, n + 3, generator=generator)[:, 1 : n + 1] for n in (outputs, inputs))
    weight = torch.nn.Parameter(torch.randn(outputs, inputs, generator=generator))
    bias = torch.randn(outputs, generator=generator)
    y = native.linear_forward(x, weight, bias)
    assert relative_error(y, x.double() @ weight.double().t() + bias.double()) < 1e-5
    assert relative_error(native.linear_forward(x, weight, None), x.double() @ weight.double().t()) < 1e-5
    dx = dy.double() @ weight.double()
    settings = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW([weight], fused=True, **settings)
    copies = [weight.detach().clone(), torch.zeros_like(weight), torch.zeros_like(weight)]
    for step in (1, 2, 3):
        weight.grad = dy.t() @ x
        optimizer.step()
        found = native.linear_adamw(dy, x, *copies, input_needed=step == 1, step=step, **settings)  # type: ignore[arg-type]
        if step == 1:
            assert found is not None
            assert relative_error(found, dx) < 1e-5
        else:
            assert found is None
    state = optimizer.state[weight]
    for mine, expected in zip(copies, (weight, state["exp_avg"], state["exp_avg_sq"]), strict=True):
        assert relative_error(mine, expected.detach()) < 1e-5


def test_few_rows_refuse_what_does_not_fit() -> None:
    x = torch.zeros(2, 3)
    weights = [torch.zeros(4, 3) for _ in range(3)]
    settings = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    with pytest.raises(ValueError, match="counted from 1"):
        native.linear_adamw(torch.zeros(2, 4), x, *weights, input_needed=False, step=0, **settings)  # type: ignore[arg-type]
