"""Which columns hold texts and labels, by their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .missing import is_missing

# More classes than these are not taken for classes without being told so.
MOST_CLASSES = 500
_LETTER = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*")
_WHOLE = re.compile(r"\s*[-+]?\d+\s*")


@dataclass
class _Profile:
    """What the values of a column are like."""

    rows: int = 0
    missing: int = 0
    strings: int = 0
    lettered: int = 0
    fractions: int = 0
    others: int = 0
    characters: int = 0
    words: int = 0
    distinct: set[Any] = field(default_factory=set)

    def add(self, value: Any) -> None:
        self.rows += 1
        if is_missing(value) or (isinstance(value, str) and not value):
            self.missing += 1
            return
        if len(self.distinct) <= 2 * MOST_CLASSES:
            self.distinct.add(value if isinstance(value, (str, int, float)) else str(value))
        if not isinstance(value, str):
            self.others += not isinstance(value, (int, float))
            self.fractions += isinstance(value, float) and not value.is_integer()
            self.characters += len(str(value))
            return
        self.strings += 1
        self.lettered += _LETTER.search(value) is not None
        self.fractions += _NUMBER.fullmatch(value) is not None and _WHOLE.fullmatch(value) is None
        self.characters += len(value)
        self.words += len(value.split())

    @property
    def length(self) -> float:
        """Mean number of characters of the values."""
        return self.characters / max(1, self.rows - self.missing)

    @property
    def holds_labels(self) -> bool:
        """Whether few values return again and again: none missing, no fractions, none long."""
        few = 2 <= len(self.distinct) <= min(MOST_CLASSES, self.rows // 2)
        return few and not (self.missing or self.fractions or self.others) and self.length <= 40

    @property
    def holds_texts(self) -> bool:
        """Whether values are strings of several words, or long, most of them with letters."""
        present = self.rows - self.missing
        if not present or self.strings < present or self.lettered * 2 < present:
            return False
        return self.words >= 2 * present or self.length >= 12


def find_columns(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    texts: Sequence[int] | None,
    label: int | None,
    labelled: bool,
    header: bool,
    excluded: Sequence[int | None] = (),
) -> tuple[int, int | None] | str | None:
    """Finds the columns that usual names do not tell.

    Parameters
    ----------
    names : sequence of str
    rows : iterable of sequences
        Values of all rows.
    texts : sequence of int, optional
        Columns of the texts, where they are known.
    label : int, optional
        Column of the labels, where it is known.
    labelled : bool
        Whether labels are needed.
    header : bool
        Whether the names are those of a header.
    excluded : sequence of int or None
        Columns that are neither, such as that of the weights.

    Returns
    -------
    (text, label), a hint, or None
        The one column that holds texts and, if needed, the one that holds labels, of shorter and fewer values; advice
        where the header looks like a row; ``None`` where the values do not tell.
    """
    profiles = [_Profile() for _ in names]
    for row in rows:
        for profile, value in zip(profiles, row, strict=False):  # a row may lack its empty fields at the end
            profile.add(value)
    free = [(i, profile) for i, profile in enumerate(profiles) if i not in excluded]
    text_candidates = [i for i, p in free if p.holds_texts] if texts is None else list(texts[:1])
    found: tuple[int, int | None] | None
    if not labelled:
        text_candidates = [i for i in text_candidates if i != label] if len(names) > 1 or header else [0]
        found = (text_candidates[0], None) if len(text_candidates) == 1 else None
    else:
        label_candidates = [i for i, p in free if p.holds_labels] if label is None else [label]
        pairs = [
            (t, c)
            for t in text_candidates
            for c in label_candidates
            if t != c and (label is not None or _fit(profiles[t], profiles[c])) and c not in (texts or ())
        ]
        found = pairs[0] if len(pairs) == 1 else None
    if found is not None and header and _looks_like_a_row(names, profiles, found):
        return "line 1 looks like a row of data; if it is one, say header=False (--no-header)"
    return found


def _fit(text: _Profile, label: _Profile) -> bool:
    """Whether texts are longer than the labels, and of more values."""
    return text.length > label.length and len(text.distinct) >= 2 * len(label.distinct)


def _looks_like_a_row(names: Sequence[str], profiles: Sequence[_Profile], found: tuple[int, int | None]) -> bool:
    """Whether the header is a row of data: its label is a label, its text is one, or it holds numbers."""
    text, label = found
    # pandas names columns without names by their numbers, and the index not at all.
    if any(_WHOLE.fullmatch(name) and name not in (str(i), str(i - 1)) for i, name in enumerate(names)):
        return True
    if label is None:
        return len(names) == 1 or len(names[text].split()) > 1
    return names[label] in profiles[label].distinct or len(names[text].split()) > 4 or len(names[text]) > 40
