"""Class names in a stable order, and labels as class indices."""

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
        In the order of the class indices.
    """

    classes: tuple[Label, ...]

    @classmethod
    def fit(cls, data: TextData, order: Sequence[Label] | None = None) -> LabelEncoder:
        """Collects the classes of labelled texts.

        Parameters
        ----------
        data : TextData
            Labelled.
        order : sequence of str or int, optional
            Replaces the sorted classes if it has the same ones, compared as strings.

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
        """Class index of each text, int64, shape [texts].

        Raises
        ------
        DataError
            If a label is not one of the classes; the message names file and line.
        """
        assert data.labels is not None
        index = {name: i for i, name in enumerate(self.names)}
        encoded = np.empty(len(data), dtype=np.int64)
        for row, label in enumerate(data.labels):
            class_index = index.get(str(label))
            if class_index is None:
                raise DataError(_unknown_label(data, row, label, self.names))
            encoded[row] = class_index
        return encoded

    def decode(self, indices: Sequence[int] | np.ndarray) -> list[Label]:
        """Labels of class indices, of the type that they had in training."""
        return [self.classes[int(i)] for i in indices]


@dataclass(frozen=True)
class MultiLabelEncoder:
    """:class:`LabelEncoder` for texts that may have several labels, or none.

    Attributes
    ----------
    classes : tuple of str or int
        In the order of the columns of :meth:`encode`.
    separator : str
        Separates the labels of a text where they are one string.
    """

    classes: tuple[Label, ...]
    separator: str = LABEL_SEPARATOR

    @classmethod
    def fit(
        cls, data: TextData, separator: str, other: TextData | None = None, order: Sequence[Label] | None = None
    ) -> MultiLabelEncoder:
        """Collects the classes of labelled texts.

        Parameters
        ----------
        data : TextData
            Labelled.
        separator : str
        other : TextData, optional
            More texts whose labels count.
        order : sequence of str or int, optional
            Replaces the sorted classes if it has the same ones, compared as strings.

        Raises
        ------
        DataError
            If there are fewer than two classes.
        """
        sources = [data] if other is None else [data, other]
        distinct = {label for source in sources for text_labels in source.labels or () for label in text_labels}
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
        """1 where a text has a class, else 0, float32, shape [texts, classes].

        Raises
        ------
        DataError
            If a label is not one of the classes; the message names file and line.
        """
        assert data.labels is not None
        index = {name: i for i, name in enumerate(self.names)}
        encoded = np.zeros((len(data), len(index)), dtype=np.float32)
        for row, labels in enumerate(data.labels):
            for label in labels:
                if str(label) not in index:
                    raise DataError(_unknown_label(data, row, label, self.names))
                encoded[row, index[str(label)]] = 1.0
        return encoded

    def decode(self, indicator: np.ndarray) -> list[list[Label]]:
        """Labels of each text, in the order of the classes, where the bool indicator [texts, classes] is set."""
        return [[self.classes[i] for i in np.flatnonzero(row)] for row in indicator]


def _ordered(classes: tuple[Label, ...], order: Sequence[Label] | None) -> tuple[Label, ...]:
    """``order`` if it holds the same classes, compared as strings; else ``classes``."""
    same = order is not None and sorted(map(str, order)) == sorted(map(str, classes))
    return tuple(order) if same and order is not None else classes


def _unknown_label(data: TextData, row: int, label: Label, names: list[str]) -> str:
    """Error message for a label that is not one of the classes."""
    known = ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{data.where(row)}: the label {label!r} is unknown; the classes are {known}."
