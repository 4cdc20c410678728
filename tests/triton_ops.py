"""Checks of the Triton kernels through ``pyllmclf.ops``, for the interpreter on a CPU and for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from cases import AttentionCase, offsets, poisoned_memory, relative_error
from formulas import attention_formula
from torch import Tensor

from pyllmclf import ops
from pyllmclf.kernels import attention as kernels
from pyllmclf.kernels.tiles import Schedule

# (rows, in, out, rank): ranks from 4 to 256, sizes that are multiples of nothing, and the keys of SmolLM2-135M, which
# are narrower than its rows.
LORA = [(1, 8, 8, 4), (17, 96, 160, 16), (70, 64, 200, 5), (33, 33, 65, 64), (40, 48, 33, 256), (0, 8, 8, 2)]
LORA += [(5, 576, 192, 8)]
# Relative errors of outputs and gradients, per tensor; in half precision some roundings of 11 or of 8 bits.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 1.6e-2}

Run = Callable[..., Tensor]

# Cases whose query heads share keys and values, and the heads of these: groups of 2, 3, 4 and 7, and of all heads.
GROUPED = [
    (AttentionCase((17, 1, 5), 4, 32, True), 2),
    (AttentionCase((70, 1, 33), 3, 16, False), 1),
    (AttentionCase((5, 1), 8, 8, True), 2),
    (AttentionCase((33, 2), 7, 24, True, (9, 0)), 1),
    (AttentionCase((130, 3), 6, 16, False, (20, 5)), 2),
    (AttentionCase((19, 1), 9, 64, True), 3),
    (AttentionCase((65, 2), 2, 128, True), 1),
    (AttentionCase((33, 1), 4, 256, True), 1),
    (AttentionCase((), 4, 16, True), 2),
]


def tables_are_read() -> AbstractContextManager[object]:
    """Makes small batches read the tables of tiles, too, though one launch without a table would do."""
    return patch.object(kernels, "processors", lambda device: 0)


def results(run: Run, inputs: list[Tensor], factor: Tensor) -> list[Tensor]:
    """Computes output and gradients."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = run(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, factor.to(out.dtype))]


def compare(run: Run, formula: Run, inputs: list[Tensor], dtype: torch.dtype, device: str) -> None:
    """Compares output and gradients of ``run`` in ``dtype`` on ``device`` with ``formula`` in float64 on the CPU."""
    rounded = [t.to(dtype) for t in inputs]
    factor = torch.randn(formula(*(t.double() for t in rounded)).shape, generator=torch.Generator().manual_seed(5))
    expected = results(formula, [t.double() for t in rounded], factor.to(dtype).double())
    with ops.use_backend("triton"), poisoned_memory():
        actual = results(run, [t.to(device) for t in rounded], factor.to(device))
    scale = max((float(t.abs().max()) for t in expected[1:] if t.numel()), default=1.0)
    tolerance = TOLERANCE[dtype]
    for mine, exact in zip(actual, expected, strict=True):
        assert mine.dtype == dtype and mine.shape == exact.shape and mine.isfinite().all()
        if exact.numel() and float(exact.abs().max()) < 1e-6 * scale:  # no true gradient
            assert float(mine.abs().max()) <= tolerance * scale
        else:
            assert relative_error(mine.cpu(), exact) < tolerance


