"""Status lines and warnings that don't break a progress bar."""

from __future__ import annotations

import sys
import warnings


def say(line: str, progress: bool) -> None:
    """Writes a status line to standard error, above the progress bar; without ``progress`` it writes nothing."""
    if progress:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)


def warn(line: str, progress: bool) -> None:
    """Warns of what differs from the request: a status line with ``progress``, a :class:`RuntimeWarning` without."""
    if progress:
        say(line, progress)
    else:
        warnings.warn(line, RuntimeWarning, stacklevel=3)
