"""The ops of decoders of Llama's kind against formulas in float64: outputs and gradients, in every backend."""

from __future__ import annotations

import math

import pytest
import torch
from cases import DTYPES, GELU, LAYER_NORM, AttentionCase, offsets, relative_error
from formulas import attention_formula, compare
from torch import Tensor

from pyllmclf import UsageError, ops

ACTIVATIONS = ("silu", "gelu_tanh", "gelu")


# --- root mean square normalisation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LAYER_NORM, ids=str)
def test_rms_norm(
    shape: tuple[int, int], dtype: torch.dtype, offset: float, backend: str, generator: torch.Generator
) -> None:
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * (offset + weight)

    x, residual = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    compare(lambda x, w: ops.rms_norm(x, w, 1e-3, offset=offset), formula, [x, weight], dtype)
    compare(
        lambda x, r, w: torch.cat(ops.rms_norm(x, w, 1e-3, r, offset=offset)),
        lambda x, r, w: torch.cat((formula(x + r, w), x + r)),
        [x, residual, weight],
        dtype,
    )


def test_rms_norm_of_which_the_sum_alone_is_used(backend: str, generator: torch.Generator) -> None:
    inputs = [torch.randn(size, generator=generator).requires_grad_() for size in [(5, 8), (5, 8), (8,)]]
    x, residual, weight = inputs
    _, summed = ops.rms_norm(x, weight, 1e-5, residual)
    factor = torch.randn(5, 8, generator=generator)
    dx, dresidual, dweight = torch.autograd.grad(summed, inputs, factor, allow_unused=True)
    assert torch.equal(dx, factor) and torch.equal(dresidual, factor)
    assert dweight is None or not dweight.any()


# --- gated units ------------------------------------------------------------------------------------------------------


def activation(x: Tensor, name: str) -> Tensor:
    """The activations by their definitions."""
    if name == "silu":
        return x / (1.0 + (-x).exp())
    if name == "gelu":
        return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", GELU, ids=str)
def test_gated(shape: tuple[int, int], dtype: torch.dtype, name: str, backend: str, generator: torch.Generator) -> None:
    gate, up = 3.0 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    compare(lambda g, u: ops.gated(g, u, name), lambda g, u: activation(g, name) * u, [gate, up], dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 70])
def test_gated_linear(rows: int, dtype: torch.dtype, name: str, backend: str, generator: torch.Generator) -> None:
    sizes = [(rows, 33), (rows, 33), (17, 33), (17,)]
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    compare(
        lambda g, u, w, b: ops.gated_linear(g, u, w, b, name),
        lambda g, u, w, b: (activation(g, name) * u) @ w.t() + b,
        inputs,
        dtype,
    )
    compare(
        lambda g, u, w: ops.gated_linear(g, u, w, None, name),
        lambda g, u, w: (activation(g, name) * u) @ w.t(),
        inputs[:3],
        dtype,
    )


def test_halves_of_one_projection(backend: str, generator: torch.Generator) -> None:
    """Gate and up may be views into one tensor, and have one gradient."""
    both = torch.randn(9, 22, generator=generator).requires_grad_()
    weight, factor = torch.randn(7, 11, generator=generator), torch.randn(9, 7, generator=generator)
    results = []
    for parts in (both.chunk(2, dim=1), [part.contiguous() for part in both.chunk(2, dim=1)]):
        out = ops.gated_linear(*parts, weight, None, "silu")
        results.append((out, *torch.autograd.grad(out, both, factor)))
    for found, expected in zip(*results, strict=True):
        assert relative_error(found.detach(), expected.detach()) < 1e-6


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gates_far_from_zero(name: str, backend: str, dtype_of: torch.dtype) -> None:
    """0 or x, with a derivative of 0 or 1."""
    far = torch.tensor([[90.0, 100.0, 1e6, 1e12]], dtype=dtype_of)
    x = torch.cat([far, -far]).requires_grad_()
    y = ops.gated(x, torch.ones_like(x), name)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    for found, expected in ((y, far), (gradient, torch.ones_like(far))):
        assert torch.allclose(found[:1], expected) and torch.allclose(found[1:], torch.zeros_like(far), atol=1e-7)


