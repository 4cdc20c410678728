"""Callbacks and metric loggers that observe a training run."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..choices import Log, words
from ..data.atomic_folder import write_text
from ..errors import ResourceError, UsageError

LOGS = words(Log)


@dataclass(frozen=True)
class StepRecord:
    """Metrics of one optimizer step.

    Attributes
    ----------
    step, epoch : int
        Numbers of the step and of its epoch, counted from 1.
    loss, accuracy : float
        Means over the step's texts, with the weights before the step; the loss is the minimised one.
    learning_rate : float
        Learning rate of the head.
    texts, tokens : int
        Number of texts, and of their real tokens, without padding.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    texts: int
    tokens: int


class Callback:
    """Base class of callbacks; its methods do nothing.

    On a GPU :meth:`on_step` is called when the step's metrics have arrived, while the next step runs.
    """

    def on_resume(self, step: int) -> None:
        """Called before :meth:`on_train_begin` where a run resumes after ``step``; later steps are repeated."""

    def on_train_begin(self, total_steps: int) -> None:
        """Called before the first step."""

    def on_step(self, record: StepRecord) -> bool | None:
        """Called after each step; returning ``True`` stops the training at the end of the epoch."""

    def on_epoch(self, record: Any) -> bool | None:
        """Called after each epoch and its validation, with its :class:`EpochRecord`; ``True`` stops the training."""

    def on_train_end(self) -> None:
        """Called after the last epoch, or an error."""


class CallbackList(list[Callback]):
    """The callbacks of a training, called in their order."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        super().__init__(callbacks)
        self._started: list[Callback] = []

    def begin(self, step: int, total_steps: int) -> None:
        """Calls :meth:`Callback.on_resume`, if ``step`` is not 0, and :meth:`Callback.on_train_begin`."""
        self._started = []
        for callback in self:
            if step:
                callback.on_resume(step)
            callback.on_train_begin(total_steps)
            self._started.append(callback)

    def on_step(self, record: StepRecord) -> bool:
        """Calls :meth:`Callback.on_step`; returns whether a callback stops the training."""
        stops = [callback.on_step(record) for callback in self]  # all are called
        return any(stop is True for stop in stops)

    def on_epoch(self, record: Any) -> bool:
        """Calls :meth:`Callback.on_epoch`; returns whether a callback stops the training."""
        stops = [callback.on_epoch(record) for callback in self]
        return any(stop is True for stop in stops)

    def end(self) -> list[Exception]:
        """Calls :meth:`Callback.on_train_end` of each callback that has begun, and returns their errors."""
        errors: list[Exception] = []
        for callback in self._started:
            try:
                callback.on_train_end()
            except Exception as error:
                errors.append(error)
        return errors


def warn_of_errors(errors: Sequence[Exception]) -> None:
    """Warns of errors of :meth:`Callback.on_train_end` that no exception reports."""
    for error in errors:
        warnings.warn(f"a callback failed at the end of the training: {error!r}", RuntimeWarning, stacklevel=3)


class CsvLog(Callback):
    """Writes ``steps.csv`` and ``epochs.csv`` to a folder, line by line.

    Raises
    ------
    ResourceError
        If a file can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: set[str] = set()

    def on_resume(self, step: int) -> None:
        """Drops the lines of later steps, and an incomplete last line."""
        for name in ("steps.csv", "epochs.csv"):
            path = self.folder / name
            try:
                with path.open(encoding="utf-8", newline="") as file:
                    header, *rows = csv.reader(file)
            except (OSError, ValueError, csv.Error):  # missing or empty: a new file is begun
                continue
            column = header.index("step") if "step" in header else 0
            complete = [row for row in rows if len(row) == len(header) and row[column].isdecimal()]
            earlier = [row for row in complete if int(row[column]) <= step]
            content = io.StringIO()
            csv.writer(content, lineterminator="\n").writerows([header, *earlier])
            write_text(path, content.getvalue())
            self._started.add(name)

    def on_step(self, record: StepRecord) -> None:
        self._append("steps.csv", asdict(record))

    def on_epoch(self, record: Any) -> None:
        self._append("epochs.csv", record.to_dict())

    def _append(self, name: str, row: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("a" if name in self._started else "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
                if name not in self._started:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise ResourceError(f"{self.folder / name} can't be written ({error}).") from error
        self._started.add(name)


class TensorBoardLog(Callback):
    """Writes event files of TensorBoard to a folder.

    Raises
    ------
    UsageError
        If the tensorboard package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("logs='tensorboard' needs a package: pip install 'pyllmclf[tensorboard]'.") from error
        self._make_writer = partial(SummaryWriter, str(folder))
        self._writer: Any = None

    def on_resume(self, step: int) -> None:
        self._make_writer = partial(self._make_writer, purge_step=step + 1)

    def on_train_begin(self, total_steps: int) -> None:
        self._writer = self._make_writer()

    def on_step(self, record: StepRecord) -> None:
        for name in ("loss", "accuracy", "learning_rate"):
            self._writer.add_scalar(f"step/{name}", getattr(record, name), record.step)

    def on_epoch(self, record: Any) -> None:
        for name, value in record.to_dict().items():
            if value is not None and name not in ("epoch", "step"):
                self._writer.add_scalar(f"epoch/{name}", value, record.step)

    def on_train_end(self) -> None:
        if self._writer is not None:
            self._writer.close()


def resolve_callbacks(callbacks: Any, logs: Any, output_dir: Path | None) -> list[Callback]:
    """Resolves the arguments ``callbacks`` and ``logs`` to callbacks; loggers write to ``output_dir/logs``.

    Parameters
    ----------
    callbacks : Callback, sequence of Callback, or None
    logs : str, sequence of str, or None
    output_dir : Path or None

    Raises
    ------
    UsageError
        If an object is no :class:`Callback`, a log is unknown, or logs have no folder.
    """
    if callbacks is not None and not isinstance(callbacks, (Callback, Sequence)):
        raise UsageError(f"callbacks: {callbacks!r} is no pyllmclf.Callback, or sequence of them.")
    observers = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if wrong := [callback for callback in observers if not isinstance(callback, Callback)]:
        raise UsageError(f"callbacks: {wrong[0]!r} is no pyllmclf.Callback.")
    names: Sequence[str] = (logs,) if isinstance(logs, str) else tuple(logs or ())
    for name in names:
        if name not in LOGS:
            raise UsageError(f"logs: {name!r} is unknown; there are {', '.join(LOGS)}.")
    if not names:
        return observers
    if output_dir is None:
        raise UsageError("logs need a folder: give output_dir.")
    loggers = {"csv": CsvLog, "tensorboard": TensorBoardLog}
    return observers + [loggers[name](output_dir / "logs") for name in dict.fromkeys(names)]
