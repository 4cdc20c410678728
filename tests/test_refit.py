"""Validation texts that are held out by default, and the classifier that is then trained on all texts."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Folders

import pyllmclf
from pyllmclf import PreemptedError, UsageError
from pyllmclf.data.readers import TextData
from pyllmclf.data.splits import hold_out
from pyllmclf.settings import Settings
from pyllmclf.training import recipes, run
from pyllmclf.training.activation_cache import ActivationCache
from pyllmclf.training.baselines import SOLVED_HEAD
from pyllmclf.training.prepare import _named_model
from pyllmclf.training.run_folder import RunFolder

WORDS = ["red cat", "blue dog", "green cat", "old dog", "an ox, a cat", "a dog in the sun"]
TEXTS = [f"{word} {i}" for i in range(20) for word in WORDS]
LABELS = ["cat" if "cat" in text else "dog" for text in TEXTS]
DATA = TEXTS, LABELS
# What is trained is given, and only the number of epochs is automatic: 3 to 40 of them.
AUTOMATIC: dict[str, Any] = {"trainable": "last_block", "batch_size": 60, "learning_rate": 1e-3, "progress": False}


def parts(labels: list[Any], texts: list[str] | None = None, seed: int = 0) -> tuple[TextData, TextData] | None:
    return hold_out(TextData(texts or [f"text {i}" for i in range(len(labels))], labels, "here"), seed)


def weights(result: pyllmclf.FinetuneResult) -> dict[str, torch.Tensor]:
    return dict(result.classifier.state.model.named_parameters())


def same(found: pyllmclf.FinetuneResult, expected: pyllmclf.FinetuneResult) -> None:
    theirs = weights(expected)
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in weights(found).items())


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "LEAST_STEPS", 4)


@pytest.mark.parametrize(
    ("texts_of_class", "held_out"),
    [
        ({"a": 100, "b": 40}, {"a": 10, "b": 4}),
        ({"a": 10, "b": 10, "c": 4}, {"a": 2, "b": 2, "c": 2}),
        ({"a": 30, "b": 3, "c": 2, "d": 1}, {"a": 3, "b": 1}),
    ],
)
def test_a_tenth_of_each_class_and_two_of_small_ones(texts_of_class: dict[str, int], held_out: dict[str, int]) -> None:
    labels = [name for name, count in texts_of_class.items() for _ in range(count)]
    for seed in range(5):
        found = parts(labels, seed=seed)
        assert found is not None
        rest, taken = found
        assert Counter(taken.labels) == held_out
        assert sorted(rest.texts + taken.texts) == sorted(f"text {i}" for i in range(len(labels)))
        assert Counter(rest.labels) + Counter(taken.labels) == texts_of_class
    assert parts(labels, seed=1) == parts(labels, seed=1)
    assert parts(labels, seed=1) != parts(labels, seed=2)


def test_equal_texts_stay_together() -> None:
    texts = [f"text {i // 3}" for i in range(300)]
    for seed in range(5):
        rest, taken = parts(["a", "b", "b"] * 100, texts, seed) or pytest.fail("none")
        assert not set(rest.texts) & set(taken.texts)
        assert 20 <= len(taken) <= 30


@pytest.mark.parametrize("labels", [["a", "b"], ["a"] * 5 + ["b"], ["a", "b", "c"]])
def test_too_few_texts(labels: list[str]) -> None:
    assert parts(labels) is None


def test_at_most_ten_thousand_and_several_labels() -> None:
    rest, taken = parts(["a", "b"] * 75_000) or pytest.fail("none")
    assert len(taken) == 10_000 and Counter(taken.labels) == {"a": 5_000, "b": 5_000}
    rest, taken = parts([("a",), (), ("a", "b"), ("b",)] * 25) or pytest.fail("none")
    assert len(taken) == 10 and len(rest) == 90


def test_frozen_layers_are_computed_once_for_both_trainings(model_folder: Folders, filled: list[int]) -> None:
    pyllmclf.finetune(model_folder("bert"), DATA, **AUTOMATIC)
    assert len(filled) == 1
    pyllmclf.finetune(model_folder("bert"), DATA, refit=False, **AUTOMATIC)
    assert len(filled) == 2  # nothing is kept


def test_the_classifier_is_trained_on_all_texts(model_folder: Folders) -> None:
    model = model_folder("bert")
    result = pyllmclf.finetune(model, DATA, test=DATA, **AUTOMATIC)
    epochs = len(result.history)
    same(result, pyllmclf.finetune(model, DATA, validation=False, **AUTOMATIC | {"epochs": epochs}))
    assert result.metrics["test"]["texts"] == len(TEXTS) and "classifier" not in result.metrics["test"]
    # What is measured is the training on the rest.
    rest, taken = parts(LABELS, TEXTS, 123) or pytest.fail("none")
    assert result.metrics["validation"]["classifier"] == "before_refit"
    arguments = AUTOMATIC | {"validation": (taken.texts, taken.labels)}
    beside = pyllmclf.finetune(model, (rest.texts, rest.labels), test=False, **arguments)
    for figure in ("texts", "accuracy", "log_loss", "per_class"):
        assert result.metrics["validation"][figure] == beside.metrics["validation"][figure]
    assert result.baselines == beside.baselines and SOLVED_HEAD in result.baselines
    alone = pyllmclf.finetune(model, DATA, refit=False, **AUTOMATIC)
    same(alone, beside)
    assert "classifier" not in alone.metrics["validation"]


@pytest.mark.parametrize(
    "changes",
    [{"validation": False}, {"epochs": 1}, {"validation": (TEXTS[:9], LABELS[:9])}, {"validation": 0.2}],
    ids=["refused", "explicit", "given", "fraction"],
)
def test_nothing_is_held_out(
    model_folder: Folders, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = pyllmclf.finetune(model_folder("bert"), DATA, **AUTOMATIC | changes | {"progress": True})
    assert "classifier" not in result.metrics.get("validation", {})
    assert "held out" not in capsys.readouterr().err


def test_logs_are_those_of_the_last_training(model_folder: Folders, tmp_path: Path) -> None:
    class Counter(pyllmclf.Callback):
        trainings = 0

        def on_train_begin(self, total_steps: int) -> None:
            self.trainings += 1

    counter = Counter()
    arguments = AUTOMATIC | {"output_dir": tmp_path / "run", "logs": "csv", "callbacks": counter}
    result = pyllmclf.finetune(model_folder("bert"), DATA, **arguments)
    assert result.metrics["validation"]["classifier"] == "before_refit" and counter.trainings == 2
    rows = (tmp_path / "run/logs/epochs.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(each.epoch) for each in result.history]
    steps = (tmp_path / "run/logs/steps.csv").read_text().splitlines()
    assert len(steps) == 1 + result.timing["steps"]


def test_several_labels_and_too_few(model_folder: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    several = TEXTS, [[label] for label in LABELS]
    result = pyllmclf.finetune(model_folder("bert"), several, multi_label=True, **AUTOMATIC)
    assert result.metrics["validation"]["texts"] == 12
    few = pyllmclf.finetune(model_folder("bert"), (TEXTS[:3], LABELS[:3]), **AUTOMATIC | {"progress": True})
    assert few.metrics == {} and "too few texts" in capsys.readouterr().err


def test_the_folder_has_the_refit(model_folder: Folders, tmp_path: Path) -> None:
    model, folder = model_folder("bert"), tmp_path / "run"
    result = pyllmclf.finetune(model, DATA, output_dir=folder, **AUTOMATIC)
    assert sorted(path.name for path in folder.iterdir()) == [f"checkpoint-{result.timing['steps']:.0f}", "last"]
    loaded = pyllmclf.load(folder)
    assert loaded.state.metrics["validation"]["classifier"] == "before_refit"
    assert loaded.predict(TEXTS) == result.classifier.predict(TEXTS)
    again = pyllmclf.finetune(model, DATA, output_dir=folder, resume=True, **AUTOMATIC)
    same(again, result)
    assert again.metrics == result.metrics and again.baselines == result.baselines
    over = pyllmclf.finetune(model, DATA, output_dir=folder, overwrite=True, **AUTOMATIC)
    same(over, result)


@pytest.mark.parametrize("saves", range(1, 8))
@pytest.mark.parametrize("how", ["killed", "preempted"])
def test_resumed_in_either_training(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int, how: str
) -> None:
    """4 checkpoints of the first training, and 4 of the second."""
    model, arguments = model_folder("bert"), AUTOMATIC | {"batch_size": 120}
    whole = pyllmclf.finetune(model, DATA, **arguments)
    save, count = RunFolder.save, 0

    def stopped(self: RunFolder, *args: Any, **more: Any) -> None:
        nonlocal count
        save(self, *args, **more)
        count += 1
        if count == saves:
            if how == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "save", stopped)
    with pytest.raises((KeyboardInterrupt, PreemptedError)) as raised:
        pyllmclf.finetune(model, DATA, output_dir=tmp_path, **arguments)
    assert how == "killed" or "resume=True" in str(raised.value)
    pyllmclf.load(tmp_path)
    resumed = pyllmclf.finetune(model, DATA, output_dir=tmp_path, resume=True, **arguments)
    assert count == 8  # nothing is trained twice
    same(resumed, whole)
    assert [each.train_loss for each in resumed.history] == [each.train_loss for each in whole.history]
    for figure in ("accuracy", "log_loss", "classifier"):
        assert resumed.metrics["validation"][figure] == whole.metrics["validation"][figure]
    assert resumed.baselines == whole.baselines


@pytest.mark.parametrize("given", [False, True], ids=["held out", "given"])
def test_the_better_head_is_taken(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool, capsys: Any
) -> None:
    monkeypatch.setitem(recipes.LEARNING_RATES, "all", 1e-30)
    texts = [f"{word} {i}" for i in range(60) for word in WORDS]
    data = texts, ["cat" if "cat" in text else "dog" for text in texts]
    arguments: dict[str, Any] = {"output_dir": tmp_path / "run"}
    if given:
        arguments["validation"] = [f"{text}!" for text in texts[:60]], data[1][:60]
    model = model_folder("bert")
    result = pyllmclf.finetune(model, data, **arguments)
    said = capsys.readouterr().err
    assert "the bag of words is better than this classifier" in said
    assert "the solved head is better than this classifier" in said and "the head alone is trained" in said
    validation = arguments.get("validation", False)
    same(result, pyllmclf.finetune(model, data, trainable="head", validation=validation, progress=False))
    assert result.metrics["validation"]["accuracy"] == result.baselines[SOLVED_HEAD]["accuracy"]
    assert result.metrics["validation"].get("classifier") == (None if given else "before_refit")
    assert pyllmclf.load(tmp_path / "run").state.settings["trainable"] == "head"
    again = pyllmclf.finetune(model, data, resume=True, **arguments)
    same(again, result)
    assert again.baselines == result.baselines
    assert (tmp_path / "run/best").exists() == given
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint-1", "last"} | ({"best"} if given else set())


def test_what_the_recorded_run_might_do_is_kept(model_folder: Folders, tmp_path: Path) -> None:
    """A finished training of all layers stays one, if it is resumed without its arguments."""
    arguments: dict[str, Any] = {"output_dir": tmp_path, "validation": DATA, "progress": False}
    with pytest.warns(RuntimeWarning, match="solved head is better"):
        first = pyllmclf.finetune(model_folder("bert"), DATA, trainable="all", learning_rate=1e-30, **arguments)
    with pytest.warns(RuntimeWarning, match="solved head is better"):
        same(pyllmclf.finetune(model_folder("bert"), DATA, resume=True, **arguments), first)


def test_files_of_the_user_stay(model_folder: Folders, tmp_path: Path) -> None:
    model, folder = model_folder("bert"), tmp_path / "run"
    (folder / "notes").mkdir(parents=True)
    (folder / "data.csv").write_text("mine")
    pyllmclf.finetune(model, DATA, output_dir=folder, **AUTOMATIC)
    assert (folder / "notes").is_dir() and (folder / "data.csv").read_text() == "mine"
    assert not (folder / "held_out").exists()


@pytest.mark.parametrize("validation", [None, False])
def test_files_of_the_user_in_the_folder_of_the_first_training_stay(
    model_folder: Folders, tmp_path: Path, validation: Any
) -> None:
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out/notes.txt").write_text("mine")
    pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path, validation=validation, **AUTOMATIC)
    assert [path.name for path in (tmp_path / "held_out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["last", "best"])
def test_what_a_link_would_replace(model_folder: Folders, tmp_path: Path, name: str) -> None:
    (tmp_path / "real").write_text("mine")
    for make in (Path.touch, Path.mkdir, lambda path: path.symlink_to("real")):
        make(tmp_path / name)
        with pytest.raises(UsageError, match=f"'{name}', which is not a run's"):
            pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path, **AUTOMATIC)
        (tmp_path / name).rmdir() if make is Path.mkdir else (tmp_path / name).unlink()


@pytest.mark.parametrize("stopped_at", [2, 5])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refit": False}, "refit was True there"),
        ({"validation": False}, "validation was left to the run there"),
        ({"validation": 0.1}, "validation was left to the run there"),
        ({"epochs": 9}, "epochs was 4 there"),
    ],
    ids=str,
)
def test_changed_arguments_of_a_resumed_run(
    model_folder: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_at: int,
    changes: dict[str, Any],
    message: str,
) -> None:
    arguments = AUTOMATIC | {"batch_size": 120, "output_dir": tmp_path}
    save, count = RunFolder.save, 0

    def stopped(self: RunFolder, *args: Any, **more: Any) -> None:
        nonlocal count
        save(self, *args, **more)
        count += 1
        if count == stopped_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            pyllmclf.finetune(model_folder("bert"), DATA, **arguments)
    with pytest.raises(UsageError, match=message) as raised:
        pyllmclf.finetune(model_folder("bert"), DATA, resume=True, **arguments | changes)
    if "epochs" in changes:
        assert f"model={str(tmp_path / 'last')!r}" in str(raised.value)
        pyllmclf.load(tmp_path / "last")


def test_a_run_without_refit_is_resumed_without(model_folder: Folders, tmp_path: Path) -> None:
    arguments = AUTOMATIC | {"output_dir": tmp_path}
    first = pyllmclf.finetune(model_folder("bert"), DATA, refit=False, **arguments)
    with pytest.raises(UsageError, match="refit was False there"):
        pyllmclf.finetune(model_folder("bert"), DATA, resume=True, **arguments)
    same(pyllmclf.finetune(model_folder("bert"), DATA, refit=False, resume=True, **arguments), first)


def test_a_solved_head_is_resumed_with_other_ways_of_saving(model_folder: Folders, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"trainable": "head", "output_dir": tmp_path, "validation": False, "progress": False}
    first = pyllmclf.finetune(model_folder("bert"), DATA, **arguments)
    same(pyllmclf.finetune(model_folder("bert"), DATA, resume=True, save_every_steps=3, **arguments), first)
    with pytest.raises(UsageError, match="epochs was 'auto' there, and is 3"):
        pyllmclf.finetune(model_folder("bert"), DATA, resume=True, epochs=3, **arguments)


def test_logs_of_an_earlier_run_outlive_a_killed_replacement(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = AUTOMATIC | {"epochs": 2, "output_dir": tmp_path / "run", "logs": "csv"}
    first = pyllmclf.finetune(model_folder("bert"), DATA, **arguments)
    logs = {path.name: path.read_text() for path in (tmp_path / "run/logs").iterdir()}
    with monkeypatch.context() as patched:  # as kill -9 would
        patched.setattr(RunFolder, "close", lambda self: self._lock.release())
        patched.setattr(RunFolder, "save", lambda *args, **more: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pyllmclf.finetune(model_folder("bert"), DATA, overwrite=True, **arguments | {"batch_size": 7})
    assert len(list(tmp_path.iterdir())) == 2
    same(pyllmclf.finetune(model_folder("bert"), DATA, resume=True, **arguments), first)
    assert {path.name: path.read_text() for path in (tmp_path / "run/logs").iterdir()} == logs
    assert len(list(tmp_path.iterdir())) == 1 and not list((tmp_path / "run").glob(".*"))


def test_a_link_that_can_not_be_removed(model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint is complete; a resumed run removes the link."""
    unlink = Path.unlink

    def full(self: Path, missing_ok: bool = False) -> None:
        if self.name == "best":
            raise OSError(28, "No space left on device")
        unlink(self, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", full)
        with pytest.raises(pyllmclf.ResourceError, match="best can't be removed"):
            pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path, **AUTOMATIC)
    pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path, resume=True, **AUTOMATIC)
    assert not {"best", "held_out"} & {path.name for path in tmp_path.iterdir()}


