"""Lengths of the evaluated texts: a histogram, and the accuracy by length."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...pages.charts import Bar, Chart, numbers
from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult
from ..selective import clopper_pearson

LENGTH_BINS = 5
"""Of the accuracy by length."""
MOST_BARS = 30
"""Of the histogram."""
WIDTHS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
"""Of its bars, in tokens."""


def accuracy_by_length(result: EvaluationResult | MultiLabelResult, tokens: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy by length: of the shortest fifth of the texts, of the next one, and so on.

    Parameters
    ----------
    result : EvaluationResult or MultiLabelResult
    tokens : ndarray of int64, shape [texts]
        Number of tokens that the model reads of each text.

    Returns
    -------
    list of dict
        For each bin ``low`` and ``high`` (tokens, both inclusive), ``texts``, ``accuracy`` and the Clopper-Pearson
        ``interval`` of it. Texts of one length are in one bin, so that there may be fewer than five.
    """
    right = result.right
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, LENGTH_BINS + 1), method="lower"))
    edges[-1] += 1
    if len(edges) == 1:
        edges = np.array([edges[0] - 1, edges[0]])
    rows = []
    for low, high in pairwise(edges):
        in_bin = (tokens >= low) & (tokens < high)
        if in_bin.any():
            texts, hits = int(in_bin.sum()), int(right[in_bin].sum())
            rows.append(
                {
                    "low": int(low),
                    "high": int(high) - 1,
                    "texts": texts,
                    "accuracy": hits / texts,
                    "interval": clopper_pearson(hits, texts),
                }
            )
    return rows


def length_chart(right: np.ndarray, tokens: np.ndarray) -> Chart:
    """Histogram of the lengths, with bars a whole number of tokens wide; the wrong texts of a bar are on top.

    Parameters
    ----------
    right : ndarray of bool, shape [texts]
    tokens : ndarray of int64, shape [texts]
    """
    longest = int(tokens.max())
    first = int(tokens.min())
    width = next(each for each in WIDTHS if longest // each - first // each < MOST_BARS or each == WIDTHS[-1])
    begin = first // width
    places = tokens // width - begin
    all_texts, hits = np.bincount(places), np.bincount(places, right).astype(np.int64)
    bars = []
    for place in np.flatnonzero(all_texts):
        low = (begin + int(place)) * width
        texts, good = int(all_texts[place]), int(hits[place])
        name = f"{low} tokens" if width == 1 else f"{low} to {low + width - 1} tokens"
        said = f"{name}: {texts:,} texts, {texts - good:,} wrong"
        for low_count, high_count, kind in ((0, good, "right"), (good, texts, "wrong")):
            if high_count > low_count:
                bars.append(Bar(low - 0.5, low + width - 0.5, low_count, high_count, said, kind))
    return Chart(
        "lengths",
        "Lengths of the texts",
        f"Histogram of {len(tokens):,} texts from {first:,} to {longest:,} tokens, in bars of {width:,}.",
        numbers(
            "tokens that the model reads", begin * width - 0.5, (begin + len(all_texts)) * width - 0.5, integers=True
        ),
        numbers("texts", 0, int(all_texts.max()), integers=True, zero=True),
        bars=bars,
    )
