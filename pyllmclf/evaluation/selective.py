"""Selective classification: the accuracy of the texts that are answered, by how many are, and where to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .statistics import LEVEL

# Sequences of thresholds that are tested, each from its share of answered texts upwards, and the step between shares.
STARTS = (0.2, 0.4, 0.6, 0.8, 1.0)
STEP = 0.02


@dataclass(frozen=True)
class RiskCoverage:
    """Accuracy of the answered texts at each threshold of confidence, from the most confident text on.

    Equal confidences are one row: a threshold answers all of them or none.

    Attributes
    ----------
    threshold : ndarray of float64, shape [distinct confidences]
        Decreasing; a text is answered if its confidence is at least this.
    answered, right : ndarray of int64, same shape
        Number of texts that are answered, and of those whose answer is right.
    texts : int
        Number of all texts.
    """

    threshold: np.ndarray
    answered: np.ndarray
    right: np.ndarray
    texts: int

    @property
    def coverage(self) -> np.ndarray:
        """Share of the texts that are answered, float64, increasing to 1."""
        return self.answered / max(self.texts, 1)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of the answered texts whose answer is right, float64; the risk is 1 minus this."""
        return self.right / self.answered

    @property
    def area(self) -> float:
        """Area under the risk-coverage curve; see :func:`area_under_risk_coverage`."""
        steps = np.diff(self.answered, prepend=0) / max(self.texts, 1)
        return float(((1.0 - self.accuracy) * steps).sum())


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> RiskCoverage:
    """The risk-coverage curve (El-Yaniv and Wiener 2010): what answering only the confident texts gains.

    Parameters
    ----------
    confidence : ndarray of float, shape [texts]
        The larger, the surer; usually the probability of the predicted class.
    right : ndarray of bool, shape [texts]
        Whether the prediction is right.

    Returns
    -------
    RiskCoverage
        Without rows where there are no texts.

    Raises
    ------
    ValueError
        If the shapes differ, or a confidence is NaN.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ValueError(f"confidence {confidence.shape} and right {right.shape} must be of one shape [texts].")
    if np.isnan(confidence).any():
        raise ValueError("a confidence is NaN.")
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    # The last text of each group of equal confidences.
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    return RiskCoverage(ordered[ends], ends + 1, np.cumsum(right[order])[ends], len(ordered))


def area_under_risk_coverage(confidence: np.ndarray, right: np.ndarray) -> float:
    """Area under the risk-coverage curve: mean, over the texts, of the error rate at the text's own confidence.

    0 is best; without any use of confidence it is the error rate (Geifman, Uziel and El-Yaniv 2019, equation 4).

    Parameters
    ----------
    confidence, right : ndarray, shape [texts]
        As for :func:`risk_coverage`.
    """
    return risk_coverage(confidence, right).area


def clopper_pearson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact two-sided interval of a probability (Clopper and Pearson 1934), by quantiles of beta distributions.

    Parameters
    ----------
    successes, n : int
        Of ``n`` independent trials.
    level : float
        Probability that the interval covers the true one is at least this.

    Returns
    -------
    (low, high) : (float, float)
        (0, 1) where there are no trials.

    Raises
    ------
    ValueError
        If ``successes`` is not between 0 and ``n``, or ``level`` not between 0 and 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} must be between 0 and n={n}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} must be between 0 and 1.")
    tail = (1.0 - level) / 2.0
    high = 1.0 - lower_bound(n - successes, n, tail) if n else 1.0
    return lower_bound(successes, n, tail), high


def lower_bound(successes: int, n: int, tail: float) -> float:
    """The exact lower bound of a probability, which lies below it with probability ``tail`` at most."""
    from scipy.stats import beta

    return float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0


@dataclass(frozen=True)
class AnsweredTexts:
    """The texts with a confidence from a threshold on.

    Attributes
    ----------
    threshold : float
        The least confidence of an answered text.
    texts, answered, right : int
        Number of all texts, of those that are answered, and of those whose answer is right.
    """

    threshold: float
    texts: int
    answered: int
    right: int

    @property
    def accuracy(self) -> float | None:
        """Share of the answered texts that are right; ``None`` where none is answered."""
        return self.right / self.answered if self.answered else None

    @property
    def share(self) -> float:
        """Share of the texts that are answered."""
        return self.answered / self.texts if self.texts else 0.0

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Clopper-Pearson interval of the accuracy, for a threshold that was chosen without the labels."""
        return clopper_pearson(self.right, self.answered, level)


