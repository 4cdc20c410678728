"""Results as lines and tables: text for terminals, HTML for notebooks, and a line for ``repr``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .printable import printable

_GAP = "  "


@dataclass(frozen=True)
class Line:
    """A line of text.

    Attributes
    ----------
    text : str
    title : str
        Words before it, in bold where the output has bold type.
    """

    text: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes
    ----------
    header : sequence of str
    rows : sequence of sequence of str
    left : int
        Number of columns whose cells begin at the left, as names do; those of numbers end at the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


Part = Line | Table


def as_text(parts: Sequence[Part]) -> str:
    """Lines and aligned tables, which are as wide as their cells; control characters are escaped."""
    return "\n".join(line for part in parts for line in _text_lines(part))


def _text_lines(part: Part) -> Iterator[str]:
    if isinstance(part, Line):
        yield printable(part.title + part.text)
        return
    from rich.cells import cell_len  # columns of a terminal: a Chinese character takes two

    rows = [[printable(cell) for cell in row] for row in (part.header, *part.rows)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            cells.append(cell + space if place < part.left else space + cell)
        yield _GAP.join(cells).rstrip()


def as_html(parts: Sequence[Part]) -> str:
    """The same as HTML, everything escaped."""
    return "".join(map(_html, parts))


def _html(part: Part) -> str:
    def shown(text: str) -> str:
        return escape(printable(text))

    if isinstance(part, Line):
        title = f"<b>{shown(part.title)}</b>" if part.title else ""
        return f"<div>{title}{shown(part.text)}</div>"
    head = "".join(f"<th>{shown(cell)}</th>" for cell in part.header)
    body = "".join(f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in row)}</tr>" for row in part.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Shown(ABC):
    """Base of results: a line as ``repr``, the command line's text as ``str``, a table in notebooks."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """Lines and tables of the result."""

    @abstractmethod
    def brief(self) -> dict[str, Any]:
        """What ``repr`` shows, by name."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={_short(value)}' for name, value in self.brief().items())})"

    def __str__(self) -> str:
        return as_text(self.parts())

    def _repr_html_(self) -> str:
        return as_html(self.parts())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    shown = printable(repr(value))
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
