"""Folders that runs share: found intact, or made by one of them while the others wait."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import ResourceError
from .atomic_folder import Writer, write_folder

LOCKS = ".locks"
_UNFINISHED = re.compile(r"\.([a-z]+-[0-9a-f]+)\.[0-9a-f]+\.(tmp|old)")


def find_or_make(target: Path, is_intact: Callable[[Path], bool], make: Callable[[], Mapping[str, Writer]]) -> bool:
    """Makes a folder unless an intact one is there; returns whether one was.

    Runs that want the same folder at the same time wait for the one that makes it. What killed runs have left
    unfinished is removed.

    Parameters
    ----------
    target : Path
    is_intact : callable
        Whether a folder is there and is what is wanted.
    make : callable
        Returns the functions that write its files.

    Raises
    ------
    ResourceError
        If it can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if is_intact(target):
                os.utime(target)  # it was of use now: others are older
                return True
            remove_unfinished(target.parent, held=target.name)
            shutil.rmtree(target, ignore_errors=True)
            write_folder(target, make())
            return False
    except OSError as error:
        raise ResourceError(f"{target} can't be written ({error}).") from error


def remove_unfinished(folder: Path, held: str = "") -> None:
    """Removes what killed runs have left; ``held`` is a name whose lock is held here."""
    for path in folder.glob(".*"):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None:
            continue
        if match[1] == held:
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(path, folder / match[1])


def remove(path: Path, target: Path) -> bool:
    """Removes a folder unless a run is at work on ``target``; returns whether it did."""
    from filelock import Timeout

    try:
        with _locked(target, wait=False):
            shutil.rmtree(path, ignore_errors=True)
            return True
    except (Timeout, OSError):
        return False


@contextmanager
def _locked(target: Path, *, wait: bool = True) -> Iterator[None]:
    # The system gives a lock back when its process ends, however it ends, and on whichever machine it runs.
    from filelock import FileLock

    locks = target.parent / LOCKS
    locks.mkdir(exist_ok=True)
    with FileLock(locks / f"{target.name}.lock", timeout=-1 if wait else 0):
        yield
