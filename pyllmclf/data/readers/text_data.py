"""Texts with their labels and their places in the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import DataError
from ...text_pair import Text, TextPair, is_blank

# Booleans are integers of Python's, too; floats are numbers with fractions, whose classes are text.
Label = str | int | float
# The label of one text, or all its labels where texts may have several.
Labels = Label | tuple[Label, ...]
# Labels that are integers: of 64 bits, signed or not, as NumPy and Arrow hold them. Longer ones are text.
INTEGERS = range(-(2**63), 2**64)


@dataclass(frozen=True)
class Fault:
    """A row that can't be used.

    Attributes
    ----------
    kind : {"missing text", "missing label", "text", "label", "row"}
        What is missing, or is of a type that can't be used; ``"row"`` where the row itself can't be read.
    where : str
        Place of the row, for a message.
    problem : str
        What is wrong with it.
    """

    kind: str
    where: str
    problem: str

    @property
    def is_missing(self) -> bool:
        """Whether the text or the label is missing, rather than of another type."""
        return self.kind.startswith("missing")


@dataclass(frozen=True)
class TextData:
    """Texts, their labels, and the place of each in the source.

    Attributes
    ----------
    texts : list of str, or of TextPair
    labels : list of str or int, or None
        ``None`` for unlabelled data; a list of tuples where texts may have several labels.
    origin : str
        File or kind of object, for messages.
    lines : list of int, or None
        Line of the file on which each row begins (1-based); ``None`` for sources without lines.
    skipped : int
        Number of rows left out because their text was empty, or their text or label missing.
    rows : list of int, or None
        Index of each row in a source without lines (0-based); ``None`` if no row was left out or moved.
    weights : list of float, or None
        Weight of each training text, finite and not negative.
    untyped : bool
        Whether the source is text, and its labels are strings until :func:`pyllmclf.data.label_types.settle_types`.
    faults : tuple of Fault
        Rows that can't be used, where they are counted instead of raised.
    """

    texts: list[Text]
    labels: list[Any] | None
    origin: str
    lines: list[int] | None = None
    skipped: int = 0
    rows: list[int] | None = None
    weights: list[float] | None = None
    untyped: bool = False
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def has_pairs(self) -> bool:
        """Whether the texts are pairs."""
        return bool(self.texts) and isinstance(self.texts[0], TextPair)

    def where(self, row: int) -> str:
        """Name of row ``row`` (0-based) for a message."""
        if self.lines is not None:
            return f"{self.origin}, line {self.lines[row]}"
        return f"{self.origin}, row {row if self.rows is None else self.rows[row]}"

    def select(self, rows: Sequence[int]) -> TextData:
        """The rows with these indices, in this order."""
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            labels=None if self.labels is None else [self.labels[i] for i in rows],
            lines=None if self.lines is None else [self.lines[i] for i in rows],
            rows=None if self.lines is not None else [i if self.rows is None else self.rows[i] for i in rows],
            weights=None if self.weights is None else [self.weights[i] for i in rows],
        )


def mixed_texts(where: str) -> DataError:
    """The error of a text that is a pair where others are single, or the other way round."""
    return DataError(f"{where}: some texts are pairs, and others are single; all must be alike.")


def joined_data(parts: Sequence[TextData], origin: str) -> TextData:
    """The rows of all parts, one below the other; weights only if all parts have them.

    Raises
    ------
    DataError
        If some have pairs of texts, and others single ones.
    """
    filled = [part for part in parts if len(part)]
    for part in filled:
        if part.has_pairs != filled[0].has_pairs:
            raise mixed_texts(part.where(0))
    labels = [part.labels for part in parts if part.labels is not None]
    weights = [part.weights for part in parts if part.weights is not None]
    return TextData(
        texts=[text for part in parts for text in part.texts],
        labels=[label for part in labels for label in part] if len(labels) == len(parts) else None,
        origin=origin,
        skipped=sum(part.skipped for part in parts),
        weights=[weight for part in weights for weight in part] if len(weights) == len(parts) else None,
        untyped=all(part.untyped for part in parts),
        faults=tuple(fault for part in parts for fault in part.faults),
    )


def without_empty(data: TextData, empty_texts: str) -> TextData:
    """Applies ``empty_texts`` to texts that are empty or white space, and to pairs of which one text is.

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
    rows = [row for row, text in enumerate(data.texts) if not is_blank(text)]
    if len(rows) == len(data):
        return data
    if empty_texts == "error":
        first = next(row for row, text in enumerate(data.texts) if is_blank(text))
        raise DataError(f"{data.where(first)}: the text is empty or white space ({len(data) - len(rows):,} are).")
    if not rows:
        raise DataError(f"{data.origin}: every text is empty or white space; none is left.")
    return replace(data.select(rows), skipped=data.skipped + len(data) - len(rows))