# --- rotary positions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "heads", "turned", "head_dim"), [(1, 1, 1, 2), (17, 6, 4, 10), (0, 2, 1, 8)])
def test_rotary(
    rows: int, heads: int, turned: int, head_dim: int, dtype: torch.dtype, backend: str, generator: torch.Generator
) -> None:
    """Against multiplication by complex numbers."""
    positions = torch.randint(0, 50, (rows,), generator=generator)
    frequencies = 50.0 ** -(torch.arange(head_dim // 2, dtype=torch.float64) * 2 / head_dim)
    cosine, sine = ops.rotary_angles(positions, frequencies.float())
    x = torch.randn(rows, heads * head_dim, generator=generator, dtype=torch.float64)

    def formula(x: Tensor) -> Tensor:
        angles = positions[:, None].double() * frequencies
        parts = x.unflatten(1, (heads, head_dim))
        numbers = torch.complex(parts[:, :turned, : head_dim // 2], parts[:, :turned, head_dim // 2 :])
        numbers = numbers * torch.polar(torch.ones_like(angles), angles)[:, None]
        done = torch.cat((torch.cat((numbers.real, numbers.imag), dim=2), parts[:, turned:]), dim=1)
        return done.flatten(1)

    mine, exact = (x.clone().to(given).requires_grad_() for given in (dtype, torch.float64))
    if backend == "native" and dtype != torch.float32:
        with pytest.raises(UsageError, match="float32"):
            ops.rotary(mine, cosine, sine, heads=turned)
        return
    factor = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    found, expected = ops.rotary(mine, cosine, sine, heads=turned), formula(exact)
    assert found.dtype == dtype
    found.backward(factor.to(dtype))
    expected.backward(factor)
    # Angles are computed in fp32.
    assert relative_error(found.detach(), expected.detach()) < 1e-5
    assert relative_error(mine.grad, exact.grad) < 1e-5


def test_rotary_in_half_precision(generator: torch.Generator) -> None:
    """Rounded once, at the end."""
    x, angles = torch.randn(9, 16, generator=generator).bfloat16(), ops.rotary_angles(torch.arange(9), torch.rand(4))
    found, exact = ops.rotary(x, *angles, heads=2), ops.rotary(x.float(), *angles, heads=2)
    assert torch.equal(found, exact.bfloat16())


def test_rotary_factor() -> None:
    cosine, sine = ops.rotary_angles(torch.arange(3), torch.tensor([1.0, 0.1]), 1.5)
    torch.testing.assert_close(cosine[2], 1.5 * torch.tensor([2.0, 0.2]).cos())
    torch.testing.assert_close(sine[2], 1.5 * torch.tensor([2.0, 0.2]).sin())


# --- attention with fewer heads of keys and values --------------------------------------------------------------------

GROUPED = [
    (AttentionCase((1,), 2, 8, True), 1),
    (AttentionCase((17, 1, 5), 4, 32, True), 2),
    (AttentionCase((17, 1, 5), 6, 10, False), 2),
    (AttentionCase((128, 3, 65), 7, 16, True), 1),
    (AttentionCase((600, 9), 3, 64, True, (40, 0)), 1),
    (AttentionCase((200, 3), 4, 16, False, (5, 7)), 2),
    (AttentionCase((), 4, 16, True), 2),
]


def repeated(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("case", "kv_heads"), GROUPED, ids=str)
def test_grouped_heads(
    case: AttentionCase, kv_heads: int, dtype: torch.dtype, backend: str, generator: torch.Generator
) -> None:
    cu, longest, rows = offsets(case.lengths), max(case.lengths, default=0), sum(case.lengths)
    q = torch.randn(rows, case.heads, case.head_dim, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, rows, kv_heads, case.head_dim, generator=generator, dtype=torch.float64)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = repeated(k, case.heads), repeated(v, case.heads)
        return attention_formula(q, k, v, case.lengths, case.causal, case.window)

    compare(
        lambda q, k, v: ops.attention(q, k, v, cu, cu, longest, longest, causal=case.causal, window=case.window),
        formula,
        [q, k, v],
        dtype,
    )


def test_grouped_heads_of_some_rows(backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    """Texts of several blocks of keys, read by a few queries, one of them by none."""
    lengths, counts = (700, 1, 90, 5), (3, 1, 2, 0)
    rows = torch.tensor([0, 511, 699, 700, 701, 790])
    positions = torch.tensor([0, 511, 699, 0, 0, 89], dtype=torch.int32)
    q = torch.randn(6, 6, 16, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 796, 2, 16, generator=generator, dtype=torch.float64)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full = torch.zeros(796, 6, 16, dtype=torch.float64).index_copy(0, rows, q)
        return attention_formula(full, repeated(k, 6), repeated(v, 6), lengths, True)[rows]

    compare(
        lambda q, k, v: ops.attention(
            q, k, v, offsets(counts), offsets(lengths), 3, 700, causal=True, query_positions=positions
        ),
        formula,
        [q, k, v],
        dtype_of,
    )


def test_dropout_of_grouped_heads_is_that_of_each_query_head(backend: str, generator: torch.Generator) -> None:
    """As if keys and values were written out for each head."""
    cu = offsets((30, 5))
    key = ops.DropoutKey(1, 2, 3, 1, torch.arange(2), torch.repeat_interleave(torch.tensor([30, 5])), torch.zeros(35))
    q = torch.randn(35, 4, 8, generator=generator).requires_grad_()
    k, v = (torch.randn(35, 2, 8, generator=generator).requires_grad_() for _ in range(2))
    factor = torch.randn(35, 4, 8, generator=generator)
    results = []
    for keys, values in ((k, v), (repeated(k, 4), repeated(v, 4))):
        out = ops.attention(q, keys, values, cu, cu, 30, 30, causal=True, dropout_p=0.3, dropout_key=key)
        results.append((out, *torch.autograd.grad(out, (q, k, v), factor)))
    for found, expected in zip(*results, strict=True):
        assert relative_error(found.detach(), expected.detach()) < 1e-6


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused(backend: str) -> None:
    x, wide, narrow = torch.zeros(4, 8), torch.zeros(8), torch.zeros(5)
    angles, cu = torch.zeros(4, 4), offsets((4,))
    q = x.unflatten(1, (4, 2))
    for wrong in (
        lambda: ops.rms_norm(x, narrow, 1e-5),
        lambda: ops.rms_norm(x, wide, 1e-5, x[:3]),
        lambda: ops.gated(x, x[:3], "silu"),
        lambda: ops.gated(x, x, "relu"),
        lambda: ops.gated_linear(x, x, torch.zeros(3, 5), None, "silu"),
        lambda: ops.rotary(x, angles, angles[:3], heads=1),
        lambda: ops.rotary(x, angles[:3], angles[:3], heads=1),
        lambda: ops.rotary(x, angles, angles, heads=2),
        lambda: ops.attention(q, q[:, :3], q[:, :3], cu, cu, 4, 4, causal=True),
        lambda: ops.attention(q, q[:, :0], q[:, :0], cu, cu, 4, 4, causal=True),
        lambda: ops.attention(q, q[:, :2], q[:, :1], cu, cu, 4, 4, causal=True),
    ):
        with pytest.raises(UsageError):
            wrong()