def repeated(x: Tensor, heads: int) -> Tensor:
    """Keys or values [rows, kv_heads, head_dim], each head as often as query heads read it."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def check_attention(
    case: AttentionCase, dtype: torch.dtype, device: str, *, scheduled: bool, kv_heads: int | None = None
) -> None:
    """Checks attention on a fused projection, which the kernels read in place."""
    generator = torch.Generator().manual_seed(3)
    cu, longest = offsets(case.lengths), max(case.lengths, default=0)
    on_device = cu.to(device)
    schedule = Schedule(cu, cu, torch.device(device)) if scheduled else None
    kv_heads = case.heads if kv_heads is None else kv_heads
    sizes = case.heads, kv_heads, kv_heads
    qkv = torch.randn(sum(case.lengths), sum(sizes) * case.head_dim, generator=generator)

    def formula(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(1, (sum(sizes), case.head_dim)).split(sizes, dim=1)
        k, v = repeated(k, case.heads), repeated(v, case.heads)
        return attention_formula(q, k, v, case.lengths, case.causal, case.window).flatten(1)

    def run(qkv: Tensor) -> Tensor:
        options = {"causal": case.causal, "window": case.window, "schedule": schedule}
        return ops.attention_packed(qkv, on_device, longest, heads=case.heads, kv_heads=kv_heads, **options)

    with tables_are_read():
        compare(run, formula, [qkv], dtype, device)


def check_attention_of_some_rows(
    causal: bool,
    dtype: torch.dtype,
    device: str,
    *,
    scheduled: bool,
    window: tuple[int, int] | None = None,
    heads: int = 2,
    kv_heads: int = 2,
) -> None:
    """Checks a few queries, out of order, on texts of several blocks of keys; one text has no query."""
    lengths, counts = (150, 1, 90, 5), (3, 1, 2, 0)
    rows = torch.tensor([149, 0, 77, 150, 240, 152])
    positions = torch.tensor([149, 0, 77, 0, 89, 1], dtype=torch.int32)
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(6, heads, 16, generator=generator)
    k, v = torch.randn(2, sum(lengths), kv_heads, 16, generator=generator)
    cu_q, cu_k = offsets(counts), offsets(lengths)
    schedule = Schedule(cu_q, cu_k, torch.device(device)) if scheduled else None

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full = torch.zeros(sum(lengths), heads, 16, dtype=torch.float64).index_copy(0, rows, q)
        return attention_formula(full, repeated(k, heads), repeated(v, heads), lengths, causal, window)[rows]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        offsets_q, offsets_k = cu_q.to(device), cu_k.to(device)
        at = positions.to(device)
        return ops.attention(
            q,
            k,
            v,
            offsets_q,
            offsets_k,
            3,
            150,
            causal=causal,
            query_positions=at,
            window=window,
            schedule=schedule,
        )

    with tables_are_read():
        compare(run, formula, [q, k, v], dtype, device)


def dropout_key(lengths: tuple[int, ...], device: str) -> ops.DropoutKey:
    """A key whose seed and example ids need the 32nd bit."""
    sizes = torch.tensor(lengths)
    examples = torch.arange(len(lengths)) + 2**31 + 5
    positions = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])
    rows = examples.repeat_interleave(sizes)
    return ops.DropoutKey(2**32 - 7, 3, 2, 1, examples.to(device), rows.to(device), positions.to(device))


def _on_reference(run: Run) -> Run:
    def computed(*inputs: Tensor) -> Tensor:
        with ops.use_backend("reference"):
            return run(*inputs)

    return computed


def check_dropout(p: float, dtype: torch.dtype, device: str) -> None:
    """Checks that dropout masks are the reference's: of rows, and of LoRA layers."""
    generator = torch.Generator().manual_seed(3)
    keys = {where: dropout_key((70, 3), where) for where in {device, "cpu"}}

    def rows(x: Tensor) -> Tensor:
        return ops.dropout(x, p, keys[x.device.type])

    compare(rows, _on_reference(rows), [torch.randn(73, 37, generator=generator)], dtype, device)

    def lora(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return ops.lora_linear(x, weight, None, a, b, scaling=0.5, dropout_p=p, dropout_key=keys[x.device.type])

    sizes = [(73, 40), (24, 40), (4, 40), (24, 4)]
    compare(lora, _on_reference(lora), [torch.randn(s, generator=generator) for s in sizes], dtype, device)


def check_dropout_of_attention(p: float, heads: int, kv_heads: int, dtype: torch.dtype, device: str) -> None:
    """Checks that masks of attention are the reference's, one for each query head: with all rows, and with some."""
    lengths = (70, 3)
    generator = torch.Generator().manual_seed(3)
    cu = offsets(lengths)
    keys = {where: dropout_key(lengths, where) for where in {device, "cpu"}}

    def attention(qkv: Tensor) -> Tensor:
        where = qkv.device
        dropout = {"dropout_p": p, "dropout_key": keys[where.type]}
        return ops.attention_packed(qkv, cu.to(where), 70, heads=heads, kv_heads=kv_heads, causal=True, **dropout)

    qkv = torch.randn(73, (heads + 2 * kv_heads) * 16, generator=generator)
    compare(attention, _on_reference(attention), [qkv], dtype, device)

    def some_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        where = q.device
        at = torch.tensor([69, 4, 1], dtype=torch.int32, device=where)
        return ops.attention(
            q, k, v, offsets((2, 1)).to(where), cu.to(where), 2, 70, causal=True, query_positions=at,
            dropout_p=p, dropout_key=keys[where.type],
        )  # fmt: skip

    parts = [torch.randn(n, h, 16, generator=generator) for n, h in ((3, heads), (73, kv_heads), (73, kv_heads))]
    compare(some_rows, _on_reference(some_rows), parts, dtype, device)


def check_lora(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str, *, bias: bool) -> None:
    rows, inputs, outputs, rank = shape
    generator = torch.Generator().manual_seed(3)
    sizes = [(rows, inputs), (outputs, inputs), (rank, inputs), (outputs, rank), *([(outputs,)] if bias else [])]
    tensors = [torch.randn(size, generator=generator) / size[-1] ** 0.5 for size in sizes]

    def run(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, *bias: Tensor) -> Tensor:
        return ops.lora_linear(x, weight, bias[0] if bias else None, a, b, scaling=0.5)

    def formula(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, *bias: Tensor) -> Tensor:
        return F.linear(x, weight + 0.5 * b @ a, *bias)

    compare(run, formula, tensors, dtype, device)
