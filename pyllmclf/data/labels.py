"""Class names in a stable order, and labels as class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import DataError
from ..settings import LABEL_SEPARATOR
from .label_types import BOOLEAN, INTEGER, NUMBER, canonical, each_label, kind_of, near_duplicates, quoted
from .readers import Label, TextData


@dataclass(frozen=True)
class LabelEncoder:
    """Maps labels to class indices and back.

    Booleans and integers are sorted by value, strings by code point; numbers with fractions are strings in the order of
    their values, and a mixture counts as strings. A label of another type is the class whose name it spells: ``"1"``,
    ``"1.0"`` and ``1.0`` are the class ``1``, and ``"true"`` is ``True``.

    Attributes
    ----------
    classes : tuple of str, int or bool
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
        order : sequence of str, int or bool, optional
            Replaces the sorted classes if it has the same ones, whatever their types.

        Raises
        ------
        DataError
            If there are fewer than two classes.
        """
        classes = classes_of(data.labels or [])
        if len(classes) < 2:
            raise DataError(
                f"{data.origin}: every text has the label {quoted(str(classes[0]))}; at least two classes are needed."
            )
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
        find = class_finder(self.names)
        encoded = np.empty(len(data), dtype=np.int64)
        for row, label in enumerate(data.labels):
            class_index = find(label)
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
    classes : tuple of str, int or bool
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
        order : sequence of str, int or bool, optional
            Replaces the sorted classes if it has the same ones, whatever their types.

        Raises
        ------
        DataError
            If there are fewer than two classes.
        """
        classes = classes_of([label for source in (data, other) if source is not None for label in each_label(source)])
        if len(classes) < 2:
            raise DataError(f"{data.origin}: the texts have {len(classes)} labels; at least two classes are needed.")
        return cls(_ordered(classes, order), separator)

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
        find = class_finder(self.names)
        encoded = np.zeros((len(data), len(self.classes)), dtype=np.float32)
        for row, labels in enumerate(data.labels):
            for label in labels:
                class_index = find(label)
                if class_index is None:
                    raise DataError(_unknown_label(data, row, label, self.names))
                encoded[row, class_index] = 1.0
        return encoded

    def decode(self, indicator: np.ndarray) -> list[list[Label]]:
        """Labels of each text, in the order of the classes, where the bool indicator [texts, classes] is set."""
        return [[self.classes[i] for i in np.flatnonzero(row)] for row in indicator]


def classes_of(labels: Iterable[Label]) -> tuple[Label, ...]:
    """The distinct classes among labels, in order; see :class:`LabelEncoder`."""
    labels = list(labels)
    distinct: dict[str, Any] = {str(label): label for label in labels}
    kind = kind_of(labels)
    if kind in (BOOLEAN, INTEGER):
        return tuple(sorted(distinct.values()))
    return tuple(sorted(distinct, key=float) if kind == NUMBER else sorted(distinct))


def class_finder(names: Sequence[str]) -> Callable[[Label], int | None]:
    """A function from a label, of any type that spells a class, to the index of the class; ``None`` for others.

    Parameters
    ----------
    names : sequence of str
        Class names, in order.
    """
    exact = {name: i for i, name in enumerate(names)}
    alike: dict[str, int | None] = {}
    for i, name in enumerate(names):
        spelled = canonical(name)
        alike[spelled] = None if spelled in alike else i  # classes "1" and "1.0" of text: neither is meant by 1.00

    def find(label: Label) -> int | None:
        index = exact.get(str(label))
        return alike.get(canonical(label)) if index is None else index

    return find


def with_classes(data: TextData, encoder: LabelEncoder | MultiLabelEncoder) -> TextData:
    """Texts whose labels are those of an encoder: of its types and spelling.

    Raises
    ------
    DataError
        If a label is not one of the classes; the message names file and line.
    """
    assert data.labels is not None
    names, find = encoder.names, class_finder(encoder.names)

    def class_of(row: int, label: Label) -> Label:
        index = find(label)
        if index is None:
            raise DataError(_unknown_label(data, row, label, names))
        return encoder.classes[index]

    return replace(
        data,
        labels=[
            tuple(class_of(row, one) for one in label) if isinstance(label, tuple) else class_of(row, label)
            for row, label in enumerate(data.labels)
        ],
    )


def checked_classes(value: Any) -> tuple[Label, ...]:
    """The classes that a checkpoint records, checked.

    Raises
    ------
    TypeError
        Unless they are two or more distinct strings, booleans or integers, all of one type.
    """
    types = set(map(type, value)) if isinstance(value, (list, tuple)) else set()
    if types not in ({str}, {bool}, {int}):
        raise TypeError("classes must be strings, booleans or integers, all of one type")
    if len(value) < 2 or len(set(value)) < len(value) or "" in value:
        raise TypeError("classes must be two or more different ones")
    return tuple(value)


def _ordered(classes: tuple[Label, ...], order: Sequence[Label] | None) -> tuple[Label, ...]:
    """``order`` if it holds the same classes, whatever their types; else ``classes``."""
    if order is None:
        return classes
    find = class_finder([str(one) for one in order])
    same = {find(one) for one in classes} == set(range(len(order)))
    return tuple(order) if same else classes


def _unknown_label(data: TextData, row: int, label: Label, names: list[str]) -> str:
    """Error message for a label that is not one of the classes."""
    known = ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    line = f"{data.where(row)}: the label {label!r} is unknown; the classes are {known}"
    alike = [name for name in names if near_duplicates([name, str(label)])]
    return f"{line}; only white space, case or normalisation tell it from {quoted(alike[0])}." if alike else f"{line}."
