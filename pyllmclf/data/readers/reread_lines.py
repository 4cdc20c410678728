"""Lines that a reader can have again, where the row that they seemed to be of is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

# Most lines that are read again: a file in which every quote seems to go on to the end would be read once for each.
MOST = 1_000_000


class RereadLines:
    """Lines of a file, of which those of the current row are kept.

    Parameters
    ----------
    lines : iterator of str
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._row: list[str] = []
        self._again: deque[str] = deque()
        self._count = 0

    def __iter__(self) -> RereadLines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._row.append(line)
        return line

    def forget(self) -> None:
        """Ends the current row."""
        self._row.clear()

    def again_after_first(self) -> bool:
        """Gives all lines of the current row but the first again; whether that is few enough."""
        self._count += len(self._row) - 1
        if self._count > MOST:
            return False
        self._again.extendleft(reversed(self._row[1:]))
        self._row.clear()
        return True
