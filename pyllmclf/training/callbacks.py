"""What is told of a training while it runs: the user's own callbacks, and logs of its figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
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
    """What one optimizer step gave.

    Attributes
    ----------
    step, epoch : int
        Counted from 1.
    loss, accuracy : float
        Means over the step's texts, before the step; of the loss that is minimised.
    learning_rate : float
        Of the head.
    texts, tokens : int
        Real tokens, without padding.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    texts: int
    tokens: int


class Callback:
    """Base of what is told of a training; its methods do nothing.

    On a GPU a step is told of when its figures have arrived, while the next one runs.
    """

    def on_resume(self, step: int) -> None:
        """Before :meth:`on_train_begin` of a run that goes on after ``step``: later steps will be told of again."""

    def on_train_begin(self, total_steps: int) -> None:
        """Before the first step."""

    def on_step(self, record: StepRecord) -> bool | None:
        """After each step; ``True`` ends the training at the end of this epoch."""

    def on_epoch(self, record: Any) -> bool | None:
        """After each epoch and its validation, with its :class:`EpochRecord`; ``True`` ends the training."""

    def on_train_end(self) -> None:
        """After the last epoch, or an error."""


class CsvLog(Callback):
    """``steps.csv`` and ``epochs.csv`` in a folder, written line by line.

    Raises
    ------
    ResourceError
        If they can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun: set[str] = set()

    def on_resume(self, step: int) -> None:
        """Drops the lines of later steps, and a last one that was cut."""
        for name in ("steps.csv", "epochs.csv"):
            path = self.folder / name
            try:
                with path.open(encoding="utf-8", newline="") as file:
                    header, *rows = csv.reader(file)
            except (OSError, ValueError, csv.Error):  # not there, or empty: it is begun anew
                continue
            at = header.index("step") if "step" in header else 0
            kept = [row for row in rows if len(row) == len(header) and row[at].isdecimal() and int(row[at]) <= step]
            content = io.StringIO()
            csv.writer(content, lineterminator="\n").writerows([header, *kept])
            write_text(path, content.getvalue())
            self._begun.add(name)

    def on_step(self, record: StepRecord) -> None:
        self._append("steps.csv", asdict(record))

    def on_epoch(self, record: Any) -> None:
        self._append("epochs.csv", record.to_dict())

    def _append(self, name: str, row: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("a" if name in self._begun else "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
                if name not in self._begun:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise ResourceError(f"{self.folder / name} can't be written ({error}).") from error
        self._begun.add(name)


class TensorBoardLog(Callback):
    """Event files of TensorBoard in a folder.

    Raises
    ------
    UsageError
        If the tensorboard package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("logs: TensorBoard's needs its package: pip install 'pyllmclf[tensorboard]'.") from error
        self._make = partial(SummaryWriter, str(folder))
        self._writer: Any = None

    def on_resume(self, step: int) -> None:
        self._make = partial(self._make, purge_step=step + 1)

    def on_train_begin(self, total_steps: int) -> None:
        self._writer = self._make()

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
    """The callbacks that a user gives, and the logs that are asked for, which go to ``output_dir/logs``.

    Raises
    ------
    UsageError
        If one is no :class:`Callback`, a log is unknown, or there is no folder for it.
    """
    if callbacks is not None and not isinstance(callbacks, (Callback, Sequence)):
        raise UsageError(f"callbacks: {callbacks!r} is no pyllmclf.Callback, or sequence of them.")
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if wrong := [callback for callback in given if not isinstance(callback, Callback)]:
        raise UsageError(f"callbacks: {wrong[0]!r} is no pyllmclf.Callback.")
    names: Sequence[str] = (logs,) if isinstance(logs, str) else tuple(logs or ())
    for name in names:
        if name not in LOGS:
            raise UsageError(f"logs: {name!r} is unknown; there are {', '.join(LOGS)}.")
    if not names:
        return given
    if output_dir is None:
        raise UsageError("logs need a folder: give output_dir.")
    makers = {"csv": CsvLog, "tensorboard": TensorBoardLog}
    return given + [makers[name](output_dir / "logs") for name in dict.fromkeys(names)]
