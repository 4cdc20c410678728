"""Single ops, forward and backward, at the shapes of real data, against torch's best.

Lengths are those of batches of 8 texts of SMS Spam and IMDb (GPT-2 tokens, truncated to 1,024). Rates count the work
that an op needs: matmul operations of the visible part of the mask, or bytes of the tensors that it reads and writes
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from cases import offsets
from conftest import Peaks, Work
from torch import Tensor

from pyllmclf import ops
from pyllmclf.ops.backends.torch_attention import attention_per_text

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="times the native CPU ops; GPU ops have their own")


@pytest.fixture(autouse=True)
def _as_in_training() -> Iterator[None]:
    """Resolves the backend once, as the trainer does, not in each op."""
    with ops.use_backend("auto"):
        yield


LENGTHS = {
    "SMS": (31, 12, 45, 28, 60, 19, 9, 38),
    "IMDb": (230, 180, 512, 90, 310, 700, 150, 260),
    "one of 1,024": (1024,),
}
WIDTHS = (384, 768, 1024, 1600)
ROUNDS = 15
FLOAT = 4  # bytes
# Notes of rows that need an explanation. A rate above the memory's bandwidth means that tensors stay in the caches.
PASSES = "8 passes over memory against torch's 11, so 1.4 at best; a call costs us some 20 µs more"
SHORT_TEXTS = "tiles are partly empty, and a quarter of our time is calls and new memory"
COUNTER_BASED = "masks of a counter-based generator, made twice; torch draws once from a stream and keeps the mask"


def gradient(function: Callable[[], Tensor | tuple[Tensor, ...]], inputs: list[Tensor]) -> Callable[[int], object]:
    """Returns a forward and backward pass, which returns the gradients instead of adding them to ``.grad``."""
    result = function()
    outputs = result if isinstance(result, tuple) else (result,)
    factors = [torch.randn_like(t) for t in outputs]
    return lambda _: torch.autograd.grad(function(), inputs, factors)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


@pytest.mark.parametrize("baseline", ["SDPA per text", "SDPA padded", "nested SDPA"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("mix", LENGTHS)
def test_attention(mix: str, causal: bool, baseline: str, compare: Callable, peaks: Peaks) -> None:
    heads, head_dim = 12, 64
    lengths = LENGTHS[mix]
    cu, longest, width = offsets(lengths), max(lengths), heads * head_dim
    qkv = leaf(sum(lengths), 3 * width)
    ours = gradient(lambda: ops.attention_packed(qkv, cu, longest, heads=heads, causal=causal), [qkv])

    if baseline == "SDPA per text":

        def per_text() -> Tensor:
            q, k, v = (t.unflatten(1, (heads, -1)) for t in qkv.chunk(3, dim=1))
            return attention_per_text(q, k, v, cu, causal=causal, scale=head_dim**-0.5).flatten(1)

        plain = gradient(per_text, [qkv])
    elif baseline == "SDPA padded":
        padded = [leaf(len(lengths), heads, longest, head_dim) for _ in range(3)]
        real = torch.arange(longest) < torch.tensor(lengths)[:, None]
        mask = real[:, None, None, :]
        if causal:
            mask = mask & torch.ones(longest, longest, dtype=torch.bool).tril()
        plain = gradient(lambda: F.scaled_dot_product_attention(*padded, attn_mask=mask), padded)
    else:
        parts = [leaf(sum(lengths), heads, head_dim) for _ in range(3)]

        def nested() -> Tensor:
            q, k, v = (
                torch.nested.nested_tensor_from_jagged(t, cu.long(), max_seqlen=longest).transpose(1, 2) for t in parts
            )
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).values()

        try:
            plain = gradient(nested, parts)
            plain(0)
        except (NotImplementedError, RuntimeError) as error:
            pytest.skip(f"torch can't on this device: {str(error).splitlines()[0]}")
    pairs = sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    # Two products forward, five backward.
    flops = 7 * 2 * pairs * width
    compare(
        "ops",
        f"attention, {mix}, {'causal' if causal else 'full'}",
        ours=ours,
        plain=plain,
        baseline=baseline,
        rounds=ROUNDS,
        warmup=2,
        work=Work(flops, "GFLOP/s", peaks.gflops),
        note=SHORT_TEXTS if mix == "SMS" else "",
    )


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mix", ["SMS", "IMDb"])
def test_layer_norm(mix: str, width: int, trained: bool, compare: Callable, peaks: Peaks) -> None:
    """Layer norm with the residual addition before it."""
    rows = sum(LENGTHS[mix])
    x, residual = leaf(rows, width), leaf(rows, width)
    weight, bias = (t.requires_grad_(trained) for t in torch.randn(2, width))
    inputs = [x, residual, *([weight, bias] if trained else [])]

    def eager() -> tuple[Tensor, Tensor]:
        summed = x + residual
        return F.layer_norm(summed, (width,), weight, bias), summed

    compare(
        "ops",
        f"add + layer_norm, {rows} x {width}, {'trained' if trained else 'frozen'}",
        ours=gradient(lambda: ops.layer_norm(x, weight, bias, 1e-5, residual), inputs),
        plain=gradient(eager, inputs),
        baseline="torch eager",
        rounds=ROUNDS * 3,
        warmup=5,
        work=Work(8 * rows * width * FLOAT, "GB/s", peaks.gbytes),
        note=PASSES,
    )


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mix", ["SMS", "IMDb"])
def test_gelu(mix: str, width: int, approximate: str, compare: Callable, peaks: Peaks) -> None:
    """GELU with the bias addition before it."""
    rows, inner = sum(LENGTHS[mix]), 4 * width
    x, bias = leaf(rows, inner), leaf(inner)
    compare(
        "ops",
        f"bias + gelu ({approximate}), {rows} x {inner}",
        ours=gradient(lambda: ops.gelu(x, bias, approximate), [x, bias]),
        plain=gradient(lambda: F.gelu(x + bias, approximate=approximate), [x, bias]),
        baseline="torch eager",
        rounds=ROUNDS * 3,
        warmup=5,
        work=Work(5 * rows * inner * FLOAT, "GB/s", peaks.gbytes),
    )


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mix", ["SMS", "IMDb"])
def test_embedding(mix: str, width: int, trained: bool, compare: Callable, peaks: Peaks) -> None:
    """Frozen tables: the sum alone. Trained tables: as in a training, with the gradient in a gradient buffer."""
    lengths = LENGTHS[mix]
    rows = sum(lengths)
    ids = torch.randint(0, 50257, (rows,), dtype=torch.int32)
    positions = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])
    sides = []
    for buffered in (True, False):
        tables = [torch.nn.Parameter(torch.randn(n, width), requires_grad=trained) for n in (50257, 1024)]
        if buffered:
            ops.use_gradient_buffers(tables)
        sides.append(tables)
    factor = torch.randn(rows, width)

    def run(tables: list[torch.nn.Parameter], embed: Callable[[], Tensor]) -> None:
        for table in tables:
            table.grad = None
        out = embed()
        if trained:
            out.backward(factor)

    ours, theirs = sides
    compare(
        "ops",
        f"embedding, {rows} x {width}, {'trained' if trained else 'frozen'}",
        ours=lambda _: run(ours, lambda: ops.embedding(ids, positions, *ours)),
        plain=lambda _: run(theirs, lambda: F.embedding(ids, theirs[0]) + F.embedding(positions, theirs[1])),
        baseline="torch eager",
        rounds=ROUNDS,
        warmup=3,
        work=Work((8 if trained else 3) * rows * width * FLOAT, "GB/s", peaks.gbytes),
    )


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("mix", ["SMS", "IMDb"])
def test_embedding_layer_norm(mix: str, trained: bool, compare: Callable, peaks: Peaks) -> None:
    """BERT's first op. Trained: the norm alone, with frozen tables."""
    lengths, width = LENGTHS[mix], 768
    rows = sum(lengths)
    tables = [torch.randn(n, width) for n in (30522, 1024, 2)]
    weight, bias = (t.requires_grad_(trained) for t in torch.randn(2, width))
    ids = torch.randint(0, 30522, (rows,), dtype=torch.int32)
    positions = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])

    def eager() -> Tensor:
        summed = F.embedding(ids, tables[0]) + F.embedding(positions, tables[1]) + tables[2][0]
        return F.layer_norm(summed, (width,), weight, bias)

    def ours() -> Tensor:
        return ops.embedding_layer_norm(ids, positions, *tables, weight, bias, 1e-5)

    sides = [gradient(f, [weight, bias]) if trained else lambda _, f=f: f() for f in (ours, eager)]
    compare(
        "ops",
        f"embedding + layer_norm, {rows} x {width}, {'trained norm' if trained else 'frozen'}",
        ours=sides[0],
        plain=sides[1],
        baseline="torch eager",
        rounds=ROUNDS * 3,
        warmup=5,
        work=Work((6 if trained else 3) * rows * width * FLOAT, "GB/s", peaks.gbytes),
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mix", ["SMS", "IMDb"])
def test_dropout(mix: str, width: int, compare: Callable, peaks: Peaks) -> None:
    """Dropout with a counter-based mask; torch's mask depends on the batch, and its CPU generator has no counter."""
    lengths = LENGTHS[mix]
    rows = sum(lengths)
    x = leaf(rows, width)
    sizes = torch.tensor(lengths)
    key = ops.DropoutKey(
        seed=1,
        step=2,
        layer=3,
        site=1,
        example_ids=torch.arange(len(lengths)),
        row_example_ids=torch.arange(len(lengths)).repeat_interleave(sizes),
        row_positions=torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths]),
    )
    compare(
        "ops",
        f"dropout, {rows} x {width}",
        ours=gradient(lambda: ops.dropout(x, 0.1, key), [x]),
        plain=gradient(lambda: F.dropout(x, 0.1), [x]),
        baseline="torch eager",
        rounds=ROUNDS,
        warmup=3,
        work=Work(4 * rows * width * FLOAT, "GB/s", peaks.gbytes),
        note=COUNTER_BASED,
    )
