"""``tune``: candidates, folds, time limit, resume; and the winner, which is an ordinary training."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from models import Folders
from pages import Page

import pyllmclf
from pyllmclf import ModelError, PreemptedError, UsageError
from pyllmclf.cli.main import main
from pyllmclf.models.sequence_classifier import SequenceClassifier
from pyllmclf.training.callbacks import StepRecord
from pyllmclf.training.shared_rows import SharedRows, shared_rows
from pyllmclf.tuning import search, tuner
from pyllmclf.tuning.evaluations import Evaluations
from pyllmclf.tuning.tuner import seconds_of

WORDS = ["red cat", "blue dog", "green cat", "old dog", "an ox, a cat", "a dog in the sun"]
TEXTS = [f"{word} {i}" for i in range(10) for word in WORDS]
LABELS = ["cat" if "cat" in text else "dog" for text in TEXTS]
DATA = TEXTS, LABELS
QUICK: dict[str, Any] = {"epochs": 4, "batch_size": 10, "progress": False}
THREE = [
    {"trainable": "last_block", "learning_rate": 1e-9},
    {"trainable": "all", "learning_rate": 3e-3},
    {"trainable": "all", "learning_rate": 1e-9},
]


def same(found: pyllmclf.FinetuneResult, expected: pyllmclf.FinetuneResult) -> None:
    theirs = dict(expected.classifier.state.model.named_parameters())
    for name, parameter in found.classifier.state.model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Candidates that are trained, or whose head is solved, in order."""
    called: list[str] = []
    for name in ("_train", "_head_logits"):
        original = getattr(search.Search, name)

        def counted(self: Any, settings: Any, *args: Any, _original: Any = original) -> Any:
            called.append(settings.trainable)
            return _original(self, settings, *args)

        monkeypatch.setattr(search.Search, name, counted)
    return called


def test_the_best_is_found_and_trained(model_folder: Folders, trained: list[str]) -> None:
    model = model_folder("bert")
    result = pyllmclf.tune(model, DATA, candidates=THREE, test=DATA, **QUICK)
    assert isinstance(result, pyllmclf.TuneResult) and isinstance(result, pyllmclf.FinetuneResult)
    assert len(trained) == 3 + 2 + 1 + 1 + 1  # halved after each fold
    best = result.leaderboard[0]
    assert (best["rank"], best["number"], best["folds"], best["learning_rate"]) == (1, 2, 5, 3e-3)
    assert [row["rank"] for row in result.leaderboard] == [1, 2, 3]
    assert best["accuracy"] > 0.9 and 0 <= best["std"] < 0.2 and best["seconds"] > 0
    # The winner is a training of all texts.
    same(result, pyllmclf.finetune(model, DATA, validation=False, **QUICK | THREE[1]))
    assert result.metrics["test"]["texts"] == 60
    assert result.metrics["validation"]["classifier"] == "out_of_fold"
    assert result.metrics["validation"]["accuracy"] == pytest.approx(best["accuracy"])


def test_out_of_fold_probabilities(model_folder: Folders) -> None:
    """Those of a fold are a training's on the others."""
    model = model_folder("bert")
    result = pyllmclf.tune(model, DATA, candidates=THREE[1:2], **QUICK)
    frame = result.out_of_fold
    assert frame is not None and frame.index.tolist() == list(range(60)) and frame["label"].tolist() == LABELS
    assert frame.columns.tolist() == ["where", "text", "label", "probability_cat", "probability_dog"]
    assert frame["text"].tolist() == TEXTS and frame["where"][3].endswith("row 3")
    assert np.allclose(frame[["probability_cat", "probability_dog"]].sum(axis=1), 1)
    fold = tuner._folds(_data(), 5, 123)[0][0]
    alone = pyllmclf.finetune(model, (fold.rest.texts, fold.rest.labels), validation=False, **QUICK | THREE[1])
    expected = alone.classifier.predict_proba(fold.held_out.texts)
    assert np.allclose(frame.loc[fold.rows, ["probability_cat", "probability_dog"]], expected, atol=1e-6)


def _data() -> Any:
    from pyllmclf.settings import Settings
    from pyllmclf.training.texts import read_texts

    return read_texts(Settings(train=DATA))


