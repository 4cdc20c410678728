"""GPT-2's byte-pair encoding by tiktoken."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

from ...errors import ModelError
from ..json_text import parse_json
from .files import GPT2_END_OF_TEXT, byte_alphabet, byte_level_json, tokenizer_files
from .offsets import Offsets, spans_of_bytes
from .pair_template import PairTemplate

if TYPE_CHECKING:
    import tiktoken

VOCAB_SIZE = 50257
# GPT-2's pattern for splitting a text into words, which a tokenizer.json does not hold in tiktoken's syntax.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class TiktokenTokenizer:
    """GPT-2's byte-pair encoding; implements :class:`pyllmclf.data.tokenizers.Tokenizer`.

    Parameters
    ----------
    encoding : tiktoken.Encoding
        With the 50,256 tokens of GPT-2 besides the end-of-text token, which also pads.
    """

    kind = "tiktoken"
    splits_special_tokens = True
    prompt = ""
    without_position: int | None = None
    pairs: PairTemplate | None = None

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self.vocab_size = VOCAB_SIZE
        self.pad_token_id = self.end_of_text = VOCAB_SIZE - 1
        self.prefix: list[int] = []
        self.suffix: list[int] = []
        self.whole: list[str] = []

    @classmethod
    def gpt2(cls) -> TiktokenTokenizer:
        """The published encoding, from tiktoken's cache or from the network.

        Raises
        ------
        ModelError
            If the vocabulary is neither cached nor can be fetched.
        """
        import tiktoken

        try:
            return cls(tiktoken.get_encoding("gpt2"))
        except Exception as error:  # requests' and tiktoken's own errors have no common base
            raise ModelError(
                f"GPT-2's vocabulary can't be loaded ({type(error).__name__}: {error}); "
                "connect to a network once, or point TIKTOKEN_CACHE_DIR at tiktoken's cache, or HF_HOME at a cache of "
                "the hub that holds the model's tokenizer."
            ) from error

    @classmethod
    def from_json(cls, content: str, origin: str = "tokenizer.json") -> TiktokenTokenizer:
        """Rebuilds the encoding from a ``tokenizer.json`` or ``vocab.json`` of GPT-2: the id of a token is its rank.

        Parameters
        ----------
        content : str
        origin : str
            Path of the file, for error messages.

        Raises
        ------
        ModelError
            If the content is malformed, or its vocabulary is not GPT-2's.
        """
        import tiktoken

        byte_of = {char: byte for byte, char in byte_alphabet().items()}
        try:
            parsed = parse_json(content)
            vocab = dict(parsed["model"]["vocab"] if isinstance(parsed.get("model"), dict) else parsed)
            vocab.pop(GPT2_END_OF_TEXT, None)
            ranks = {bytes(byte_of[char] for char in token): int(rank) for token, rank in vocab.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ModelError(f"{origin}: not the tokenizer of a GPT-2 checkpoint ({error!r}).") from error
        if set(ranks.values()) != set(range(VOCAB_SIZE - 1)) or any(bytes([b]) not in ranks for b in range(256)):
            raise ModelError(f"{origin}: the vocabulary is not GPT-2's.")
        return cls(tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}))

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """Token ids of each text, on all cores; a text without tokens becomes one end-of-text token."""
        empty = [self.pad_token_id]
        return [ids or empty for ids in self.encode_texts(texts)]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, on all cores; an empty text has none."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=os.cpu_count() or 1)

    def encode_with_offsets(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[Offsets]:
        """The tokens of :meth:`encode_batch`, with the characters that each of them stands for."""
        return [each.or_token(self.pad_token_id) for each in self.offsets_of(texts)]

    def offsets_of(self, texts: Sequence[str]) -> list[Offsets]:
        """The tokens of :meth:`encode_texts`, with the characters that each of them stands for."""
        size = self._encoding.decode_single_token_bytes
        return [
            Offsets(ids, spans_of_bytes(text, [len(size(token)) for token in ids]))
            for text, ids in zip(texts, self.encode_texts(texts), strict=True)
        ]

    def special_id(self, name: str) -> int | None:
        """``None``: GPT-2 has no token for masked or unknown words."""
        return None

    def pair_probe(self) -> list[tuple[int, int, int | None]]:
        """As :meth:`LibraryTokenizer.pair_probe`: GPT-2's template of pairs is the two texts alone."""
        (ids,) = self.encode_texts(["a"])
        return [(token, 0, text) for text in (0, 1) for token in ids]

    @cached_property
    def fingerprint(self) -> str:
        """tiktoken's version, and a hash of pattern, tokens and ids."""
        digest = hashlib.sha256(self._encoding._pat_str.encode())
        for token in self._encoding.token_byte_values():  # in sorted order
            digest.update(b"%d %d " % (self._encoding.encode_single_token(token), len(token)) + token)
        return f"tiktoken {version('tiktoken')} {digest.hexdigest()}"

    def to_json(self) -> str:
        """Content of a ``tokenizer.json`` with the same ids."""
        return byte_level_json([self._encoding.decode_single_token_bytes(i) for i in range(VOCAB_SIZE - 1)])

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        """Files that ``transformers.AutoTokenizer`` opens, name to content."""
        return tokenizer_files(self.to_json(), GPT2_END_OF_TEXT, max_length, truncation_side)
