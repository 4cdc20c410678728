"""Replacing earlier runs, classifiers and exports; the lock of a folder; the folder of the command line's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import pyllmclf
from pyllmclf import Callback, UsageError
from pyllmclf.classifier.replaceable import other_files
from pyllmclf.cli.main import app, run
from pyllmclf.cli.runs import new_run_folder
from pyllmclf.data import atomic_folder
from pyllmclf.data.folder_lock import FolderLock, is_locked
from pyllmclf.sklearn import LLMClassifier

TEXTS, LABELS = ["late parcel", "charged twice"] * 4, ["delivery", "billing"] * 4
SHORT: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False}
NANO = ("finetune", "--model", "gpt2-nano", "--weights", "random", "--epochs", "1", "--no-progress")


def train(folder: Path | None, **changes: Any) -> pyllmclf.FinetuneResult:
    return pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=folder, **SHORT | changes)


def seed_of(folder: Path) -> int:
    return pyllmclf.load(folder).state.settings["seed"]


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("text,label\n" + "".join(f"{t},{x}\n" for t, x in zip(TEXTS, LABELS, strict=True)))
    return path


# --- overwrite --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_run_replaces_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:  # as on network file systems
        monkeypatch.setattr(atomic_folder, "_exchange", lambda a, b: False)
    folder = tmp_path / "out"
    train(folder, epochs=3, keep_last=3, logs="csv", report=True, validation=(TEXTS, LABELS))
    assert not (folder / ".lock").exists()
    with pytest.raises(
        UsageError, match=r"resume=True \(--resume\), or replace it with overwrite=True \(--overwrite\)"
    ):
        train(folder)
    during: list[int] = []

    class Looks(Callback):
        def on_step(self, record: Any) -> None:
            during.append(seed_of(folder))  # the earlier run is complete until the new one has a checkpoint

    train(folder, seed=7, overwrite=True, logs="csv", callbacks=Looks())
    assert during == [123]
    assert seed_of(folder) == seed_of(folder / "last") == 7
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-1", "last", "logs"]
    assert (folder / "logs/steps.csv").read_text().count("\n") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    train(folder, seed=7, resume=True)  # a run like any other
    train(folder, seed=8, overwrite=True, epochs=2)
    train(folder, seed=8, resume=True, epochs=2)


def test_a_run_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    train(folder, logs="csv")
    before = content(folder)

    class Fails(Callback):
        def on_step(self, record: Any) -> None:
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        train(folder, overwrite=True, logs="csv", callbacks=Fails())
    with pytest.raises(UsageError, match="no pretrained weights"):
        train(folder, overwrite=True, weights="pretrained")
    assert content(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / f".out.{'0' * 32}.run").mkdir()  # of a run that was killed
    train(folder, overwrite=True, seed=3)
    assert seed_of(folder) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("other", ["notes.txt", "checkpoint-1/notes.txt", "logs/notes.txt", "data/a.csv", "link"])
def test_other_files_are_never_replaced(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "out"
    classifier = train(folder, logs="csv").classifier
    assert other_files(folder) == []
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).symlink_to("/etc") if other == "link" else (folder / other).write_text("mine")
    before = content(folder)
    for replace in (
        lambda: train(folder, overwrite=True),
        lambda: classifier.save(folder, overwrite=True),
        lambda: classifier.export(folder, overwrite=True),
    ):
        with pytest.raises(UsageError, match=r"other files than those of a run .*(notes|data|link)"):
            replace()
    assert content(folder) == before


def test_saving_and_exporting(tmp_path: Path) -> None:
    classifier, folder = train(tmp_path / "out").classifier, tmp_path / "saved"
    classifier.save(folder)
    classifier.save(folder)  # as before: a saved classifier is replaced by another
    with pytest.raises(UsageError, match="overwrite=True"):
        train(folder)
    train(folder, seed=5, overwrite=True)
    assert seed_of(folder) == 5 and (folder / "last").is_dir()
    for path in (folder, folder / "last"):
        with pytest.raises(UsageError, match="overwrite=True"):
            classifier.save(path)
        with pytest.raises(UsageError, match="overwrite=True"):
            classifier.export(path)
    classifier.save(folder, overwrite=True)
    assert seed_of(folder) == 123 and not (folder / "last").exists()
    classifier.export(folder, overwrite=True)
    classifier.export(folder, overwrite=True)
    assert not (folder / "pyllmclf.json").exists()
    assert run(app, "pyllmclf", ["export", str(tmp_path / "out"), str(folder)]) == 2
    assert run(app, "pyllmclf", ["export", str(tmp_path / "out"), str(folder), "--overwrite"]) == 0
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        classifier.save(tmp_path / "file", overwrite=True)


def test_arguments_that_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave one of them out"):
        train(tmp_path / "out", overwrite=True, resume=True)
    with pytest.raises(UsageError, match="output_dir"):
        train(None, overwrite=True)
    estimator = LLMClassifier("gpt2-nano", weights="random", epochs=1, output_dir=tmp_path / "out", overwrite=True)
    estimator.fit(TEXTS, LABELS).fit(TEXTS, LABELS)


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_lock_that_vanishes_lets_nobody_in(tmp_path: Path) -> None:
    """Whoever has opened the file before it is removed doesn't get a lock without a name."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(BlockingIOError):
        second.acquire()
    assert is_locked(tmp_path)
    first.release()
    assert not list(tmp_path.iterdir()) and not is_locked(tmp_path)
    # Several at once, over and over: never two.
    held, most, ends = [0], [0], threading.Event()
    guard = threading.Lock()

    def work() -> None:
        while not ends.is_set():
            lock = FolderLock(tmp_path)
            try:
                lock.acquire()
            except BlockingIOError:
                continue
            with guard:
                held[0] += 1
                most[0] = max(most[0], held[0])
            with guard:
                held[0] -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    ends.wait(0.5)
    ends.set()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not list(tmp_path.iterdir())


