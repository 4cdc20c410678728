"""Evaluated texts that nearly are training texts, on which a classifier looks better than it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...data.near_duplicates import INSTALL, is_available, near_duplicates
from ...data.readers import TextData
from ...text_pair import parts_of
from .errors import place_of
from .shown_text import ShownText, shown_text

MOST_CHARACTERS = 5_000_000
"""Characters of all texts up to which the report searches: about four seconds."""
SHOWN, CHARACTERS = 50, 300


@dataclass(frozen=True)
class NearDuplicates:
    """Evaluated texts that are training texts, or nearly.

    Attributes
    ----------
    equal : int
        Evaluated texts that are training texts.
    rows : list of mapping
        Texts that nearly are, the most similar first: ``where``, ``text``, ``label``; ``of_where``, ``of_text`` and
        ``of_label`` of the training text; ``similarity``.
    why_not : str
        Why near-duplicates were not searched; empty if they were.
    """

    equal: int
    rows: list[Mapping[str, Any]]
    why_not: str = ""


def find_near_duplicates(train: TextData, data: TextData) -> NearDuplicates:
    """Searches evaluated texts among the training texts.

    Parameters
    ----------
    train, data : TextData
        Both labelled.
    """
    known = set(train.texts)
    equal = sum(text in known for text in data.texts)
    characters = sum(len(part) for texts in (train.texts, data.texts) for text in texts for part in parts_of(text))
    if not is_available():
        return NearDuplicates(equal, [], f"near-duplicates need datasketch: {INSTALL}")
    if characters > MOST_CHARACTERS:
        reason = f"near-duplicates are not searched in more than {MOST_CHARACTERS // 10**6} million characters"
        return NearDuplicates(equal, [], f"{reason}; pyllmclf validate does")
    found = sorted(near_duplicates([train, data])[0, 1], key=lambda each: -each.similarity)
    return NearDuplicates(
        equal,
        [
            {
                **_row(data, each.second, ""),
                **_row(train, each.first, "of_"),
                "similarity": each.similarity,
            }
            for each in found
        ],
    )


def _row(part: TextData, row: int, prefix: str) -> dict[str, Any]:
    assert part.labels is not None
    label = part.labels[row]
    shown: ShownText = shown_text(part.texts[row], beginning=CHARACTERS)
    name = ", ".join(map(str, label)) if isinstance(label, (list, tuple, set)) else str(label)
    return {f"{prefix}where": place_of(part, row), f"{prefix}text": shown, f"{prefix}label": name}
