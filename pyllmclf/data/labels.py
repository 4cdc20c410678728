"""Class names in a stable order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
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
    def fit(cls, data: TextData) -> LabelEncoder:
        """Collects the classes of ``data``.

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
        return cls(classes)

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
                known = ", ".join(repr(n) for n in self.names[:12]) + (", ..." if len(self.names) > 12 else "")
                raise DataError(f"{data.where(row)}: the label {label!r} is unknown; the classes are {known}.")
            encoded[row] = found
        return encoded

    def decode(self, indices: Sequence[int] | np.ndarray) -> list[Label]:
        """Labels of class indices, as they were in training."""
        return [self.classes[int(i)] for i in indices]
