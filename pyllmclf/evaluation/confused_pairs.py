"""Pairs of classes of which a classifier takes one for the other, with texts that show it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.readers import TextData
from .metrics import EvaluationResult
from .multi_label import MultiLabelResult


def confused_pairs(
    result: EvaluationResult | MultiLabelResult, data: TextData, limit: int = 10, examples: int = 3
) -> list[dict[str, Any]]:
    """Lists the most frequent wrong predictions by class, with example texts.

    With several labels for a text, the true class is one that the text has and that is not predicted, and the predicted
    one is predicted though the text doesn't have it.

    Parameters
    ----------
    result : EvaluationResult or MultiLabelResult
    data : TextData
        The evaluated texts, in the order of the result.
    limit : int
        Maximum number of pairs.
    examples : int
        Maximum number of texts of each pair.

    Returns
    -------
    list of dict
        The most frequent pair first: ``true`` and ``predicted``, two classes; ``texts``, the number of texts of the
        first that are taken for the second; ``of``, the number of all texts of the first, and ``share``, the fraction
        of these; ``examples``, those with the highest probability of the second class: ``row`` (in the data),
        ``where`` (its line or row in the source), ``text`` and ``probability``.
    """
    rows, true, predicted = _confusions(result)
    if not len(rows):
        return []
    pairs, place, counts = np.unique(np.stack([true, predicted]), axis=1, return_inverse=True, return_counts=True)
    support = [figures.support for figures in result.per_class.values()]
    found = []
    for pair in np.argsort(-counts, kind="stable")[:limit]:
        first, second = pairs[:, pair].tolist()
        texts = rows[place.reshape(-1) == pair]
        probabilities = result.probabilities[texts, second]
        surest = np.argsort(-probabilities, kind="stable")[:examples]
        shown = [
            {"row": row, "where": data.where(row), "text": data.texts[row], "probability": probability}
            for row, probability in zip(texts[surest].tolist(), probabilities[surest].tolist(), strict=True)
        ]
        found.append(
            {
                "true": result.classes[first],
                "predicted": result.classes[second],
                "texts": len(texts),
                "of": support[first],
                "share": len(texts) / support[first],
                "examples": shown,
            }
        )
    return found


def _confusions(result: EvaluationResult | MultiLabelResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text, true class and predicted class of each confusion, int64, each of shape [confusions]."""
    if isinstance(result, EvaluationResult):
        wrong = np.flatnonzero(~result.right)
        return wrong, result.labels[wrong], result.predictions[wrong]
    missing, added = result.labels & ~result.predictions, result.predictions & ~result.labels
    texts = np.flatnonzero(missing.any(axis=1) & added.any(axis=1))
    rows, true, predicted = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for text in texts:
        one, other = np.meshgrid(np.flatnonzero(missing[text]), np.flatnonzero(added[text]))
        true.append(one.ravel())
        predicted.append(other.ravel())
        rows.append(np.full(one.size, text))
    return np.concatenate(rows), np.concatenate(true), np.concatenate(predicted)
