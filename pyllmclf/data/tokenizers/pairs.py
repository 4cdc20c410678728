"""Pairs of texts: the special tokens around and between the two, as the tokenizer's own template has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ...errors import ModelError
from .gpt2 import TiktokenTokenizer
from .library import LibraryTokenizer
from .offsets import Offsets
from .pair_template import PairTemplate
from .prompt_template import with_separator


class PairTokenizer:
    """A tokenizer of pairs of texts; implements :class:`.protocol.Tokenizer`.

    Where the tokenizer's template of pairs has no token between the texts, as GPT-2's, its token for the end of a text
    separates them, in the ``tokenizer.json`` too.

    Parameters
    ----------
    tokenizer : LibraryTokenizer or TiktokenTokenizer
    typed : bool
        Whether the model reads the types of tokens: 0 in the first text, 1 in the second.
    skipped_at_end : int or None
        Token that is left out at the end of a pair; see :attr:`LibraryTokenizer.skipped_at_end`.

    Raises
    ------
    ModelError
        If the template gives types that no model here reads, or has tokens that the vocabulary lacks, or can't have a
        separator.
    """

    prompt = ""

    def __init__(
        self, tokenizer: LibraryTokenizer | TiktokenTokenizer, *, typed: bool, skipped_at_end: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self.kind = tokenizer.kind
        self.vocab_size = tokenizer.vocab_size
        self.pad_token_id = tokenizer.pad_token_id
        self.pad_token: str | None = getattr(tokenizer, "pad_token", None)
        self.splits_special_tokens = tokenizer.splits_special_tokens
        self.without_position = tokenizer.without_position
        tokens = tokenizer.pair_probe()
        ids, types = [token for token, _, _ in tokens], [kind for _, kind, _ in tokens]
        if (unknown := next((token for token in ids if not 0 <= token < self.vocab_size), None)) is not None:
            raise ModelError(f"the tokenizer's template of pairs has the token {unknown}, which its vocabulary lacks.")
        first = [place for place, (_, _, text) in enumerate(tokens) if text == 0]
        second = [place for place, (_, _, text) in enumerate(tokens) if text == 1]
        if not first or not second or first[-1] > second[0]:
            raise ModelError("the tokenizer's template of pairs lacks a text, or has the second text before the first.")
        self.prefix, self.suffix = ids[: first[0]], ids[second[-1] + 1 :]
        between = slice(first[-1] + 1, second[0])
        self.separator = None if ids[between] else tokenizer.end_of_text
        if self.separator is not None:  # the template that has it gives all tokens type 0
            self.pairs: PairTemplate | None = PairTemplate(
                (self.separator,), 0, typed=False, skipped_at_end=skipped_at_end
            )
            return
        ones = types.count(1)
        if typed and types != [0] * (len(types) - ones) + [1] * ones:
            raise ModelError(f"the tokenizer's template gives a pair's tokens the types {types}, not 0 and then 1.")
        typed = typed and ones > 0
        if typed and types[second[0]] == types[first[-1]]:
            raise ModelError("the tokenizer's template gives both texts of a pair the same type, and types differ.")
        self.pairs = PairTemplate(
            tuple(ids[between]), types[between].count(0) if typed else 0, typed=typed, skipped_at_end=skipped_at_end
        )

    @property
    def whole(self) -> list[str]:
        """Texts that are one token wherever they stand in a text."""
        return self._tokenizer.whole

    @property
    def fingerprint(self) -> str:
        """That of the tokenizer, and the special tokens between texts."""
        return f"{self._tokenizer.fingerprint} pairs {self.pairs}"

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """Token ids of each text, first or second, without special tokens; an empty text has none.

        Raises
        ------
        DataError
            If a text is not valid Unicode.
        """
        return self._tokenizer.encode_texts(texts)

    def encode_with_offsets(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[Offsets]:
        """The tokens of :meth:`encode_batch`, with the characters that each of them stands for."""
        return self._tokenizer.offsets_of(texts)

    def special_id(self, name: str) -> int | None:
        """As the tokenizer's."""
        return self._tokenizer.special_id(name)

    def to_json(self) -> str:
        """Content of a ``tokenizer.json`` whose template of pairs has the separator."""
        return self._json

    @cached_property
    def _json(self) -> str:
        content = self._tokenizer.to_json()
        return content if self.separator is None else with_separator(content, self.separator)

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        """Files that ``transformers.AutoTokenizer`` opens, name to content."""
        files = self._tokenizer.files(max_length, truncation_side)
        config: dict[str, Any] = json.loads(files["tokenizer_config.json"])
        types = ["token_type_ids"] if self.pairs is not None and self.pairs.typed else []
        config["model_input_names"] = ["input_ids", *types, "attention_mask"]
        return files | {"tokenizer.json": self.to_json(), "tokenizer_config.json": json.dumps(config, indent=2)}
