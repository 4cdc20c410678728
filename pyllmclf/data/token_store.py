"""All texts of a data set as one flat array of tokens (``csrc/data/token_store.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch  # noqa: F401 - before the native core, so that both share its OpenMP runtime

from .. import _C
from ..errors import DataError
from .tokenizers import Tokenizer

TEXTS_PER_CHUNK = 4096


@dataclass(frozen=True)
class TokenStore:
    """Flat tokens and offsets; text ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``, without special tokens.

    Attributes
    ----------
    tokens : ndarray of int32, shape [total]
    offsets : ndarray of int64, shape [texts + 1]
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_texts(cls, texts: Sequence[str], tokenizer: Tokenizer) -> TokenStore:
        """Tokenizes in chunks, so that Python objects exist for one chunk at a time."""
        builder = _C.TokenStoreBuilder()
        for start in range(0, len(texts), TEXTS_PER_CHUNK):
            builder.append_batch(tokenizer.encode_batch(texts[start : start + TEXTS_PER_CHUNK]))
        return cls(*builder.finish())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64, shape [texts]."""
        return np.diff(self.offsets)

    def first_equal_texts(self, most_tokens: int) -> np.ndarray:
        """For each text the first one with the same first ``most_tokens`` tokens, int64, shape [texts]."""
        return _C.first_equal_texts(self.tokens, self.offsets, most_tokens)

    @classmethod
    def concatenate(cls, stores: Sequence[TokenStore]) -> TokenStore:
        """The texts of several stores, one behind the other."""
        if len(stores) == 1:
            return stores[0]
        ends = np.cumsum([0] + [len(store.tokens) for store in stores])
        shifted = [store.offsets[1:] + end for store, end in zip(stores, ends[:-1], strict=True)]
        offsets = np.concatenate([np.zeros(1, np.int64), *shifted])
        return cls(np.concatenate([store.tokens for store in stores]), offsets)

    def check(self, vocab_size: int) -> None:
        """Raises :class:`DataError` if a token does not fit a vocabulary of ``vocab_size``."""
        if (text := _C.find_invalid_text(self.tokens, self.offsets, vocab_size)) >= 0:
            raise DataError(f"text {text} holds a token outside the model's vocabulary of {vocab_size}.")
