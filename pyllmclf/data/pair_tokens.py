"""Pairs of texts in a token store: the tokens of both with those between them, truncation, and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .tokenizers import PairTemplate, Tokenizer

# Tokens, and the offset of each text with the number of tokens at the end.
Tokens = tuple[np.ndarray, np.ndarray]


class Seconds:
    """A tokenizer of second texts, which no prompt stands before.

    Parameters
    ----------
    tokenizer : Tokenizer
        Of pairs.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.whole = tokenizer.whole

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """Token ids of each text."""
        return self._tokenizer.encode_batch(texts, [True] * len(texts))


class PairTokens(NamedTuple):
    """Fields of a :class:`.token_store.TokenStore` of pairs.

    Attributes
    ----------
    tokens : ndarray of int32, shape [total]
    offsets : ndarray of int64, shape [pairs + 1]
    firsts : ndarray of int64, shape [pairs]
    """

    tokens: np.ndarray
    offsets: np.ndarray
    firsts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each pair, int64, shape [pairs]."""
        return np.diff(self.offsets)


def join_pairs(
    first: Tokens, index: np.ndarray, second: Tokens, template: PairTemplate, *, may_lose_end: bool
) -> PairTokens:
    """The tokens of pairs: those of the first text, the template's between them, and those of the second.

    Parameters
    ----------
    first : (tokens, offsets)
        Tokens of the distinct first texts.
    index : ndarray of int64, shape [pairs]
        First text of each pair.
    second : (tokens, offsets)
        Tokens of the second text of each pair.
    template : PairTemplate
    may_lose_end : bool
        Whether the token that the template skips at the end is left out there.
    """
    (first_tokens, first_offsets), (second_tokens, second_offsets) = first, second
    between = np.array(template.between, dtype=np.int32)
    begins, sizes = np.empty((2, len(index), 3), dtype=np.int64)
    begins[:, 0], sizes[:, 0] = first_offsets[:-1][index], np.diff(first_offsets)[index]
    begins[:, 1], sizes[:, 1] = len(first_tokens), len(between)
    begins[:, 2], sizes[:, 2] = second_offsets[:-1] + len(first_tokens) + len(between), np.diff(second_offsets)
    pairs = _taken(np.concatenate([first_tokens, between, second_tokens]), begins, sizes, sizes[:, 0])
    skipped = template.skipped_at_end
    return _without_end(pairs, skipped) if may_lose_end and skipped is not None else pairs


def _taken(tokens: np.ndarray, begins: np.ndarray, sizes: np.ndarray, firsts: np.ndarray) -> PairTokens:
    """Texts made of parts of an array of tokens.

    Parameters
    ----------
    tokens : ndarray of int32
    begins, sizes : ndarray of int64, shape [texts, parts]
        First token and number of tokens of each part.
    firsts : ndarray of int64, shape [texts]
    """
    offsets = np.concatenate([np.zeros(1, np.int64), sizes.sum(axis=1).cumsum()])
    flat = sizes.ravel()
    moved = begins.ravel() - (flat.cumsum() - flat)
    return PairTokens(tokens[np.repeat(moved, flat) + np.arange(offsets[-1])], offsets, firsts.astype(np.int64))


def _without_end(store: PairTokens, token: int) -> PairTokens:
    """The pairs without a token at their end; the first token stays."""
    ends = store.offsets[1:].copy()
    shorter = np.flatnonzero((ends > store.offsets[:-1] + 1) & (store.tokens[np.maximum(ends - 1, 0)] == token))
    if not len(shorter):
        return store
    for row in shorter:
        while ends[row] > store.offsets[row] + 1 and store.tokens[ends[row] - 1] == token:
            ends[row] -= 1
    sizes = ends - store.offsets[:-1]
    return _taken(store.tokens, store.offsets[:-1, None], sizes[:, None], np.minimum(store.firsts, sizes))


def shares(first: np.ndarray, second: np.ndarray, room: int, truncation: str) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each text of a pair stay.

    Parameters
    ----------
    first, second : ndarray of int64, shape [pairs]
        Numbers of tokens.
    room : int
        Most tokens of both.
    truncation : {"longest_first", "only_second"}
        The longer text loses tokens until both are equally long, of an odd room the longer one keeps one more, as the
        library tokenizers truncates; or the second text does, and the first only where it leaves no room for a token.

    Returns
    -------
    first, second : ndarray of int64, shape [pairs]
    """
    if truncation == "only_second":
        kept = np.minimum(first, room - np.minimum(second, 1))
        return kept, np.minimum(second, room - kept)
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    less = np.minimum(shorter, room // 2)
    # Where the shorter text takes less than half of the room, the longer one has the rest.
    more = np.minimum(longer, room - less)
    swapped = first > second
    return np.where(swapped, more, less), np.where(swapped, less, more)


def whole_lengths(store: PairTokens, between: int) -> np.ndarray:
    """Number of tokens of each pair with all those between its texts, int64, shape [pairs].

    A pair that lost its end counts as if it had it, because truncation comes before.

    Parameters
    ----------
    store : PairTokens
    between : int
        Number of tokens between the texts.
    """
    first, _, second = _sizes(store, between)
    return first + between + second


def cut_pairs(store: PairTokens, room: int, between: int, part: str, truncation: str) -> PairTokens:
    """Cuts pairs of more than ``room`` tokens, those between the texts included.

    Parameters
    ----------
    store : PairTokens
    room : int
        At least ``between``.
    between : int
        Number of tokens between the texts.
    part : {"head", "tail", "both"}
        Which tokens of a text stay; see :meth:`.token_store.TokenStore.cut`.
    truncation : {"longest_first", "only_second"}
        Which text loses tokens; see :func:`shares`.
    """
    first, between_sizes, second = _sizes(store, between)
    kept = shares(first, second, room - between, truncation)
    begins, sizes = np.empty((2, len(store.firsts), 5), dtype=np.int64)
    begin = store.offsets[:-1]
    for place, (start, length, size) in enumerate(
        ((begin, first, kept[0]), (begin + first + between_sizes, second, kept[1]))
    ):
        head = {"head": size, "tail": np.zeros_like(size), "both": size - size // 2}[part]
        column = 3 * place
        begins[:, column], sizes[:, column] = start, head
        begins[:, column + 1], sizes[:, column + 1] = start + length - (size - head), size - head
    begins[:, 2], sizes[:, 2] = begin + first, between_sizes
    return _taken(store.tokens, begins, sizes, kept[0])


def pair_windows(store: PairTokens, room: int, between: int) -> tuple[PairTokens, np.ndarray]:
    """Cuts the second texts of long pairs into windows that overlap by half; the first text is in each of them.

    Where both texts are longer than half of the room, the first one keeps half, whichever is truncated without windows:
    a window of few tokens tells little of the second text, and there would be very many. The last window ends with the
    second text.

    Parameters
    ----------
    store, room, between
        As for :func:`cut_pairs`.

    Returns
    -------
    PairTokens
        The windows of all pairs.
    ndarray of int64, shape [pairs + 1]
        First window of each pair, and the number of windows.
    """
    first, between_sizes, second = _sizes(store, between)
    kept, _ = shares(first, second, room - between, "longest_first")
    width = room - between - kept
    stride = np.maximum(1, width - width // 2)
    counts = 1 + np.maximum(0, -(-(second - width) // stride))
    bounds = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    pair = np.repeat(np.arange(len(store.firsts)), counts)
    number = np.arange(bounds[-1]) - bounds[:-1][pair]
    shift = np.minimum(number * stride[pair], np.maximum(0, second - width)[pair])
    begins, sizes = np.empty((2, len(pair), 3), dtype=np.int64)
    begin = store.offsets[:-1][pair]
    begins[:, 0], sizes[:, 0] = begin, kept[pair]
    begins[:, 1], sizes[:, 1] = begin + first[pair], between_sizes[pair]
    begins[:, 2] = begin + (first + between_sizes)[pair] + shift
    sizes[:, 2] = np.minimum(second, width)[pair]
    return _taken(store.tokens, begins, sizes, kept[pair]), bounds


def _sizes(store: PairTokens, between: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of tokens of the first text, between the texts, and of the second, int64, shape [pairs].

    A pair that lost its end has fewer between its texts.
    """
    rest = store.lengths - store.firsts
    between_sizes = np.minimum(rest, between)
    return store.firsts, between_sizes, rest - between_sizes
