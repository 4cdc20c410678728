"""Figures of a classifier's rules on labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.conformal import coverage
from ..evaluation.selective import clopper_pearson
from .decisions import Decisions


def decision_figures(
    decisions: Decisions,
    probabilities: np.ndarray,
    labels: np.ndarray,
    distances: np.ndarray | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """What the rules do to labelled texts, as types that JSON has.

    Parameters
    ----------
    decisions : Decisions
    probabilities : ndarray of float64, shape [texts, classes]
    labels : ndarray of int64, shape [texts], or of 1 and 0, shape [texts, classes]
    distances : ndarray, shape [texts], or None
    names : sequence of str
        Names of the classes.

    Returns
    -------
    dict
        ``"abstain"``, ``"conformal"``, ``"thresholds"`` and ``"costs"``, where there are such rules.
    """
    several = labels.ndim == 2
    figures: dict[str, Any] = {}
    if decisions.abstains:
        figures["abstain"] = _abstain(decisions, probabilities, labels, distances)
    if (conformal := decisions.conformal) is not None:
        sets = conformal.sets(probabilities)
        sizes = sets.sum(axis=1)
        figures["conformal"] = {
            "error": conformal.error,
            "by_class": conformal.by_class,
            "coverage": coverage(sets, labels),
            "mean_labels": float(sizes.mean()),
            "one_label": float((sizes == 1).mean()),
        }
    if decisions.thresholds is not None:
        figures["thresholds"] = dict(zip(names, decisions.thresholds, strict=True))
    if decisions.costs is not None and not several:
        costs = np.array(decisions.costs)
        predicted = decisions.predictions(probabilities, several=False)
        figures["costs"] = {
            "mean_cost": float(costs[labels, predicted].mean()),
            "mean_cost_of_most_probable": float(costs[labels, probabilities.argmax(axis=1)].mean()),
        }
    return figures


def _abstain(
    decisions: Decisions, probabilities: np.ndarray, labels: np.ndarray, distances: np.ndarray | None
) -> dict[str, Any]:
    reasons = decisions.reasons(probabilities, distances)
    answered = np.array([reason is None for reason in reasons], dtype=bool)
    right = decisions.predictions(probabilities, several=labels.ndim == 2) == (
        labels > 0 if labels.ndim == 2 else labels
    )
    right = right.all(axis=1) if right.ndim == 2 else right
    hits, count = int(right[answered].sum()), int(answered.sum())
    rules = [rule for rule in (decisions.abstention, decisions.unlike) if rule is not None]
    return {
        "threshold": None if decisions.abstention is None else decisions.abstention.threshold,
        "distance": None if decisions.unlike is None else decisions.unlike.distance,
        "answered": count / len(answered) if len(answered) else 0.0,
        "answered_texts": count,
        "accuracy": hits / count if count else None,
        "interval": list(clopper_pearson(hits, count)),
        "reasons": {rule.reason: reasons.count(rule.reason) for rule in rules},
    }
