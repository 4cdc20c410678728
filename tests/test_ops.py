"""Every op in every backend against formulas written out in float64: outputs and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from cases import ATTENTION, GELU, LAYER_NORM, LORA, TOLERANCE, AttentionCase, offsets, relative_error
from torch import Tensor

from pyllmclf import UsageError, ops
from pyllmclf.ops import BACKENDS, native
from pyllmclf.ops.dispatch import TABLE, active_backend, implementation

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest):
    with ops.use_backend(request.param):
        yield request.param


@pytest.fixture
def dtype_of(backend: str) -> torch.dtype:
    """The most precise dtype that the backend computes."""
    return torch.float32 if backend == "native" else torch.float64


Op = Callable[..., Tensor]


def compare(op: Op, formula: Op, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Output and every gradient of ``op`` in ``dtype`` against ``formula`` in float64."""
    ours = [t.detach().clone().to(dtype).requires_grad_() for t in inputs]
    if active_backend() == "native" and dtype != torch.float32:
        with pytest.raises(UsageError, match="float32 on the CPU"):
            op(*ours)
        return
    theirs = [t.detach().clone().double().requires_grad_() for t in ours]
    found, expected = op(*ours), formula(*theirs)
    assert found.dtype == dtype and found.shape == expected.shape
    assert relative_error(found.detach(), expected.detach()) < TOLERANCE[dtype]
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weight.to(dtype)).sum().backward()
    (expected * weight).sum().backward()
    gradients = [(mine.grad, other.grad) for mine, other in zip(ours, theirs, strict=True)]
    largest = max((float(expected.abs().max()) for _, expected in gradients if expected.numel()), default=0.0)
    for mine, other in gradients:
        if other.numel() and float(other.abs().max()) == 0.0:
            # No true gradient (a text of one token attends to itself alone): measured on the others' scale.
            assert float(mine.abs().max()) <= TOLERANCE[dtype] * largest
        else:
            assert relative_error(mine, other) < TOLERANCE[dtype]


def attention_formula(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], causal: bool) -> Tensor:
    """One dense softmax over all rows of all texts; texts are kept apart by the mask."""
    text = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    allowed = text[:, None] == text[None, :]
    if causal:
        allowed = allowed & (torch.arange(len(text))[:, None] >= torch.arange(len(text))[None, :])
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    scores = torch.where(allowed, scores, -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp() if scores.numel() else scores
    return torch.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: AttentionCase, dtype: torch.dtype, backend: str, generator: torch.Generator) -> None:
    cu, longest = offsets(case.lengths), max(case.lengths, default=0)
    shape = (sum(case.lengths), case.heads, case.head_dim)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    compare(
        lambda q, k, v: ops.attention(q, k, v, cu, cu, longest, longest, causal=case.causal),
        lambda q, k, v: attention_formula(q, k, v, case.lengths, case.causal),
        inputs,
        dtype,
    )


def test_attention_reads_a_fused_projection(backend: str, generator: torch.Generator) -> None:
    """q, k and v may be views into one tensor."""
    qkv = torch.randn(22, 3 * 32, generator=generator)
    cu = offsets((17, 5))
    views = [t.unflatten(1, (4, 8)) for t in qkv.chunk(3, dim=1)]
    found = ops.attention(*views, cu, cu, 17, 17, causal=True)
    expected = ops.attention(*(t.contiguous() for t in views), cu, cu, 17, 17, causal=True)
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("causal", [True, False])
def test_attention_of_some_rows(causal: bool, backend: str, generator: torch.Generator) -> None:
    """Queries that are a subset of the rows give the rows of the full result."""
    lengths = (17, 1, 6)
    q, k, v = (torch.randn(24, 2, 16, generator=generator) for _ in range(3))
    cu = offsets(lengths)
    full = ops.attention(q, k, v, cu, cu, 17, 17, causal=causal)
    rows = torch.tensor([3, 16, 17, 20, 23])
    positions = torch.tensor([3, 16, 0, 2, 5], dtype=torch.int32)
    some = ops.attention(q[rows], k, v, offsets((2, 1, 2)), cu, 2, 17, causal=causal, query_positions=positions)
    assert relative_error(some, full[rows]) < 1e-6


