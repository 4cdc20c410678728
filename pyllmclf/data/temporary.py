"""Temporary folders that are removed in any case, also where the process has run out of file descriptors."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end of the block, also where no file descriptor is left by then."""
    spare = spare_descriptors()
    folder = Path(tempfile.mkdtemp(prefix="pyllmclf-"))
    try:
        yield folder
    finally:
        close_all(spare)
        shutil.rmtree(folder, ignore_errors=True)


# Removing a folder opens each level of it twice.
_SPARE = 8


def spare_descriptors() -> list[int]:
    """Descriptors that are closed before a folder is removed, for the removal to have some."""
    descriptors: list[int] = []
    try:
        for _ in range(_SPARE):
            descriptors.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        close_all(descriptors)
        raise
    return descriptors


def close_all(descriptors: list[int]) -> None:
    """Closes the descriptors of a list, and empties it."""
    while descriptors:
        os.close(descriptors.pop())
