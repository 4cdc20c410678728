"""Attention with terms of each distance, against its formula in float64: outputs, gradients, masks, dropout, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import CPU_BACKENDS, TOLERANCE, offsets, poisoned_memory, relative_error
from torch import Tensor

from pyllmclf import UsageError, ops
from pyllmclf.models.relative_attention import Distances
from pyllmclf.ops import DropoutKey
from pyllmclf.ops.backends import torch_relative_attention
from pyllmclf.ops.philox import attention_mask


@dataclass(frozen=True)
class Case:
    """Rows of each text, sizes, mask, terms, and the rows that are queries (all by default)."""

    lengths: tuple[int, ...]
    heads: int
    head_dim: int
    buckets: int
    terms: tuple[str, ...]
    causal: bool = False
    queries: tuple[tuple[int, ...], ...] | None = None
    dropout: float = 0.0


ALL = ("bias", "position_keys", "position_queries")
CASES = [
    Case((1,), 1, 8, 1, ALL),
    Case((1, 1, 2), 2, 16, 3, ("bias",)),
    Case((17, 1, 5), 3, 7, 9, ("position_keys",)),
    Case((17, 1, 5), 3, 32, 9, ("position_queries",), causal=True),
    Case((33, 2, 66, 9), 2, 64, 70, ALL),
    Case((129, 300), 1, 40, 512, ("position_keys", "position_queries")),
    Case((25, 65, 24, 3, 8), 2, 80, 32, ("bias",), causal=True, dropout=0.3),
    Case((70, 9), 2, 16, 17, ALL, causal=True, dropout=0.4),
    Case((17, 0, 5), 1, 256, 5, ALL),
    Case((), 2, 16, 4, ALL),
    Case((17, 1, 70), 3, 12, 31, ALL, queries=((16,), (0,), (3,)), dropout=0.2),
    Case((17, 1, 70), 2, 12, 31, ("position_keys", "position_queries"), True, ((16, 2), (), (69, 0, 5))),
    Case((9,), 2, 8, 1, ()),
]


def inputs(case: Case, generator: torch.Generator, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Any]]:
    """(q, k, v and the terms; the other arguments), with buckets in no order."""
    rows = sum(case.lengths)
    queries = case.lengths if case.queries is None else tuple(map(len, case.queries))
    shapes = [(sum(queries), case.heads, case.head_dim), *[(rows, case.heads, case.head_dim)] * 2]
    table = case.buckets, case.heads, case.head_dim
    shapes += [{"bias": (case.heads, case.buckets)}.get(term, table) for term in case.terms]
    most = max(case.lengths, default=1) + 2
    options: dict[str, Any] = {
        "causal": case.causal,
        "buckets": torch.randint(case.buckets, (2 * most - 1,), generator=generator, dtype=torch.int32),
        "query_positions": None,
        "scale": 0.3,
        "dropout_p": case.dropout,
    }
    if case.queries is not None:
        positions = [row for text in case.queries for row in text]
        options["query_positions"] = torch.tensor(positions, dtype=torch.int32)
    if case.dropout:
        ids = torch.arange(len(case.lengths)) * 3 + 5
        empty = torch.zeros(0, dtype=torch.int64)
        options["dropout_key"] = DropoutKey(1, 2, 3, 1, ids, empty, empty)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes], options


def call(case: Case, options: dict[str, Any]) -> Callable[..., Tensor]:
    """The op on the tensors of :func:`inputs`."""
    queries = case.lengths if case.queries is None else tuple(map(len, case.queries))
    cu = offsets(queries), offsets(case.lengths)
    most = max(queries, default=0), max(case.lengths, default=0)

    def op(q: Tensor, k: Tensor, v: Tensor, *terms: Tensor) -> Tensor:
        return ops.relative_attention(q, k, v, *cu, *most, **options, **dict(zip(case.terms, terms, strict=True)))

    return op


def formula(case: Case, options: dict[str, Any]) -> Callable[..., Tensor]:
    """Each score by itself."""

    def op(q: Tensor, k: Tensor, v: Tensor, *given: Tensor) -> Tensor:
        terms, buckets, scale = dict(zip(case.terms, given, strict=True)), options["buckets"], options["scale"]
        out, row, first = [], 0, 0
        for text, length in enumerate(case.lengths):
            for i in range(length) if case.queries is None else case.queries[text]:
                distances = torch.arange(length) - i
                b = buckets[distances + len(buckets) // 2].long()
                keys = k[first : first + length]
                scores = torch.einsum("hd,jhd->hj", q[row], keys)
                if "position_keys" in terms:
                    scores = scores + torch.einsum("hd,jhd->hj", q[row], terms["position_keys"][b])
                if "position_queries" in terms:
                    scores = scores + torch.einsum("jhd,jhd->hj", keys, terms["position_queries"][b])
                scores = scale * scores
                if "bias" in terms:
                    scores = scores + terms["bias"][:, b]
                if case.causal:
                    scores = scores.masked_fill(distances > 0, float("-inf"))
                p = scores.softmax(dim=1)
                if case.dropout:
                    at = torch.tensor([i])
                    keep = attention_mask(options["dropout_key"], text, at, case.heads, length, case.dropout)[:, 0]
                    p = p * keep / (1 - case.dropout)
                out.append(torch.einsum("hj,jhd->hd", p, v[first : first + length]))
                row += 1
            first += length
        return torch.stack(out) if out else q

    return op


def with_gradients(op: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = op(*leaves)
    factor = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(out.dtype)
    gradients = torch.autograd.grad(out, leaves, factor, allow_unused=True)
    assert all(g is not None for g in gradients) or not len(out)
    return [out.detach(), *(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients(case: Case, backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    tensors, options = inputs(case, generator, torch.float64)
    if dtype is torch.float64 and backend == "native":
        with ops.use_backend(backend), pytest.raises(UsageError, match="float32"):
            call(case, options)(*tensors)
        return
    expected = with_gradients(formula(case, options), tensors)
    with ops.use_backend(backend), poisoned_memory():
        found = with_gradients(call(case, options), [t.to(dtype) for t in tensors])
        with torch.no_grad():
            again = call(case, options)(*(t.to(dtype) for t in tensors))
    assert torch.equal(again, found[0])
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        # A single key's score has no gradient.
        if float(theirs.abs().max() if theirs.numel() else 0) < 1e-9:
            assert float(mine.abs().max() if mine.numel() else 0) < 1e-6
        else:
            assert relative_error(mine, theirs) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_views(backend: str, generator: torch.Generator) -> None:
    """Projections whose rows and heads have strides of their own."""
    case = CASES[4]
    tensors, options = inputs(case, generator, torch.float32)
    wide = [torch.cat([t, t + 1], dim=1)[:, : t.shape[1]] for t in tensors[:3]]
    tables = [tensors[3].t().contiguous().t(), *(t.transpose(0, 1).contiguous().transpose(0, 1) for t in tensors[4:])]
    with ops.use_backend(backend):
        expected = with_gradients(call(case, options), tensors)
        found = with_gradients(call(case, options), [*wide, *tables])
    for mine, theirs in zip(found, expected, strict=True):
        assert relative_error(mine, theirs) < 1e-6


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_results_do_not_depend_on_the_batch(backend: str, generator: torch.Generator) -> None:
    case = CASES[7]
    tensors, options = inputs(case, generator, torch.float32)
    q, k, v, *terms = tensors
    with ops.use_backend(backend):
        together = call(case, options)(*tensors)
        one = slice(70, 79)
        empty = torch.zeros(0, dtype=torch.int64)
        single = options | {"dropout_key": DropoutKey(1, 2, 3, 1, torch.tensor([8]), empty, empty)}
        named = dict(zip(case.terms, terms, strict=True))
        found = ops.relative_attention(q[one], k[one], v[one], offsets((9,)), offsets((9,)), 9, 9, **single, **named)
    assert relative_error(found, together[one]) < 1e-6


def test_few_texts_at_a_time(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    case = CASES[4]
    tensors, options = inputs(case, generator, torch.float64)
    expected = with_gradients(formula(case, options), tensors)
    monkeypatch.setattr(torch_relative_attention, "MOST_SCORES", 2 * 2 * 66**2)
    for mine, theirs in zip(with_gradients(call(case, options), tensors), expected, strict=True):
        assert relative_error(mine, theirs) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, backend: str, generator: torch.Generator) -> None:
    case = CASES[4]
    tensors, options = inputs(case, generator, torch.float64)
    tensors = [t.to(dtype).double() for t in tensors]
    expected = with_gradients(formula(case, options), tensors)
    with ops.use_backend(backend):
        found = with_gradients(call(case, options), [t.to(dtype) for t in tensors])
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        # Twelve roundings of numbers of the same size; a sum of a term forgotten is far off.
        assert relative_error(mine, theirs) < 12 * torch.finfo(dtype).eps


def test_what_does_not_fit(generator: torch.Generator) -> None:
    q = torch.zeros(5, 2, 4)
    cu, buckets = offsets((5,)), torch.zeros(9, dtype=torch.int32)
    fine: dict[str, Any] = {"buckets": buckets}

    def refused(match: str, *changed: Any, k: Tensor = q, **options: Any) -> None:
        with pytest.raises(UsageError, match=match):
            ops.relative_attention(q, k, k, cu, *(changed or (cu,)), 5, 5, **fine | options)

    refused("shapes", k=torch.zeros(5, 2, 3))
    refused("different numbers of texts", offsets((2, 3)))
    refused("need query_positions", k=torch.zeros(6, 2, 4))
    refused("4 query_positions for 5", query_positions=torch.zeros(4, dtype=torch.int32))
    refused("don't hold those of 5 rows", buckets=torch.zeros(10, dtype=torch.int32))
    refused("don't hold those of 5 rows", buckets=buckets[:7])
    refused("don't fit heads", bias=torch.zeros(3, 1))
    refused("don't fit heads", position_keys=torch.zeros(1, 2, 5))
    refused("don't fit heads", bias=torch.zeros(2, 1), position_keys=torch.zeros(2, 2, 4))
    refused("dropout needs a dropout_key", dropout_p=0.5)
    refused("dropout rate", dropout_p=1.5)


def test_buckets_that_a_batch_needs() -> None:
    distances = Distances(6, lambda d: torch.tensor([9, 9, 7, 5, 4, 3, 2, 2, 8, 0, 0]))
    assert [distances.used(rows) for rows in range(1, 7)] == [
        range(3, 4), range(2, 5), range(2, 6), range(2, 9), range(10), range(10),
    ]  # fmt: skip
    assert distances.buckets.tolist() == [9, 9, 7, 5, 4, 3, 2, 2, 8, 0, 0]


def test_native_core_refuses_what_lies_outside() -> None:
    q, cu, bias = torch.zeros(5, 2, 4), offsets((5,)), torch.zeros(2, 3)
    inside = torch.zeros(9, dtype=torch.int32)

    def refused(match: str, buckets: torch.Tensor, **options: Any) -> None:
        with ops.use_backend("native"), pytest.raises(ValueError, match=match):
            ops.relative_attention(q, q, q, cu, cu, 5, 5, buckets=buckets, bias=bias, **options)

    refused("a bucket lies outside", inside + 3)
    refused("a bucket lies outside", inside - 1)
    refused("a query's row lies outside", inside, query_positions=torch.tensor([0, 1, 2, 3, 5], dtype=torch.int32))
    wide = torch.zeros(5, 1, 257)
    with ops.use_backend("native"), pytest.raises(UsageError, match="a head_dim of 257, above 256"):
        ops.relative_attention(wide, wide, wide, cu, cu, 5, 5, buckets=inside)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_that_arrive_expanded_or_turned(backend: str, generator: torch.Generator) -> None:
    case = CASES[4]
    tensors, options = inputs(case, generator, torch.float32)
    shape = tensors[0].shape
    turned = torch.randn(tuple(reversed(shape)), generator=generator).permute(2, 1, 0)
    with ops.use_backend(backend), poisoned_memory():
        for factor in (torch.tensor(0.5).expand(shape), turned):
            results = []
            for given in (factor, factor.contiguous()):
                leaves = [t.clone().requires_grad_() for t in tensors]
                results.append(torch.autograd.grad(call(case, options)(*leaves), leaves, given))
            for found, expected in zip(*results, strict=True):
                assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_dropout_key_of_other_texts_is_refused(backend: str, generator: torch.Generator) -> None:
    case = CASES[6]
    tensors, options = inputs(case, generator, torch.float32)
    empty = torch.zeros(0, dtype=torch.int64)
    options["dropout_key"] = DropoutKey(1, 2, 3, 1, torch.arange(1), empty, empty)
    with ops.use_backend(backend), pytest.raises(UsageError, match="relative_attention: the dropout_key has 1 texts"):
        call(case, options)(*tensors)


def test_more_rows_than_a_text_has_use_all_buckets() -> None:
    """As a batch of fixed shape has, whose longest text is rounded up."""
    distances = Distances(20, lambda distance: (distance + 19) // 4)
    assert distances.used(64) == distances.used(20) == range(10)
