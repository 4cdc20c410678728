"""The output folder of a run: numbered checkpoints, and ``last`` and ``best`` pointing at two of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ResourceError, UsageError
from ..models.hub import read_json
from .checkpoint import SPEC_FILE, STATE_FILE, ClassifierState, save_checkpoint


class RunFolder:
    """Writes checkpoints and keeps the newest and the best.

    Parameters
    ----------
    path : Path
        Made if it is not there.

    Raises
    ------
    UsageError
        If it holds another run's checkpoints, or a saved classifier.
    ResourceError
        If it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".write-test-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ResourceError(f"output_dir {path} can't be written ({error}).") from error
        if any(path.glob("checkpoint-*")) or (path / SPEC_FILE).exists():
            raise UsageError(f"output_dir {path} already holds a classifier; choose another folder or delete it.")

    def save(self, state: ClassifierState, step: int, training_state: Mapping[str, Any], *, is_best: bool) -> None:
        """Writes ``checkpoint-STEP``, points ``last`` (and ``best``) at it, then deletes what neither points at."""
        folder = self.path / f"checkpoint-{step}"
        save_checkpoint(folder, state, {"step": step, **training_state})
        self._point("last", folder)
        if is_best:
            self._point("best", folder)
        kept = {os.path.realpath(self.path / name) for name in ("last", "best")}
        for old in self.path.glob("checkpoint-*"):
            if os.path.realpath(old) not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def replace(self, name: str, state: ClassifierState) -> None:
        """Writes another classifier into the checkpoint that ``name`` points at; how far training was stays."""
        folder = (self.path / name).resolve()
        save_checkpoint(folder, state, read_json(folder / STATE_FILE))

    def _point(self, name: str, folder: Path) -> None:
        beside = self.path / f".{name}.{os.getpid()}.tmp"
        try:
            beside.unlink(missing_ok=True)
            beside.symlink_to(folder.name, target_is_directory=True)
            beside.replace(self.path / name)
        except OSError as error:
            raise ResourceError(f"{self.path / name} can't be written ({error}).") from error
