"""The Triton kernels in Triton's interpreter; ``test_triton.py`` runs this file with TRITON_INTERPRET=1."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import triton_ops
from cases import ATTENTION, AttentionCase
from models import LABELS, TEXTS, bert_folder, gpt2_folder

from pyllmclf import UsageError, finetune, ops
from pyllmclf.kernels.tiles import Schedule, tile_rows
from pyllmclf.ops import triton_backend

DTYPES = [torch.float32, torch.float16]
CASES = [
    *(case for case in ATTENTION if case.head_dim <= triton_backend.MAX_HEAD_DIM),
    AttentionCase((200, 3, 64, 17, 129), 2, 16, True),
    AttentionCase((200, 3, 64, 17, 129), 1, 96, False),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention(case: AttentionCase, scheduled: bool, dtype: torch.dtype) -> None:
    triton_ops.check_attention(case, dtype, "cpu", scheduled=scheduled)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, (20, 3)])
def test_attention_of_some_rows(
    window: tuple[int, int] | None, causal: bool, scheduled: bool, dtype: torch.dtype
) -> None:
    triton_ops.check_attention_of_some_rows(causal, dtype, "cpu", scheduled=scheduled, window=window)


def test_a_text_without_keys() -> None:
    """Its queries read nothing: zeros, as the reference gives."""
    q, k = torch.randn(3, 1, 8), torch.randn(2, 1, 8)
    cu_q, cu_k = torch.tensor([0, 1, 3], dtype=torch.int32), torch.tensor([0, 2, 2], dtype=torch.int32)
    found = []
    for backend in ("triton", "reference"):
        with ops.use_backend(backend):
            given = q.clone().requires_grad_()
            at = torch.zeros(3, dtype=torch.int32)
            out = ops.attention(given, k, k, cu_q, cu_k, 2, 2, causal=False, query_positions=at)
            found.append((out.detach(), *torch.autograd.grad(out.sum(), given)))
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.1, 0.75])
def test_dropout(p: float, dtype: torch.dtype) -> None:
    triton_ops.check_dropout(p, dtype, "cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", triton_ops.LORA, ids=str)
def test_lora_linear(shape: tuple[int, int, int, int], bias: bool, dtype: torch.dtype) -> None:
    triton_ops.check_lora(shape, dtype, "cpu", bias=bias)


@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize("make", [gpt2_folder, bert_folder])
def test_training(make, trainable: str, tmp_path: Path) -> None:
    """A whole training is that on the reference ops."""
    folder = make(tmp_path)
    arguments = {"trainable": trainable, "epochs": 1, "batch_size": 4, "dropout": 0.1, "device": "cpu"}
    found, expected = (
        finetune(folder, (TEXTS, LABELS), backend=backend, progress=False, **arguments).history[0].train_loss
        for backend in ("triton", "reference")
    )
    assert abs(found - expected) < 1e-5


def test_what_is_refused() -> None:
    cu = torch.tensor([0, 4], dtype=torch.int32)
    with ops.use_backend("triton"):
        wide = torch.zeros(4, 1, 129)
        with pytest.raises(UsageError, match="head_dim of 129"):
            ops.attention(wide, wide, wide, cu, cu, 4, 4, causal=True)
        x = torch.zeros(4, 1, 8)
        schedule = Schedule(cu, cu, torch.device("cpu"))
        with pytest.raises(UsageError, match="schedule is that of another batch"):
            ops.attention(x[:3], x[:3], x[:3], cu - 1, cu - 1, 4, 4, causal=True, schedule=schedule)
        x = x.bfloat16()
        with pytest.raises(UsageError, match="computes float32, float16"):
            ops.attention(x, x, x, cu, cu, 4, 4, causal=True)


def test_schedule() -> None:
    """Every row of every text lies in one tile, and those with the most work come first."""
    lengths = torch.tensor([3, 0, 300, 64, 65, 17, 128])
    cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    for causal in (True, False):
        schedule = Schedule(cu, cu, torch.device("cpu"))
        for side in ("q", "k"):
            covered = [torch.zeros(n, dtype=torch.int64) for n in lengths.tolist()]
            for tiles in schedule.tiles(side, 128, causal=causal):
                assert tiles.table is not None and len(tiles.table) == tiles.count
                work = []
                for text, first in tiles.table.tolist():
                    covered[text][first : first + tiles.rows] += 1
                    own = int(lengths[text])
                    work.append(own if not causal else min(first + tiles.rows, own) if side == "q" else own - first)
                assert work == sorted(work, reverse=True)
                assert (tiles.rows == 128) is (int(lengths[tiles.table[:, 0].long()].max()) > 64)
            assert all((rows == 1).all() for rows in covered)
        assert schedule.tiles("q", 128, causal=causal) is schedule.tiles("q", 128, causal=causal)
    assert [tile_rows(n, 128) for n in (1, 16, 17, 64, 65)] == [16, 16, 32, 64, 128]
