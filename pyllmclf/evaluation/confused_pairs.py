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
    support = [figures.support for figures in result.per_class.values()]
    found = []
    for first, second in _most_frequent(result, limit):
        texts = _confused(result, first, second)
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


def _most_frequent(result: EvaluationResult | MultiLabelResult, limit: int) -> list[tuple[int, int]]:
    """Indices of the true and the predicted class of the most frequent confusions; of equal ones, the first classes."""
    if isinstance(result, EvaluationResult):
        wrong = np.flatnonzero(~result.right)
        pairs, counts = np.unique(
            np.stack([result.labels[wrong], result.predictions[wrong]]), axis=1, return_counts=True
        )
    else:
        # A product of [classes, texts] and [texts, classes]: a list of confusions can be as long as texts x classes^2.
        missing, added = result.labels & ~result.predictions, result.predictions & ~result.labels
        matrix = missing.T.astype(np.float32) @ added.astype(np.float32)
        pairs = np.stack(np.nonzero(matrix))
        counts = matrix[pairs[0], pairs[1]]
    most = np.argsort(-counts, kind="stable")[:limit]
    return [(int(first), int(second)) for first, second in pairs[:, most].T]


def _confused(result: EvaluationResult | MultiLabelResult, first: int, second: int) -> np.ndarray:
    """Numbers of the texts of the first class that are taken for the second, int64, shape [texts]."""
    if isinstance(result, EvaluationResult):
        return np.flatnonzero((result.labels == first) & (result.predictions == second))
    missing = result.labels[:, first] & ~result.predictions[:, first]
    return np.flatnonzero(missing & result.predictions[:, second] & ~result.labels[:, second])
