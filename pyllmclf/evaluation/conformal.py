"""Split conformal prediction: sets of labels that hold the true one with a promised probability.

The score of a label is 1 minus its probability (LAC: Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued
classifiers with bounded error levels"), which gives the smallest sets on average; adaptive scores (APS, RAPS) give
larger ones for the same promise, see ``bench/decisions.py``. The promise holds for texts that are exchangeable with the
held-out ones, over draws of both (Vovk, Gammerman and Shafer 2005).
"""

from __future__ import annotations

import numpy as np


def label_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Nonconformity of the true labels: 1 minus their probability, float64, shape [texts].

    Parameters
    ----------
    probabilities : ndarray of float64, shape [texts, classes]
    labels : ndarray of int64, shape [texts]
        Class indices.
    """
    return 1.0 - probabilities[np.arange(len(labels)), labels]


def conformal_quantile(scores: np.ndarray, error: float) -> float:
    """The ⌈(n + 1)(1 - error)⌉-th smallest of n scores: the quantile with the correction for finite samples.

    Parameters
    ----------
    scores : ndarray of float64, shape [texts]
        Of held-out texts; see :func:`label_scores`.
    error : float
        Promised rate of sets without the true label, in (0, 1).

    Returns
    -------
    float
        Infinite where there are too few scores, n < 1 / error - 1: sets then have all classes.

    Raises
    ------
    ValueError
        If ``error`` is not between 0 and 1.
    """
    if not 0.0 < error < 1.0:
        raise ValueError(f"error={error} must be between 0 and 1.")
    if len(scores) < least_texts(error):
        return float("inf")
    # (9 + 1) * (1 - 0.1) is 9 though 1 - 0.1 is rounded.
    rank = int(np.ceil((len(scores) + 1) * (1.0 - error) - 1e-9))
    return float(np.partition(scores, rank - 1)[rank - 1])


def least_texts(error: float) -> int:
    """The least number of held-out texts for which sets may leave a class out: ⌈1 / error - 1⌉."""
    return int(np.ceil(1.0 / error - 1.0 - 1e-9))


def class_quantiles(scores: np.ndarray, labels: np.ndarray, classes: int, error: float) -> np.ndarray:
    """Quantiles of the texts of each class, so that the promise holds by class (Mondrian; Vovk 2012).

    Parameters
    ----------
    scores, labels : ndarray, shape [texts]
        Scores of the true labels, and the labels.
    classes : int
        Number of classes.
    error : float
        As for :func:`conformal_quantile`.

    Returns
    -------
    ndarray of float64, shape [classes]
        Infinite for a class with too few texts: every set has it.
    """
    return np.array([conformal_quantile(scores[labels == label], error) for label in range(classes)])


def label_sets(probabilities: np.ndarray, quantiles: float | np.ndarray) -> np.ndarray:
    """Which labels are in the set of each text: those with a score of at most the quantile.

    A set that would be empty has the most probable label, which can only raise coverage.

    Parameters
    ----------
    probabilities : ndarray of float64, shape [texts, classes]
    quantiles : float, or ndarray of shape [classes]
        Of :func:`conformal_quantile` or :func:`class_quantiles`.

    Returns
    -------
    ndarray of bool, shape [texts, classes]
        At least one true in each row.
    """
    sets = 1.0 - probabilities <= quantiles
    empty = np.flatnonzero(~sets.any(axis=1))
    sets[empty, probabilities[empty].argmax(axis=1)] = True
    return sets


def coverage(sets: np.ndarray, labels: np.ndarray) -> float:
    """Share of the texts whose set has the true label.

    Parameters
    ----------
    sets : ndarray of bool, shape [texts, classes]
    labels : ndarray of int64, shape [texts]
    """
    return float(sets[np.arange(len(labels)), labels].mean())
