"""Evaluations of candidates on folds: their logits, kept in files from which a search is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..data.atomic_folder import clean_up, new_path, write_text
from ..data.json_text import parse_json
from ..errors import ModelError, ResourceError, UsageError

SEARCH_FILE = "search.json"
"""File with what is searched."""
WINNER = "winner"


@dataclass(frozen=True)
class Evaluation:
    """Logits of held-out texts by a candidate that was trained without them.

    Attributes
    ----------
    logits : fp32 array, shape [held-out texts, classes]
    seconds : float
        Of preparing, training and computing the logits.
    arguments : str
        The candidate's, as text: a resumed search uses the logits for the same candidate only.
    """

    logits: np.ndarray
    seconds: float
    arguments: str


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

    Attributes
    ----------
    found : dict of (int, int) to Evaluation
        By number of the candidate, and of the fold.
    failed : dict of int to str
        Why a candidate can't be trained.
    winner : int or None
        The chosen candidate, whose training on all texts has begun.

    Raises
    ------
    UsageError
        If the folder has those of another search.
    ModelError
        If its files are damaged.
    ResourceError
        If the folder can't be written.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.folder, self._identity = folder, dict(identity)
        self.found: dict[tuple[int, int], Evaluation] = {}
        self.failed: dict[int, str] = {}
        self.winner: int | None = None
        if folder is None:
            return
        file = folder / SEARCH_FILE
        if resume and file.is_file():
            self._read(file)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{folder} can't be written ({error}).") from error
        if self.winner is None:
            write_text(file, json.dumps(self._identity, indent=2))

    def _read(self, file: Path) -> None:
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
        self.winner = saved.get(WINNER)
        clean_up(file.parent)
        for path in sorted(file.parent.glob("candidate-*")):
            self._read_one(path)

    def _read_one(self, path: Path) -> None:
        try:
            number, fold = path.stem.removeprefix("candidate-").split("-fold-")
            if path.suffix == ".txt":
                self.failed[int(number)] = path.read_text(encoding="utf-8")
                return
            with np.load(path, allow_pickle=False) as saved:
                evaluation = Evaluation(
                    saved["logits"].astype(np.float32), float(saved["seconds"]), str(saved["arguments"])
                )
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise ModelError(f"{path}: incomplete or malformed ({error}); remove it to compute it again.") from error
        self.found[int(number), int(fold)] = evaluation

    def add(self, number: int, fold: int, evaluation: Evaluation) -> None:
        """Adds the evaluation of a candidate on a fold."""
        self.found[number, fold] = evaluation
        self._write(number, fold)

    def check(self, number: int, arguments: str, rows: Sequence[int]) -> None:
        """Checks that the evaluations of a candidate are of these arguments and texts.

        Raises
        ------
        UsageError
            If they are another candidate's.
        """
        for fold, count in enumerate(rows):
            found = self.found.get((number, fold))
            if found is not None and (found.arguments != arguments or len(found.logits) != count):
                raise UsageError(
                    f"{self.folder}: candidate {number} was {found.arguments}, and is {arguments}; choose another "
                    "output_dir (--output-dir)."
                )

    def choose(self, number: int) -> None:
        """Records the winner, before it is trained: a resumed search goes on there."""
        self.winner = number
        if self.folder is not None:
            write_text(self.folder / SEARCH_FILE, json.dumps(self._identity | {WINNER: number}, indent=2))

    def fail(self, number: int, reason: str, *, lasting: bool) -> None:
        """Records why a candidate can't be trained; a resumed search tries it again unless that is ``lasting``."""
        self.failed[number] = reason
        if self.folder is not None and lasting:
            write_text(self.folder / f"candidate-{number}-fold-0.txt", reason)

    def _write(self, number: int, fold: int) -> None:
        if self.folder is None:
            return
        evaluation = self.found[number, fold]
        with new_path(self.folder / f"candidate-{number}-fold-{fold}.npz") as path, path.open("wb") as file:
            np.savez(
                file, logits=evaluation.logits, seconds=evaluation.seconds, arguments=np.array(evaluation.arguments)
            )
