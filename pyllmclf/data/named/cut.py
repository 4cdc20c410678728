"""Rows of a data set in an order, cut into splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...text_pair import Text
from ..readers import Label, TextData

# By name: "train", "validation", "test", or "all" where the data set has no splits of its own.
Splits = dict[str, TextData]

# Seed of every shuffle in the published experiments.
PUBLISHED_SEED = 123


def cut(
    texts: Sequence[Text], labels: Sequence[Label], order: Sequence[int], sizes: Mapping[str, int], name: str
) -> Splits:
    """Cuts the rows, taken in ``order``, into consecutive splits of these sizes; ``name`` is for messages."""
    splits, start = {}, 0
    for split, size in sizes.items():
        rows = order[start : start + size]
        splits[split] = TextData([texts[i] for i in rows], [labels[i] for i in rows], f"{name} ({split})")
        start += size
    return splits
