"""The folder in which the command line keeps the trained classifier where no output folder is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("pyllmclf_classifier_folder", default=None)


@contextmanager
def keep_classifier_in(folder: Path) -> Iterator[None]:
    """Trainings in the block save their classifier, without the state of the training, in an empty folder.

    It is saved at the end: the last epoch's, with early stopping the best, calibrated if it is. If the training fails
    after that, in measuring the test texts or an epoch, the classifier is saved as it was trained so far.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def classifier_folder() -> Path | None:
    """The folder of :func:`keep_classifier_in`; ``None`` outside of its block."""
    return _folder.get()