def test_folds_hold_out_each_text_once_and_keep_equal_ones_together() -> None:
    data = _data()
    data.texts["train"].texts[1] = data.texts["train"].texts[2] = data.texts["train"].texts[0]
    folds, cross_validates = tuner._folds(data, 5, 123)
    assert cross_validates
    assert sorted(np.concatenate([fold.rows for fold in folds])) == list(range(60))
    for fold in folds:
        assert not set(fold.rest.texts) & set(fold.held_out.texts)
        assert len(fold.rest) + len(fold.held_out) == 60 and 10 <= len(fold.held_out) <= 14


def test_a_head_is_solved_once_for_all_folds(model_folder: Folders, trained: list[str]) -> None:
    model = model_folder("bert")
    result = pyllmclf.tune(model, DATA, candidates=[{"trainable": "head"}], progress=False)
    assert len(trained) == 1 and result.leaderboard[0]["folds"] == 5
    same(result, pyllmclf.finetune(model, DATA, trainable="head", validation=False, progress=False))


def test_frozen_layers_are_computed_once(model_folder: Folders, filled: list[int]) -> None:
    """For all candidates that freeze the same layers, and with the same bits as a training alone."""
    model, validation = model_folder("gpt2", "long"), ([f"{text}!" for text in TEXTS[:12]], LABELS[:12])
    grid = {"trainable": ["last_block"], "learning_rate": [1e-3, 1e-4], "seed": [1, 2]}
    result = pyllmclf.tune(model, DATA, validation=validation, candidates=grid, **QUICK)
    assert len(filled) == 1  # for four candidates and the winner
    best = {name: result.leaderboard[0][name] for name in grid}
    alone = pyllmclf.finetune(model, DATA, validation=validation, **QUICK | best)
    same(result, alone)
    assert result.metrics["validation"]["log_loss"] == alone.metrics["validation"]["log_loss"]
    assert len(filled) == 2  # nothing is kept after the search


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_frozen_layers_are_computed_once_for_all_depths_and_folds(
    family: str, model_folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text passes each frozen layer once, and what starts behind it has the bits of a training alone."""
    passed: Counter[int] = Counter()
    advance = SequenceClassifier.advance

    def counting(model: SequenceClassifier, x: Any, batch: Any, start: int, end: int, *rest: Any, **named: Any) -> Any:
        if end < model.depth or start == 0:  # rows for the cache
            passed.update(dict.fromkeys(range(start, end), len(batch.input_ids)))
        return advance(model, x, batch, start, end, *rest, **named)

    monkeypatch.setattr(SequenceClassifier, "advance", counting)
    model = model_folder(family)
    trainable = ["head", "last_block", "last_2_blocks"]
    grid = {"trainable": trainable, "pooling": ["mean", "last"]}
    result = pyllmclf.tune(model, DATA, candidates=grid, folds=3, progress=False)
    depth = result.classifier.state.model.depth
    assert passed[0] == passed[depth - 4] > 0
    assert set(passed) <= set(range(depth)) and all(passed[0] == passed[stage] for stage in range(depth - 2))
    best = {name: result.leaderboard[0][name] for name in grid}
    same(result, pyllmclf.finetune(model, DATA, validation=False, progress=False, **best))


def test_shared_rows_keep_their_budget() -> None:
    rows = SharedRows(100)
    first, second, large = torch.zeros(10), torch.zeros(15), torch.zeros(26)
    rows.add("first", first)
    rows.add("second", second)
    assert rows.find("first") is first and rows.find("second") is second
    rows.add("third", torch.zeros(5))
    assert rows.find("first") is None and rows.find("second") is second
    rows.add("large", large)
    assert rows.find("large") is None and shared_rows() is None


def test_validation_texts_take_the_place_of_folds(model_folder: Folders, trained: list[str]) -> None:
    model, validation = model_folder("bert"), ([f"{text}!" for text in TEXTS[:12]], LABELS[:12])
    result = pyllmclf.tune(model, DATA, validation=validation, candidates=THREE, **QUICK)
    assert len(trained) == 3 and result.out_of_fold is None
    assert "classifier" not in result.metrics["validation"]
    assert result.metrics["validation"]["accuracy"] == result.leaderboard[0]["accuracy"]


def test_default_candidates(model_folder: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    models = [model_folder("bert"), model_folder("roberta")]
    result = pyllmclf.tune(models, DATA, trials=3, epochs=1, folds=2)
    said = capsys.readouterr().err
    assert "candidate 1 (model=" in said and "the best is candidate" in said
    assert [row["trainable"] for row in sorted(result.leaderboard, key=lambda row: row["number"])] == [
        "all",
        "all",
        "last_block",
    ]
    frame = result.to_frame()
    assert frame.index.tolist() == [1, 2, 3] and frame["accuracy"].max() == result.leaderboard[0]["accuracy"]
    assert "rank  candidate" in str(result) and json.loads(json.dumps(result.to_dict()))["leaderboard"]


def test_grid_and_several_models(model_folder: Folders) -> None:
    models = [model_folder("bert"), model_folder("gpt2")]
    grid = {"trainable": ["all", "last_block"], "learning_rate": [1e-3, 1e-4]}
    result = pyllmclf.tune(models, DATA, candidates=grid, folds=2, **QUICK)
    assert len(result.leaderboard) == 8
    assert {row["model"] for row in result.leaderboard} == {Path(model).name for model in models}


def test_space(model_folder: Folders) -> None:
    distributions = pytest.importorskip("optuna.distributions")
    space = {
        "learning_rate": distributions.FloatDistribution(1e-5, 1e-2, log=True),
        "trainable": ["all", "last_block"],
    }
    found = [
        pyllmclf.tune(model_folder("bert"), DATA, candidates=space, trials=4, folds=2, **QUICK).leaderboard
        for _ in range(2)
    ]
    assert len(found[0]) == 4 and len({row["learning_rate"] for row in found[0]}) == 4
    assert all(1e-5 <= row["learning_rate"] <= 1e-2 for row in found[0])
    drawn = [sorted((row["number"], row["learning_rate"], row["trainable"]) for row in each) for each in found]
    assert drawn[0] == drawn[1]


def test_weights_of_classes_as_an_array(model_folder: Folders) -> None:
    arguments = QUICK | {"class_weights": np.array([1.0, 2.0]), "folds": 2}
    result = pyllmclf.tune(model_folder("bert"), DATA, candidates=THREE[1:2], **arguments)
    assert result.classifier.state.settings["class_weights"] is not None


def test_a_candidate_that_can_not_be_trained(model_folder: Folders) -> None:
    candidates = [{"trainable": "last_9_blocks"}, THREE[1]]
    result = pyllmclf.tune(model_folder("bert"), DATA, candidates=candidates, **QUICK)
    assert result.leaderboard[0]["number"] == 2 and result.leaderboard[1]["accuracy"] is None
    assert "the model has" in result.leaderboard[1]["failed"] and "failed" in str(result)
    with pytest.raises(UsageError, match="the model has"):
        pyllmclf.tune(model_folder("bert"), DATA, candidates=candidates[:1], **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": []}, "there is none"),
        ({"candidates": [{"learning_rat": 1}]}, "learning_rat.*learning_rate"),
        ({"candidates": [{"seed": 1, "device": "cpu"}]}, "the same for all"),
        ({"candidates": [{"learning_rate": -1}]}, "learning_rate"),
        ({"candidates": [{"epochs": 3}], "epochs": 2}, "epochs is also given"),
        ({"candidates": {"epochs": 3}}, "list of values"),
        ({"candidates": "all"}, "list of dictionaries"),
        ({"trials": 0}, "trials"),
        ({"folds": 1}, "folds"),
        ({"time_limit": "2 days"}, "time_limit"),
        ({"time_limit": 0}, "time_limit"),
        ({"model": []}, "model"),
        ({"model": ["gpt2", "gpt2"]}, "twice"),
        ({"early_stopping": 1, "validation": 0.2}, "no early_stopping"),
        ({"train": (["a", "a"], ["x", "y"])}, "two different texts"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pyllmclf.tune(**{"model": "gpt2-nano", "weights": "random", "train": DATA, "progress": False} | arguments)


def test_unknown_argument() -> None:
    with pytest.raises(TypeError, match="learning_rate is meant"):
        pyllmclf.tune("gpt2-nano", DATA, learning_rat=1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2m", 120), ("1.5h", 5400), (" 7 ", 7), (3, 3), (0.5, 0.5)]
)
def test_time_limits(text: Any, seconds: float) -> None:
    assert seconds_of(text) == seconds and seconds_of(None) == float("inf")


def test_the_time_limit_is_kept(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each step moves by a second; a training takes 15 or 18 steps."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    on_step = search.TimeLimit.on_step

    def slow(self: search.TimeLimit, record: Any) -> None:
        clock[0] += 1.0
        on_step(self, record)

    monkeypatch.setattr(search.TimeLimit, "on_step", slow)
    arguments = QUICK | {"epochs": 3, "batch_size": 10}
    result = pyllmclf.tune(model_folder("bert"), DATA, candidates=THREE * 1, time_limit=100, **arguments)
    assert clock[0] <= 100 - 18 and sum(row["folds"] for row in result.leaderboard) >= 3
    clock[0] = 0.0
    with pytest.raises(UsageError, match="time_limit is too short"):
        pyllmclf.tune(model_folder("bert"), DATA, candidates=THREE, time_limit=9, **arguments)


def test_a_training_without_time_ends_early() -> None:
    """After a few steps, by their pace; the first one, in which frozen layers are computed, does not count."""
    limit = search.TimeLimit(100.0, time.perf_counter(), time.perf_counter() + 100.0)
    record = StepRecord(1, 1, 1.0, 0.5, 1e-3, 8, 100)

    def step(number: int, clock: float) -> None:
        with patch.object(time, "perf_counter", lambda: limit.started + clock):
            limit.on_step(replace(record, step=number))

    for steps, ends in ((100, False), (120, True)):
        limit.on_train_begin(steps)
        for number in range(1, 6):
            step(number, 9.0 + number)
        with pytest.raises(search.OutOfTime) if ends else nullcontext():
            step(6, 15.0)


@pytest.mark.parametrize(
    ("how", "evaluations"),
    [
        ("killed", 1),
        ("preempted", 6),
        pytest.param("killed", 6, marks=pytest.mark.slow),
        pytest.param("preempted", 1, marks=pytest.mark.slow),
    ],
)
def test_resumed(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, evaluations: int
) -> None:
    model, folder = model_folder("bert"), tmp_path / "run"
    whole = pyllmclf.tune(model, DATA, candidates=THREE, **QUICK)
    add, count = Evaluations.add, 0

    def stopped(self: Evaluations, *args: Any) -> None:
        nonlocal count
        add(self, *args)
        count += 1
        if count == evaluations:
            if how == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Evaluations, "add", stopped)
    with pytest.raises((KeyboardInterrupt, PreemptedError)) as raised:
        pyllmclf.tune(model, DATA, candidates=THREE, output_dir=folder, **QUICK)
    assert how == "killed" or "the evaluations so far are in" in str(raised.value)
    with pytest.raises(UsageError, match="already holds"):
        pyllmclf.tune(model, DATA, candidates=THREE, output_dir=folder, **QUICK)
    resumed = pyllmclf.tune(model, DATA, candidates=THREE, output_dir=folder, resume=True, **QUICK)
    assert count == 8  # nothing is evaluated twice
    same(resumed, whole)
    untimed = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.leaderboard]
    assert untimed == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.leaderboard]
    again = pyllmclf.tune(model, DATA, candidates=THREE, output_dir=folder, resume=True, **QUICK)
    same(again, whole)
    assert count == 8
    assert pyllmclf.load(folder).predict(TEXTS) == whole.classifier.predict(TEXTS)
    with pytest.raises(UsageError, match="candidates changed"):
        pyllmclf.tune(model, DATA, candidates=THREE[1:], output_dir=folder, resume=True, **QUICK)
    over = pyllmclf.tune(model, DATA, candidates=THREE[1:], output_dir=folder, overwrite=True, **QUICK)
    same(over, whole)
    assert sorted(path.name for path in (folder / "tune").iterdir())[0] == "candidate-1-fold-0.npz"


def test_damaged_evaluation(model_folder: Folders, tmp_path: Path) -> None:
    arguments = QUICK | {"candidates": THREE[1:], "output_dir": tmp_path / "run", "folds": 2}
    pyllmclf.tune(model_folder("bert"), DATA, **arguments)
    (tmp_path / "run/tune/candidate-1-fold-0.npz").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"candidate-1-fold-0\.npz.*remove it"):
        pyllmclf.tune(model_folder("bert"), DATA, resume=True, **arguments)


def test_a_folder_of_another_training(model_folder: Folders, tmp_path: Path) -> None:
    pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path, trainable="head", validation=False, **QUICK)
    with pytest.raises(UsageError, match="no winner of tune"):
        pyllmclf.tune(model_folder("bert"), DATA, output_dir=tmp_path, resume=True, candidates=THREE, **QUICK)


def test_several_labels_and_windows(model_folder: Folders) -> None:
    several = TEXTS, [[label] if i % 3 else [] for i, label in enumerate(LABELS)]
    candidates = [{"trainable": "head"}, {"trainable": "all", "epochs": 1}]
    result = pyllmclf.tune(
        model_folder("bert"), several, multi_label=True, candidates=candidates, folds=2, progress=False
    )
    assert result.out_of_fold is not None and len(result.out_of_fold) == 60
    windows = {"long_texts": "windows", "max_length": 5}
    result = pyllmclf.tune(model_folder("bert"), DATA, candidates=candidates, folds=2, progress=False, **windows)
    assert result.out_of_fold is not None and len(result.out_of_fold) == 60


def test_label_issues(model_folder: Folders) -> None:
    pytest.importorskip("cleanlab")
    wrong = [1, 20, 39]
    labels = [{"cat": "dog", "dog": "cat"}[label] if i in wrong else label for i, label in enumerate(LABELS)]
    model = model_folder("bert")
    result = pyllmclf.tune(model, (TEXTS, labels), candidates=[{"trainable": "head"}], progress=False)
    issues = pyllmclf.label_issues(result)
    assert len(set(wrong) & set(issues.index[:4])) >= 2 and issues["score"].is_monotonic_increasing
    assert issues.loc[1].to_dict() == {
        "where": "(texts, labels), row 1",
        "text": TEXTS[1],
        "label": labels[1],
        "suggested": LABELS[1],
        "score": issues.loc[1, "score"],
    }
    with pytest.raises(UsageError, match="out-of-fold"):
        pyllmclf.label_issues(pyllmclf.finetune(model, DATA, trainable="all", validation=False, **QUICK))
    several = pyllmclf.tune(
        model, (TEXTS, [[label] for label in LABELS]), multi_label=True, trials=1, epochs=1, folds=2
    )
    with pytest.raises(UsageError, match="one label each"):
        pyllmclf.label_issues(several)


def test_report(model_folder: Folders, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    labels = ["cat" if i == 1 else label for i, label in enumerate(LABELS)]
    candidates = [{"trainable": "head"}, {"trainable": "last_9_blocks"}]
    arguments: dict[str, Any] = {"test": DATA, "output_dir": tmp_path, "report": True, "progress": False}
    pyllmclf.tune(model_folder("bert"), (TEXTS, labels), candidates=candidates, **arguments)
    page = Page((tmp_path / "report.html").read_text())
    page.check()
    (best, _), candidates = page.text.split("trainable=head", 1), page.rows("leaderboard")
    assert "Candidates" in best and [row[3] for row in candidates if "last_9_blocks" in row[1]] == ["failed"]
    assert "Labels to look at" in page.text and TEXTS[1] in page.text


@pytest.mark.parametrize("several", [False, True])
def test_report_without_test_texts(model_folder: Folders, tmp_path: Path, several: bool) -> None:
    """It is of the training texts, each by a classifier that was trained without it."""
    labels: Any = [[label] for label in LABELS] if several else LABELS
    candidates = [{"trainable": "head"}, {"trainable": "last_block", "epochs": 1}]
    result = pyllmclf.tune(
        model_folder("bert"), (TEXTS, labels), candidates=candidates, multi_label=several, output_dir=tmp_path,
        report=True, progress=False, folds=2,
    )  # fmt: skip
    page = Page((tmp_path / "report.html").read_text())
    page.check()
    assert "trained without it" in page.text and "chart-leaderboard" in page.content
    measured = result.metrics["validation"]
    assert page.data["figures"]["accuracy"] == measured["accuracy"]
    assert page.data["figures"]["per_class"] == measured["per_class"]


def test_command(model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in zip(TEXTS, LABELS, strict=True)))
    arguments = ["tune", str(data), "--model", str(model_folder("bert")), "--model", str(model_folder("gpt2"))]
    arguments += [
        "--trials",
        "3",
        "--folds",
        "2",
        "--epochs",
        "1",
        "--no-progress",
        "--output-dir",
        str(tmp_path / "run"),
    ]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["leaderboard"]) == 3 and found["output_dir"] == str(tmp_path / "run")
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--overwrite"])
    assert "rank  candidate" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--time-limit", "soon", "--overwrite"])
    assert "time_limit='soon'" in capsys.readouterr().err
