"""Every op but attention, in every backend, against formulas in float64: outputs and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, GELU, LAYER_NORM, LORA, offsets, relative_error
from formulas import compare
from torch import Tensor

from pyllmclf import UsageError, ops
from pyllmclf.models.pooling import pooling_of
from pyllmclf.ops.dispatch import TABLE, implementation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LAYER_NORM, ids=str)
def test_layer_norm(shape: tuple[int, int], dtype: torch.dtype, backend: str, generator: torch.Generator) -> None:
    def formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias

    x = 1.0 + torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    compare(lambda *t: ops.layer_norm(*t, 1e-5), formula, [x, weight, bias], dtype)
    residual = torch.randn(shape, generator=generator, dtype=torch.float64)
    compare(
        lambda x, r, w, b: torch.cat(ops.layer_norm(x, w, b, 1e-5, r)),
        lambda x, r, w, b: torch.cat((formula(x + r, w, b), x + r)),
        [x, residual, weight, bias],
        dtype,
    )


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", GELU, ids=str)
def test_gelu(
    shape: tuple[int, int], dtype: torch.dtype, approximate: str, backend: str, generator: torch.Generator
) -> None:
    def formula(x: Tensor, bias: Tensor) -> Tensor:
        x = x + bias
        if approximate == "none":
            return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    x = 3.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    bias = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    compare(lambda x, b: ops.gelu(x, b, approximate), formula, [x, bias], dtype)
    compare(lambda x: ops.gelu(x, approximate=approximate), lambda x: formula(x, torch.zeros_like(x)), [x], dtype)


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_far_from_zero(approximate: str, backend: str, dtype_of: torch.dtype) -> None:
    """0 or x, with a derivative of 0 or 1."""
    far = torch.tensor([[12.0, 15.0, 100.0, 1e6, 1e12, 1e15]], dtype=dtype_of)
    x = torch.cat([far, -far]).requires_grad_()
    y = ops.gelu(x, approximate=approximate)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    for found, expected in ((y, far), (gradient, torch.ones_like(far))):
        assert torch.allclose(found[:1], expected) and torch.allclose(found[1:], torch.zeros_like(far), atol=1e-7)


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 70])
def test_gelu_linear(rows: int, dtype: torch.dtype, approximate: str, backend: str, generator: torch.Generator) -> None:
    sizes = [(rows, 33), (33,), (17, 33), (17,)]
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    compare(
        lambda x, b, w, c: ops.gelu_linear(x, b, w, c, approximate),
        lambda x, b, w, c: F.gelu(x + b, approximate=approximate) @ w.t() + c,
        inputs,
        dtype,
    )
    compare(
        lambda x, w: ops.gelu_linear(x, None, w, None, approximate),
        lambda x, w: F.gelu(x, approximate=approximate) @ w.t(),
        [inputs[0], inputs[2]],
        dtype,
    )


def test_gelu_refuses_an_unknown_formula() -> None:
    with pytest.raises(UsageError, match="approximate"):
        ops.gelu(torch.zeros(1), approximate="sigmoid")
    with pytest.raises(UsageError, match="approximate"):
        ops.gelu_linear(torch.zeros(1, 1), None, torch.zeros(1, 1), None, approximate="sigmoid")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LORA, ids=str)
def test_lora_linear(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backend: str, generator: torch.Generator
) -> None:
    rows, inputs, outputs, rank = shape
    sizes = [(rows, inputs), (outputs, inputs), (outputs,), (rank, inputs), (outputs, rank)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    compare(
        lambda x, w, b, a, bb: ops.lora_linear(x, w, b, a, bb, scaling=0.5),
        lambda x, w, b, a, bb: x @ (w + 0.5 * bb @ a).T + b,
        tensors,
        dtype,
    )
    with pytest.raises(UsageError, match="dropout_key"):
        ops.lora_linear(*tensors, scaling=0.5, dropout_p=0.5)


@pytest.mark.parametrize(("types", "typed"), [(0, False), (2, False), (2, True)])
def test_embedding(types: int, typed: bool, backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    input_ids = torch.tensor([3, 0, 3, 6], dtype=torch.int32)
    kinds = torch.tensor([0, 1, 1, 0], dtype=torch.int32) if typed else None
    positions = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    sizes = (7, 4, types) if types else (7, 4)
    tables = [torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in sizes]

    def formula(*tables: Tensor) -> Tensor:
        one_hot = torch.eye(7, dtype=torch.float64)[input_ids.long()] @ tables[0]
        out = one_hot + torch.eye(4, dtype=torch.float64)[positions.long()] @ tables[1]
        return out + tables[2][[0] * 4 if kinds is None else kinds.long()] if types else out

    compare(lambda *t: ops.embedding(input_ids, positions, *t, types=kinds), formula, tables, dtype_of)
    if types:
        norm = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2)]
        compare(
            lambda *t: ops.embedding_layer_norm(input_ids, positions, *t, 1e-5, kinds),
            lambda *t: F.layer_norm(formula(*t[:3]), (5,), t[3], t[4], 1e-5),
            [*tables, *norm],
            dtype_of,
        )


@pytest.mark.parametrize("weighted_texts", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(weighted: bool, weighted_texts: bool, backend: str, generator: torch.Generator) -> None:
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    weight = torch.rand(5, generator=generator) + 0.1 if weighted else None
    text_weight = torch.rand(7, generator=generator) if weighted_texts else None

    def formula(x: Tensor) -> Tensor:
        losses = -torch.log_softmax(x, dim=1)[torch.arange(7), labels]
        losses = losses if weight is None else losses * weight[labels]
        return losses.sum() if text_weight is None else (losses * text_weight).sum()

    compare(lambda x: ops.cross_entropy(x, labels, weight, text_weight), formula, [logits], torch.float32)
    with pytest.raises(UsageError, match="don't fit"):
        ops.cross_entropy(logits, labels[:3])
    with pytest.raises(UsageError, match="4 weights for 5 classes"):
        ops.cross_entropy(logits, labels, torch.ones(4))
    with pytest.raises(UsageError, match=r"weights of shape \(6,\) for 7 texts"):
        ops.cross_entropy(logits, labels, None, torch.ones(6))


@pytest.mark.parametrize(
    ("pooling", "rows"), [("first", (0, 4, 5)), ("last", (1, 4, 7)), ("last_position", (3, 4, 8)), ("mean", None)]
)
def test_pool(
    pooling: str, rows: tuple[int, ...] | None, backend: str, dtype_of: torch.dtype, generator: torch.Generator
) -> None:
    """Texts of 2, 1 and 3 real tokens in 4, 1 and 4 rows."""
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    cu, lengths = offsets((4, 1, 4)), torch.tensor([2, 1, 3], dtype=torch.int32)

    def formula(x: Tensor) -> Tensor:
        if rows is None:
            return torch.stack([x[:4].mean(0), x[4], x[5:].mean(0)])
        return torch.stack([x[r] for r in rows])

    compare(lambda x: pooling_of(pooling)(x, cu, lengths), formula, [x], dtype_of)


def test_pool_refuses_an_unknown_pooling() -> None:
    with pytest.raises(UsageError, match="pooling"):
        pooling_of("max")


def test_half_precision_is_computed_in_fp32(backend: str, generator: torch.Generator) -> None:
    """The error of bf16 is at most twice that of rounding the exact result."""
    if backend == "native":
        with pytest.raises(UsageError, match="float32 on the CPU"):
            ops.gelu(torch.zeros(1, 1, dtype=torch.bfloat16))
        return
    x = torch.randn(64, 256, generator=generator).bfloat16()
    weight, bias = torch.randn(2, 256, generator=generator).bfloat16()
    exact = torch.nn.functional.layer_norm(x.double(), (256,), weight.double(), bias.double(), 1e-5)
    rounding = relative_error(exact.bfloat16(), exact)
    assert relative_error(ops.layer_norm(x, weight, bias, 1e-5), exact) <= 2 * rounding
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh")
    assert relative_error(ops.gelu(x), exact) <= 2 * relative_error(exact.bfloat16(), exact)


@pytest.mark.parametrize("shape", LORA, ids=str)
def test_linear(shape: tuple[int, int, int, int], backend: str, generator: torch.Generator) -> None:
    rows, inputs, outputs, _ = shape
    sizes = [(rows, inputs), (outputs, inputs), (outputs,)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    for dtype in DTYPES:
        compare(ops.linear, lambda x, w, b: x @ w.T + b, tensors, dtype)
        compare(ops.linear, lambda x, w: x @ w.T, tensors[:2], dtype)


@pytest.mark.parametrize("rows", [[], [4, 0], [0, 1, 2, 3, 4]], ids=str)
def test_query_key_value(rows: list[int], backend: str, generator: torch.Generator) -> None:
    index = torch.tensor(rows, dtype=torch.int64)
    sizes = [(5, 7), (9, 7), (9,)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]

    def side_by_side(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return torch.cat([q.flatten(), kv.flatten()])

    for dtype in DTYPES:
        for given in (tensors, tensors[:2]):
            compare(
                lambda x, w, *b: side_by_side(*ops.query_key_value(x, index, w, *b)),
                lambda x, w, *b: side_by_side(*(F.linear(x, w, *b)[index, :3], F.linear(x, w, *b)[:, 3:])),
                given,
                dtype,
            )
    with pytest.raises(UsageError, match="three equal parts"):
        ops.query_key_value(tensors[0], index, tensors[1][:8])


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="backend"), ops.use_backend("fastest"):
        pass
    x = torch.zeros(1, 1)
    assert implementation("gelu", x) == "native"
    assert implementation("gelu", x.double()) == "reference"
    assert implementation("attention", x.double()) == "torch"
    with ops.use_backend("reference"):
        assert all(implementation(op, x) == "reference" for op in TABLE)
    with ops.use_backend("native"):
        assert implementation("gelu", x) == "native" and implementation("cross_entropy", x.double()) == "reference"
    monkeypatch.setenv("PYLLMCLF_BACKEND", "reference")
    assert implementation("gelu", x) == "reference"
    with ops.use_backend("native"):
        assert implementation("gelu", x) == "native"
    monkeypatch.setenv("PYLLMCLF_BACKEND", "fastest")
    with pytest.raises(UsageError, match="PYLLMCLF_BACKEND='fastest'"):
        implementation("gelu", x)


def test_rows_that_are_not_contiguous(backend: str, generator: torch.Generator) -> None:
    """Turned inputs, and gradients that arrive expanded or turned, give what contiguous ones give."""
    x, residual = (torch.randn(16, 9, generator=generator).t().requires_grad_() for _ in range(2))
    weight, bias = (torch.randn(32, generator=generator)[::2].requires_grad_() for _ in range(2))
    matrix = torch.randn(16, 12, generator=generator).t().requires_grad_()
    a, b = torch.randn(16, 4, generator=generator).t(), torch.randn(4, 12, generator=generator).t()
    inputs = [x, residual, weight, bias, matrix]

    def results(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, matrix: Tensor) -> list[Tensor]:
        return [
            *ops.layer_norm(x, weight, bias, 1e-5, residual),
            ops.gelu(x, bias),
            ops.gelu_linear(x, bias, matrix, None),
            *ops.rms_norm(x, weight, 1e-5, residual),
            ops.gated_linear(x, residual, matrix, None, "silu"),
            ops.linear(x, matrix),
            ops.lora_linear(x, matrix, None, a, b, scaling=0.5),
        ]

    for turned in (False, True):
        shapes = [t.shape for t in results(*inputs)]
        factors = [torch.randn(s[1], s[0]).t() if turned else torch.tensor(0.5).expand(s) for s in shapes]
        found, expected = (
            [*made, *torch.autograd.grad(made, inputs, factors)]
            for made in (results(*inputs), results(*(t.contiguous() for t in inputs)))
        )
        for a_result, its_equal in zip(found, expected, strict=True):
            assert relative_error(a_result.detach(), its_equal.detach()) < 1e-6


def test_norm_of_which_the_sum_alone_is_used(backend: str, generator: torch.Generator) -> None:
    inputs = [torch.randn(size, generator=generator).requires_grad_() for size in [(5, 8), (5, 8), (8,), (8,)]]
    x, residual, weight, bias = inputs
    _, summed = ops.layer_norm(x, weight, bias, 1e-5, residual)
    factor = torch.randn(5, 8, generator=generator)
    dx, dresidual, *others = torch.autograd.grad(summed, inputs, factor, allow_unused=True)
    assert torch.equal(dx, factor) and torch.equal(dresidual, factor)
    assert all(other is None or not other.any() for other in others)


def test_shapes_that_do_not_fit_are_refused(backend: str) -> None:
    x, wide, narrow = torch.zeros(4, 8), torch.zeros(8), torch.zeros(5)
    ids, cu = torch.zeros(4, dtype=torch.int32), offsets((4,))
    key = ops.DropoutKey(1, 2, 3, 1, torch.arange(2), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    q = x.unflatten(1, (2, 4))
    for wrong in (
        lambda: ops.layer_norm(x, narrow, narrow, 1e-5),
        lambda: ops.layer_norm(x, wide, wide, 1e-5, x[:3]),
        lambda: ops.gelu(x, narrow),
        lambda: ops.gelu_linear(x, narrow, torch.zeros(3, 8), None),
        lambda: ops.gelu_linear(x, wide, torch.zeros(3, 5), None),
        lambda: ops.linear(x[None], x),
        lambda: ops.linear(x, torch.zeros(3, 5)),
        lambda: ops.linear(x, torch.zeros(3, 8), wide),
        lambda: ops.lora_linear(x[None], x, None, x, torch.zeros(4, 4), scaling=1.0),
        lambda: ops.lora_linear(x, x, None, x, torch.zeros(3, 4), scaling=1.0),
        lambda: ops.lora_linear(x, x, None, x[:, :5], torch.zeros(4, 4), scaling=1.0),
        lambda: ops.embedding(ids, ids[:3], x, x),
        lambda: ops.embedding(ids, ids, x, x, x, ids[:3]),
        lambda: ops.embedding(ids, ids, x, x, None, ids),
        lambda: ops.embedding(ids, ids, x, x[:, :5]),
        lambda: ops.embedding_layer_norm(ids, ids, x, x, x, narrow, narrow, 1e-5),
        lambda: ops.dropout(x, 0.5, key),
        lambda: ops.attention(q, q, q, cu, cu, 4, 4, causal=True, query_positions=ids[:2]),
        lambda: ops.attention(q, q, q, cu, cu, 4, 4, causal=True, dropout_p=0.5, dropout_key=key),
        lambda: ops.cross_entropy(x, ids),
    ):
        with pytest.raises(UsageError):
            wrong()
