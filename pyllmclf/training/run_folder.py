"""The output folder of a run: numbered checkpoints, and the links ``last`` and ``best`` to two of them."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..classifier.checkpoint import SPEC_FILE, STATE_FILE, find_checkpoint, save_checkpoint
from ..classifier.replaceable import HELD_OUT, check_replaceable, has_checkpoints, is_run
from ..classifier.state import ClassifierState
from ..data.atomic_folder import beside_of, check_name, clean_up
from ..data.folder_lock import FolderLock
from ..errors import ResourceError, UsageError
from ..models.hub import read_json
from .replacement import Replacement


class RunFolder:
    """Writes checkpoints, and keeps the newest and the best; a lock excludes other runs from the folder.

    Parameters
    ----------
    path : Path
        Created if it is missing.
    resume : bool
        Whether a run whose checkpoints are in the folder is resumed.
    keep_last : int
        How many of the newest checkpoints are kept.
    overwrite : bool
        Whether an earlier run or classifier in the folder is replaced, when the first checkpoint is complete.

    Attributes
    ----------
    newest : Path or None
        The newest complete checkpoint of the resumed run.

    Raises
    ------
    UsageError
        If the folder contains checkpoints and ``resume`` is false, contains a saved classifier, is locked by another
        run, or has a name that is not UTF-8; with ``overwrite``, if it contains other files.
    ModelError
        If a run is resumed and all of its checkpoints are damaged.
    ResourceError
        If the folder can't be written.
    """

    def __init__(self, path: Path, *, resume: bool = False, keep_last: int = 1, overwrite: bool = False) -> None:
        self.path, self.keep_last = path, keep_last
        self.newest: Path | None = None
        self._written: tuple[int, int] | None = None
        self._replacement: Replacement | None = None
        self._replaced: list[int] = []  # steps of the checkpoints of the training before
        self._part, self._begun = "", False
        check_name(path)
        if path.is_symlink() and not path.exists():
            raise ResourceError(f"output_dir {path} is a link to nothing; remove it, or choose another folder.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = beside_of(path / "write-test", "tmp")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ResourceError(f"output_dir {path} can't be written ({error}).") from error
        self._acquire_lock()
        try:
            Replacement.undo(path)
            holds_run, holds_classifier = is_run(path), (path / SPEC_FILE).exists()
            if (holds_classifier or holds_run) and overwrite:
                check_replaceable(path, "output_dir ", lock=self._lock)
                clean_up(path)
                self._replacement = Replacement(path, self._lock)
                return
            replace = "replace it with overwrite=True (--overwrite)"
            if holds_classifier:
                raise UsageError(f"output_dir {path} already holds a classifier; choose another folder, or {replace}.")
            if holds_run and not resume:
                raise UsageError(
                    f"output_dir {path} already holds a classifier; choose another folder, resume its training with "
                    f"resume=True (--resume), or {replace}."
                )
            clean_up(path)
            for part in ("logs", HELD_OUT):
                clean_up(path / part)
            _check_links(path)
            if has_checkpoints(path):
                self.newest = find_checkpoint(path)
                self._part = HELD_OUT if self.newest.parent.name == HELD_OUT else ""
        except BaseException:
            self.close()
            raise

    def _acquire_lock(self) -> None:
        self._lock = FolderLock(self.path)
        try:
            self._lock.acquire()
        except BlockingIOError as error:
            raise UsageError(f"output_dir {self.path}: another run is at work there; choose another folder.") from error
        except OSError as error:
            raise ResourceError(f"output_dir {self.path} can't be written ({error}).") from error

    def close(self) -> None:
        """Releases the lock of the folder; a run without a checkpoint leaves the one that it would replace."""
        if self._replacement is not None:
            self._replacement.abandon()
        self._lock.release()

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run has a checkpoint: the one that it resumes, or one that it has written."""
        return self.newest is not None or self._written is not None or self._begun

    def begin_held_out(self) -> None:
        """Begins the training without the held-out texts, whose checkpoints are in a folder of their own."""
        if self.newest is None:
            self._part = HELD_OUT

    def begin_anew(self) -> None:
        """Begins the next training in the folder, when the one before is finished.

        The earlier checkpoints stay until the next training is finished.
        """
        if not self._part:
            self._replaced = self._steps()
        self._part, self._begun, self.newest, self._written = "", True, None, None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def adopt(self) -> None:
        """Repairs the folder before resuming: sets damaged newer checkpoints aside, re-points ``last`` and ``best``.

        Checkpoints later than the newest complete one are damaged, and are renamed, for a user who wants to recover
        something of them. Call it once the run is known to be the same.

        Raises
        ------
        ResourceError
            If a link can't be written.
        """
        assert self.newest is not None
        state = read_json(self.newest / STATE_FILE)
        newest_step = int(state["step"])  # the folder may have been renamed
        for step in self._steps():
            if step > newest_step:
                folder = self.checkpoint(step)
                folder.rename(self.path / f"damaged-{folder.name}-{uuid.uuid4().hex[:8]}")
        self._point("last", self.newest)
        best = self._best_step(self.newest)
        if best is not None and self.checkpoint(best).is_dir():
            self._point("best", self.checkpoint(best))
        self._delete_old(newest_step)
        if state.get("finished"):
            self._delete_held_out()

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step, whether it exists or not."""
        return self._place / self._part / f"checkpoint-{step}"

    @property
    def replaces(self) -> bool:
        """Whether an earlier run is still in the folder, which the first checkpoint replaces."""
        return self._replacement is not None

    def part(self, name: str) -> Path:
        """A folder of this run beside its checkpoints."""
        return self._place / name

    @property
    def _place(self) -> Path:
        """Where checkpoints are: beside the folder until the first of a run that replaces another is complete."""
        return self.path if self._replacement is None else self._replacement.folder

    def best_of(self, folder: Path) -> Path | None:
        """Finds the checkpoint of the best epoch, as of another checkpoint.

        Raises
        ------
        ModelError
            If it is missing or damaged.
        """
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
        """Writes ``checkpoint-STEP``, points ``last`` (and ``best``) at it, then deletes obsolete checkpoints.

        The newest ``keep_last`` checkpoints remain, with the best epoch's as of each.

        Parameters
        ----------
        state : ClassifierState
        step : int
            Number of finished optimizer steps.
        training_state : mapping
            Progress of the training, as types that JSON has.
        optimizer : mapping of str to tensor, optional
            State of the optimizer.
        is_best : bool
            Whether the newest epoch is the best.

        Raises
        ------
        ResourceError
            If the checkpoint can't be written.
        """
        progress = step, training_state["epoch"]
        if self._written == progress:
            return
        folder = self.checkpoint(step)
        training_state, place = {"step": step, **training_state}, self.path / self._part / folder.name
        self._make_part(folder.parent)
        save_checkpoint(folder, state, training_state, optimizer, keep_others=True, place=place)
        self._written = progress
        self._point("last", folder)
        if is_best:
            self._point("best", folder)
        if training_state.get("finished"):
            self._delete_replaced(step)
            self._delete_held_out()
        if self._replacement is not None:
            self._lock = self._replacement.take_place()
            self._replacement = None
        self._delete_old(step)

    def _delete_old(self, newest: int) -> None:
        steps = sorted(step for step in self._steps() if step <= newest)
        needed = set(steps[-self.keep_last :])
        needed |= {best for step in needed if (best := self._best_step(self.checkpoint(step))) is not None}
        linked = {os.path.realpath(self.path / name) for name in ("last", "best")}
        for step in steps:
            if step not in needed and os.path.realpath(self.checkpoint(step)) not in linked:
                self._delete(self.checkpoint(step))
        calibrated = {f"calibrated-{step}" for step in needed}
        for folder in self.path.glob("calibrated-*"):
            if folder.name not in calibrated and os.path.realpath(folder) not in linked:
                self._delete(folder)

    def _make_part(self, folder: Path) -> None:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{folder} can't be written ({error}).") from error

    def _delete_replaced(self, finished: int) -> None:
        """Deletes the checkpoints of the training that the ``finished`` one replaces, its last one last."""
        steps = [step for step in sorted(self._replaced) if step != finished]
        if steps:
            self._unlink_best(self.checkpoint(finished))
        for step in steps:
            self._delete(self.checkpoint(step))
        self._replaced = []

    def _delete_held_out(self) -> None:
        """Deletes the checkpoints of the training without the held-out texts, when the one on all texts is finished."""
        folder = self._place / HELD_OUT
        if self._part or not has_checkpoints(self._place, HELD_OUT):
            return
        self._unlink_best(None)
        for path in sorted(folder.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name)):
            if path.name.removeprefix("checkpoint-").isdecimal():
                self._delete(path)
        with suppress(OSError):  # other files of the user
            folder.rmdir()

    def _unlink_best(self, kept: Path | None) -> None:
        best = self._place / "best"
        if best.is_symlink() and (kept is None or os.path.realpath(best) != os.path.realpath(kept)):
            try:
                best.unlink()
            except OSError as error:
                raise ResourceError(f"{best} can't be removed ({error}).") from error

    def _delete(self, folder: Path) -> None:
        """Deletes a folder; renamed first, it is never seen incomplete."""
        beside = beside_of(folder, "tmp")
        try:
            folder.rename(beside)
        except OSError:
            beside = folder
        shutil.rmtree(beside, ignore_errors=True)

    def _steps(self) -> list[int]:
        """Steps of the checkpoints in the folder, by their names."""
        folders = (self.path / self._part).glob("checkpoint-*")
        names = (folder.name.removeprefix("checkpoint-") for folder in folders)
        return [int(name) for name in names if name.isdecimal()]

    @staticmethod
    def _best_step(folder: Path) -> int | None:
        try:
            best = read_json(folder / STATE_FILE).get("best")
        except ValueError:  # damaged
            return None
        step = best.get("step") if isinstance(best, dict) else None
        return step if type(step) is int else None

    def save_calibrated(self, step: int, state: ClassifierState, calibration: Mapping[str, float]) -> None:
        """Saves the calibrated classifier of a step: in the step's checkpoint, if its training is finished.

        Any other checkpoint can be resumed and stays unchanged; the calibrated classifier is saved beside it, and
        ``best`` points there.

        Raises
        ------
        ResourceError
            If the classifier can't be written.
        """
        folder = self.checkpoint(step)
        training_state = read_json(folder / STATE_FILE) | {"calibration": calibration}
        if training_state["finished"]:
            save_checkpoint(folder, state, training_state, keep_others=True, place=self.path / folder.name)
            return
        calibrated = self.path / f"calibrated-{step}"
        save_checkpoint(calibrated, state, training_state, keep_others=True, place=self.path / calibrated.name)
        self._point("best", calibrated)

    def _point(self, name: str, folder: Path) -> None:
        beside = beside_of(self._place / name, "tmp")
        try:
            beside.symlink_to(folder.relative_to(self._place), target_is_directory=True)
            beside.replace(self._place / name)
        except OSError as error:
            raise ResourceError(f"{self.path / name} can't be written ({error}).") from error


def _check_links(path: Path) -> None:
    """Raises :class:`UsageError` where ``last`` or ``best`` is something of the user's."""
    for name in ("last", "best"):
        link = path / name
        target = Path(os.readlink(link)).name if link.is_symlink() else ""
        if os.path.lexists(link) and not re.fullmatch(r"(checkpoint|calibrated)-\d+", target):
            raise UsageError(
                f"output_dir {path} has {name!r}, which is not a run's, and a run would replace it; move it, or choose "
                "another folder."
            )
