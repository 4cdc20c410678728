"""The native CUDA ops, forward and backward, against torch's kernels; needs a GPU.

Rates count the bytes of the tensors that an op reads and writes once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from calls import CALLS, ROUNDS, WARMUP, forward, gradient, leaf
from conftest import Peaks, Work
from torch import Tensor

from pyllmclf import ops
from pyllmclf.ops.backends import native_cuda

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and native_cuda.BUILT), reason="needs a CUDA device and a build with nvcc"
)

ROWS = (240, 2432, 65536)  # 8 texts of SMS Spam, 8 of IMDb, and a batch that fills the device
WIDTHS = (768, 1600)
DTYPES = (torch.float32, torch.bfloat16)


def timed(name: str, ours: Callable, plain: Callable, nbytes: int, compare: Callable, peaks: Peaks) -> None:
    compare(
        "cuda_ops",
        name,
        ours=ours,
        plain=plain,
        baseline="torch eager",
        rounds=ROUNDS,
        warmup=WARMUP,
        work=Work(CALLS * nbytes, "GB/s", peaks.gbytes),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_layer_norm(rows: int, width: int, dtype: torch.dtype, trained: bool, compare: Callable, peaks: Peaks) -> None:
    x, residual = leaf(dtype, rows, width), leaf(dtype, rows, width)
    weight, bias = (leaf(dtype, width).requires_grad_(trained) for _ in range(2))
    inputs = [x, residual, *([weight, bias] if trained else [])]

    def eager() -> tuple[Tensor, Tensor]:
        summed = x + residual
        return F.layer_norm(summed, (width,), weight, bias), summed

    timed(
        f"add + layer_norm, {rows} x {width}, {dtype}, {'trained' if trained else 'frozen'}",
        gradient(lambda: ops.layer_norm(x, weight, bias, 1e-5, residual), inputs, "native"),
        gradient(eager, inputs, "reference"),
        8 * x.nbytes,
        compare,
        peaks,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu(rows: int, width: int, dtype: torch.dtype, approximate: str, compare: Callable, peaks: Peaks) -> None:
    x, bias = leaf(dtype, rows, 4 * width), leaf(dtype, 4 * width)
    timed(
        f"bias + gelu ({approximate}), {rows} x {4 * width}, {dtype}",
        gradient(lambda: ops.gelu(x, bias, approximate), [x, bias], "native"),
        gradient(lambda: F.gelu(x + bias, approximate=approximate), [x, bias], "reference"),
        5 * x.nbytes,
        compare,
        peaks,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_embedding(rows: int, width: int, dtype: torch.dtype, trained: bool, compare: Callable, peaks: Peaks) -> None:
    """Trained tables: both sides allocate and clear the dense gradients of both tables."""
    tables = [leaf(dtype, n, width).requires_grad_(trained) for n in (50257, 1024)]
    ids = torch.randint(0, 50257, (rows,), device="cuda", dtype=torch.int32)
    positions = torch.arange(rows, device="cuda", dtype=torch.int32) % 1024
    nbytes = 3 * rows * width * tables[0].element_size()

    def ours() -> Tensor:
        return ops.embedding(ids, positions, *tables)

    def eager() -> Tensor:
        return F.embedding(ids, tables[0]) + F.embedding(positions, tables[1])

    sides = [gradient(f, tables, b) if trained else forward(f, b) for f, b in ((ours, "native"), (eager, "reference"))]
    name = f"embedding, {rows} x {width}, {dtype}, {'trained' if trained else 'frozen'}"
    timed(name, *sides, 2 * nbytes + sum(t.nbytes for t in tables) if trained else nbytes, compare, peaks)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("texts", [8, 256])
@pytest.mark.parametrize("classes", [2, 77])
def test_cross_entropy(texts: int, classes: int, dtype: torch.dtype, compare: Callable, peaks: Peaks) -> None:
    logits = leaf(dtype, texts, classes)
    labels = torch.randint(0, classes, (texts,), device="cuda")
    timed(
        f"cross-entropy, {texts} x {classes}, {dtype}",
        gradient(lambda: ops.cross_entropy(logits, labels), [logits], "native"),
        gradient(lambda: F.cross_entropy(logits.float(), labels, reduction="sum"), [logits], "reference"),
        3 * logits.nbytes,
        compare,
        peaks,
    )
