"""Pairs of classes of which a classifier takes one for the other, with texts that show it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.readers import TextData
from .metrics import EvaluationResult


def confused_pairs(
    result: EvaluationResult, data: TextData, limit: int = 10, examples: int = 3
) -> list[dict[str, Any]]:
    """Lists the most frequent wrong predictions by class, with example texts.

    Parameters
    ----------
    result : EvaluationResult
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
        first that are taken for the second; ``share``, their fraction of the first class's texts; ``examples``, those
        with the highest probability of the second class: ``row`` (in the data), ``where`` (its line or row in the
        source), ``text`` and ``probability``.
    """
    index = {label: number for number, label in enumerate(result.classes)}
    pairs = []
    for true, predicted, texts in result.confusions(limit):
        rows = np.flatnonzero((result.labels == index[true]) & (result.predictions == index[predicted]))
        probabilities = result.probabilities[rows, index[predicted]]
        order = np.argsort(-probabilities, kind="stable")[:examples]
        shown = [
            {
                "row": int(rows[i]),
                "where": data.where(int(rows[i])),
                "text": data.texts[rows[i]],
                "probability": float(probabilities[i]),
            }
            for i in order
        ]
        share = texts / result.per_class[true].support
        pairs.append({"true": true, "predicted": predicted, "texts": texts, "share": share, "examples": shown})
    return pairs
