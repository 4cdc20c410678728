"""Bootstrap intervals, calibration and thresholds of a classifier of texts that may have several labels, or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .multi_label import MultiLabelResult
from .statistics import LEVEL, RESAMPLES, SEED, Calibration, Interval, confidence_bins

BLOCK = 50
"""Resamples at a time, to bound memory."""


def multi_label_intervals(result: MultiLabelResult) -> dict[str, Interval]:
    """Bootstrap intervals over the texts of ``"micro_f1"``, ``"macro_f1"``, ``"accuracy"``, ``"hamming_loss"`` and
    ``"log_loss"``.
    """
    texts = len(result.labels)
    random = np.random.default_rng(SEED)
    both = (result.labels & result.predictions).astype(np.float64)
    either = result.labels.astype(np.float64) + result.predictions
    right, wrong = result.right.astype(np.float64), (result.labels != result.predictions).mean(axis=1)
    probabilities = np.where(result.labels, result.probabilities, 1.0 - result.probabilities)
    loss = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)).mean(axis=1)
    samples: dict[str, list[np.ndarray]] = {}
    for begin in range(0, RESAMPLES, BLOCK):
        draws = random.multinomial(texts, np.full(texts, 1.0 / texts), size=min(BLOCK, RESAMPLES - begin))
        hits, all_of = draws @ both, draws @ either
        by_class = np.divide(2.0 * hits, all_of, out=np.zeros_like(hits), where=all_of > 0)
        total = all_of.sum(axis=1)
        micro = np.divide(2.0 * hits.sum(axis=1), total, out=np.zeros(len(total)), where=total > 0)
        found = {
            "micro_f1": micro,
            "macro_f1": by_class.mean(axis=1),
            "accuracy": draws @ right / texts,
            "hamming_loss": draws @ wrong / texts,
            "log_loss": draws @ loss / texts,
        }
        for name, values in found.items():
            samples.setdefault(name, []).append(values)
    ends = 100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2
    return {
        name: Interval(getattr(result, name), *map(float, np.percentile(np.concatenate(chunks), ends)))
        for name, chunks in samples.items()
    }


def decision_calibration(result: MultiLabelResult) -> Calibration:
    """Agreement of the probabilities with the frequency of the labels, over all decisions.

    ``confidence`` is the mean probability of a label in a bin, and ``accuracy`` the share of these decisions whose text
    has the label; the Brier score is the mean squared difference of a decision.
    """
    probabilities, has_label = result.probabilities.ravel(), result.labels.ravel()
    counts, confidence, share = confidence_bins(probabilities, has_label)
    gaps = np.where(counts > 0, np.abs(share - confidence), 0.0)
    error = float((gaps * counts).sum() / counts.sum())
    return Calibration(confidence, share, counts, error, float(((probabilities - has_label) ** 2).mean()))


@dataclass(frozen=True)
class BestThreshold:
    """The threshold of a class with the highest F1 on the evaluated texts, which is therefore optimistic.

    Attributes
    ----------
    threshold, precision, recall, f1 : float
    """

    threshold: float
    precision: float
    recall: float
    f1: float


def best_thresholds(result: MultiLabelResult) -> list[BestThreshold | None]:
    """The best threshold of each class; ``None`` where no text has the class.

    Of thresholds that are equally good the highest, which predicts fewest texts.
    """
    return [
        _best_threshold(result.labels[:, c], result.probabilities[:, c]) if result.labels[:, c].any() else None
        for c in range(len(result.classes))
    ]


def _best_threshold(has_class: np.ndarray, scores: np.ndarray) -> BestThreshold:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    hits, predicted = np.cumsum(has_class[order])[ends], ends + 1
    f1 = 2.0 * hits / (predicted + has_class.sum())
    best = int(f1.argmax())
    precision, recall = float(hits[best] / predicted[best]), float(hits[best] / has_class.sum())
    return BestThreshold(float(ordered[ends[best]]), precision, recall, float(f1[best]))
