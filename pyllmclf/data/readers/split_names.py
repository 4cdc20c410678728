"""Names that splits have in files, folders and dictionaries of data sets."""

from __future__ import annotations

import re

_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = tuple(_NAMES)
# A word of the name, as in 20news-bydate-train or train-00000-of-00002.parquet.
_WORDS = {
    split: re.compile(rf"(?<![a-z0-9])({'|'.join(names)})(?![a-z])", re.IGNORECASE) for split, names in _NAMES.items()
}


def split_of(name: str) -> str | None:
    """``"train"``, ``"validation"`` or ``"test"``, if exactly one of them is a word of a name; else ``None``."""
    found = [split for split, word in _WORDS.items() if word.search(name)]
    return found[0] if len(found) == 1 else None
