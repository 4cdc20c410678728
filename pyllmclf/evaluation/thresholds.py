"""Decisions other than the most probable class: thresholds for each of several labels, and least expected costs."""

from __future__ import annotations

import numpy as np


def f1_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """The threshold of one class with the largest F1 on held-out texts.

    Parameters
    ----------
    probabilities : ndarray of float64, shape [texts]
        Of the class.
    labels : ndarray of bool, shape [texts]
        Whether a text has it.

    Returns
    -------
    float or None
        Halfway between the least probability that is predicted and the next one below it. Of equal F1, the largest
        threshold. ``None`` where no text has the class.
    """
    ends, hits, predicted = _curve(probabilities, labels)
    if not labels.any():
        return None
    f1 = 2.0 * hits / (predicted + labels.sum())
    return _below(ends, int(f1.argmax()))


def precision_threshold(
    probabilities: np.ndarray, labels: np.ndarray, precision: float
) -> tuple[float | None, float | None]:
    """The least threshold of one class with at least a floor of precision on held-out texts: the largest recall.

    Parameters
    ----------
    probabilities, labels : ndarray, shape [texts]
        As for :func:`f1_threshold`.
    precision : float
        In (0, 1]; that of the held-out texts, without a margin.

    Returns
    -------
    threshold : float or None
        ``None`` where no threshold reaches the floor, or no text has the class.
    best : float or None
        The largest precision of any threshold; ``None`` where no text has the class.
    """
    if not labels.any():
        return None, None
    ends, hits, predicted = _curve(probabilities, labels)
    reached = hits / predicted
    passing = np.flatnonzero(reached >= precision)
    return (_below(ends, int(passing[-1])) if len(passing) else None), float(reached.max())


def _curve(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct probabilities, decreasing; and at each as threshold the right predictions and all predictions."""
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    return ordered[ends], np.cumsum(labels[order])[ends], ends + 1


def _below(ends: np.ndarray, place: int) -> float:
    """A threshold between a probability and the next smaller one, and never equal to the latter."""
    after = ends[place + 1] if place + 1 < len(ends) else 0.0
    middle = (ends[place] + after) / 2.0
    return float(middle if middle > after else ends[place])


def least_cost(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The classes of least expected cost, Bayes' rule (Elkan 2001): argmin over predicted of sum over true p · cost.

    Parameters
    ----------
    probabilities : ndarray of float64, shape [texts, classes]
    costs : ndarray of float64, shape [true class, predicted class]

    Returns
    -------
    ndarray of int64, shape [texts]
        Of classes with equal cost, the more probable one; then the first.
    """
    expected = probabilities @ costs
    least = expected <= expected.min(axis=1, keepdims=True)
    return np.where(least, probabilities, -1.0).argmax(axis=1)
