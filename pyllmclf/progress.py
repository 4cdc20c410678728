"""Status lines and warnings that don't break a progress bar, on a standard error that may be broken."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .printable import printable


class LenientStream(io.TextIOBase):
    """Text stream that drops what its target can't write: a closed pipe or a full disk never ends a training.

    Parameters
    ----------
    target : callable
        Returns the text stream that is written to, or ``None``.
    """

    def __init__(self, target: Callable[[], Any]) -> None:
        self._find = target

    @property
    def _target(self) -> Any:
        return self._find()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text stream writes str, not {type(text).__name__}")
        target = self._target
        with suppress(OSError, ValueError, AttributeError):  # ValueError: closed; AttributeError: None
            if os.name == "posix" and type(target) is io.TextIOWrapper:
                # Not through the buffer: text left in it would fail again when Python exits, and change the exit code.
                target.flush()
                # An encoding that has no such character must not lose the line either.
                content = text.encode(target.encoding, "backslashreplace")
                while content:
                    content = content[os.write(target.fileno(), content) :]
            else:
                target.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._target.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._target.isatty())
        return False

    def fileno(self) -> int:
        target = self._target
        if target is None:
            raise io.UnsupportedOperation("fileno")
        return target.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._target, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self._target, "errors", None)

    def close(self) -> None:
        """Leaves the target open."""


# Standard error as it is at the time of writing: of status lines, warnings and progress bars.
STANDARD_ERROR = LenientStream(lambda: sys.stderr)


def say(line: str, progress: bool) -> None:
    """Writes a status line to standard error, above the progress bar; without ``progress`` it writes nothing."""
    if progress:
        from tqdm import tqdm

        tqdm.write(printable(line), file=STANDARD_ERROR)


def warn(line: str, progress: bool) -> None:
    """Warns of what differs from the request: a status line with ``progress``, a :class:`RuntimeWarning` without."""
    if progress:
        say(line, progress)
    else:
        warnings.warn(line, RuntimeWarning, stacklevel=3)