def answered_from(confidence: np.ndarray, right: np.ndarray, threshold: float) -> AnsweredTexts:
    """Counts the texts with a confidence of at least ``threshold``; arguments as for :func:`risk_coverage`."""
    answered = confidence >= threshold
    return AnsweredTexts(float(threshold), len(confidence), int(answered.sum()), int(right[answered].sum()))


def threshold_of_share(confidence: np.ndarray, share: float) -> float:
    """The largest threshold that answers at least this share of the texts; all with equal confidences are answered.

    Parameters
    ----------
    confidence : ndarray of float, shape [texts]
    share : float
        In (0, 1].
    """
    ordered = np.sort(confidence)[::-1]
    # 0.07 * 100 is 7.000000000000001.
    count = max(1, int(np.ceil(share * len(ordered) - 1e-9)))
    return float(ordered[count - 1])


def threshold_of_accuracy(
    confidence: np.ndarray, right: np.ndarray, accuracy: float, level: float = LEVEL
) -> AnsweredTexts | None:
    """The threshold that answers most texts while the accuracy of the answered ones is at least a target, for sure.

    "For sure" is in probability: over draws of the held-out texts, the true accuracy of the answered texts lies below
    the target in ``1 - level`` of the cases at most, though many thresholds are looked at. Thresholds are tested in
    sequences that are fixed before the labels are seen (Learn then Test, Angelopoulos et al. 2021, algorithm 2): each
    from one of :data:`STARTS` upwards in steps of 2 % of the texts, until the lower Clopper-Pearson bound with the
    sequence's part of ``1 - level`` falls below the target. The result is the last one that passes in any.

    Parameters
    ----------
    confidence, right : ndarray, shape [texts]
        As for :func:`risk_coverage`, of texts that the classifier was not trained on.
    accuracy : float
        The target, in (0, 1).
    level : float
        In (0, 1).

    Returns
    -------
    AnsweredTexts or None
        ``None`` where no threshold passes.
    """
    best = None
    tail = (1.0 - level) / len(STARTS)
    for sequence in _sequences(confidence):
        for threshold in sequence:
            counts = answered_from(confidence, right, threshold)
            if lower_bound(counts.right, counts.answered, tail) < accuracy:
                break
            if best is None or counts.answered > best.answered:
                best = counts
    return best


def best_accuracy(confidence: np.ndarray, right: np.ndarray, level: float = LEVEL) -> tuple[float, AnsweredTexts]:
    """The largest target that :func:`threshold_of_accuracy` reaches, and its texts: that of the best of the starts."""
    tail = (1.0 - level) / len(STARTS)
    starts = [answered_from(confidence, right, sequence[0]) for sequence in _sequences(confidence)]
    bounds = [lower_bound(counts.right, counts.answered, tail) for counts in starts]
    best = int(np.argmax(bounds))
    return bounds[best], starts[best]


def _sequences(confidence: np.ndarray) -> list[list[float]]:
    """Thresholds of each sequence, decreasing: from its start's share of answered texts to all texts."""
    steps = [
        np.append(np.arange(start, 1.0 - STEP / 2, STEP), 1.0) if start < 1.0 else np.array([1.0]) for start in STARTS
    ]
    return [[threshold_of_share(confidence, share) for share in shares] for shares in steps]