def test_folders_that_are_none(model_folder: Folders, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="output_dir is empty"):
        pyllmclf.finetune(model_folder("bert"), DATA, output_dir="", **AUTOMATIC)
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(pyllmclf.ResourceError, match="a link to nothing"):
        pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path / "link", **AUTOMATIC)


def test_rule_counts_all_texts(model_folder: Folders, tmp_path: Path) -> None:
    """Both trainings have as many epochs as all texts ask for."""
    recipes.LEAST_STEPS = 9
    result = pyllmclf.finetune(model_folder("bert"), DATA, output_dir=tmp_path, **AUTOMATIC)
    assert len(result.history) == 5  # 2 steps each


def test_preempted_before_the_first_step_of_the_refit(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the frozen layers are computed: a checkpoint without the state of an optimizer."""
    model, whole = model_folder("bert"), pyllmclf.finetune(model_folder("bert"), DATA, **AUTOMATIC)
    fill, count = ActivationCache.fill, 0

    def stopped(self: ActivationCache) -> None:
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        fill(self)

    monkeypatch.setattr(ActivationCache, "fill", stopped)
    with pytest.raises(PreemptedError, match="resume=True"):
        pyllmclf.finetune(model, DATA, output_dir=tmp_path, **AUTOMATIC)
    same(pyllmclf.finetune(model, DATA, output_dir=tmp_path, resume=True, **AUTOMATIC), whole)


def test_a_run_without_held_out_texts_is_resumed_without(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = model_folder("bert"), tmp_path / "run"
    first = pyllmclf.finetune(model, DATA, output_dir=folder, validation=False, **AUTOMATIC)
    again = pyllmclf.finetune(model, DATA, output_dir=folder, resume=True, **AUTOMATIC | {"progress": True})
    same(again, first)
    assert again.metrics == {}
    assert "held out" not in capsys.readouterr().err and "too few" not in capsys.readouterr().err


def test_json(model_folder: Folders) -> None:
    result = pyllmclf.finetune(model_folder("bert"), DATA, **AUTOMATIC)
    assert json.loads(json.dumps(result.to_dict()))["metrics"]["validation"]["classifier"] == "before_refit"
    assert "trained without these texts" in str(result)


def test_the_commit_is_that_of_the_named_repository(tmp_path: Path) -> None:
    """A folder's adapter has its base's commit, which is no revision of the folder."""
    for model, revision in ((str(tmp_path), None), ("someone/model", "a" * 40)):
        named = _named_model(Settings(model=model, train="x"), {}, "a" * 40)
        assert named == (model, "pretrained", revision)
        record = {"base": {"revision": "a" * 40}, "settings": {"model": model, "revision": None}}
        assert _named_model(Settings(model=model, train="x"), record, None) == named


@pytest.mark.parametrize("kind", ["solved", "taken"])
def test_a_resumed_measurement_is_followed_by_the_same_kind_of_head(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever observers the resumed call has: they are for steps, and the call that began had none."""
    model, arguments = model_folder("bert"), {"progress": False, "output_dir": tmp_path / "run"}
    if kind == "solved":
        arguments["trainable"] = "head"
    else:
        monkeypatch.setattr(run, "complaints", lambda *_: {SOLVED_HEAD: "the head is better"})
    whole = pyllmclf.finetune(model, DATA, **arguments | {"output_dir": None})
    assert whole.classifier.state.settings["trainable"] == "head" and whole.timing["steps"] == 1

    def preempted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(PreemptedError):
        patched.setattr(run.Run, "compare", preempted)
        pyllmclf.finetune(model, DATA, **arguments)
    same(pyllmclf.finetune(model, DATA, resume=True, callbacks=pyllmclf.Callback(), **arguments), whole)


def test_the_refit_of_a_resumed_run_has_what_was_given_at_first(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments that the resumed call leaves out are the recorded ones in both trainings."""
    model, arguments = model_folder("bert"), {"output_dir": tmp_path / "run", "progress": False}
    given = {"pooling": "mean", "learning_rate": 1e-3, "trainable": "last_block", "max_length": 7}
    whole = pyllmclf.finetune(model, DATA, **arguments | given | {"output_dir": None})

    def preempted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(PreemptedError):
        patched.setattr(run.Run, "compare", preempted)
        pyllmclf.finetune(model, DATA, **arguments | given)
    resumed = pyllmclf.finetune(model, DATA, resume=True, **arguments | {"trainable": "last_block"})
    same(resumed, whole)
    assert resumed.classifier.state.settings["pooling"] == "mean"
