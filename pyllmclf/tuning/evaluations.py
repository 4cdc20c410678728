"""Evaluations of candidates on folds: their logits, kept in files from which a search is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.atomic_folder import new_path, write_text
from ..data.json_text import parse_json
from ..errors import ModelError, ResourceError, UsageError

SEARCH_FILE = "search.json"
"""File with what is searched."""


@dataclass(frozen=True)
class Evaluation:
    """Logits of held-out texts by a candidate that was trained without them.

    Attributes
    ----------
    logits : fp32 array, shape [held-out texts, classes]
    seconds : float
        Of preparing, training and computing the logits.
    """

    logits: np.ndarray
    seconds: float


class Evaluations:
    """Evaluations by candidate and fold.

    Parameters
    ----------
    folder : Path or None
        Where they are kept; ``None`` keeps them in memory only.
    identity : mapping
        What is searched, as types that JSON has.
    resume : bool
        Whether those in the folder are read.

    Raises
    ------
    UsageError
        If the folder has those of another search, or of one that is not resumed.
    ModelError
        If its files are damaged.
    ResourceError
        If the folder can't be written.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.folder, self._identity = folder, dict(identity)
        self.found: dict[tuple[int, int], Evaluation] = {}
        self.failed: dict[int, str] = {}
        if folder is None:
            return
        file = folder / SEARCH_FILE
        if file.is_file():
            self._read(file, resume=resume)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{folder} can't be written ({error}).") from error
        write_text(file, json.dumps(self._identity, indent=2))

    def _read(self, file: Path, *, resume: bool) -> None:
        if not resume:
            for path in file.parent.glob("candidate-*"):
                path.unlink()
            return
        try:
            saved = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: incomplete or malformed ({error}).") from error
        expected = json.loads(json.dumps(self._identity))
        if changed := [name for name in expected if saved.get(name) != expected[name]]:
            raise UsageError(
                f"{file.parent}: {', '.join(changed)} changed since the search was begun; resume with the same data, "
                "models and candidates, or choose another output_dir (--output-dir)."
            )
        for path in sorted(file.parent.glob("candidate-*")):
            self._read_one(path)

    def _read_one(self, path: Path) -> None:
        try:
            number, fold = path.stem.removeprefix("candidate-").split("-fold-")
            if path.suffix == ".txt":
                self.failed[int(number)] = path.read_text(encoding="utf-8")
                return
            with np.load(path, allow_pickle=False) as saved:
                evaluation = Evaluation(saved["logits"].astype(np.float32), float(saved["seconds"]))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: incomplete or malformed ({error}); remove it to compute it again.") from error
        self.found[int(number), int(fold)] = evaluation

    def add(self, number: int, fold: int, evaluation: Evaluation) -> None:
        """Adds the evaluation of a candidate on a fold."""
        self.found[number, fold] = evaluation
        self._write(number, fold)

    def fail(self, number: int, reason: str) -> None:
        """Records why a candidate can't be trained."""
        self.failed[number] = reason
        if self.folder is not None:
            write_text(self.folder / f"candidate-{number}-fold-0.txt", reason)

    def _write(self, number: int, fold: int) -> None:
        if self.folder is None:
            return
        evaluation = self.found[number, fold]
        with new_path(self.folder / f"candidate-{number}-fold-{fold}.npz") as path, path.open("wb") as file:
            np.savez(file, logits=evaluation.logits, seconds=evaluation.seconds)

    def keep_in(self, folder: Path) -> None:
        """Writes all of them into another folder, where the one that they were in has been replaced."""
        if self.folder is None or folder.is_dir():
            return
        self.folder = folder
        folder.mkdir()
        write_text(folder / SEARCH_FILE, json.dumps(self._identity, indent=2))
        for number, fold in self.found:
            self._write(number, fold)
        for number, reason in self.failed.items():
            self.fail(number, reason)
