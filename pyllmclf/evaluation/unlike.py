"""How far a text is from the training texts: the Mahalanobis distance of what the head reads of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

PARTS = 5  # of the training texts, each of which is measured without itself


@dataclass(frozen=True)
class RowStatistics:
    """Gaussians of the training texts' rows, scaled to length 1: one for each class, with a shared covariance.

    The distance of a row is the Mahalanobis distance to the nearest class (Lee et al. 2018) after the row is scaled to
    length 1 (Müller and Hein 2025, "Mahalanobis++"): lengths tell more of a text's style than of what it is about. The
    covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), so that few texts suffice. The
    distance relative to that from all training texts (Ren et al. 2021) tells less; see ``bench/decisions.py``.

    Attributes
    ----------
    class_means : ndarray of float32, shape [classes with texts, width]
    factor : ndarray of float32, shape [width, width]
        W with inverse covariance = W Wᵀ.
    """

    class_means: np.ndarray
    factor: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray, labels: np.ndarray) -> RowStatistics:
        """Estimates the Gaussians.

        Parameters
        ----------
        rows : ndarray of float, shape [texts, width]
        labels : ndarray of int, shape [texts], or of 1 and 0, shape [texts, classes]
            Class indices; or several classes per text, each of which the text's row is one of.

        Raises
        ------
        ValueError
            If no text has a class, or a row is not finite.
        """
        rows = _of_length_1(rows)
        if not np.isfinite(rows).all():
            raise ValueError("a row is not finite.")
        texts, found = np.nonzero(labels > 0) if labels.ndim == 2 else (np.arange(len(rows)), labels)
        if not len(texts):
            raise ValueError("no text has a class.")
        classes, index = np.unique(found, return_inverse=True)
        sums = np.zeros((len(classes), rows.shape[1]))
        np.add.at(sums, index, rows[texts])
        means = sums / np.bincount(index)[:, None]
        # Deviations from means of the same texts are too small: n - classes of n are free.
        free = len(texts) / max(len(texts) - len(classes), 1)
        return cls(means.astype(np.float32), _factor(_covariance(rows[texts] - means[index]) * free))

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """Mahalanobis distances of rows [texts, width], float64, shape [texts]; larger is more unlike."""
        factor, means, squares_of_means = self._whitened
        own = _of_length_1(rows) @ factor
        squares = (own**2).sum(axis=1)[:, None] - 2.0 * own @ means.T + squares_of_means
        return np.sqrt(np.maximum(squares.min(axis=1), 0.0))

    @cached_property
    def _whitened(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The factor, the class means times it and their squares, float64: the same for each batch of rows."""
        factor = self.factor.astype(np.float64)
        means = self.class_means @ factor
        return factor, means, (means**2).sum(axis=1)

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def nbytes(width: int, classes: int) -> int:
        """Bytes of the arrays."""
        return 4 * (width + classes) * width


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to the Euclidean length 1, float64; a row of zeros stays."""
    rows = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=rows.copy(), where=lengths != 0)


def _covariance(deviations: np.ndarray) -> np.ndarray:
    """Shrunk covariance of deviations [rows, width] from their means, shape [width, width]."""
    from sklearn.covariance import ledoit_wolf

    width = deviations.shape[1]
    # Equal rows have no covariance to shrink.
    covariance = ledoit_wolf(deviations, assume_centered=True)[0] if deviations.any() else np.zeros((width, width))
    # The least variance that fp32 tells from none beside the largest.
    floor = max(1e-6 * float(np.trace(covariance)) / width, 1e-12)
    return covariance + floor * np.eye(width)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """W of the inverse W Wᵀ of a covariance [width, width], float32."""
    from scipy.linalg import solve_triangular

    root = np.linalg.cholesky(covariance)
    return solve_triangular(root, np.eye(len(root)), lower=True).T.astype(np.float32)


def left_out_distances(rows: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Distances of training texts to the others: each of :data:`PARTS` parts to the statistics of the rest.

    Parameters
    ----------
    rows, labels
        As for :meth:`RowStatistics.fit`.
    seed : int

    Returns
    -------
    ndarray of float64, shape [texts]
        Empty where a part would be alone.
    """
    part = np.random.default_rng(seed).permutation(len(rows)) % PARTS
    if len(rows) < 2 * PARTS:
        return np.zeros(0)
    distances = np.empty(len(rows))
    for number in range(PARTS):
        left_out = part == number
        try:
            statistics = RowStatistics.fit(rows[~left_out], labels[~left_out])
        except ValueError:  # no text of the rest has a class
            return np.zeros(0)
        distances[left_out] = statistics.distances(rows[left_out])
    return distances


def quantile_of(distances: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of the reference distances that are at most as large, float64, shape [texts]; NaN without a reference.

    Parameters
    ----------
    distances, reference : ndarray or sequence of float
        Of texts, and of held-out texts.
    """
    if not len(reference):
        return np.full(len(distances), np.nan)
    return np.searchsorted(np.sort(reference), distances, side="right") / len(reference)


def threshold_of_quantile(reference: np.ndarray | Sequence[float], share: float) -> float:
    """The least distance at which this share of n held-out texts is reached: the ⌈share · n⌉-th smallest."""
    ordered = np.sort(np.asarray(reference, dtype=np.float64))
    return float(ordered[max(0, int(np.ceil(share * len(ordered) - 1e-9)) - 1)])
