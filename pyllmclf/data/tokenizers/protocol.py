"""The interface of a tokenizer, and the record of an older vocabulary format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .offsets import Offsets
from .pair_template import PairTemplate

if TYPE_CHECKING:
    from .library import LibraryTokenizer


class Tokenizer(Protocol):
    """The methods and values that the engine needs of a tokenizer.

    Attributes
    ----------
    kind : str
        ``"tiktoken"`` or ``"tokenizers"``.
    vocab_size : int
        One more than the largest token id.
    pad_token_id : int
        Used by the padded mode and written into configurations.
    prefix, suffix : list of int
        Special tokens before and after a text; the packer adds them. The last ones of ``prefix`` are the prompt's.
    prompt : str
        String before each text, part of ``prefix``; empty for none.
    splits_special_tokens : bool
        Whether the name of a special token inside a text is plain text. If not, it is that token, as transformers reads
        it by default.
    whole : list of str
        Texts that are one token wherever they stand in a text.
    without_position : int or None
        Token inside a text that has no position of its own, as transformers counts RoBERTa's positions.
    pairs : PairTemplate or None
        What stands between the two texts of a pair; ``None`` for a tokenizer of single texts.
    fingerprint : str
        Differs between tokenizers that may encode a text differently: a hash of vocabulary and rules, and the version
        of the library.
    """

    kind: str
    vocab_size: int
    pad_token_id: int
    prefix: list[int]
    suffix: list[int]
    prompt: str
    splits_special_tokens: bool
    without_position: int | None
    pairs: PairTemplate | None

    @property
    def whole(self) -> list[str]:
        """Texts that are one token wherever they stand in a text."""

    @property
    def fingerprint(self) -> str:
        """Library, its version, and a hash of vocabulary and rules."""

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """Token ids of each text, without the special tokens around it.

        Parameters
        ----------
        texts : sequence of str
        continues : sequence of bool, optional
            Whether each is a further piece of the text before it, or the second text of a pair, which no prompt stands
            before; none by default.

        Raises
        ------
        DataError
            If a text is not valid Unicode.
        """

    def encode_with_offsets(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[Offsets]:
        """The tokens of :meth:`encode_batch`, with the characters that each of them stands for."""

    def special_id(self, name: str) -> int | None:
        """Id of the special token ``"mask"`` or ``"unk"``; ``None`` where the tokenizer has none."""

    def to_json(self) -> str:
        """Content of a ``tokenizer.json``."""

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        """Files that ``transformers.AutoTokenizer`` opens.

        Parameters
        ----------
        max_length : int
            Number of tokens that transformers truncates a text to.
        truncation_side : {"right", "left"}
            Side of a longer text that loses tokens.

        Returns
        -------
        dict of str to str
            File name to content.
        """


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary format that predates ``tokenizer.json``.

    Attributes
    ----------
    files : tuple of str
        Names of the files, all of which are required.
    read : callable
        Takes the folder, the content of ``tokenizer_config.json``, and as keywords the rules for added and special
        tokens of :class:`LibraryTokenizer`; returns one.
    """

    files: tuple[str, ...]
    read: Callable[..., LibraryTokenizer]


def special_count(tokenizer: Tokenizer) -> int:
    """Number of special tokens that are added to a text, or to a pair of texts."""
    between = () if tokenizer.pairs is None else tokenizer.pairs.between
    return len(tokenizer.prefix) + len(between) + len(tokenizer.suffix)