def test_a_running_training_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    classifier = train(folder).classifier
    lock = FolderLock(folder)
    lock.acquire()
    for replace in (lambda: train(folder, overwrite=True), lambda: classifier.save(folder, overwrite=True)):
        with pytest.raises(UsageError, match="another run is at work there"):
            replace()
    lock.release()


# --- the command line's own folder ------------------------------------------------------------------------------------


def test_command_line_saves_the_classifier(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, "pyllmclf", [*NANO, "--train", str(table)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "classifier in pyllmclf-runs/table-gpt2-nano-1" and err == ""
    folder = tmp_path / "pyllmclf-runs/table-gpt2-nano-1"
    assert pyllmclf.load(folder).classes_ == ["billing", "delivery"]
    assert not (folder / "training_state/optimizer.safetensors").exists()
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_dir"] == "pyllmclf-runs/table-gpt2-nano-2"
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--no-save", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_dir"] is None
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--seeds", "1"]) == 0
    assert "--output-dir saves that of each seed" in capsys.readouterr().out
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--output-dir", "o", "--no-save"]) == 2
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--resume"]) == 2
    assert run(app, "pyllmclf", [*NANO, "--train", str(tmp_path / "nowhere.csv")]) == 3
    assert sorted(p.name for p in (tmp_path / "pyllmclf-runs").iterdir()) == ["table-gpt2-nano-1", "table-gpt2-nano-2"]


def test_with_early_stopping_the_best_is_saved(table: Path) -> None:
    options = ("--validation", str(table), "--epochs", "4", "--early-stopping", "1", "--learning-rate", "0.5")
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), *options, "--trainable", "all"]) == 0
    saved = pyllmclf.load("pyllmclf-runs/table-gpt2-nano-1")
    measured = saved.evaluate(table)
    history = saved.state.metrics["validation"]
    assert measured.log_loss == pytest.approx(history["log_loss"], rel=1e-5)


def test_only_the_first_process_saves(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(app, "pyllmclf", [*NANO, "--train", str(table)]) == 0
    assert not (tmp_path / "pyllmclf-runs").exists()


def test_folder_that_cannot_be_written(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyllmclf-runs").write_text("a file")
    assert run(app, "pyllmclf", [*NANO, "--train", str(table)]) == 5
    err = capsys.readouterr().err
    assert "--output-dir" in err and "--no-save" in err and len(err.splitlines()) == 1
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--no-save"]) == 0


@pytest.mark.parametrize(
    ("data", "model", "name"),
    [
        ("sms_spam:full", "gpt2", "sms_spam-full-gpt2-1"),
        ("/some/where/reviews.csv.gz", "org/bert-tiny", "reviews-bert-tiny-1"),
        ("/dev/stdin", "gpt2", "stdin-gpt2-1"),
        ("/dev/fd/63", "gpt2", "stdin-gpt2-1"),
        ("v1.2 final (ok).jsonl", "gpt2", "v1.2-final-ok-gpt2-1"),
        ("日本語.tsv", "gpt2", "日本語-gpt2-1"),
        ("\udcff\x1b[2J.csv", "..", "2J-model-1"),
        ("x" * 300 + ".csv", "gpt2", "x" * 80 + "-gpt2-1"),
        (".csv", "gpt2", "csv-gpt2-1"),
    ],
)
def test_names_of_folders(data: str, model: str, name: str, tmp_path: Path) -> None:
    with new_run_folder(data, model) as folder:
        assert folder == Path("pyllmclf-runs") / name
        with new_run_folder(data, model) as second:
            assert second.name == name[:-1] + "2"
    assert not list(tmp_path.iterdir())  # empty ones go
    (tmp_path / "run/last").mkdir(parents=True)
    with new_run_folder("a.csv", "run/last") as folder:
        assert folder.name == "a-run-1"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_that_nothing_was_saved(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    from pyllmclf.training.trainer import Trainer

    original = Trainer._train_epoch

    def signalled(*args: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(Trainer, "_train_epoch", signalled)
    assert run(app, "pyllmclf", [*NANO, "--train", str(table)]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert "nothing was saved" in last and "--output-dir" in last and "--resume" in last
    assert not (tmp_path / "pyllmclf-runs").exists()


def test_what_is_trained_is_saved_before_an_error(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pyllmclf.Classifier, "evaluate_outputs", fail)
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--validation", str(table)]) == 5
    assert "until step 1" in capsys.readouterr().err
    assert pyllmclf.load("pyllmclf-runs/table-gpt2-nano-1").classes_ == ["billing", "delivery"]
    shutil.rmtree("pyllmclf-runs")
