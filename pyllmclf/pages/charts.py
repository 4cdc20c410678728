"""Charts as numbers in the units of an SVG image, which the macro ``chart`` of ``macros.html`` draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 420, 280
"""Of the image, in its own units; about pixels where it is shown at its usual size."""
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 46
"""Margins around the plotted area, for the labels of the axes."""


TICKS = 5
"""Steps between the numbers of an axis, at most."""


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes
    ----------
    label : str
    low, high : float
        Values at its ends.
    ticks : sequence of (float, str)
        Values with a line, and their text.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes
    ----------
    name : str
    x, y : sequence of float
        Values on the axes.
    style : int
        Number of its colour and dashes.
    marked : bool
        Whether its points are marked.
    joined : bool
        Whether they are joined.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    marked: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Bar:
    """A bar from ``low`` to ``high`` on the y axis, between two values of the x axis, with a text that explains it."""

    left: float
    right: float
    low: float
    high: float
    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Range:
    """A vertical range, such as an interval, at a value of the x axis."""

    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes
    ----------
    name : str
        Word that identifies it in the page.
    title, description : str
        What a screen reader says of it; its figures are in a table beside it.
    x, y : Axis
    lines, bars, ranges
        Bars are drawn first, then ranges and lines.
    diagonal : bool
        Whether a dotted line leads from the lower left to the upper right corner.
    """

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    ranges: Sequence[Range] = field(default=())
    diagonal: bool = False

    def left(self, value: float) -> float:
        """Place of a value of the x axis."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def top(self, value: float) -> float:
        """Place of a value of the y axis."""
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def points(self, line: Line) -> str:
        """The points of a line, as the attribute of a polyline."""
        return " ".join(f"{self.left(x):g},{self.top(y):g}" for x, y in zip(line.x, line.y, strict=True))

    def marks(self, line: Line) -> Iterator[tuple[float, float]]:
        """Places of the marked points of a line."""
        if line.marked:
            yield from ((self.left(x), self.top(y)) for x, y in zip(line.x, line.y, strict=True))


def shares(label: str) -> Axis:
    """An axis of shares, from 0 to 1."""
    return Axis(label, 0.0, 1.0, [(value / 5, f"{value / 5:g}") for value in range(6)])


def numbers(label: str, low: float, high: float, *, integers: bool = False, zero: bool = False) -> Axis:
    """An axis with at most six round numbers on it: multiples of 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    label : str
    low, high : float
        Least and greatest value; they may be equal.
    integers : bool
        Whether only integers are ticks.
    zero : bool
        Whether it begins at 0.
    """
    low = 0.0 if zero else low
    high = high if high > low else low + 1.0
    power = 10.0 ** np.floor(np.log10((high - low) / TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * TICKS >= high - low)
    step = max(1.0, step) if integers else step
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    ticks = [(place * step, f"{place * step:,.{digits}f}") for place in range(first, last + 1)]
    return Axis(label, low, high, ticks)


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a curve, evenly along its length, its ends among them.

    Parameters
    ----------
    x, y : ndarray of float64, shape [points]
    most : int
        At least 2.
    """
    if len(x) <= most:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.searchsorted(length, np.linspace(0.0, length[-1], most - 1))
    rows = np.unique(np.concatenate([wanted, [len(x) - 1]]))
    return x[rows], y[rows]
