"""Opens the classifier of a command, and says how it computes and answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import say

if TYPE_CHECKING:
    from ..classifier import Classifier


def open_classifier(folder: Path, *, progress: bool, **options: Any) -> Classifier:
    """The classifier of a folder; lines say which layers compute in int8, and which rules it answers by.

    Parameters
    ----------
    folder : Path
    progress : bool
        Whether the lines are shown.
    **options
        Arguments of :func:`pyllmclf.load`.

    Raises
    ------
    ModelError, UsageError, DataError, ResourceError
        As :func:`pyllmclf.load`.
    """
    from ..classifier import load

    classifier = load(folder, **options)
    if options["dtype"] == "int8":
        say(str(classifier.state.int8), progress)
    for line in classifier.decisions.lines(classifier.state.encoder.names):
        say(line, progress)
    return classifier
