"""Status lines, warnings and progress bars on a standard error that may be broken."""

from __future__ import annotations

import io
import os
import sys
import time
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

# Where there is no bar, a line follows after this many seconds, or after this share of the work and a second.
LINE_SECONDS, LINE_SHARE, LEAST_SECONDS = 30.0, 0.1, 1.0


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


def progress_bar(
    total: int | None, unit: str, progress: bool, *, initial: int = 0, leave: bool = False, lines: bool = True
) -> Any:
    """Makes a progress bar for a terminal or a notebook; elsewhere an object that writes a line every so often.

    Parameters
    ----------
    total : int or None
        Units of work; ``None`` where their number is unknown.
    unit : str
        What a unit is, in the singular.
    progress : bool
        Whether anything is written.
    initial : int
        Units that are done already.
    leave : bool
        Whether the bar stays after its end.
    lines : bool
        Whether lines take the place of a bar.

    Returns
    -------
    object
        A context manager with the methods ``update(n)``, ``set_postfix_str(text, refresh)`` and ``close()`` of tqdm's.
    """
    kind = _bar_class() if progress and sys.stderr is not None else None
    if kind is None:
        return LineProgress(total, unit, initial, enabled=progress and lines)
    width = {"dynamic_ncols": True} if _has_width() else {"ncols": 80}
    return kind(total=total, initial=initial, unit=unit, file=STANDARD_ERROR, leave=leave, **width)


def _bar_class() -> Any:
    """tqdm's bar of notebooks or of terminals; ``None`` where standard error is neither."""
    if "IPython" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where ipywidgets is missing, lines take the place of bars
            from tqdm.auto import tqdm as auto
            from tqdm.notebook import tqdm_notebook
        if issubclass(auto, tqdm_notebook):
            return auto
    if not STANDARD_ERROR.isatty():
        return None
    from tqdm import tqdm

    return tqdm


def _has_width() -> bool:
    """Whether the terminal says how wide it is; some of containers say 0, and a bar of that width shows nothing."""
    try:
        return os.get_terminal_size(STANDARD_ERROR.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return True


class LineProgress:
    """Progress in lines: one every :data:`LINE_SECONDS`, or for every :data:`LINE_SHARE` of the work.

    Parameters
    ----------
    total, unit, initial
        As for :func:`progress_bar`.
    enabled : bool
        Whether anything is written.
    """

    def __init__(self, total: int | None, unit: str, initial: int = 0, *, enabled: bool = True) -> None:
        self.total, self.unit, self.initial, self.enabled = total, unit, initial, enabled
        self.done = self._shown = initial
        self.started = self._last = time.perf_counter()
        self._postfix = ""

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Does nothing: the last line stays."""

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Sets the text of the following lines."""
        self._postfix = text

    def update(self, n: int = 1) -> None:
        """Counts units as done, and writes a line if one is due."""
        self.done += n
        if not self.enabled or self.done == self.total:
            return
        waited = time.perf_counter() - self._last
        share = LINE_SHARE * self.total if self.total is not None else float("inf")
        if waited >= LINE_SECONDS or (waited >= LEAST_SECONDS and self.done - self._shown >= share):
            self._shown, self._last = self.done, time.perf_counter()
            say(self.line(), True)

    def line(self) -> str:
        """The line of this moment."""
        elapsed = time.perf_counter() - self.started
        parts = [f"{self.done:,} {self.unit}s"]
        if self.total is not None:
            parts = [f"{self.done:,}/{self.total:,} {self.unit}s ({self.done / self.total:.0%})"]
        parts += [self._postfix] if self._postfix else []
        parts += [duration(elapsed)]
        if self.total is not None and self.done > self.initial:
            left = elapsed * (self.total - self.done) / (self.done - self.initial)
            parts += [f"about {duration(left)} left"]
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A duration in words: ``42 s``, ``12 min``, ``3 h 20 min``, ``2 days 4 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days {hours % 24} h"
