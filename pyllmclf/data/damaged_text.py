"""Signs that a text was damaged on its way: bytes that were read in the wrong encoding, and what isn't language."""

from __future__ import annotations

import re

# UTF-8 that was read as Latin-1 or Windows-1252: "Ã©" for "é", "â€™" for an apostrophe, "Ð¿Ñ€" for Cyrillic letters.
# Combinations that languages have, as a capital É before a dash, are not among them.
_SECOND = r"\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ•˜™š›œžŸ"
_MOJIBAKE = re.compile(rf"[ÂÃ][\x80-\xbf]|Ã[{_SECOND}]|â(?:€|\x80)[“”{_SECOND}]|ï»¿|ï¿½|(?:[ÐÑ][‘’“”–—{_SECOND}]){{3}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
# Words that other tools write in the place of a missing value.
MISSING_WORDS = {"", "na", "n/a", "nan", "null", "none", "nil", "<na>", "nat", "#n/a", "-nan"}
# Shortest text whose share of letters is looked at, and the share below which it is no language.
_SOME, _FEW = 10, 0.3
_LOOKED_AT = 400  # characters of a text


def is_replaced(text: str) -> bool:
    """Whether a text holds U+FFFD, which stands for bytes that could not be read."""
    return "\ufffd" in text


def is_mojibake(text: str) -> bool:
    """Whether a text looks like UTF-8 that was read as Latin-1."""
    return not text.isascii() and _MOJIBAKE.search(text) is not None


def has_control_characters(text: str) -> bool:
    """Whether a text holds control characters other than tabs and line ends."""
    return _CONTROL.search(text) is not None


def has_few_letters(text: str) -> bool:
    """Whether fewer than three in ten of a text's first characters, white space aside, are letters of any script."""
    characters = "".join(text[:_LOOKED_AT].split())
    return len(characters) >= _SOME and sum(map(str.isalpha, characters)) < _FEW * len(characters)
