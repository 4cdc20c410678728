"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021) with cleanlab."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..random_state import keeps_random_state

RANKED_BY = "confidence_weighted_entropy"
"""Of cleanlab's scores the one that finds most flipped labels first (docs/tuning.md)."""


class SuspiciousLabels(NamedTuple):
    """Texts whose label is probably wrong, from the most to the least suspicious.

    Attributes
    ----------
    rows, suggested : ndarray of int64, shape [suspicious texts]
        Indices of the texts, and the most probable other class of each.
    scores : ndarray of float64, shape [suspicious texts]
        Quality of the label from 0 to 1.
    """

    rows: np.ndarray
    suggested: np.ndarray
    scores: np.ndarray


def is_available() -> bool:
    """Whether cleanlab is installed."""
    return importlib.util.find_spec("cleanlab") is not None


def suspicious_labels(labels: np.ndarray, probabilities: np.ndarray) -> SuspiciousLabels:
    """Finds labels that are probably wrong; none where all texts have the same one, which nothing is compared with.

    Parameters
    ----------
    labels : ndarray of int64, shape [texts]
        Class indices.
    probabilities : ndarray of float64, shape [texts, classes]
        Of a classifier that has not seen the texts.

    Raises
    ------
    UsageError
        If cleanlab is not installed.
    """
    try:
        with keeps_random_state():
            from cleanlab.filter import find_label_issues
            from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise UsageError("label_issues needs cleanlab: pip install 'pyllmclf[labels]'.") from error
    if len(np.unique(labels)) < 2:
        nothing = np.zeros(0, dtype=np.int64)
        return SuspiciousLabels(nothing, nothing, np.zeros(0))
    with keeps_random_state():
        found = find_label_issues(labels, probabilities, return_indices_ranked_by=RANKED_BY, n_jobs=1)
        scores = get_label_quality_scores(labels, probabilities, method=RANKED_BY)[found]
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    order = np.argsort(scores, kind="stable")
    return SuspiciousLabels(found[order], others.argmax(axis=1)[found][order], scores[order])
