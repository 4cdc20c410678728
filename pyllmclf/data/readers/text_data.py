"""Texts with their labels and their places in the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import DataError

Label = str | int
# The label of one text, or all its labels where texts may have several.
Labels = Label | tuple[Label, ...]


@dataclass(frozen=True)
class TextData:
    """Texts, their labels, and the place of each in the source.

    Attributes
    ----------
    texts : list of str
    labels : list of str or int, or None
        ``None`` for unlabelled data; a list of tuples where texts may have several labels.
    origin : str
        File or kind of object, for messages.
    lines : list of int, or None
        Line of the file on which each row begins (1-based); ``None`` for sources without lines.
    skipped : int
        Number of rows left out because their text was empty.
    rows : list of int, or None
        Index of each row in a source without lines (0-based); ``None`` if no row was left out or moved.
    weights : list of float, or None
        Weight of each training text, finite and not negative.
    """

    texts: list[str]
    labels: list[Any] | None
    origin: str
    lines: list[int] | None = None
    skipped: int = 0
    rows: list[int] | None = None
    weights: list[float] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, row: int) -> str:
        """Name of row ``row`` (0-based) for a message."""
        if self.lines is not None:
            return f"{self.origin}, line {self.lines[row]}"
        return f"{self.origin}, row {row if self.rows is None else self.rows[row]}"

    def select(self, rows: Sequence[int]) -> TextData:
        """The rows with these indices, in this order."""
        return TextData(
            texts=[self.texts[i] for i in rows],
            labels=None if self.labels is None else [self.labels[i] for i in rows],
            origin=self.origin,
            lines=None if self.lines is None else [self.lines[i] for i in rows],
            skipped=self.skipped,
            rows=None if self.lines is not None else [i if self.rows is None else self.rows[i] for i in rows],
            weights=None if self.weights is None else [self.weights[i] for i in rows],
        )


def joined_data(parts: Sequence[TextData], origin: str) -> TextData:
    """The rows of all parts, one below the other; weights only if all parts have them."""
    labels = [part.labels for part in parts if part.labels is not None]
    weights = [part.weights for part in parts if part.weights is not None]
    return TextData(
        texts=[text for part in parts for text in part.texts],
        labels=[label for part in labels for label in part] if len(labels) == len(parts) else None,
        origin=origin,
        skipped=sum(part.skipped for part in parts),
        weights=[weight for part in weights for weight in part] if len(weights) == len(parts) else None,
    )


def without_empty(data: TextData, empty_texts: str) -> TextData:
    """Applies ``empty_texts`` to texts that are empty or white space.

    Parameters
    ----------
    data : TextData
    empty_texts : {"keep", "skip", "error"}
        Whether such texts stay, are left out and counted in ``skipped``, or raise.

    Raises
    ------
    DataError
        If there is one and ``empty_texts`` is ``"error"``, or if no other text remains.
    """
    if empty_texts == "keep":
        return data
    rows = [row for row, text in enumerate(data.texts) if text.strip()]
    if len(rows) == len(data):
        return data
    if empty_texts == "error":
        first = next(row for row, text in enumerate(data.texts) if not text.strip())
        raise DataError(f"{data.where(first)}: the text is empty or white space ({len(data) - len(rows):,} are).")
    if not rows:
        raise DataError(f"{data.origin}: every text is empty or white space; none is left.")
    return replace(data.select(rows), skipped=data.skipped + len(data) - len(rows))
