"""Pairwise selection: a small part of a product in which every two values of different factors meet."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Pair = tuple[tuple[int, int], tuple[int, int]]  # ((factor, value), (factor, value)), by index


def pairs_of(case: Sequence[int]) -> Iterator[Pair]:
    """The pairs of values that meet in a case, given as the index of each factor's value."""
    return itertools.combinations(enumerate(case), 2)


def pairwise(factors: Mapping[str, Sequence[Any]], times: int = 1) -> list[tuple[Any, ...]]:
    """Cases of a product in which every pair of values occurs at least ``times`` times.

    Greedy: the case with most of the missing pairs comes next, the first in the product's order among equals, so that
    the same factors always give the same cases.

    Parameters
    ----------
    factors : mapping
        Values by name of the factor; two factors or more.
    times : int
        How often each pair must occur, in different cases; pairs with fewer cases in the product occur in all of them.

    Returns
    -------
    list of tuples
        One value of each factor, in the order of ``factors``.
    """
    values = list(factors.values())
    left = list(itertools.product(*(range(len(of)) for of in values)))
    available = Counter(pair for case in left for pair in pairs_of(case))
    missing = {pair: min(times, count) for pair, count in available.items()}
    chosen = []
    while missing:
        best = max(left, key=lambda case: sum(pair in missing for pair in pairs_of(case)))
        left.remove(best)
        chosen.append(best)
        for pair in pairs_of(best):
            if missing.get(pair, 0) > 1:
                missing[pair] -= 1
            else:
                missing.pop(pair, None)
    return [tuple(of[i] for of, i in zip(values, case, strict=True)) for case in chosen]
