"""Bootstrap intervals, calibration, thresholds and a test of two classifiers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import EvaluationResult
from .multi_label import MultiLabelResult

# Resamples, confidence level and seed of the bootstrap.
RESAMPLES, LEVEL, SEED = 1000, 0.95, 123
BINS = 10  # of confidence
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval: percentiles over resampled texts (Efron 1979).

    Attributes
    ----------
    value : float
        The figure on the texts themselves.
    low, high : float
        Ends of the 95 % interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Agreement of the predicted class's probability (the confidence) with the frequency of being right.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape [bins]
        Means over the texts in each of 10 equally wide bins of confidence; NaN in an empty bin.
    counts : ndarray of int64, shape [bins]
        Number of texts in each bin.
    ece : float
        Expected calibration error; see :func:`expected_calibration_error`.
    brier : float
        Mean over the texts of sum over the classes of (probability - 1 if true class else probability)² (Brier 1950).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    ece: float
    brier: float


def macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 of each resample: mean F1 over the classes that occur among its labels or predictions.

    Parameters
    ----------
    labels, predictions : ndarray of int64, shape [resamples, texts]
        Class indices.
    classes : int
        Number of classes.

    Returns
    -------
    ndarray of float64, shape [resamples]
    """
    block = max(1, 4_000_000 // classes)  # resamples at a time, to bound memory
    blocks = [slice(begin, begin + block) for begin in range(0, len(labels), block)]
    return np.concatenate([_macro_f1(labels[rows], predictions[rows], classes) for rows in blocks])


def _macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """:func:`macro_f1` of a few resamples."""
    resamples = len(labels)
    offsets = classes * np.arange(resamples)[:, None]

    def counts(indices: np.ndarray) -> np.ndarray:
        """Number of texts, int64, shape [classes, resamples]."""
        return np.bincount(indices.ravel(), minlength=classes * resamples).reshape(resamples, classes).T

    both = counts((labels + offsets)[labels == predictions])
    either = counts(labels + offsets) + counts(predictions + offsets)
    scores = np.divide(2.0 * both, either, out=np.zeros((classes, resamples)), where=either > 0)
    return scores.sum(axis=0) / np.maximum((either > 0).sum(axis=0), 1)


def intervals(result: EvaluationResult) -> dict[str, Interval]:
    """Bootstrap intervals of ``"accuracy"``, ``"macro_f1"`` and ``"log_loss"``."""
    texts, classes = len(result.labels), len(result.classes)
    random = np.random.default_rng(SEED)
    right = result.right.astype(np.float64)
    true = result.probabilities[np.arange(texts), result.labels]
    loss = -np.log(np.maximum(true, np.finfo(np.float64).tiny))
    samples: dict[str, list[np.ndarray]] = {"accuracy": [], "macro_f1": [], "log_loss": []}
    step = max(1, 4_000_000 // texts)  # resamples at a time, to bound memory
    for begin in range(0, RESAMPLES, step):
        rows = random.integers(0, texts, size=(min(step, RESAMPLES - begin), texts))
        samples["accuracy"].append(right[rows].mean(axis=1))
        samples["log_loss"].append(loss[rows].mean(axis=1))
        samples["macro_f1"].append(macro_f1(result.labels[rows], result.predictions[rows], classes))
    values = {"accuracy": result.accuracy, "macro_f1": result.macro_f1, "log_loss": result.log_loss}
    ends = 100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2
    return {
        name: Interval(values[name], *map(float, np.percentile(np.concatenate(chunks), ends)))
        for name, chunks in samples.items()
    }


def calibration(result: EvaluationResult) -> Calibration:
    """Calibration of the predicted class's probability."""
    confidence = result.confidence
    counts, mean_confidence, mean_accuracy = confidence_bins(confidence, result.right)
    differences = result.probabilities.copy()
    differences[np.arange(len(differences)), result.labels] -= 1.0
    return Calibration(
        confidence=mean_confidence,
        accuracy=mean_accuracy,
        counts=counts,
        ece=expected_calibration_error(confidence, result.right),
        brier=float((differences**2).sum(axis=1).mean()),
    )


def confidence_bins(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, mean confidence, accuracy) of each bin of confidence, each of shape [bins]; NaN in an empty bin."""
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return counts, np.bincount(index, confidence, BINS) / counts, np.bincount(index, right, BINS) / counts


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean |accuracy - confidence| over bins, weighted by count (Naeini et al. 2015).

    Parameters
    ----------
    confidence : ndarray of float64, shape [decisions]
        Probability of each decision, in [0, 1].
    right : ndarray of bool, shape [decisions]
    """
    counts, mean_confidence, mean_accuracy = confidence_bins(confidence, right)
    gaps = np.where(counts > 0, np.abs(mean_accuracy - mean_confidence), 0.0)
    return float((gaps * counts).sum() / counts.sum())


@dataclass(frozen=True)
class Threshold:
    """Figures of the second of two classes where it is predicted from a probability on.

    Attributes
    ----------
    threshold : float
        The least probability.
    precision : float or None
        ``None`` where the class is never predicted.
    recall : float or None
        ``None`` where no text has the class.
    f1 : float
    predicted : int
        Number of texts for which the class is predicted.
    """

    threshold: float
    precision: float | None
    recall: float | None
    f1: float
    predicted: int


def thresholds(result: EvaluationResult) -> list[Threshold]:
    """Figures of the second of two classes at the thresholds 0.1, 0.2, ..., 0.9."""
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
    """McNemar's exact test (1947) of two classifiers on the same texts.

    Parameters
    ----------
    first, second : EvaluationResult or MultiLabelResult
        On the same texts in the same order.

    Returns
    -------
    (only_first, only_second, p) : (int, int, float)
        Number of texts that only the first classifier gets right, that only the second does, and the two-sided p-value
        of a binomial test with probability 1/2; 1 where the classifiers never differ.
    """
    return compare_right(first.right, second.right)


def compare_right(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """:func:`mcnemar` of whether two classifiers get each text right, bool arrays, shape [texts]."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    differing = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
