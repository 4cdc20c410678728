"""ROC and precision-recall curves of each class against the others, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...pages.charts import Chart, Line, shares, thinned
from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult

FEW_CLASSES = 20
"""With more classes, the curves that a reader can choose have fewer points, for the size of the page."""
POINTS_OF_FEW, POINTS_OF_MANY = 120, 28
WORST = 3
"""Classes with the lowest average precision, whose curves are shown at first, beside the mean."""
GRID = np.linspace(0.0, 1.0, 101)
MEAN = "mean of all classes"
BLOCK = 64
"""Classes whose scores are copied at a time: a column of a large matrix is slow to read, and a copy of all is large."""


@dataclass(frozen=True)
class ClassCurves:
    """Curves of a class against the others, or their means over the classes.

    Attributes
    ----------
    name : str
    roc_area, average_precision : float
        Area under the ROC curve (trapezoids), and mean precision weighted by the gains in recall.
    roc : (ndarray, ndarray), float64
        False positive rate and true positive rate, from (0, 0) to (1, 1); points between others on one line are left
        out.
    precision_recall : (ndarray, ndarray), float64
        Recall, from the lowest to 1, and precision; where the recall stays, the first and the last point.
    """

    name: str
    roc_area: float
    average_precision: float
    roc: tuple[np.ndarray, np.ndarray]
    precision_recall: tuple[np.ndarray, np.ndarray]


def class_curves(name: str, has_class: np.ndarray, scores: np.ndarray) -> ClassCurves | None:
    """Both curves of a class, by one sort of its scores: for a thousand classes scikit-learn's two take seconds.

    Parameters
    ----------
    name : str
    has_class : ndarray of bool, shape [texts]
    scores : ndarray of float64, shape [texts]

    Returns
    -------
    ClassCurves or None
        ``None`` where all texts have the class, or none has.
    """
    positives = int(has_class.sum())
    negatives = len(has_class) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(-scores)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are one threshold
    hits = np.cumsum(has_class[order])[ends]
    predicted = ends + 1
    recall, precision = hits / positives, hits / predicted
    false_rate = np.concatenate([[0.0], (predicted - hits) / negatives])
    true_rate = np.concatenate([[0.0], recall])
    area = float((np.diff(false_rate) * (true_rate[1:] + true_rate[:-1])).sum() / 2)
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    # A thousand classes and 100,000 texts would have gigabytes of points; a class has few texts, and few corners.
    turns = (np.diff(hits, 2, prepend=0) != 0) | (np.diff(predicted - hits, 2, prepend=0) != 0)
    corners = np.concatenate([[True], turns, [True]])
    found = np.diff(hits) != 0
    steps = np.concatenate([[True], found[:-1] | found[1:], [True]])[: len(hits)]
    curve = np.append(0.0, recall[steps]), np.append(precision[0], precision[steps])
    return ClassCurves(name, area, average, (false_rate[corners], true_rate[corners]), curve)


def curves_of(result: EvaluationResult | MultiLabelResult) -> dict[int, ClassCurves]:
    """Curves by index of the class; of two classes with one label per text, those of the second alone."""
    one = isinstance(result, EvaluationResult)
    classes = range(1, 2) if one and len(result.classes) == 2 else range(len(result.classes))
    found = {}
    for c in classes:
        place = (c - classes.start) % BLOCK
        if place == 0:
            scores = np.ascontiguousarray(result.probabilities[:, c : c + BLOCK].T)
        has_class = result.labels == c if one else result.labels[:, c]
        curves = class_curves(str(result.classes[c]), has_class, scores[place])
        if curves is not None:
            found[c] = curves
    return found


def mean_curves(curves: Sequence[ClassCurves]) -> ClassCurves:
    """Means over the classes of the true positive rates, of the precisions and of both areas."""
    true_rates = [np.interp(GRID, *each.roc) for each in curves]
    precisions = []
    for each in curves:
        recall, precision = each.precision_recall
        # The precision of the first threshold that reaches the recall.
        precisions.append(precision[np.searchsorted(recall, np.maximum(GRID, GRID[1]) - 1e-12)])
    return ClassCurves(
        MEAN,
        float(np.mean([each.roc_area for each in curves])),
        float(np.mean([each.average_precision for each in curves])),
        (np.concatenate([[0.0], GRID]), np.concatenate([[0.0], np.mean(true_rates, axis=0)])),
        (GRID, np.mean(precisions, axis=0)),
    )


def shown_curves(curves: dict[int, ClassCurves]) -> list[ClassCurves]:
    """The only curve; or the mean, and the classes with the lowest average precision."""
    if len(curves) == 1:
        return list(curves.values())
    worst = sorted(curves.values(), key=lambda each: each.average_precision)[:WORST]
    return [mean_curves(list(curves.values())), *worst] if curves else []


def curve_charts(shown: Sequence[ClassCurves]) -> list[Chart]:
    """The ROC chart and the precision-recall chart of some curves."""
    roc, recall = [], []
    for style, each in enumerate(shown):
        roc.append(Line(f"{each.name}: area {each.roc_area:.4f}", *_thin(each.roc, POINTS_OF_FEW), style))
        name = f"{each.name}: average precision {each.average_precision:.4f}"
        recall.append(Line(name, *_thin(each.precision_recall, POINTS_OF_FEW), style))
    return [
        Chart(
            "roc",
            "ROC",
            "; ".join(line.name for line in roc),
            shares("false positive rate"),
            shares("true positive rate"),
            lines=roc,
            diagonal=True,
        ),
        Chart(
            "recall",
            "Precision and recall",
            "; ".join(line.name for line in recall),
            shares("recall"),
            shares("precision"),
            lines=recall,
        ),
    ]


def curve_data(curves: dict[int, ClassCurves]) -> dict[str, Any]:
    """Curves by index of the class, for the script: thousandths of x and y, and both areas."""
    most = POINTS_OF_FEW if len(curves) <= FEW_CLASSES else POINTS_OF_MANY
    return {
        str(c): {
            "roc_area": each.roc_area,
            "average_precision": each.average_precision,
            "roc": _thousandths(each.roc, most),
            "recall": _thousandths(each.precision_recall, most),
        }
        for c, each in curves.items()
    }


def _thin(curve: tuple[np.ndarray, np.ndarray], most: int) -> tuple[list[float], list[float]]:
    x, y = thinned(*curve, most)
    return x.tolist(), y.tolist()


def _thousandths(curve: tuple[np.ndarray, np.ndarray], most: int) -> list[list[int]]:
    return [np.rint(1000 * values).astype(int).tolist() for values in thinned(*curve, most)]
