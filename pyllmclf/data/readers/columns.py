"""The columns that hold texts, labels and weights, and the values of a row in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...text_pair import TextPair
from .missing import is_missing

# A column named by its name, or by its number from 0 where none has that name.
Column = str | int


@dataclass(frozen=True)
class Columns:
    """Places of the columns that are read.

    Attributes
    ----------
    names : tuple of str
        Names of all columns.
    texts : tuple of int
        Columns of the texts, which are joined.
    label : int or None
    weight : int or None
    pair : int or None
        Column of the second texts, where the texts are pairs.
    """

    names: tuple[str, ...]
    texts: tuple[int, ...]
    label: int | None
    weight: int | None = None
    pair: int | None = None

    @property
    def text_names(self) -> tuple[str, ...]:
        """Names of the columns of the texts."""
        return tuple(self.names[i] for i in self.texts)

    @property
    def label_name(self) -> str | None:
        """Name of the column of the labels."""
        return None if self.label is None else self.names[self.label]

    @property
    def pair_name(self) -> str | None:
        """Name of the column of the second texts."""
        return None if self.pair is None else self.names[self.pair]

    @property
    def weight_name(self) -> str | None:
        """Name of the column of the weights."""
        return None if self.weight is None else self.names[self.weight]

    @property
    def places(self) -> tuple[int, ...]:
        """Places of all columns that are read, each once."""
        others = (place for place in (self.pair, self.label, self.weight) if place is not None)
        return tuple(dict.fromkeys((*self.texts, *others)))

    def text(self, row: Sequence[Any]) -> Any:
        """Text of a row, see :func:`joined`, or :class:`TextPair`, whose values are not checked."""
        text = row[self.texts[0]] if len(self.texts) == 1 else joined([row[i] for i in self.texts])
        return text if self.pair is None else TextPair(text, row[self.pair])

    def texts_of(self, columns: Mapping[int, Sequence[Any]]) -> list[Any]:
        """Text of each row, as :meth:`text`, of the values of the columns by their places."""
        parts = [columns[i] for i in self.texts]
        texts = list(parts[0]) if len(parts) == 1 else [joined(row) for row in zip(*parts, strict=True)]
        return texts if self.pair is None else list(map(TextPair, texts, columns[self.pair]))

    @property
    def text_places(self) -> tuple[int, ...]:
        """Places of the columns of texts, the second texts' last."""
        return self.texts if self.pair is None else (*self.texts, self.pair)

    def text_of(self, record: Mapping[str, Any], where: str) -> Any:
        """Text of a record, whose keys are the columns; only the first of several columns is required.

        Raises
        ------
        DataError
            If it has no such key; ``where`` names the record.
        """
        first, *others = self.text_names
        value = _required(record, first, where)
        text = joined([value, *(record.get(name) for name in others)]) if others else value
        return text if self.pair_name is None else TextPair(text, _required(record, self.pair_name, where))

    def label_of(self, record: Mapping[str, Any], where: str) -> Any:
        """Label of a record; raises as :meth:`text_of`."""
        assert self.label_name is not None
        return _required(record, self.label_name, where)

    def weight_of(self, record: Mapping[str, Any], where: str) -> Any:
        """Weight of a record; raises as :meth:`text_of`."""
        assert self.weight_name is not None
        return _required(record, self.weight_name, where)


def _required(record: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise DataError(f"{where}: the object has no {name!r}.")
    return record[name]


def joined(parts: Sequence[Any]) -> Any:
    """The parts of a text with a space between them, without those that are missing, empty or white space.

    A part that is no string is returned instead of a text, for the check of values to refuse; ``None`` if all parts
    are missing.
    """
    present = [part for part in parts if not (is_missing(part) or (isinstance(part, str) and not part.strip()))]
    wrong = [part for part in present if not isinstance(part, str)]
    if wrong:
        return wrong[0]
    if not present:
        return "" if any(isinstance(part, str) for part in parts) else None
    return " ".join(present)
