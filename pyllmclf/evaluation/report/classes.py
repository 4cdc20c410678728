"""The table of the classes, the one with the lowest F1 first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult
from .curves import ClassCurves


@dataclass(frozen=True)
class ClassRow:
    """A class in the table.

    Attributes
    ----------
    name : str
    precision, recall, f1 : float
    texts, predicted : int
        Number of texts that have the class, and of those for which it is predicted.
    roc_area, average_precision : float or None
        ``None`` where the class has no curves.
    """

    name: str
    precision: float
    recall: float
    f1: float
    texts: int
    predicted: int
    roc_area: float | None
    average_precision: float | None


def class_rows(result: EvaluationResult | MultiLabelResult, curves: dict[int, ClassCurves]) -> list[ClassRow]:
    """A row for each class, from the lowest F1 on; of classes with the same F1, those with most texts first.

    Classes that neither a text nor a prediction has come last.
    """
    predicted = predicted_texts(result)
    rows = []
    for c, (name, figures) in enumerate(result.per_class.items()):
        areas = (curves[c].roc_area, curves[c].average_precision) if c in curves else (None, None)
        row = ClassRow(
            str(name), figures.precision, figures.recall, figures.f1, figures.support, int(predicted[c]), *areas
        )
        rows.append(row)
    return sorted(rows, key=lambda row: (not (row.texts or row.predicted), row.f1, -row.texts))


def predicted_texts(result: EvaluationResult | MultiLabelResult) -> np.ndarray:
    """Number of texts for which each class is predicted, int64, shape [classes]."""
    if isinstance(result, EvaluationResult):
        return np.bincount(result.predictions, minlength=len(result.classes))
    return result.predictions.sum(axis=0)
