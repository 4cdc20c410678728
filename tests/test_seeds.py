"""The same training with several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import Folders
from short_runs import LABELS, SHORT, TEXTS, run

import pyllmclf
from pyllmclf import UsageError


@pytest.fixture(scope="module")
def gpt2(model_folder: Folders) -> Path:
    return model_folder("gpt2", n_classes=2)


def test_seeds(gpt2: Path, tmp_path: Path) -> None:
    found = pyllmclf.finetune_seeds(
        gpt2, (TEXTS, LABELS), seeds=[3, 5], test=(TEXTS, LABELS), output_dir=tmp_path, **SHORT
    )
    assert found.seeds == [3, 5]
    alone = run(gpt2, seed=5, test=(TEXTS, LABELS))
    np.testing.assert_array_equal(found.results[1].classifier.logits(TEXTS), alone.classifier.logits(TEXTS))
    losses = [result.metrics["test"]["log_loss"] for result in found.results]
    assert losses[0] != losses[1]
    summary = found.summary["test"]["log_loss"]
    assert summary["mean"] == pytest.approx(np.mean(losses)) and summary["std"] == pytest.approx(np.std(losses, ddof=1))
    assert (summary["min"], summary["max"]) == (min(losses), max(losses))
    assert pyllmclf.load(tmp_path / "seed-5").classes_ == [0, 1]
    assert json.loads(json.dumps(found.to_dict()))["seeds"] == [3, 5]
    assert pyllmclf.finetune_seeds(gpt2, (TEXTS, LABELS), seeds=1, seed=9, **SHORT).seeds == [9]


def test_seeds_of_numpy_and_data_that_are_read_once(gpt2: Path) -> None:
    found = pyllmclf.finetune_seeds(
        gpt2, train=(iter(TEXTS), iter(LABELS)), test=(iter(TEXTS), iter(LABELS)), seeds=np.arange(2, 4), **SHORT
    )
    assert found.seeds == [2, 3] and all(type(seed) is int for seed in found.seeds)
    assert len(found.results) == 2 and found.summary["test"]


@pytest.mark.parametrize("seeds", [0, [], [1, 1], "three", True, 1.5])
def test_seeds_that_make_no_sense(gpt2: Path, seeds: Any) -> None:
    with pytest.raises(UsageError, match="seeds="):
        pyllmclf.finetune_seeds(gpt2, (TEXTS, LABELS), seeds=seeds, **SHORT)


def test_seeds_are_checked_before_the_first_training(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed=1099511627776"):
        pyllmclf.finetune_seeds(gpt2, (TEXTS, LABELS), seeds=[1, 2**40], output_dir=tmp_path / "out", **SHORT)
    assert not (tmp_path / "out").exists()
