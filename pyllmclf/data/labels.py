"""Class names in a stable order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..settings import LABEL_SEPARATOR
from .readers import Label, TextData


@dataclass(frozen=True)
class LabelEncoder:
    """Maps labels to class indices and back.

    Integers are sorted by value, strings by code point; a mixture counts as strings. A classifier that was trained on
    integers accepts their decimal strings too, so that a CSV file can be evaluated.

    Attributes
    ----------
    classes : tuple of str or int
    """

    classes: tuple[Label, ...]

    @classmethod
    def fit(cls, data: TextData, order: Sequence[Label] | None = None) -> LabelEncoder:
        """Collects the classes of ``data``; where they are those of ``order``, these in their order.

        Raises
        ------
        DataError
            If there are fewer than two classes.
        """
        assert data.labels is not None
        distinct = set(data.labels)
        classes: tuple[Label, ...]
        if all(isinstance(label, int) for label in distinct):
            classes = tuple(sorted(distinct))
        else:
            classes = tuple(sorted({str(label) for label in distinct}))
        if len(classes) < 2:
            raise DataError(f"{data.origin}: every text has the label {classes[0]!r}; at least two classes are needed.")
        return cls(_ordered(classes, order))

    @property
    def names(self) -> list[str]:
        """Class names as strings, in order."""
        return [str(c) for c in self.classes]

    def encode(self, data: TextData) -> np.ndarray:
        """Class index of every row, int64.

        Raises
        ------
        DataError
            If a label is none of the classes; with file and line.
        """
        assert data.labels is not None
        index = {name: i for i, name in enumerate(self.names)}
        encoded = np.empty(len(data), dtype=np.int64)
        for row, label in enumerate(data.labels):
            found = index.get(str(label))
            if found is None:
                raise DataError(_unknown(data, row, label, self.names))
            encoded[row] = found
        return encoded

    def decode(self, indices: Sequence[int] | np.ndarray) -> list[Label]:
        """Labels of class indices, as they were in training."""
        return [self.classes[int(i)] for i in indices]


@dataclass(frozen=True)
class MultiLabelEncoder:
    """The same for texts that may have several labels, or none.

    Attributes
    ----------
    classes : tuple of str or int
    separator : str
        What stands between labels in a string.
    """

    classes: tuple[Label, ...]
    separator: str = LABEL_SEPARATOR

    @classmethod
    def fit(
        cls, data: TextData, separator: str, rest: TextData | None = None, order: Sequence[Label] | None = None
    ) -> MultiLabelEncoder:
        """Collects the classes of ``data`` and of ``rest``; where they are those of ``order``, these in their order.

        Raises
        ------
        DataError
            If there are fewer than two classes.
        """
        parts = [data.labels, *([] if rest is None else [rest.labels])]
        distinct = {label for labels in parts for own in labels or () for label in own}
        if len({str(label) for label in distinct}) < 2:
            raise DataError(f"{data.origin}: the texts have {len(distinct)} labels; at least two classes are needed.")
        if all(isinstance(label, int) for label in distinct):
            return cls(_ordered(tuple(sorted(distinct)), order), separator)
        return cls(_ordered(tuple(sorted({str(label) for label in distinct})), order), separator)

    @property
    def names(self) -> list[str]:
        """Class names as strings, in order."""
        return [str(c) for c in self.classes]

    def encode(self, data: TextData) -> np.ndarray:
        """1 where a text has a class, float32, shape [texts, classes].

        Raises
        ------
        DataError
            If a label is none of the classes; with file and line.
        """
        assert data.labels is not None
        index = {name: i for i, name in enumerate(self.names)}
        encoded = np.zeros((len(data), len(index)), dtype=np.float32)
        for row, labels in enumerate(data.labels):
            for label in labels:
                if str(label) not in index:
                    raise DataError(_unknown(data, row, label, self.names))
                encoded[row, index[str(label)]] = 1.0
        return encoded

    def decode(self, indicator: np.ndarray) -> list[list[Label]]:
        """Labels of each row of [texts, classes], in the order of the classes."""
        return [[self.classes[i] for i in np.flatnonzero(row)] for row in indicator]


def _ordered(classes: tuple[Label, ...], order: Sequence[Label] | None) -> tuple[Label, ...]:
    """The classes of ``order``, where they are the same by their strings."""
    same = order is not None and sorted(map(str, order)) == sorted(map(str, classes))
    return tuple(order) if same and order is not None else classes


def _unknown(data: TextData, row: int, label: Label, names: list[str]) -> str:
    known = ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{data.where(row)}: the label {label!r} is unknown; the classes are {known}."
