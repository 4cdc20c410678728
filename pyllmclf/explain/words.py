"""Words of a text, each of them whole tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

Span = tuple[int, int]

SPACE, WORD, IDEOGRAPH, SYMBOL = range(4)
# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, and Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)
_APOSTROPHES, _POINTS = "'’", ".,"
_JOINER = "\u200d"


def _kind(char: str) -> int:
    if char.isspace():
        return SPACE
    if _UNSPACED.match(char):
        return IDEOGRAPH
    return WORD if char == "_" or unicodedata.category(char)[0] in "LNM" else SYMBOL


def _continues(char: str) -> bool:
    """Whether a character is part of the one before it: a combining mark, a joiner, a skin tone, half of a flag."""
    part_of_emoji = "\U0001f3fb" <= char <= "\U0001f3ff" or "\U0001f1e6" <= char <= "\U0001f1ff"
    return char == _JOINER or part_of_emoji or unicodedata.category(char)[0] == "M"


def _boundaries(text: str) -> list[bool]:
    """Whether a word may begin at each character."""
    kinds = [_kind(char) for char in text]
    begins = [True] * len(text)
    for i in range(1, len(text)):
        before, char = text[i - 1], text[i]
        if SPACE in kinds[i - 1 : i + 1]:
            continue
        if _continues(char) or before == _JOINER:
            begins[i] = False
        elif kinds[i - 1] == kinds[i]:
            begins[i] = kinds[i] == IDEOGRAPH or (kinds[i] == SYMBOL and before != char)
    for i in range(1, len(text) - 1):
        around = text[i - 1] + text[i + 1]
        inside = around.isdigit() if text[i] in _POINTS else text[i] in _APOSTROPHES and around.isalnum()
        if inside and kinds[i - 1] == kinds[i + 1] == WORD:
            begins[i] = begins[i + 1] = False
    return begins


def split_words(text: str, tokens: Sequence[Span]) -> tuple[list[Span], list[int]]:
    """Splits a text into words that no token crosses.

    A word is a run of letters and digits, with an apostrophe or a decimal point inside it; a symbol, or several of the
    same; a character of a script without spaces. Words that share a token are one. Tokens of white space alone, or of
    no character, belong to the word that follows, or at the end to the last one.

    Parameters
    ----------
    text : str
    tokens : sequence of (int, int)
        Characters of each token, in order; empty where no character stands for the token.

    Returns
    -------
    words : list of (int, int)
        Characters of each word, in order, without overlaps.
    word_of : list of int
        Word of each token; -1 of all where the text has no words.
    """
    begins = _boundaries(text)
    inner = [_stripped(text, span) for span in tokens]
    for begin, end in inner:
        begins[begin + 1 : end] = [False] * max(0, end - begin - 1)
    starts = [i for i, begin in enumerate(begins) if begin]
    spans = list(pairwise([*starts, len(text)]))
    words = [span for span in spans if not text[slice(*span)].isspace()]
    word_at = {place: word for word, span in enumerate(words) for place in range(*span)}
    found = [word_at[begin] if begin < end else None for begin, end in inner]
    return words, _neighbours(found, len(words))


def _stripped(text: str, span: Span) -> Span:
    """A span without the white space at its ends."""
    begin, end = span
    while begin < end and text[begin].isspace():
        begin += 1
    while begin < end and text[end - 1].isspace():
        end -= 1
    return begin, end


def _neighbours(found: list[int | None], count: int) -> list[int]:
    """Gives tokens without a word to the next token's word, the last ones to the last word."""
    following: int | None = None
    for i in reversed(range(len(found))):
        following = found[i] = following if found[i] is None else found[i]
    last = count - 1
    return [last if word is None else word for word in found]
