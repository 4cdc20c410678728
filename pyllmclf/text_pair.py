"""A pair of texts that is classified as one, such as a premise and a hypothesis."""

from __future__ import annotations

from typing import NamedTuple


class TextPair(NamedTuple):
    """Two texts; as a string, both with a space between them.

    Attributes
    ----------
    text, pair : str
        The first text and the second one.
    """

    text: str
    pair: str

    def __str__(self) -> str:
        return f"{self.text} {self.pair}"


# A text that is classified.
Text = str | TextPair


def parts_of(text: Text) -> tuple[str, ...]:
    """The one or the two strings of a text."""
    return (text,) if isinstance(text, str) else tuple(text)


def is_blank(text: Text) -> bool:
    """Whether a text, or one of a pair, is empty or white space."""
    return not all(part.strip() for part in parts_of(text))


def characters(text: Text) -> int:
    """Number of characters of a text, or of both texts of a pair."""
    return sum(map(len, parts_of(text)))


def named_parts(text: Text) -> dict[str, str]:
    """A text, or both of a pair, by the names that tables have for them."""
    return dict(zip(("text", "text_pair"), parts_of(text), strict=False))
