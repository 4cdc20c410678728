"""Intervals, calibration and thresholds of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import EvaluationResult
from .multi_label import MultiLabelResult

RESAMPLES, LEVEL, SEED = 1000, 0.95, 123
BINS = 10
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval (Efron 1979): percentiles over resampled texts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How probabilities meet frequencies, for the predicted class.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape [bins]
        Means of the texts in each of BINS equally wide bins of confidence; NaN where there is none.
    counts : ndarray of int64, shape [bins]
    ece : float
        Expected calibration error (Naeini et al. 2015): mean |accuracy - confidence| over the texts' bins.
    brier : float
        Mean squared distance of the probabilities to the true class (Brier 1950), summed over the classes.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    ece: float
    brier: float


def macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Mean F1 over the classes that occur among labels or predictions, of each row of [resamples, texts]."""
    scores, seen = np.zeros(len(labels)), np.zeros(len(labels))
    for c in range(classes):
        is_label, is_predicted = labels == c, predictions == c
        both = (is_label & is_predicted).sum(axis=1)
        either = is_label.sum(axis=1) + is_predicted.sum(axis=1)
        scores += np.divide(2.0 * both, either, out=np.zeros(len(labels)), where=either > 0)
        seen += either > 0
    return scores / np.maximum(seen, 1)


def intervals(result: EvaluationResult) -> dict[str, Interval]:
    """Accuracy, macro-F1 and log-loss, each with its interval."""
    texts, classes = len(result.labels), len(result.classes)
    random = np.random.default_rng(SEED)
    right = (result.predictions == result.labels).astype(np.float64)
    true = result.probabilities[np.arange(texts), result.labels]
    loss = -np.log(np.maximum(true, np.finfo(np.float64).tiny))
    found: dict[str, list[np.ndarray]] = {"accuracy": [], "macro_f1": [], "log_loss": []}
    step = max(1, 4_000_000 // texts)  # resamples at a time, so that memory stays bounded
    for begin in range(0, RESAMPLES, step):
        drawn = random.integers(0, texts, size=(min(step, RESAMPLES - begin), texts))
        found["accuracy"].append(right[drawn].mean(axis=1))
        found["log_loss"].append(loss[drawn].mean(axis=1))
        found["macro_f1"].append(macro_f1(result.labels[drawn], result.predictions[drawn], classes))
    values = {"accuracy": result.accuracy, "macro_f1": result.macro_f1, "log_loss": result.log_loss}
    ends = 100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2
    return {
        name: Interval(values[name], *map(float, np.percentile(np.concatenate(drawn), ends)))
        for name, drawn in found.items()
    }


def calibration(result: EvaluationResult) -> Calibration:
    """Of the predicted class's probability."""
    confidence = result.probabilities.max(axis=1)
    counts, mean_confidence, mean_accuracy = _bins(confidence, result.right)
    true = np.eye(len(result.classes))[result.labels]
    return Calibration(
        confidence=mean_confidence,
        accuracy=mean_accuracy,
        counts=counts,
        ece=expected_calibration_error(confidence, result.right),
        brier=float(((result.probabilities - true) ** 2).sum(axis=1).mean()),
    )


def _bins(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, mean confidence, accuracy) of each bin of confidence; NaN where it is empty."""
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return counts, np.bincount(index, confidence, BINS) / counts, np.bincount(index, right, BINS) / counts


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, each with its share of the decisions."""
    counts, mean_confidence, mean_accuracy = _bins(confidence, right)
    gaps = np.where(counts > 0, np.abs(mean_accuracy - mean_confidence), 0.0)
    return float((gaps * counts).sum() / counts.sum())


@dataclass(frozen=True)
class Threshold:
    """Of two classes, the second is predicted from this probability on."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float
    predicted: int


def thresholds(result: EvaluationResult) -> list[Threshold]:
    """For two classes; no precision where nothing is predicted, no recall where there is nothing to find."""
    positive = result.labels == 1
    rows = []
    for threshold in THRESHOLDS:
        predicted = result.probabilities[:, 1] >= threshold
        hits = int((predicted & positive).sum())
        either = int(predicted.sum() + positive.sum())
        rows.append(
            Threshold(
                threshold,
                hits / int(predicted.sum()) if predicted.any() else None,
                hits / int(positive.sum()) if positive.any() else None,
                2 * hits / either if either else 0.0,
                int(predicted.sum()),
            )
        )
    return rows


def mcnemar(
    first: EvaluationResult | MultiLabelResult, second: EvaluationResult | MultiLabelResult
) -> tuple[int, int, float]:
    """McNemar's test (1947) of two classifiers on the same texts, exact.

    Returns
    -------
    (only_first, only_second, p) : (int, int, float)
        Texts that one of them alone classifies rightly, and how probable a difference as large is by chance.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first.right & ~second.right).sum()), int((~first.right & second.right).sum())
    differing = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
