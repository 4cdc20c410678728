"""Triton's attention against torch's: texts of one length, and the length mixes of SMS Spam and IMDb.

Rates count the matmul operations of the visible part of the mask: two products forward, five backward. A call of ours
takes the host about 0.1 ms, which the batches are large enough to hide, even at the shortest lengths.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from calls import CAN_RUN_TRITON, DEVICE, QUANTILES, ROUNDS, SMALL, WARMUP, calls_for, forward, gradient, leaf
from cases import offsets
from conftest import Peaks, Work
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyllmclf import ops
from pyllmclf.kernels.tiles import Schedule

pytestmark = pytest.mark.skipif(not CAN_RUN_TRITON, reason="needs triton, and a CUDA device or TRITON_INTERPRET=1")

HEADS, HEAD_DIM = (2, 16) if SMALL else (12, 64)
DTYPES = (torch.float16,) if SMALL else (torch.bfloat16, torch.float16)
# Enough tokens that running a call takes the device longer than launching it takes the host.
TOKENS = 128 if SMALL else 65536
UNIFORM = (32,) if SMALL else (512, 1024, 2048, 4096, 8192)
MIXES = {"SMS": (9, 31, 4)} if SMALL else {"SMS": QUANTILES["SMS"] * 64, "IMDb": QUANTILES["IMDb"] * 8}
SDPA = {
    "SDPA, flash": SDPBackend.FLASH_ATTENTION,
    "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA, efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA, math": SDPBackend.MATH,
}


def ours_and_work(
    lengths: tuple[int, ...], causal: bool, dtype: torch.dtype
) -> tuple[Tensor, Callable[[], Tensor], int]:
    """Returns a fused projection, a call of attention on it, and the number of visible pairs of all heads."""
    cu, longest = offsets(lengths), max(lengths)
    schedule = Schedule(cu, cu, torch.device(DEVICE))
    on_device = cu.to(DEVICE)
    qkv = leaf(dtype, sum(lengths), 3 * HEADS * HEAD_DIM)
    pairs = sum(n * (n + 1) // 2 if causal else n * n for n in lengths) * HEADS

    def run() -> Tensor:
        return ops.attention_packed(qkv, on_device, longest, heads=HEADS, causal=causal, schedule=schedule)

    return qkv, run, pairs


def _sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The causal mask, for flex_attention."""
    return query >= key


def timed(
    name: str,
    ours: tuple[Callable[[], Tensor], list[Tensor]],
    plain: tuple[Callable[[], Tensor], list[Tensor]],
    pairs: int,
    baseline: str,
    direction: str,
    compare: Callable,
    peaks: Peaks,
) -> None:
    backward = direction != "forward"
    flops = (7 if backward else 2) * 2 * pairs * HEAD_DIM
    calls = calls_for(flops)
    sides = [
        gradient(run, inputs, "triton", calls) if backward else forward(run, "triton", calls)
        for run, inputs in (ours, plain)
    ]
    compare(
        "attention",
        f"{name}, {direction}",
        ours=sides[0],
        plain=sides[1],
        baseline=baseline,
        rounds=ROUNDS,
        warmup=WARMUP,
        work=Work(calls * flops, "TFLOP/s", peaks.tflops16),
    )


def runs_here(run: Callable[[], Tensor], inputs: list[Tensor]) -> None:
    """Skips a baseline that torch does not support on this device, with torch's message."""
    try:
        torch.autograd.grad(run().sum(), inputs)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch can't on this device: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("direction", ["forward", "forward + backward"])
@pytest.mark.parametrize("baseline", [*SDPA, "flex_attention"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("length", UNIFORM)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uniform(
    length: int, causal: bool, dtype: torch.dtype, baseline: str, direction: str, compare: Callable, peaks: Peaks
) -> None:
    texts = TOKENS // length
    qkv, ours, pairs = ours_and_work((length,) * texts, causal, dtype)
    parts = [leaf(dtype, texts, HEADS, length, HEAD_DIM) for _ in range(3)]
    backend: AbstractContextManager[None] = nullcontext()
    if baseline == "flex_attention":
        if SMALL:
            pytest.skip("flex_attention is compiled for a GPU")
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        # Each shape is compiled separately, and none falls back to eager code.
        torch._dynamo.reset()
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        compiled = torch.compile(flex_attention, dynamic=False)
        mask = create_block_mask(_sees, None, None, length, length, device=DEVICE) if causal else None

        def plain() -> Tensor:
            return compiled(*parts, block_mask=mask)

    else:
        backend = sdpa_kernel(SDPA[baseline])  # entered once: entering takes as long as a short call

        def plain() -> Tensor:
            return F.scaled_dot_product_attention(*parts, is_causal=causal)

    with backend:
        runs_here(plain, parts)
        name = f"{texts} x {length}, {'causal' if causal else 'full'}, {dtype}"
        timed(name, (ours, [qkv]), (plain, parts), pairs, baseline, direction, compare, peaks)


@pytest.mark.parametrize("direction", ["forward", "forward + backward"])
@pytest.mark.parametrize("baseline", ["SDPA padded", "SDPA padded, no mask", "nested SDPA", "varlen_attn"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mix(
    mix: str, causal: bool, dtype: torch.dtype, baseline: str, direction: str, compare: Callable, peaks: Peaks
) -> None:
    lengths = MIXES[mix]
    longest = max(lengths)
    qkv, ours, pairs = ours_and_work(lengths, causal, dtype)
    cu = offsets(lengths).to(DEVICE)
    if baseline == "SDPA padded, no mask":
        # A causal text does not see the padding after it; the padding's rows are computed and discarded.
        if not causal:
            pytest.skip("without a causal mask, padding has to be masked")
        parts = [leaf(dtype, len(lengths), HEADS, longest, HEAD_DIM) for _ in range(3)]

        def plain() -> Tensor:
            return F.scaled_dot_product_attention(*parts, is_causal=True)

    elif baseline == "SDPA padded":
        parts = [leaf(dtype, len(lengths), HEADS, longest, HEAD_DIM) for _ in range(3)]
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None, None, :].to(DEVICE)
        if causal:
            mask = mask & torch.ones(longest, longest, dtype=torch.bool, device=DEVICE).tril()

        def plain() -> Tensor:
            return F.scaled_dot_product_attention(*parts, attn_mask=mask)

    elif baseline == "nested SDPA":
        parts = [leaf(dtype, sum(lengths), HEADS, HEAD_DIM) for _ in range(3)]
        long_offsets = cu.long()
        bounds = {"min_seqlen": min(lengths), "max_seqlen": longest}  # otherwise they are read from the device

        def plain() -> Tensor:
            q, k, v = (torch.nested.nested_tensor_from_jagged(t, long_offsets, **bounds).transpose(1, 2) for t in parts)
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).values()

    else:
        varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch 2.10 has varlen_attn")
        parts = [leaf(dtype, sum(lengths), HEADS, HEAD_DIM) for _ in range(3)]

        # The name of its mask argument changed after torch 2.10.
        by_name = "is_causal" in inspect.signature(varlen.varlen_attn).parameters
        mask_option = {"is_causal": causal} if by_name else {"window_size": (-1, 0 if causal else -1)}

        def plain() -> Tensor:
            return varlen.varlen_attn(*parts, cu, cu, longest, longest, **mask_option)

    runs_here(plain, parts)
    name = f"{mix} x {len(lengths)}, {'causal' if causal else 'full'}, {dtype}"
    timed(name, (ours, [qkv]), (plain, parts), pairs, baseline, direction, compare, peaks)
