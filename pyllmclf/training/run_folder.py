"""The output folder of a run: numbered checkpoints, and ``last`` and ``best`` pointing at two of them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..classifier.checkpoint import SPEC_FILE, STATE_FILE, find_checkpoint, save_checkpoint
from ..classifier.state import ClassifierState
from ..data.atomic_folder import beside_of, clean_up
from ..errors import ResourceError, UsageError
from ..models.hub import read_json

LOCK = ".lock"


class RunFolder:
    """Writes checkpoints and keeps the newest and the best; one process at a time has it.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    resume : bool
        Whether the run that the folder holds, if it holds one, is gone on with.
    keep_last : int
        How many of the newest checkpoints are kept.

    Attributes
    ----------
    newest : Path or None
        The newest complete checkpoint of the run that is gone on with.

    Raises
    ------
    UsageError
        If it holds another run's checkpoints, or a saved classifier, or another process has it.
    ModelError
        If a run is to be gone on with, and every checkpoint is damaged.
    ResourceError
        If it can't be written.
    """

    def __init__(self, path: Path, *, resume: bool = False, keep_last: int = 1) -> None:
        self.path, self.keep_last = path, keep_last
        self.newest: Path | None = None
        self._written: tuple[int, int] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = beside_of(path / "write-test", "tmp")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ResourceError(f"output_dir {path} can't be written ({error}).") from error
        self._lock()
        try:
            if (path / SPEC_FILE).exists():
                raise UsageError(f"output_dir {path} already holds a classifier; choose another folder or delete it.")
            if any(path.glob("checkpoint-*")) and not resume:
                raise UsageError(
                    f"output_dir {path} already holds a classifier; choose another folder, delete it, or go on with "
                    "its training: resume=True (--resume)."
                )
            clean_up(path)
            clean_up(path / "logs")
            if any(path.glob("checkpoint-*")):
                self.newest = find_checkpoint(path)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        from filelock import FileLock, Timeout

        # The system gives it back when the process ends, however it ends.
        self._held = FileLock(self.path / LOCK, timeout=0)
        try:
            self._held.acquire()
        except Timeout as error:
            raise UsageError(f"output_dir {self.path}: another run is at work there; choose another folder.") from error
        except OSError as error:
            raise ResourceError(f"output_dir {self.path} can't be written ({error}).") from error

    def close(self) -> None:
        """Gives the folder back."""
        self._held.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def adopt(self) -> None:
        """Makes the folder what the run left that is gone on with, once it is known to be the same.

        Checkpoints later than the newest complete one are damaged; they stay, under another name, for whoever wants to
        save something of them. ``last`` and ``best`` point where they would if the run hadn't ended while it saved.
        """
        assert self.newest is not None
        newest_step = int(read_json(self.newest / STATE_FILE)["step"])  # whatever a copy's name is
        for step in self._steps():
            if step > newest_step:
                folder = self.checkpoint(step)
                folder.rename(self.path / f"damaged-{folder.name}-{uuid.uuid4().hex[:8]}")
        self._point("last", self.newest)
        best = self._best_step(self.newest)
        if best is not None and self.checkpoint(best).is_dir():
            self._point("best", self.checkpoint(best))
        self._delete_old(newest_step)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, if it is."""
        return self.path / f"checkpoint-{step}"

    def best_of(self, folder: Path) -> Path | None:
        """The checkpoint of the best epoch up to the one of a checkpoint."""
        step = self._best_step(folder)
        return None if step is None else find_checkpoint(self.checkpoint(step))

    def save(
        self,
        state: ClassifierState,
        step: int,
        training_state: Mapping[str, Any],
        optimizer: Mapping[str, Tensor] | None = None,
        *,
        is_best: bool,
    ) -> None:
        """Writes ``checkpoint-STEP``, points ``last`` (and ``best``) at it, then deletes what nobody needs: all but the
        newest ones and the best epoch's of each.
        """
        at = step, training_state["epoch"]
        if self._written == at:
            return
        folder = self.checkpoint(step)
        save_checkpoint(folder, state, {"step": step, **training_state}, optimizer, keep_others=True)
        self._written = at
        self._point("last", folder)
        if is_best:
            self._point("best", folder)
        self._delete_old(step)

    def _delete_old(self, newest: int) -> None:
        steps = sorted(step for step in self._steps() if step <= newest)
        kept = set(steps[-self.keep_last :])
        kept |= {best for step in kept if (best := self._best_step(self.checkpoint(step))) is not None}
        pointed = {os.path.realpath(self.path / name) for name in ("last", "best")}
        for step in steps:
            if step not in kept and os.path.realpath(self.checkpoint(step)) not in pointed:
                self._delete(self.checkpoint(step))
        wanted = {f"calibrated-{step}" for step in kept}
        for folder in self.path.glob("calibrated-*"):
            if folder.name not in wanted and os.path.realpath(folder) not in pointed:
                self._delete(folder)

    def _delete(self, folder: Path) -> None:
        """At once: whoever reads it has all of it, or none."""
        beside = beside_of(folder, "tmp")
        try:
            folder.rename(beside)
        except OSError:
            beside = folder
        shutil.rmtree(beside, ignore_errors=True)

    def _steps(self) -> list[int]:
        """Of the checkpoints that are there, by their names."""
        names = (folder.name.removeprefix("checkpoint-") for folder in self.path.glob("checkpoint-*"))
        return [int(name) for name in names if name.isdecimal()]

    @staticmethod
    def _best_step(folder: Path) -> int | None:
        try:
            best = read_json(folder / STATE_FILE).get("best")
        except ValueError:  # damaged
            return None
        return best["step"] if isinstance(best, dict) else None

    def save_calibrated(self, step: int, state: ClassifierState, calibration: Mapping[str, float]) -> None:
        """Puts the calibrated classifier of a step into its checkpoint, if nothing is left to train from there.

        The others are what a training may go on from: beside them it gets a folder of its own, at which ``best``
        points.
        """
        folder = self.checkpoint(step)
        training_state = read_json(folder / STATE_FILE) | {"calibration": calibration}
        if training_state["finished"]:
            save_checkpoint(folder, state, training_state, keep_others=True)
            return
        calibrated = self.path / f"calibrated-{step}"
        save_checkpoint(calibrated, state, training_state, keep_others=True)
        self._point("best", calibrated)

    def _point(self, name: str, folder: Path) -> None:
        beside = beside_of(self.path / name, "tmp")
        try:
            beside.symlink_to(folder.name, target_is_directory=True)
            beside.replace(self.path / name)
        except OSError as error:
            raise ResourceError(f"{self.path / name} can't be written ({error}).") from error
