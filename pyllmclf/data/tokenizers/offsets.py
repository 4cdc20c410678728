"""Token ids with the characters that each token stands for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple


class Offsets(NamedTuple):
    """Tokens of a text, and their places in it.

    Attributes
    ----------
    ids : list of int
    spans : list of (int, int)
        First character of each token and the one after its last, in the text as it is, whatever a normalizer makes of
        it. Tokens that are pieces of one character all have that character. A token that no character stands for has
        an empty span.
    """

    ids: list[int]
    spans: list[tuple[int, int]]

    def shortened(self, ids: list[int]) -> Offsets:
        """Those of fewer tokens, which are the first ones."""
        return Offsets(ids, self.spans[: len(ids)])

    def or_token(self, token: int) -> Offsets:
        """These, or of a text without tokens those of one token that no character stands for."""
        return self if self.ids else Offsets([token], [(0, 0)])

    def behind(self, tokens: int, characters: int) -> Offsets:
        """Those without the first tokens, counted from a later character on."""
        spans = [(max(0, a - characters), max(0, b - characters)) for a, b in self.spans[tokens:]]
        return Offsets(self.ids[tokens:], spans)


def spans_of_bytes(text: str, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Characters of each token of a text whose tokens are the bytes of its UTF-8, one after another.

    Parameters
    ----------
    text : str
    lengths : sequence of int
        Number of bytes of each token; together those of the text.

    Returns
    -------
    list of (int, int)
        All characters of which a token has a byte.
    """
    character = [place for place, char in enumerate(text) for _ in range(len(char.encode()))]
    bounds = accumulate(lengths, initial=0)
    return [(character[begin], character[end - 1] + 1) for begin, end in pairwise(bounds)]
