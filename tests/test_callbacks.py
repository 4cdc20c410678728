"""Callbacks and logs of a training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from models import Folders
from short_runs import LABELS, TEXTS, run

import pyllmclf
from pyllmclf import Callback, UsageError
from pyllmclf.training.callbacks import StepRecord


@pytest.fixture(scope="module")
def gpt2(model_folder: Folders) -> Path:
    return model_folder("gpt2", n_classes=2)


class Recorder(Callback):
    def __init__(self, stop_after_step: int | None = None, stop_after_epoch: int | None = None) -> None:
        self.steps: list[StepRecord] = []
        self.epochs: list[Any] = []
        self.order: list[str] = []
        self.stop_after_step, self.stop_after_epoch = stop_after_step, stop_after_epoch

    def on_train_begin(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.order.append("begin")

    def on_step(self, record: StepRecord) -> bool | None:
        self.steps.append(record)
        return record.step == self.stop_after_step

    def on_epoch(self, record: Any) -> bool | None:
        self.epochs.append(record)
        return record.epoch == self.stop_after_epoch

    def on_train_end(self) -> None:
        self.order.append("end")


def test_callbacks(gpt2: Path) -> None:
    told = Recorder()
    result = run(gpt2, callbacks=told, validation=(TEXTS, LABELS), scheduler="constant", warmup_ratio=0.5)
    assert told.order == ["begin", "end"] and told.total_steps == len(told.steps) == 6
    assert told.epochs == result.history
    assert [s.step for s in told.steps] == [1, 2, 3, 4, 5, 6] and [s.epoch for s in told.steps] == [1, 1, 1, 2, 2, 2]
    assert [s.learning_rate for s in told.steps] == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2])
    for epoch, record in enumerate(result.history, 1):
        own = [s for s in told.steps if s.epoch == epoch]
        assert sum(s.texts for s in own) == len(TEXTS) and sum(s.tokens for s in own) == sum(map(len, TEXTS))
        mean = sum(s.loss * s.texts for s in own) / len(TEXTS)
        assert record.train_loss == pytest.approx(mean)
        assert record.train_accuracy == pytest.approx(sum(s.accuracy * s.texts for s in own) / len(TEXTS))


@pytest.mark.parametrize("stop", [{"stop_after_step": 1}, {"stop_after_epoch": 1}])
def test_callbacks_can_end_the_training(gpt2: Path, stop: dict[str, int]) -> None:
    """At the end of the epoch."""
    assert len(run(gpt2, callbacks=[Callback(), Recorder(**stop)]).history) == 1


def test_callbacks_are_told_of_the_end_after_an_error(gpt2: Path) -> None:
    class Failing(Recorder):
        def on_step(self, record: StepRecord) -> bool | None:
            raise ValueError("mine")

    told = Failing()
    with pytest.raises(ValueError, match="mine"):
        run(gpt2, callbacks=told)
    assert told.order == ["begin", "end"]


def test_an_error_at_the_end_does_not_hide_the_first(gpt2: Path) -> None:
    """Each callback that was told of the beginning is told of the end, and no other."""

    class FailingAtTheEnd(Recorder):
        def on_train_end(self) -> None:
            super().on_train_end()
            raise RuntimeError("at the end")

    class Failing(Recorder):
        def on_step(self, record: StepRecord) -> bool | None:
            raise ValueError("mine")

    told = [FailingAtTheEnd(), Failing(), Recorder()]
    with pytest.warns(RuntimeWarning, match="at the end"), pytest.raises(ValueError, match="mine"):
        run(gpt2, callbacks=told)
    assert [one.order for one in told] == [["begin", "end"]] * 3
    told = [FailingAtTheEnd(), Recorder(), FailingAtTheEnd()]
    with pytest.warns(RuntimeWarning, match="at the end"), pytest.raises(RuntimeError, match="at the end"):
        run(gpt2, callbacks=told)
    assert [one.order for one in told] == [["begin", "end"]] * 3

    class NeverBegun(Recorder):
        def on_train_begin(self, total_steps: int) -> None:
            raise ValueError("not begun")

    told = [Recorder(), NeverBegun(), Recorder()]
    with pytest.raises(ValueError, match="not begun"):
        run(gpt2, callbacks=told)
    assert [one.order for one in told] == [["begin", "end"], [], []]


def test_csv_log(gpt2: Path, tmp_path: Path) -> None:
    result = run(gpt2, logs="csv", output_dir=tmp_path / "run")
    with (tmp_path / "run/logs/steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert [int(row["step"]) for row in steps] == [1, 2, 3, 4, 5, 6]
    with (tmp_path / "run/logs/epochs.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in epochs] == [r.train_loss for r in result.history]
    assert epochs[0]["validation_loss"] == ""
    assert pyllmclf.load(tmp_path / "run").classes_ == [0, 1]


def test_tensorboard_log(gpt2: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = Recorder()
    result = run(gpt2, logs=["tensorboard", "csv"], callbacks=told, output_dir=tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run/logs")).Reload()
    losses = [(event.step, event.value) for event in read.Scalars("step/loss")]
    assert losses == [(s.step, pytest.approx(s.loss)) for s in told.steps]
    epochs = [(event.step, event.value) for event in read.Scalars("epoch/train_loss")]
    assert epochs == [(r.step, pytest.approx(r.train_loss)) for r in result.history]
    assert (tmp_path / "run/logs/steps.csv").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logs": "csv"}, "logs need a folder"),
        ({"logs": ["wandb"], "output_dir": "OUT"}, "'wandb' is unknown"),
        ({"callbacks": [print]}, "no pyllmclf.Callback"),
    ],
)
def test_what_is_refused_before_training(gpt2: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    changes = {name: tmp_path / "run" if value == "OUT" else value for name, value in changes.items()}
    with pytest.raises(UsageError, match=said):
        run(gpt2, **changes)
