"""Classifying all 5,574 texts of SMS Spam with GPT-2 124M (random weights), against Hugging Face's pipeline.

The pipeline runs at the batch size that is fastest on a sample. Both sides predict the same labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROWS, Row, Work

from pyllmclf import finetune, load
from pyllmclf.data.sources import read_data

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
SAMPLE = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier that both sides open."""
    path = tmp_path_factory.mktemp("classifier") / "saved"
    texts = ["spam spam", "ham"]
    result = finetune("gpt2", (texts, texts), weights="random", trainable="head", epochs=1, progress=False)
    # With the initial head, rounding alone would decide the labels.
    with torch.no_grad():
        weight = result.classifier.state.model.head.weight
        weight.normal_(generator=torch.Generator().manual_seed(3))
        weight[1] = -weight[0]
    result.classifier.save(path)
    return path


def seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def test_evaluation(folder: Path, benchmark, device: torch.device) -> None:
    from transformers import pipeline

    texts = read_data("sms_spam:full", split="all").texts
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    theirs = pipeline("text-classification", model=str(folder), device=device, dtype=dtype)
    ours = load(folder, device=str(device))
    sample = texts[:: len(texts) // SAMPLE]
    seconds_by_size = {size: seconds(partial(theirs, sample, batch_size=size), device) for size in BATCH_SIZES}
    best = min(seconds_by_size, key=lambda size: seconds_by_size[size])
    ours.predict(sample)
    labels: dict[str, list] = {}
    plain = seconds(lambda: labels.update(theirs=[f["label"] for f in theirs(texts, batch_size=best)]), device)
    started = time.perf_counter()
    benchmark.pedantic(lambda: labels.update(ours=ours.predict(texts)), rounds=1, iterations=1)
    ours_seconds = time.perf_counter() - started
    assert labels["ours"] == labels["theirs"] and len(set(labels["ours"])) == 2
    tokens = float(ours.packer(texts).real_lengths.sum())
    row = Row(
        group="evaluation",
        name=f"classifying {len(texts):,} texts",
        baseline=f"pipeline, batches of {best}",
        plain=plain,
        ours=ours_seconds,
        rounds=1,
        work=Work(tokens, "tokens/s"),
        note=f"from texts to labels; the pipeline on {len(sample)} texts by batch size: "
        + ", ".join(f"{size}: {s:.1f} s" for size, s in seconds_by_size.items()),
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)