@pytest.mark.parametrize("rows", [9, 300])
def test_attention_window(rows: int, backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    inputs = [torch.randn(rows, 1, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    cu = offsets((rows,))

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        distance = torch.arange(rows)[None, :] - torch.arange(rows)[:, None]
        scores = torch.einsum("qhd,khd->hqk", q, k) / 2.0
        scores = scores.masked_fill((distance < -2) | (distance > 1), -torch.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)

    compare(
        lambda q, k, v: ops.attention(q, k, v, cu, cu, rows, rows, causal=False, window=(2, 1)),
        formula,
        inputs,
        dtype_of,
    )


def test_attention_scale(backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    inputs = [torch.randn(9, 1, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    cu = offsets((9,))
    compare(
        lambda q, k, v: ops.attention(q, k, v, cu, cu, 9, 9, causal=False, scale=1.0),
        lambda q, k, v: attention_formula(2.0 * q, k, v, (9,), False),
        inputs,
        dtype_of,
    )


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention_packed(case: AttentionCase, backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    """A fused projection gives what its parts give, and one gradient."""
    cu, longest, width = offsets(case.lengths), max(case.lengths, default=0), case.heads * case.head_dim
    qkv = torch.randn(sum(case.lengths), 3 * width, generator=generator, dtype=torch.float64)

    def formula(qkv: Tensor) -> Tensor:
        q, k, v = (t.unflatten(1, (case.heads, case.head_dim)) for t in qkv.chunk(3, dim=1))
        return attention_formula(q, k, v, case.lengths, case.causal).flatten(1)

    compare(
        lambda qkv: ops.attention_packed(qkv, cu, longest, heads=case.heads, causal=case.causal),
        formula,
        [qkv],
        dtype_of,
    )


@pytest.mark.parametrize("causal", [True, False])
def test_attention_gradients_of_some_rows(
    causal: bool, backend: str, dtype_of: torch.dtype, generator: torch.Generator
) -> None:
    """Texts of several blocks of keys, read by a few queries, one of them by none."""
    lengths, counts = (700, 1, 90, 5), (3, 1, 2, 0)
    rows = torch.tensor([0, 511, 699, 700, 701, 790])
    positions = torch.tensor([0, 511, 699, 0, 0, 89], dtype=torch.int32)
    q = torch.randn(6, 2, 16, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 796, 2, 16, generator=generator, dtype=torch.float64)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full = torch.zeros(796, 2, 16, dtype=torch.float64).index_copy(0, rows, q)
        return attention_formula(full, k, v, lengths, causal)[rows]

    compare(
        lambda q, k, v: ops.attention(
            q, k, v, offsets(counts), offsets(lengths), 3, 700, causal=causal, query_positions=positions
        ),
        formula,
        [q, k, v],
        dtype_of,
    )


def test_attention_refuses_what_does_not_fit() -> None:
    x = torch.zeros(4, 2, 8)
    cu = offsets((4,))
    with pytest.raises(UsageError, match="shapes"):
        ops.attention(x, x[:, :1], x[:, :1], cu, cu, 4, 4, causal=True)
    with pytest.raises(UsageError, match="numbers of texts"):
        ops.attention(x, x, x, cu, offsets((2, 2)), 4, 4, causal=True)
    with pytest.raises(UsageError, match="query_positions"):
        ops.attention(x[:1], x, x, offsets((1,)), cu, 1, 4, causal=True)
    with pytest.raises(UsageError, match="query_positions"):
        ops.attention(x, x, x, offsets((1, 3)), offsets((3, 1)), 3, 3, causal=True)
    with pytest.raises(UsageError, match="dropout_key"):
        ops.attention(x, x, x, cu, cu, 4, 4, causal=True, dropout_p=0.1)


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


@pytest.mark.parametrize("types", [0, 2])
def test_embedding(types: int, backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    input_ids = torch.tensor([3, 0, 3, 6], dtype=torch.int32)
    positions = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    sizes = (7, 4, types) if types else (7, 4)
    tables = [torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in sizes]

    def formula(*tables: Tensor) -> Tensor:
        one_hot = torch.eye(7, dtype=torch.float64)[input_ids.long()] @ tables[0]
        out = one_hot + torch.eye(4, dtype=torch.float64)[positions.long()] @ tables[1]
        return out + tables[2][:1] if types else out

    compare(lambda *t: ops.embedding(input_ids, positions, *t), formula, tables, dtype_of)
    if types:
        norm = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2)]
        compare(
            lambda *t: ops.embedding_layer_norm(input_ids, positions, *t, 1e-5),
            lambda *t: F.layer_norm(formula(*t[:3]), (5,), t[3], t[4], 1e-5),
            [*tables, *norm],
            dtype_of,
        )


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(weighted: bool, backend: str, generator: torch.Generator) -> None:
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    weight = torch.rand(5, generator=generator) + 0.1 if weighted else None

    def formula(x: Tensor) -> Tensor:
        losses = -torch.log_softmax(x, dim=1)[torch.arange(7), labels]
        return (losses * weight[labels]).sum() if weight is not None else losses.sum()

    compare(lambda x: ops.cross_entropy(x, labels, weight), formula, [logits], torch.float32)
    with pytest.raises(UsageError, match="don't fit"):
        ops.cross_entropy(logits, labels[:3])
    with pytest.raises(UsageError, match="4 weights for 5 classes"):
        ops.cross_entropy(logits, labels, torch.ones(4))


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

    compare(lambda x: ops.pool(x, cu, lengths, pooling), formula, [x], dtype_of)


def test_pool_refuses_an_unknown_pooling() -> None:
    with pytest.raises(UsageError, match="pooling"):
        ops.pool(torch.zeros(1, 1), offsets((1,)), torch.ones(1), "max")


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
        assert implementation("gelu", x) == "native" and implementation("pool", x.double()) == "reference"
    monkeypatch.setenv("PYLLMCLF_BACKEND", "reference")
    assert implementation("gelu", x) == "reference"
    with ops.use_backend("native"):
        assert implementation("gelu", x) == "native"
    monkeypatch.setenv("PYLLMCLF_BACKEND", "fastest")
    with pytest.raises(UsageError, match="PYLLMCLF_BACKEND='fastest'"):
        implementation("gelu", x)


def native_results(threads: int, generator: torch.Generator) -> list[Tensor]:
    """Outputs and gradients of every native op on this number of threads."""
    lengths = (600, 1, 33, 90)
    cu, rows = offsets(lengths), sum(lengths)
    inputs = [
        torch.randn(size, generator=generator).requires_grad_() for size in [(rows, 96), (rows, 32), (32,), (32,)]
    ]
    qkv, x, weight, bias = inputs
    tables = [torch.randn(size, generator=generator).requires_grad_() for size in [(50, 32), (700, 32), (2, 32)]]
    ids = torch.randint(0, 50, (rows,), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths])
    key = ops.DropoutKey(1, 2, 3, 1, torch.arange(4), torch.arange(4).repeat_interleave(cu.diff()), positions)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ops.use_backend("native"):
            outputs = [
                ops.attention_packed(qkv, cu, 600, heads=2, causal=True, dropout_p=0.1, dropout_key=key),
                *ops.layer_norm(x, weight, bias, 1e-5, x),
                ops.gelu(x, bias, "tanh"),
                ops.gelu(x, bias, "none"),
                ops.embedding(ids, positions, *tables),
                ops.embedding_layer_norm(ids, positions, *tables, weight, bias, 1e-5),
                ops.dropout(x, 0.1, key),
            ]
            factors = [torch.randn(t.shape, generator=generator) for t in outputs]
            # Not summed into one loss: torch's sum over threads is another order.
            torch.autograd.backward(outputs, factors)
    finally:
        torch.set_num_threads(before)
    return [t.detach() for t in outputs] + [t.grad for t in (*inputs, *tables) if t.grad is not None]


def test_native_ops_give_the_same_bits_for_any_number_of_threads() -> None:
    one, two, three = (native_results(n, torch.Generator().manual_seed(7)) for n in (1, 2, 3))
    assert len(one) == 15
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
        lambda: ops.embedding(ids, ids[:3], x, x),
        lambda: ops.embedding(ids, ids, x, x[:, :5]),
        lambda: ops.embedding_layer_norm(ids, ids, x, x, x, narrow, narrow, 1e-5),
        lambda: ops.dropout(x, 0.5, key),
        lambda: ops.attention(q, q, q, cu, cu, 4, 4, causal=True, query_positions=ids[:2]),
        lambda: ops.attention(q, q, q, cu, cu, 4, 4, causal=True, dropout_p=0.5, dropout_key=key),
        lambda: ops.cross_entropy(x, ids),
    ):
        with pytest.raises(UsageError):
            wrong()


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


def test_kept_gradients_are_those_of_autograd(generator: torch.Generator) -> None:
    """Several steps and micro-batches: memory is written again, rows of the step before are cleared."""
    tables = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in [(20, 8), (5, 8), (1, 8), (6, 8)]]
    copies = [torch.nn.Parameter(t.detach().clone()) for t in tables]
    ops.keep_gradients(tables)
    memory = []
    for _ in range(3):
        for parameters in (tables, copies):
            for parameter in parameters:
                parameter.grad = None
        for _ in range(2):
            ids = torch.randint(0, 20, (7,), generator=generator)
            positions = torch.randint(0, 5, (7,), generator=generator)
            factor = torch.randn(7, 6, generator=generator)
            for token, position, kind, weight in (tables, copies):
                x = ops.embedding(ids, positions, token, position, kind)
                (ops.linear(x, weight) * factor).sum().backward()
        for kept, plain in zip(tables, copies, strict=True):
            assert relative_error(kept.grad, plain.grad) < 1e-6
        memory.append([t.grad.data_ptr() for t in tables])
    assert memory[0] == memory[1] == memory[2]


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

    ops.keep_gradients(tables, consume)
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
    ops.forget_gradients(tables)
    ops.linear(torch.randn(7, 8, generator=generator), tables[3]).sum().backward()
    assert tables[3].grad is not None


def test_native_head_dim_limit() -> None:
    """Heads that are too wide for the native core take another way."""
    x = torch.randn(3, 1, native.MAX_HEAD_DIM + 1, generator=torch.Generator().manual_seed(1))
    cu = offsets((3,))
    found = ops.attention(x, x, x, cu, cu, 3, 3, causal=True)
    assert relative_error(found, attention_formula(*[x.double()] * 3, (3,), True)) < 1e-5
