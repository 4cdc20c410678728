"""Plots of an evaluation, each an ``<svg>`` element that stands in a page by itself."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ..printable import printable
from .metrics import EvaluationResult
from .statistics import BINS, Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = "#1f77b4", "#999999"
SIZE = (5.0, 3.6)  # inches
CONFUSION_CLASSES = 40  # of the plot of the confusion matrix


def confusion(result: EvaluationResult) -> str:
    """Number of texts by true and predicted class; the shade is the fraction of the true class.

    Of more than 40 classes, those with the most wrong predictions.
    """
    rows = _most_confused(result)
    figure, axes = _figure(max(SIZE[1], 1.6 + 0.35 * len(rows)))
    counts = _confusion_of(result, rows)
    totals = np.bincount(result.labels, minlength=len(result.classes))[rows]
    shares = counts / np.maximum(totals[:, None], 1)
    axes.pcolormesh(
        np.arange(-0.5, len(shares)), np.arange(-0.5, len(shares)), shares, cmap="Blues", vmin=0.0, vmax=1.0
    )
    axes.invert_yaxis()
    names = [_short(result.classes[row]) for row in rows]
    axes.set_xticks(
        range(len(names)), names, rotation=30 if len(names) > 3 else 0, ha="right" if len(names) > 3 else "center"
    )
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _svg(figure)


def _most_confused(result: EvaluationResult) -> np.ndarray:
    """Indices of the classes that the confusion matrix shows, in order."""
    classes = len(result.classes)
    if classes <= CONFUSION_CLASSES:
        return np.arange(classes)
    wrong = ~result.right
    confused = np.bincount(np.concatenate([result.labels[wrong], result.predictions[wrong]]), minlength=classes)
    return np.sort(np.argsort(-confused, kind="stable")[:CONFUSION_CLASSES])


def _confusion_of(result: EvaluationResult, rows: np.ndarray) -> np.ndarray:
    """The confusion matrix of some classes, int64, shape [rows, rows]."""
    place = np.full(len(result.classes), -1)
    place[rows] = np.arange(len(rows))
    true, predicted = place[result.labels], place[result.predictions]
    shown = (true >= 0) & (predicted >= 0)
    counts = np.zeros((len(rows), len(rows)), dtype=np.int64)
    np.add.at(counts, (true[shown], predicted[shown]), 1)
    return counts


def roc(result: EvaluationResult) -> str:
    """True over false positive rate of each class against the others; of two classes, the second only."""
    from sklearn.metrics import auc, roc_curve

    figure, axes = _figure()
    for c in _curves(result):
        is_class = result.labels == c
        if 0 < is_class.sum() < len(is_class):
            false_positives, true_positives, _ = roc_curve(is_class, result.probabilities[:, c])
            area = auc(false_positives, true_positives)
            axes.plot(false_positives, true_positives, label=f"{_short(result.classes[c])}: area {area:.4f}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    return _curve(figure, axes, "false positive rate", "true positive rate")


def precision_recall(result: EvaluationResult) -> str:
    """Precision over recall of each class against the others; of two classes, the second only."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _figure()
    for c in _curves(result):
        is_class = result.labels == c
        if is_class.any():
            precision, recall, _ = precision_recall_curve(is_class, result.probabilities[:, c])
            area = average_precision_score(is_class, result.probabilities[:, c])
            axes.plot(recall, precision, label=f"{_short(result.classes[c])}: average precision {area:.4f}")
    return _curve(figure, axes, "recall", "precision")


def reliability(calibration: Calibration) -> str:
    """Accuracy over confidence, and the fraction of the texts in each bin of confidence."""
    figure, axes = _figure()
    middles = (np.arange(BINS) + 0.5) / BINS
    share = calibration.counts / max(1, calibration.counts.sum())
    axes.bar(middles, share, width=0.9 / BINS, color="#dddddd", label="share of the texts")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="calibrated")
    filled = calibration.counts > 0
    axes.plot(calibration.confidence[filled], calibration.accuracy[filled], "o-", color=BLUE, label="accuracy")
    return _curve(figure, axes, "probability of the predicted class", "accuracy", "upper left")


def lengths(tokens: np.ndarray) -> str:
    """Histogram of the lengths of texts in tokens, int64, shape [texts]."""
    figure, axes = _figure()
    axes.hist(tokens, bins=min(40, max(5, int(tokens.max()))), color=BLUE)
    axes.set_xlabel("tokens that the model reads")
    axes.set_ylabel("texts")
    return _svg(figure)


def training(history: list[dict[str, float]]) -> str:
    """Loss and accuracy of training and validation texts by epoch; ``history`` has a record per epoch."""
    figure, axes = _figure()
    epochs = [record["epoch"] for record in history]
    accuracy_axes = axes.twinx()
    for split, style in (("train", "--"), ("validation", "-")):
        for name, target, color in (("loss", axes, BLUE), ("accuracy", accuracy_axes, "#d62728")):
            known = [record for record in history if record.get(f"{split}_{name}") is not None]
            if known:
                at, values = [record["epoch"] for record in known], [record[f"{split}_{name}"] for record in known]
                target.plot(at, values, style, color=color, marker="o", markersize=3, label=f"{name}, {split}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    accuracy_axes.set_ylabel("accuracy")
    axes.set_xticks(epochs if len(epochs) <= 12 else epochs[:: -(-len(epochs) // 12)])
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return _svg(figure)


def _curves(result: EvaluationResult) -> range:
    """Indices of the classes that get a curve, at most 10."""
    return range(1, 2) if len(result.classes) == 2 else range(min(len(result.classes), 10))


def _figure(height: float = SIZE[1]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    return figure, figure.subplots()


def _curve(figure: Figure, axes: Axes, x: str, y: str, legend: str = "best") -> str:
    """The SVG of a curve in the unit square, with labels of both axes."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=legend, fontsize=8)  # type: ignore[call-overload]
    return _svg(figure)


def _short(label: Any) -> str:
    """A class name of at most 20 characters; control characters and dollar signs, which begin formulas, are escaped."""
    name = printable(str(label))
    name = name if len(name) <= 20 else name[:19] + "…"
    return name.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    """The ``<svg>`` element without XML header, and without a date, so that the same figure has the same bytes."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyllmclf"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return re.sub(r"^.*?(?=<svg)", "", text, flags=re.DOTALL)
