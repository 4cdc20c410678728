"""Texts in a report: the beginning, and the whole behind a line that opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...text_pair import Text, parts_of

if TYPE_CHECKING:
    from markupsafe import Markup

BEGINNING, WHOLE = 600, 5_000
"""Characters of a text that are shown at once, and that the page has at most."""


@dataclass(frozen=True)
class Part:
    """A text, or one of a pair.

    Attributes
    ----------
    beginning : str
        What is shown at once.
    rest : str
        The whole text, up to :data:`WHOLE` characters, where ``beginning`` is not all of it; else empty.
    length : int
        Characters of the whole text.
    """

    beginning: str
    rest: str
    length: int


@dataclass(frozen=True)
class ShownText:
    """A text, or both texts of a pair; ``markup`` takes their place where it is not ``None``."""

    parts: tuple[Part, ...]
    markup: Markup | None = None


def shown_text(text: Text, markup: Markup | None = None, beginning: int = BEGINNING) -> ShownText:
    """A text as the page has it.

    Parameters
    ----------
    text : str or TextPair
    markup : Markup, optional
        Safe HTML that takes its place, such as the text with highlighted words.
    beginning : int
        Most characters that are shown at once.
    """
    return ShownText(tuple(_part(part, beginning) for part in parts_of(text)), markup)


def _part(text: str, beginning: int) -> Part:
    if len(text) <= beginning:
        return Part(text, "", len(text))
    return Part(f"{text[:beginning]} …", text if len(text) <= WHOLE else f"{text[:WHOLE]} …", len(text))
