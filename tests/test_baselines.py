"""Simple classifiers beside a training, on its validation texts."""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import Folders

import pyllmclf
from pyllmclf.classifier.checkpoint import STATE_FILE
from pyllmclf.data.atomic_folder import MANIFEST
from pyllmclf.data.fetch import sha256
from pyllmclf.training import baselines, run
from pyllmclf.training.baselines import BAG_OF_WORDS, MAJORITY, SOLVED_HEAD, Baseline, complaints
from pyllmclf.training.hints import hints
from pyllmclf.training.records import EpochRecord

WORDS = ["red cat", "blue dog", "green cat", "old dog", "an ox, a cat", "a dog in the sun"]
TEXTS = [f"{word} {i}" for i in range(8) for word in WORDS]
LABELS = ["cat" if "cat" in text else "dog" for text in TEXTS]
VALIDATION = [f"{text}!" for text in TEXTS[:32]], LABELS[:32]
LAZY: dict[str, Any] = {"validation": VALIDATION, "learning_rate": 1e-30, "epochs": 1, "progress": False}


def test_a_classifier_that_is_worse_is_a_warning(model_folder: Folders) -> None:
    with pytest.warns(RuntimeWarning, match="bag of words is better than this classifier: 100.00%"):
        result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **LAZY)
    assert list(result.baselines) == [MAJORITY, BAG_OF_WORDS, SOLVED_HEAD]
    assert result.baselines[MAJORITY] == {"accuracy": 0.5, "training_texts": 48}
    assert json.loads(json.dumps(result.to_dict()))["baselines"] == result.baselines
    assert "baselines on the validation texts: majority class 50.00%, bag of words 100.00%" in str(result)


def test_the_solved_head_is_that_of_a_run_that_solves_it(model_folder: Folders) -> None:
    folder = model_folder("bert")
    with pytest.warns(RuntimeWarning):
        beside = pyllmclf.finetune(folder, (TEXTS, LABELS), **LAZY).baselines[SOLVED_HEAD]["accuracy"]
    solved = pyllmclf.finetune(folder, (TEXTS, LABELS), trainable="head", validation=VALIDATION, progress=False)
    assert solved.metrics["validation"]["accuracy"] == beside
    assert list(solved.baselines) == [MAJORITY, BAG_OF_WORDS]


def test_the_frozen_part_gives_the_same(model_folder: Folders) -> None:
    """The head of a model whose first blocks are cached is that of the whole frozen model."""
    arguments = LAZY | {"trainable": "last_block", "learning_rate": "auto"}
    cached, computed = (
        pyllmclf.finetune(model_folder("gpt2", "long"), (TEXTS, LABELS), cache=cache, **arguments)
        for cache in ("memory", "off")
    )
    assert cached.baselines == computed.baselines and SOLVED_HEAD in cached.baselines


@pytest.mark.parametrize(
    "changes",
    [{"baselines": "off"}, {"trainable": "all"}, {"validation": False}, {"multi_label": True}],
    ids=["off", "explicit", "no validation", "several labels"],
)
def test_none(model_folder: Folders, changes: dict[str, Any]) -> None:
    several = [[label] for label in LABELS]
    data = (TEXTS, several if "multi_label" in changes else LABELS)
    arguments = LAZY | changes
    if "multi_label" in changes:
        arguments["validation"] = VALIDATION[0], several[:32]
    assert pyllmclf.finetune(model_folder("bert"), data, **arguments).baselines == {}


def test_texts_without_words(model_folder: Folders) -> None:
    texts, validation = ["?"] * 4 + ["!"] * 4, (["?", "!"], ["a", "b"])
    arguments = LAZY | {"validation": validation}
    found = pyllmclf.finetune(model_folder("bert"), (texts, ["a"] * 4 + ["b"] * 4), **arguments).baselines
    assert list(found) == [MAJORITY, SOLVED_HEAD]


@pytest.mark.parametrize(("family", "changes"), [("roberta", {}), ("bert", {"long_texts": "windows", "max_length": 6})])
def test_no_solved_head(model_folder: Folders, family: str, changes: dict[str, Any]) -> None:
    with pytest.warns(RuntimeWarning):
        found = pyllmclf.finetune(model_folder(family), (TEXTS, LABELS), **LAZY | changes).baselines
    assert list(found) == [MAJORITY, BAG_OF_WORDS]


