"""Lines on standard error, beside a progress bar."""

from __future__ import annotations

import sys
import warnings


def say(line: str, progress: bool) -> None:
    """What is of interest to somebody who looks on; nothing without ``progress``."""
    if progress:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)


def warn(line: str, progress: bool) -> None:
    """What the user did not ask for is said in any case, once."""
    if progress:
        say(line, progress)
    else:
        warnings.warn(line, RuntimeWarning, stacklevel=3)
