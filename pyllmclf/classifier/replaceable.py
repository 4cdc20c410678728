"""Which folders ``overwrite=True`` replaces: those of earlier runs, classifiers and exports, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..data.atomic_folder import files_beside_manifest, is_replaceable
from ..data.folder_lock import LOCK, FolderLock, is_locked
from ..errors import UsageError
from ..printable import printable

_CHECKPOINT = re.compile(r"(checkpoint|calibrated)-\d+")
_LOG = re.compile(r"(steps|epochs)\.csv|events\.out\.tfevents\..*")
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")
_EVALUATION = re.compile(r"search\.json|candidate-\d+-fold-\d+\.(npz|txt)")
_LINKS = ("last", "best")
HELD_OUT, TUNE = "held_out", "tune"
"""Folders in that of a run: checkpoints of the training without the held-out texts; evaluations of a search."""
OUT_OF_FOLD_FILE = "out_of_fold.parquet"
"""File in the folder of a search: the winner's probabilities of texts that it was trained without."""
_SHOWN = 3


def is_run(folder: Path) -> bool:
    """Whether a folder has checkpoints of a run, or a search's evaluations."""
    return has_checkpoints(folder) or (folder / TUNE / "search.json").exists()


def has_checkpoints(folder: Path, *parts: str) -> bool:
    """Whether a folder has checkpoints of a run; in itself or its ``held_out``, or in the named ones of its folders."""
    return any(any((folder / part).glob("checkpoint-*")) for part in parts or ("", HELD_OUT))


def other_files(folder: Path) -> list[str]:
    """Names of what a run's, a classifier's or an export's folder holds beside its own files, sorted."""
    if not is_run(folder):
        return sorted(files_beside_manifest(folder) - {LOCK})
    return sorted(_beside_run(folder))


def _beside_run(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        name = path.name
        if path.is_symlink():
            if name not in _LINKS:
                yield name
        elif not path.is_dir():
            if name not in (LOCK, "report.html", OUT_OF_FOLD_FILE) and not _UNFINISHED.fullmatch(name):
                yield name
        elif name == "logs":
            yield from (f"logs/{log.name}" for log in path.iterdir() if not _LOG.fullmatch(log.name))
        elif name == TUNE:
            names = (other.name for other in path.iterdir())
            yield from (
                f"{TUNE}/{each}" for each in names if not (_EVALUATION.fullmatch(each) or _UNFINISHED.fullmatch(each))
            )
        elif name == HELD_OUT:
            yield from (f"{HELD_OUT}/{other}" for other in _beside_run(path))
        elif _CHECKPOINT.fullmatch(name):
            if not is_replaceable(path):
                yield from (f"{name}/{other}" for other in files_beside_manifest(path))
        elif not _UNFINISHED.fullmatch(name):
            yield name


def check_replaceable(folder: Path, argument: str = "", *, lock: FolderLock | None = None) -> None:
    """Checks that ``overwrite=True`` may replace a folder.

    Parameters
    ----------
    folder : Path
    argument : str
        Name of the argument, with a space behind it, for the message.
    lock : FolderLock, optional
        The folder's lock, if the caller holds it.

    Raises
    ------
    UsageError
        If it holds other files, or a run is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{argument}{folder} is a file; overwrite=True replaces only folders of runs and classifiers.")
    if not folder.is_dir():
        return
    if others := other_files(folder):
        names = ", ".join(map(printable, others[:_SHOWN])) + (", ..." if len(others) > _SHOWN else "")
        raise UsageError(
            f"{argument}{folder} holds other files than those of a run or a classifier ({names}), and overwrite=True "
            "(--overwrite) doesn't replace them; move them, or choose another folder."
        )
    if lock is None and is_locked(folder):
        raise UsageError(f"{argument}{folder}: another run is at work there; choose another folder.")