def test_a_resumed_run_has_those_of_its_beginning(model_folder: Folders, tmp_path: Path) -> None:
    arguments = LAZY | {"output_dir": tmp_path / "run"}
    with pytest.warns(RuntimeWarning):
        first = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **arguments)
    with pytest.warns(RuntimeWarning, match="bag of words is better"):
        again = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments)
    assert again.baselines == first.baselines
    arguments |= {"baselines": "off"}  # they are measured already
    with pytest.warns(RuntimeWarning, match="bag of words is better"):
        again = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments)
    assert again.baselines == first.baselines


def test_weights_of_classes_silence_the_comparison(model_folder: Folders) -> None:
    """Accuracy is not what such a training is for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), class_weights={"cat": 9, "dog": 1}, **LAZY)
    assert len(result.baselines) == 3


def test_preempted_while_they_are_measured(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is saved yet, and the sentence does not say so."""

    def preempted(*_: Any) -> list[Baseline]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr(run, "measure_baselines", preempted)
    with pytest.raises(pyllmclf.PreemptedError, match="preempted before training began"):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), output_dir=tmp_path / "run", **LAZY)


def test_many_texts_and_classes(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_TEXTS", 12)
    monkeypatch.setattr(baselines, "MOST_TEXTS_OF_WORDS", 24)
    with pytest.warns(RuntimeWarning):
        found = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **LAZY).baselines
    assert [each["training_texts"] for each in found.values()] == [48, 24, 12]
    monkeypatch.setattr(baselines, "MOST_CLASSES", 1)
    assert list(pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **LAZY).baselines) == [MAJORITY]


@pytest.mark.parametrize(
    "record",
    [
        [{"name": "x"}],
        [{"name": MAJORITY, "right": "01", "texts": 3}],
        [{"name": "x", "right": "0" * 32, "texts": 3}],
        7,
    ],
)
def test_a_forged_record_is_refused(model_folder: Folders, tmp_path: Path, record: Any) -> None:
    arguments = LAZY | {"output_dir": tmp_path / "run"}
    with pytest.warns(RuntimeWarning):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **arguments)
    folder = (tmp_path / "run/last").resolve()
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_text(json.dumps(state | {"baselines": record}))
    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / STATE_FILE
    manifest["files"][STATE_FILE] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(pyllmclf.ModelError, match="baselines"):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments)


def test_what_is_more_than_chance() -> None:
    """Exact McNemar: 5 texts of one side alone have p = 0.0625, 6 have 0.03125."""
    right = np.zeros(20, dtype=bool)
    for count, expected in ((5, 0), (6, 1)):
        baseline = Baseline(BAG_OF_WORDS, np.arange(20) < count, 10)
        lines = complaints([baseline], right)
        assert len(lines) == expected
        assert not complaints([Baseline(BAG_OF_WORDS, right, 10)], baseline.right)
    assert "p = 0.031" in lines[BAG_OF_WORDS] and "30.00% and 0.00%" in lines[BAG_OF_WORDS]


def test_records() -> None:
    baseline = Baseline(MAJORITY, np.array([True, False, True]), 7)
    again = Baseline.from_record(json.loads(json.dumps(baseline.record())))
    assert (again.name, again.texts, again.right.tolist()) == (MAJORITY, 7, [True, False, True])


def epoch(number: int, accuracy: float, loss: float | None, validation: float | None) -> EpochRecord:
    return EpochRecord(number, number, 0.1, accuracy, loss, validation, 1e-4, 1.0, 100.0)


def test_what_the_course_of_a_training_says() -> None:
    falling = hints([epoch(1, 0.9, 0.5, 0.8), epoch(2, 0.95, 0.4, 0.85)])
    assert len(falling) == 1 and "still falling in the last epoch (0.5000, then 0.4000)" in falling[0]
    by_heart = hints([epoch(1, 0.9, 0.5, 0.8), epoch(2, 1.0, 0.5, 0.9)])
    assert len(by_heart) == 1 and "all training texts are classified right, and 90.00% of the validation" in by_heart[0]
    assert hints([epoch(1, 0.9, 0.5, 0.8), epoch(2, 1.0, 0.49, 0.91)]) == []
    assert hints([epoch(1, 1.0, None, None)]) == hints([]) == []
