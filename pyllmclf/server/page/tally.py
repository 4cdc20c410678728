"""Figures of an evaluation that is counted text by text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Tally:
    """Counts right and wrong labels.

    Parameters
    ----------
    classes : sequence of str

    Attributes
    ----------
    texts, right : int
        Number of texts, and of those whose labels are all right.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.texts = self.right = 0
        # Texts of a class by their given labels, by the predicted ones, and by both.
        self._given, self._predicted, self._both = np.zeros((3, len(self.classes)), dtype=np.int64)

    def add(self, given: Sequence[int], predicted: Sequence[int]) -> None:
        """Counts a text, by the indices of its classes."""
        self.texts += 1
        self.right += set(given) == set(predicted)
        for counts, found in (
            (self._given, given),
            (self._predicted, predicted),
            (self._both, set(given) & set(predicted)),
        ):
            for i in found:
                counts[i] += 1

    def figures(self) -> dict[str, Any]:
        """Accuracy, errors, macro-F1, and the classes that occur, worst first.

        As in :class:`pyllmclf.EvaluationResult`: 0 where a figure is undefined; macro-F1 is over classes that occur.
        """
        occurs = np.flatnonzero(self._given + self._predicted)
        precision = self._both / np.maximum(self._predicted, 1)
        recall = self._both / np.maximum(self._given, 1)
        f1 = 2 * self._both / np.maximum(self._given + self._predicted, 1)
        order = sorted(occurs, key=lambda i: (f1[i], -self._given[i], i))
        return {
            "labelled": self.texts,
            "errors": self.texts - self.right,
            "accuracy": self.right / self.texts if self.texts else None,
            "macro_f1": float(f1[occurs].mean()) if len(occurs) else None,
            "classes": [
                {
                    "class": self.classes[i],
                    "texts": int(self._given[i]),
                    "precision": float(precision[i]),
                    "recall": float(recall[i]),
                    "f1": float(f1[i]),
                }
                for i in order
            ],
        }
