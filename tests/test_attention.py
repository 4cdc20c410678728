"""Attention in every backend against its formula in float64: outputs and gradients."""

from __future__ import annotations

import sys

import pytest
import torch
from cases import ATTENTION, DTYPES, AttentionCase, offsets, relative_error
from formulas import attention_formula, compare
from torch import Tensor
from torch._subclasses import FakeTensorMode

from pyllmclf import UsageError, ops
from pyllmclf.ops.backends import native_cpu as native
from pyllmclf.ops.backends import torch_attention


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: AttentionCase, dtype: torch.dtype, backend: str, generator: torch.Generator) -> None:
    cu, longest = offsets(case.lengths), max(case.lengths, default=0)
    shape = (sum(case.lengths), case.heads, case.head_dim)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    compare(
        lambda q, k, v: ops.attention(q, k, v, cu, cu, longest, longest, causal=case.causal, window=case.window),
        lambda q, k, v: attention_formula(q, k, v, case.lengths, case.causal, case.window),
        inputs,
        dtype,
    )


def test_attention_reads_views(backend: str, generator: torch.Generator) -> None:
    """q, k and v may be views into one tensor, by rows or turned; the output's gradient may be expanded or turned."""
    qkv = torch.randn(22, 3 * 32, generator=generator).requires_grad_()
    cu = offsets((17, 5))
    views = [t.unflatten(1, (4, 8)) for t in qkv.chunk(3, dim=1)]
    turned = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in views]
    plain = [t.contiguous() for t in views]
    factors = [torch.randn(22, 1, 1, generator=generator).expand(22, 4, 8), torch.randn(8, 4, 22).transpose(0, 2)]
    for factor in factors:
        results = []
        for parts in (plain, views, turned):
            out = ops.attention(*parts, cu, cu, 17, 17, causal=True)
            results.append((out, *torch.autograd.grad(out, qkv, factor)))
        for others in results[1:]:
            for found, expected in zip(others, results[0], strict=True):
                assert relative_error(found.detach(), expected.detach()) < 1e-6


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
        return attention_formula(q, k, v, case.lengths, case.causal, case.window).flatten(1)

    compare(
        lambda qkv: ops.attention_packed(qkv, cu, longest, heads=case.heads, causal=case.causal, window=case.window),
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
        ops.attention(x[:, :1], x, x, cu, cu, 4, 4, causal=True)
    with pytest.raises(UsageError, match="numbers of texts"):
        ops.attention(x, x, x, cu, offsets((2, 2)), 4, 4, causal=True)
    with pytest.raises(UsageError, match="query_positions"):
        ops.attention(x[:1], x, x, offsets((1,)), cu, 1, 4, causal=True)
    with pytest.raises(UsageError, match="query_positions"):
        ops.attention(x, x, x, offsets((1, 3)), offsets((3, 1)), 3, 3, causal=True)
    for window in ((-1, 0), (3, -2)):
        with pytest.raises(UsageError, match="negative"):
            ops.attention(x, x, x, cu, cu, 4, 4, causal=True, window=window)
    with pytest.raises(UsageError, match="dropout_key"):
        ops.attention(x, x, x, cu, cu, 4, 4, causal=True, dropout_p=0.1)


def test_native_head_dim_limit() -> None:
    """Heads that are too wide for the native core take another way, or are refused where it was asked for."""
    x = torch.randn(3, 1, native.MAX_HEAD_DIM + 1, generator=torch.Generator().manual_seed(1))
    cu = offsets((3,))
    with ops.use_backend("native"):
        with pytest.raises(UsageError, match="head_dim of 257"):
            ops.attention(x, x, x, cu, cu, 3, 3, causal=True)
        with pytest.raises(UsageError, match="head_dim of 257"):
            ops.attention_packed(torch.cat([x, x, x], 1).flatten(1), cu, 3, heads=1, causal=True)
    found = ops.attention(x, x, x, cu, cu, 3, 3, causal=True)
    assert relative_error(found, attention_formula(*[x.double()] * 3, (3,), True)) < 1e-5


@pytest.mark.parametrize("cu", [[0, 3], [0, 5], [1, 4], [0, 3, 2, 4]])
def test_offsets_that_are_not_those_of_the_rows(cu: list[int], backend: str) -> None:
    x, lengths = torch.zeros(4, 1, 8), torch.tensor(cu, dtype=torch.int32)
    with pytest.raises(ValueError, match="cu_seqlens"):
        ops.attention(x, x, x, lengths, lengths, 5, 5, causal=True)


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_of_torch(causal: bool, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """Arguments of torch's variable-length attention, by a stand-in that computes the formula from them."""
    lengths, calls = (5, 1, 3), []

    def varlen_attn(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
        calls.append((max_q, max_k, scale, window_size))
        assert all(t.stride(-1) == 1 for t in (q, k, v))
        assert cu_seq_q.dtype is cu_seq_k.dtype is torch.int32
        assert cu_seq_q.tolist() == cu_seq_k.tolist() == [0, 5, 6, 9]
        return attention_formula(scale * 8**0.5 * q.double(), k.double(), v.double(), lengths, window_size == (-1, 0))

    monkeypatch.setattr(torch_attention, "flash_varlen", lambda q: varlen_attn)
    qkv = torch.randn(9, 3 * 16, generator=generator).bfloat16()
    cu = offsets(lengths)
    q, k, v = (t.unflatten(1, (2, 8)) for t in qkv.chunk(3, dim=1))
    expected = attention_formula(2.0 * q.double(), k.double(), v.double(), lengths, causal).flatten(1)
    scale = 2.0 * 8**-0.5
    turned = (q.transpose(0, 2).contiguous().transpose(0, 2), k, v)
    outputs = [
        ops.attention_packed(qkv, cu, 5, heads=2, causal=causal, scale=scale),
        ops.attention(*turned, cu.long(), cu.long(), 5, 5, causal=causal, scale=scale).flatten(1),
    ]
    assert all(relative_error(out, expected) < 1e-12 for out in outputs)
    assert calls == [(5, 5, scale, (-1, 0) if causal else (-1, -1))] * 2
    # The reference computes what torch's kernel does not.
    ids = torch.zeros(9, dtype=torch.int64)
    key = ops.DropoutKey(1, 2, 3, 1, torch.arange(3), ids, ids)
    ops.attention(q, k, v, cu, cu, 5, 5, causal=causal, window=(2, 0))
    ops.attention(q, k, v, cu, cu, 5, 5, causal=causal, dropout_p=0.5, dropout_key=key)
    ops.attention(q, k, v, cu, cu, 5, 5, causal=causal, query_positions=torch.tensor([*range(5), 0, 0, 1, 2]))
    assert len(calls) == 2


def test_which_calls_take_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """16-bit rows on a GPU that has it, with a torch that has the arguments; never on a CPU."""
    if torch_attention._varlen_attn() is None:
        pytest.skip("torch 2.11 or newer")
    from torch.nn.attention import varlen

    devices = []
    monkeypatch.setattr(torch_attention, "_has_flash", lambda device: devices.append(device.type) or True)
    half, single = (torch.bfloat16, torch.float16), torch.float32
    with FakeTensorMode():  # shapes and devices without memory
        fits = [torch.empty(9, 2, 64, dtype=dtype, device="cuda") for dtype in half]
        fits += [torch.empty(1, 2, head_dim, dtype=half[0], device="cuda") for head_dim in (8, 192)]
        others = [torch.empty(9, 2, 64, dtype=single, device="cuda"), torch.empty(9, 2, 64, dtype=half[0])]
        others += [torch.empty(9, 2, head_dim, dtype=half[0], device="cuda") for head_dim in (12, 200)]
        others += [torch.empty(0, 2, 64, dtype=half[0], device="cuda")]
        assert all(torch_attention.flash_varlen(x) is varlen.varlen_attn for x in fits)
        assert all(torch_attention.flash_varlen(x) is None for x in others)
        assert devices == ["cuda"] * len(fits)
        monkeypatch.setattr(torch_attention, "_has_flash", lambda device: False)
        assert torch_attention.flash_varlen(fits[0]) is None
    look_up = torch_attention._varlen_attn.__wrapped__  # without the cache
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False: q)
    assert look_up() is None
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert look_up() is None


def test_signature_of_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own function takes the arguments, forward and backward; tensors without memory run no kernel."""
    varlen_attn = torch_attention._varlen_attn()
    if varlen_attn is None:
        pytest.skip("torch 2.11 or newer")
    monkeypatch.setattr(torch_attention, "flash_varlen", lambda q: varlen_attn)
    x = torch.empty(9, 2, 64, dtype=torch.bfloat16, device="meta").requires_grad_()
    cu = torch.empty(4, dtype=torch.int32, device="meta")
    out = torch_attention.attention(x, x, x, cu, 5, causal=True, scale=0.125)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.shape == x.shape
