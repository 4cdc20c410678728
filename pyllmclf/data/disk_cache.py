"""Disk cache: folders that several runs share, each written by one of them while the others wait."""

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
    """Looks a folder up in the cache, and writes it if it is missing or damaged.

    Runs that need the same folder at the same time wait for the one that writes it. Unfinished folders of killed runs
    are removed.

    Parameters
    ----------
    target : Path
        The folder.
    is_intact : callable
        Takes the folder; returns whether it exists and holds the right content.
    make : callable
        Returns the functions that write its files, by name.

    Returns
    -------
    bool
        Whether an intact folder was found.

    Raises
    ------
    ResourceError
        If the folder can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if is_intact(target):
                os.utime(target)  # the time of its last use, by which old folders are evicted
                return True
            remove_unfinished(target.parent, held=target.name)
            shutil.rmtree(target, ignore_errors=True)
            write_folder(target, make())
            return False
    except OSError as error:
        raise ResourceError(f"{target} can't be written ({error}).") from error


def remove_unfinished(folder: Path, held: str = "") -> None:
    """Removes unfinished folders of killed runs; ``held`` is the name of a folder whose lock the caller holds."""
    for path in folder.glob(".*"):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None:
            continue
        if match[1] == held:
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(path, folder / match[1])


def remove(path: Path, target: Path) -> bool:
    """Removes the folder ``path`` unless a run holds the lock of ``target``; returns whether it was removed."""
    from filelock import Timeout

    try:
        with _locked(target, wait=False):
            shutil.rmtree(path, ignore_errors=True)
            return True
    except (Timeout, OSError):
        return False


@contextmanager
def _locked(target: Path, *, wait: bool = True) -> Iterator[None]:
    # The system releases a lock when its process ends, however it ends, and on whichever machine it runs.
    from filelock import FileLock

    locks = target.parent / LOCKS
    locks.mkdir(exist_ok=True)
    with FileLock(locks / f"{target.name}.lock", timeout=-1 if wait else 0):
        yield
