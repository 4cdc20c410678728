"""``tune`` over 20 last-block candidates of GPT-2 124M on SMS Spam, beside one training of ours and 20 of Hugging Face.

GPT-2's weights are random, and saved with transformers; its vocabulary comes from ``TIKTOKEN_CACHE_DIR``. Hugging
Face's 20 trainings are its median step times their steps. The last comparison is of the heads that one solved head
chooses from.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROWS, Row, Work
from steps import AUTOCAST, make_step, multiplies_bf16, packer

import pyllmclf
from pyllmclf.settings import Settings
from pyllmclf.training.prepare import prepare
from pyllmclf.training.solve import pooled_rows, solve_rows
from pyllmclf.training.solved_head import FOLDS, PENALTIES, solve_head

EPOCHS, BATCH_SIZE, HF_STEPS = 5, 8, 10
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4)
SEEDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 124M with random weights, as transformers saves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    for path in Path(os.environ["TIKTOKEN_CACHE_DIR"]).iterdir():
        content = path.read_bytes()
        (folder / ("vocab.json" if content.startswith(b"{") else "merges.txt")).write_bytes(content)
    return folder


def median_step(baseline: str, device: torch.device) -> float:
    """Seconds of a step of Hugging Face's last block."""
    side = make_step(baseline, "last_block", device)
    side.run(0)
    seconds = []
    for index in range(1, HF_STEPS + 1):
        begun = time.perf_counter()
        side.run(index)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def test_last_block_candidates(gpt2: Path, device: torch.device) -> None:
    arguments: dict[str, Any] = {"test": False, "epochs": EPOCHS, "batch_size": BATCH_SIZE, "progress": False}
    arguments |= {"trainable": "last_block", "scheduler": "constant", "warmup_ratio": 0.0}
    started = time.perf_counter()
    alone = pyllmclf.finetune(gpt2, "sms_spam", learning_rate=RATES[2], seed=SEEDS[0], **arguments)
    one = time.perf_counter() - started
    started = time.perf_counter()
    grid = {"learning_rate": list(RATES), "seed": list(SEEDS)}
    result = pyllmclf.tune(gpt2, "sms_spam", candidates=grid, **arguments)
    whole = time.perf_counter() - started
    row = next(each for each in result.leaderboard if (each["learning_rate"], each["seed"]) == (RATES[2], SEEDS[0]))
    assert row["log_loss"] == pytest.approx(alone.metrics["validation"]["log_loss"], abs=1e-6)
    steps = EPOCHS * -(-len(packer()) // BATCH_SIZE)
    count = len(RATES) * len(SEEDS)
    work = Work(float(packer().real_lengths.sum()) * EPOCHS * count, "tokens/s")
    note = f"{count} candidates: {whole / one:.1f} times one training of {one:.1f} s"
    for baseline in ["Hugging Face"] + [AUTOCAST] * multiplies_bf16(device):
        theirs = median_step(baseline, device) * steps * count
        ROWS.append(Row("tune", "20 last-block candidates", baseline, theirs, whole, 1, work, note))
    ROWS.append(Row("tune", "20 last-block candidates", "20 of our trainings", one * count, whole, 1, work, note))


def test_heads(gpt2: Path) -> None:
    """One solved head chooses among 10 strengths of the L2 penalty on 5 folds: up to 51 heads on the same rows."""
    settings = Settings(model=gpt2, train="sms_spam", trainable="head", validation=False, test=False, progress=False)
    with prepare(settings) as run:
        trainer, texts = run.trainer, run.packers["train"]
        ids = np.arange(len(texts))
        started = time.perf_counter()
        rows = pooled_rows(trainer, texts, ids)
        frozen = time.perf_counter() - started
        labels = texts.labels
        assert labels is not None
        classes = trainer.model.head.weight.shape[0]
        started = time.perf_counter()
        solve_head(rows, labels, classes, bias=False, groups=np.zeros(len(ids), dtype=np.int64))  # one fold: no choice
        one = frozen + time.perf_counter() - started
        started = time.perf_counter()
        solution = solve_rows(trainer, rows, ids)
        whole = frozen + time.perf_counter() - started
    tried = FOLDS * (PENALTIES.index(solution.penalty) + 1) + 1
    note = f"at least {tried} heads: {whole / one:.2f} times one head of {one:.1f} s; frozen model {frozen:.1f} s"
    ROWS.append(
        Row(
            "tune",
            "heads of a solved head",
            "each alone",
            tried * one,
            whole,
            1,
            Work(float(texts.real_lengths.sum()), "tokens/s"),
            note,
        )
    )
