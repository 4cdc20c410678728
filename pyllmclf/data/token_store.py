"""The tokens of all texts of a data set in one flat array (``csrc/data/token_store.cpp``)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch  # noqa: F401 - before _C, so that both share the OpenMP runtime of torch

from .. import _C
from ..errors import DataError, ModelError, ResourceError
from ..text_pair import Text, TextPair, parts_of
from .atomic_folder import Writer, text_writer, verify_folder, write_folder
from .disk_cache import find_or_make
from .pair_tokens import PairTokens, Seconds, cut_pairs, join_pairs, pair_windows, whole_lengths
from .tokenizers import Tokenizer

# Size of a chunk that is tokenized at once; Python objects for tokens take up to 370 bytes each.
TEXTS_PER_CHUNK = 4096
CHARACTERS_PER_CHUNK = 1 << 22
# Maximum number of characters that are tokenized at once where a text can't be broken between words.
MOST_UNBROKEN = 10 << 20
FILES = {"tokens.bin": np.int32, "offsets.bin": np.int64}
# Of pairs alone.
FIRSTS_FILE = "firsts.bin"
# In a cached folder: the hash of what its tokens were made from.
KEY_FILE = "key.txt"


@dataclass(frozen=True)
class TokenStore:
    """Tokens and offsets; text ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``, without special tokens around it.

    Attributes
    ----------
    tokens : ndarray of int32, shape [total]
    offsets : ndarray of int64, shape [texts + 1]
    firsts : ndarray of int64, shape [texts], or None
        Of pairs, the number of tokens of the first text; the tokens between both texts come after them.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    firsts: np.ndarray | None = None

    @classmethod
    def from_texts(cls, texts: Iterable[Text], tokenizer: Tokenizer) -> TokenStore:
        """Tokenizes texts, or with a tokenizer of pairs, pairs; raises as :meth:`of_strings`."""
        if tokenizer.pairs is None:
            return cls.of_strings(map(_single, texts), tokenizer)
        # A text that meets many partners is tokenized once.
        distinct: dict[str, int] = {}
        seconds: list[str] = []
        index: list[int] = []
        for pair in texts:
            assert isinstance(pair, TextPair)
            index.append(distinct.setdefault(pair.text, len(distinct)))
            seconds.append(pair.pair)
        first, second = cls.of_strings(distinct, tokenizer), cls.of_strings(seconds, Seconds(tokenizer))
        return cls(
            *join_pairs(
                (first.tokens, first.offsets),
                np.array(index, dtype=np.int64),
                (second.tokens, second.offsets),
                tokenizer.pairs,
                may_lose_end=not tokenizer.suffix,
            )
        )

    @classmethod
    def of_strings(cls, texts: Iterable[str], tokenizer: Tokenizer | Seconds) -> TokenStore:
        """Tokenizes texts in chunks, each on all cores, so that Python objects exist for one chunk at a time.

        Raises
        ------
        DataError
            If a text is too long to be tokenized at once, and can't be broken between words.
        """
        builder = _C.TokenStoreBuilder()
        pieces: list[str] = []
        continues: list[bool] = []
        characters = 0
        for piece, continues_text in _pieces(texts, tokenizer):
            if pieces and (len(pieces) == TEXTS_PER_CHUNK or characters + len(piece) > CHARACTERS_PER_CHUNK):
                builder.append_batch(tokenizer.encode_batch(pieces, continues), continues)
                pieces, continues, characters = [], [], 0
            pieces.append(piece)
            continues.append(continues_text)
            characters += len(piece)
        builder.append_batch(tokenizer.encode_batch(pieces, continues), continues)
        return cls(*builder.finish())

    @classmethod
    def cached(cls, folder: Path, texts: Sequence[Text], tokenizer: Tokenizer) -> TokenStore:
        """The tokens of these texts from a disk cache, which is filled if it lacks them or they are damaged.

        They are mapped into memory rather than read.

        Parameters
        ----------
        folder : Path
            The disk cache.
        texts : sequence of str or of TextPair
        tokenizer : Tokenizer

        Raises
        ------
        DataError
            As :meth:`from_texts`.
        ResourceError
            If the cache can't be written.
        """
        opened: list[TokenStore] = []
        key = _key(texts, tokenizer)

        def is_intact(target: Path) -> bool:
            try:
                store = cls.open(target)
                if len(store) != len(texts) or (target / KEY_FILE).read_bytes() != key.encode():
                    return False
            except (ModelError, OSError):
                return False
            opened.append(store)
            return True

        def make() -> dict[str, Writer]:
            return cls.from_texts(texts, tokenizer)._writers() | {KEY_FILE: text_writer(key)}

        target = folder / f"tokens-{key[:16]}"
        find_or_make(target, is_intact, make)
        if not opened and not find_or_make(target, is_intact, make):
            raise ResourceError(f"{target}: the tokens that were written there can't be read back.")
        return opened[0]

    def _writers(self) -> dict[str, Writer]:
        names = [*FILES, *([] if self.firsts is None else [FIRSTS_FILE])]
        return {name: getattr(self, name.removesuffix(".bin")).tofile for name in names}

    def save(self, folder: Path) -> None:
        """Writes a folder that :meth:`open` reads, which is complete or absent.

        Raises
        ------
        UsageError
            If the folder exists and holds something else.
        ResourceError
            If the folder can't be written.
        """
        write_folder(folder, self._writers())

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """The store in a folder, mapped into memory.

        Raises
        ------
        ModelError
            If the folder is missing or damaged.
        """
        try:
            verify_folder(folder, [*FILES, FIRSTS_FILE, KEY_FILE])
            tokens, offsets = (_mapped(folder / name, dtype) for name, dtype in FILES.items())
            firsts = _mapped(folder / FIRSTS_FILE, np.int64) if (folder / FIRSTS_FILE).is_file() else None
        except (OSError, ValueError) as error:  # ValueError: no whole number of entries
            raise ModelError(f"{folder} can't be read ({error}).") from error
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
            raise ModelError(f"{folder}: the offsets don't fit the tokens.")
        lengths = np.diff(offsets)
        if firsts is not None and (len(firsts) != len(lengths) or ((firsts < 0) | (firsts > lengths)).any()):
            raise ModelError(f"{folder}: the first texts don't fit the tokens.")
        return cls(tokens, offsets, firsts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, int64, shape [texts]."""
        return np.diff(self.offsets)

    @property
    def sha256(self) -> str:
        """SHA-256 of the offsets and tokens, and of pairs' first texts, in hexadecimal digits."""
        digest = hashlib.sha256(self.offsets.tobytes())
        digest.update(self.tokens.data)
        if self.firsts is not None:
            digest.update(self.firsts.tobytes())
        return digest.hexdigest()

    def first_equal_texts(self, most_tokens: int) -> np.ndarray:
        """For each text, the first text with the same first ``most_tokens`` tokens, int64, shape [texts].

        Pairs with equal tokens are different if their first texts end at different ones: types of tokens differ.
        """
        first = _C.first_equal_texts(self.tokens, self.offsets, most_tokens)
        if self.firsts is None or not len(first):
            return first
        _, earliest, same = np.unique(np.stack([first, self.firsts]), axis=1, return_index=True, return_inverse=True)
        return earliest[same.reshape(-1)]

    def sorted_texts(self, ids: np.ndarray, most_tokens: int) -> np.ndarray:
        """The ids sorted by their texts' first ``most_tokens`` tokens, int64: common prefixes become neighbours."""
        return _C.sort_texts(self.tokens, self.offsets, ids, most_tokens)

    @classmethod
    def concatenate(cls, stores: Sequence[TokenStore]) -> TokenStore:
        """The texts of several stores in one."""
        if len(stores) == 1:
            return stores[0]
        ends = np.cumsum([0] + [len(store.tokens) for store in stores])
        shifted = [store.offsets[1:] + end for store, end in zip(stores, ends[:-1], strict=True)]
        offsets = np.concatenate([np.zeros(1, np.int64), *shifted])
        firsts = [store.firsts for store in stores if store.firsts is not None]
        tokens = np.concatenate([store.tokens for store in stores])
        return cls(tokens, offsets, np.concatenate(firsts) if len(firsts) == len(stores) else None)

    def cut_pairs(self, room: int, between: int, part: str, truncation: str) -> TokenStore:
        """Cuts pairs; see :func:`.pair_tokens.cut_pairs`."""
        return TokenStore(*cut_pairs(self._pairs, room, between, part, truncation))

    def pair_windows(self, room: int, between: int) -> tuple[TokenStore, np.ndarray]:
        """Cuts pairs into windows; see :func:`.pair_tokens.pair_windows`."""
        windows, bounds = pair_windows(self._pairs, room, between)
        return TokenStore(*windows), bounds

    def pair_lengths(self, between: int) -> np.ndarray:
        """Number of tokens of each pair with all those between its texts; see :func:`.pair_tokens.whole_lengths`."""
        return whole_lengths(self._pairs, between)

    @property
    def _pairs(self) -> PairTokens:
        assert self.firsts is not None
        return PairTokens(self.tokens, self.offsets, self.firsts)

    def cut(self, room: int, part: str) -> TokenStore:
        """Cuts texts of more than ``room`` tokens to ``room`` tokens.

        Parameters
        ----------
        room : int
            At least 1.
        part : {"head", "tail", "both"}
            Which tokens of a longer text stay: the first, the last, or half of ``room`` from each end.
        """
        first = {"head": room, "tail": 0, "both": room - room // 2}[part]
        lengths = self.lengths
        sizes = np.minimum(lengths, room)
        offsets = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        # The removed tokens of a longer text come after its first ``first`` ones.
        skipped = np.where(within < first, 0, np.repeat(lengths - sizes, sizes))
        return TokenStore(self.tokens[np.repeat(self.offsets[:-1], sizes) + within + skipped], offsets)

    def windows(self, room: int, overlap: int) -> tuple[TokenStore, np.ndarray]:
        """Cuts texts of more than ``room`` tokens into windows of ``room``; the last window ends with the text.

        Parameters
        ----------
        room : int
        overlap : int
            Number of tokens that a window shares with the one before it, less than ``room``; the last one may share
            more.

        Returns
        -------
        TokenStore
            The windows of all texts; a text of at most ``room`` tokens is one window.
        ndarray of int64, shape [texts + 1]
            First window of each text, and the number of windows.
        """
        lengths, stride = self.lengths, room - overlap
        counts = 1 + np.maximum(0, -(-(lengths - room) // stride))
        bounds = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        number = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
        last_begin = np.repeat(np.maximum(0, lengths - room), counts)
        begins = np.repeat(self.offsets[:-1], counts) + np.minimum(number * stride, last_begin)
        sizes = np.repeat(np.minimum(lengths, room), counts)
        offsets = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        return TokenStore(self.tokens[np.repeat(begins, sizes) + within], offsets), bounds

    def check(self, vocab_size: int) -> None:
        """Raises :class:`DataError` if a token is outside a vocabulary of ``vocab_size``."""
        if (text := _C.find_invalid_text(self.tokens, self.offsets, vocab_size)) >= 0:
            raise DataError(f"text {text} holds a token outside the model's vocabulary of {vocab_size}.")


def _key(texts: Sequence[Text], tokenizer: Tokenizer) -> str:
    """SHA-256 of the texts and of everything in the tokenizer that their tokens depend on."""
    inputs = tokenizer.fingerprint, tokenizer.pad_token_id, list(tokenizer.prefix), list(tokenizer.suffix)
    digest = hashlib.sha256(repr(inputs).encode())
    for text in texts:
        for part in parts_of(text):
            content = part.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _single(text: Text) -> str:
    assert isinstance(text, str)
    return text


def _mapped(path: Path, dtype: type) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


# A space between words. The tokenizers of all models here begin a new word at it, so that the two sides of a text have
# the same tokens apart as together. The probe checks that of a tokenizer.
_BREAK = re.compile(r"(?<=\S)(?= \w)")
_BREAKS_PROBE = "It's 7 o'clock,\nsays the 'Ångström' clock.  Or 8 _perhaps_ é ü 5\n\nNo: 9 日本 語"


def _pieces(texts: Iterable[str], tokenizer: Tokenizer | Seconds) -> Iterator[tuple[str, bool]]:
    """Yields texts whole, or long ones in pieces of about a chunk; the flag says whether a piece continues a text."""
    breaks: bool | None = None
    for row, text in enumerate(texts):
        if len(text) <= CHARACTERS_PER_CHUNK:
            yield text, False
            continue
        breaks = _may_break(tokenizer) if breaks is None else breaks
        begin = 0
        while begin < len(text):
            end = len(text)
            if breaks and end - begin > CHARACTERS_PER_CHUNK:
                match = _BREAK.search(text, begin + CHARACTERS_PER_CHUNK)
                end = match.start() if match else end
            if end - begin > MOST_UNBROKEN:
                raise DataError(
                    f"text {row} (of 0, 1, ...) has {end - begin:,} characters with no space between words to break it "
                    f"at; at most {MOST_UNBROKEN:,} are tokenized at once; cut it, or leave it out."
                )
            yield text[begin:end], begin > 0
            begin = end


def _may_break(tokenizer: Tokenizer | Seconds) -> bool:
    """Whether the pieces of a text have the tokens of the whole text."""
    probes = [_BREAKS_PROBE, *(f"a {token} b{token}c {token}" for token in tokenizer.whole)]
    for probe in probes:
        places = [0, *(match.start() for match in _BREAK.finditer(probe)), len(probe)]
        texts = [probe, *(probe[a:b] for a, b in pairwise(places))]
        whole, *pieces = tokenizer.encode_batch(texts, [i > 1 for i in range(len(texts))])
        if whole != [token for piece in pieces for token in piece]:
            return False
    return True
