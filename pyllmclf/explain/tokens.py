"""Texts as tokens that know their characters: which rows of a batch stand for which words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.packing import Packer
from ..data.row_layout import RowLayout
from ..data.token_store import TokenStore
from ..data.tokenizers import Tokenizer, special_count
from ..errors import ModelError
from ..text_pair import Text, parts_of
from .words import Span, split_words


@dataclass(frozen=True)
class TextTokens:
    """The tokens of a text, or of both texts of a pair, and its words.

    Attributes
    ----------
    ids : list of int
    spans : list of (int, int)
        Characters of each token in its text.
    parts : list of int
        0, or 1 of the second text's tokens.
    words : list of (int, int, int)
        Part, first character, and the one after the last of each word.
    word_of : list of int
        Word of each token; -1 where there is none.
    """

    ids: list[int]
    spans: list[Span]
    parts: list[int]
    words: list[tuple[int, int, int]]
    word_of: list[int]


def text_tokens(texts: Sequence[Text], tokenizer: Tokenizer) -> list[TextTokens]:
    """Tokenizes texts with the characters of each token; raises as the tokenizer."""
    strings = [part for text in texts for part in parts_of(text)]
    continues = [place > 0 for text in texts for place in range(len(parts_of(text)))]
    encoded = iter(tokenizer.encode_with_offsets(strings, continues))
    found = []
    for text in texts:
        ids: list[int] = []
        spans: list[Span] = []
        parts: list[int] = []
        words: list[tuple[int, int, int]] = []
        word_of: list[int] = []
        for part, string in enumerate(parts_of(text)):
            offsets = next(encoded)
            split, word_of_part = split_words(string, offsets.spans)
            word_of += [word + len(words) if word >= 0 else -1 for word in word_of_part]
            words += [(part, *span) for span in split]
            ids, spans = ids + offsets.ids, spans + offsets.spans
            parts += [part] * len(offsets.ids)
        found.append(TextTokens(ids, spans, parts, words, word_of))
    return found


class TokenizedTexts:
    """Texts as the model reads them, truncated or in windows, and the place of each row in its text.

    Parameters
    ----------
    texts : sequence of str or of TextPair
    tokenizer : Tokenizer
    layout : RowLayout
    vocab_size : int
        Of the model.

    Attributes
    ----------
    packer : Packer
        Its texts are windows where the layout makes some.
    tokens : list of TextTokens, one for each text

    Raises
    ------
    DataError
        If a text can't be tokenized, or has a token outside the model's vocabulary.
    ModelError
        If the tokenizer gives other tokens where it is asked for their characters.
    """

    def __init__(self, texts: Sequence[Text], tokenizer: Tokenizer, layout: RowLayout, vocab_size: int) -> None:
        store = TokenStore.from_texts(texts, tokenizer)
        store.check(vocab_size)
        self.tokens = text_tokens(texts, tokenizer)
        between = () if tokenizer.pairs is None else tokenizer.pairs.between
        for text, each in enumerate(self.tokens):
            first = len(each.ids) if store.firsts is None else int(store.firsts[text])
            whole = [*each.ids[:first], *between, *each.ids[first:]]
            if whole[: len(store[text])] != store[text].tolist():
                raise ModelError("the tokenizer gives other tokens where it is asked for their characters.")
        self.packer = Packer(store, tokenizer, layout)
        # The same truncation of the tokens' places tells which of them remain.
        sizes = store.lengths
        places = np.arange(sizes.sum()) - np.repeat(store.offsets[:-1], sizes)
        if store.firsts is not None:
            behind = places - np.repeat(store.firsts, sizes)
            places = np.where(behind < 0, places, np.where(behind < len(between), -1, places - len(between)))
        of_places = TokenStore(places.astype(np.int32), store.offsets, store.firsts)
        self._places = Packer(of_places, tokenizer, layout).store
        self._first_row = len(tokenizer.prefix)
        self._around = special_count(tokenizer) - len(between)

    @cached_property
    def text_of(self) -> np.ndarray:
        """Text of each window, int64, shape [windows]."""
        bounds = self.packer.window_bounds
        return np.arange(len(self.packer)) if bounds is None else np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Rows of each window that are tokens of its text, without special ones, counted from its first row."""
        return [self._first_row + np.flatnonzero(self._read(window) >= 0) for window in range(len(self.packer))]

    @cached_property
    def places(self) -> list[np.ndarray]:
        """Place in the text of each of :attr:`rows`."""
        read = (self._read(window) for window in range(len(self.packer)))
        return [places[places >= 0] for places in read]

    def _read(self, window: int) -> np.ndarray:
        """Places in the text of the window's tokens that the model reads.

        -1 of special tokens between texts, and of tokens of a text without words.
        """
        places = self._places[window][: self.packer.real_lengths[window] - self._around]
        word_of = np.array([*self.tokens[self.text_of[window]].word_of, -1])
        return np.where(word_of[places] >= 0, places, -1)
