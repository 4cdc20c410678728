"""Tokenizers of Hugging Face's ``tokenizers`` library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError, ModelError, PyllmclfError
from .added_tokens import add_tokens, with_flags
from .files import GPT2_END_OF_TEXT, tokenizer_files
from .offsets import Offsets
from .pair_template import PairTemplate
from .prompt_template import split_prompt

if TYPE_CHECKING:
    import tokenizers

# Configuration keys and texts of the special tokens of BERT and of RoBERTa.
SPECIAL_TOKENS = (
    {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"},
    {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
)
# Texts that serve as padding token where the configuration names none, the first that the vocabulary holds.
PAD_TOKENS = ("[PAD]", "<pad>", GPT2_END_OF_TEXT)
BEGIN_AND_END = ("bos_token", "eos_token", "unk_token")


class LibraryTokenizer:
    """A tokenizer that the ``tokenizers`` library reads; implements :class:`pyllmclf.data.tokenizers.Tokenizer`.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Its truncation and padding are switched off.
    config : dict
        Content of ``tokenizer_config.json``; ``pad_token`` is read.
    origin : str
        Path of the tokenizer, for error messages.
    splits_special_tokens : bool
        Whether the name of a special token inside a text is plain text.
    added : sequence of dict
        Tokens that the tokenizer's configuration adds, as :func:`configured_tokens` returns them.

    Attributes
    ----------
    pad_token : str
        Text of the padding token.
    skipped_at_end : int or None
        Token that is left out at the end of a text: transformers' GPT-2 reads the last token that is no padding token,
        wherever the padding comes from.
    without_position : int or None
        See :class:`Tokenizer`.
    end_of_text : int
        Token for the end of a text, where the tokenizer has one; otherwise the padding token.
    file_prompt : str
        Prompt that the ``tokenizer.json`` puts before each text, and this tokenizer does not; empty for none.

    Raises
    ------
    ModelError
        If the vocabulary is empty, has no padding token, or can't encode the letter 'a'.
    """

    kind = "tokenizers"
    prompt = ""
    pairs: PairTemplate | None = None

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        config: dict[str, Any],
        origin: str,
        *,
        splits_special_tokens: bool = True,
        added: Sequence[dict[str, Any]] = (),
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        add_tokens(tokenizer, list(added))
        tokenizer.encode_special_tokens = self.splits_special_tokens = splits_special_tokens
        self.skipped_at_end: int | None = None
        self.without_position: int | None = None
        self.file_prompt = ""
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        if not vocab:
            raise ModelError(f"{origin}: the tokenizer's vocabulary is empty.")
        self.vocab_size = max(vocab.values()) + 1
        named = {key: _token_text(config.get(key)) for key in ("pad_token", *BEGIN_AND_END)}
        # Many decoders have no padding token; what ends a text pads it then, as in GPT-2.
        pad = named["pad_token"] or next((token for token in PAD_TOKENS if token in vocab), named["eos_token"])
        if pad is None or pad not in vocab:
            raise ModelError(f"{origin}: the tokenizer has no padding token; name one in tokenizer_config.json.")
        self.pad_token = pad
        self.pad_token_id = vocab[pad]
        probe = tokenizer.encode("a")
        content = [i for i, is_special in enumerate(probe.special_tokens_mask) if not is_special]
        if not content:
            raise ModelError(f"{origin}: the tokenizer can't encode the letter 'a'.")
        self.prefix = probe.ids[: content[0]]
        self.suffix = probe.ids[content[-1] + 1 :]
        known = {key: token for key, token in named.items() if key in BEGIN_AND_END and token in vocab}
        of_decoder = dict.fromkeys(BEGIN_AND_END, pad) | known if known else {}
        self._special = self._special_tokens(vocab) or of_decoder
        ends = (named["eos_token"], self._special.get("sep_token"), GPT2_END_OF_TEXT, pad)
        self.end_of_text = next(vocab[token] for token in ends if token in vocab)

    def _special_tokens(self, vocab: dict[str, int]) -> dict[str, str]:
        """Configuration keys and texts of the special tokens: those around a text, where there are several kinds."""
        present = [tokens for tokens in SPECIAL_TOKENS if tokens["cls_token"] in vocab]
        around = [tokens for tokens in present if vocab[tokens["cls_token"]] in self.prefix]
        special = next(iter(around or present), {})
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        if special and unknown in vocab:  # MPNet's is BERT's
            special = special | {"unk_token": unknown}
        return {key: token for key, token in special.items() if token in vocab}

    def lower_case(self) -> None:
        """Makes texts lower case before anything else, as the tokenizer's file then says."""
        from tokenizers.normalizers import Lowercase, Sequence

        own = self._tokenizer.normalizer
        self._tokenizer.normalizer = Lowercase() if own is None else Sequence([Lowercase(), own])

    @classmethod
    def from_file(cls, path: str | Path, config: dict[str, Any] | None = None, **rules: Any) -> LibraryTokenizer:
        """Reads a ``tokenizer.json``; ``config`` and ``rules`` are arguments of the class.

        Raises
        ------
        ModelError
            If the file can't be read, or the tokenizer is unusable.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"), config, str(path), **rules)
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: can't be read ({error}).") from error

    @classmethod
    def from_json(
        cls, content: str, config: dict[str, Any] | None = None, origin: str = "", **rules: Any
    ) -> LibraryTokenizer:
        """Reads the content of a ``tokenizer.json``, and takes its prompt out; arguments as for the class.

        Raises
        ------
        ModelError
            If the library can't read the content, or the tokenizer is unusable.
        """
        import tokenizers

        with _library_errors(f"{origin}: not a tokenizer that the tokenizers library reads"):
            content, prompt = split_prompt(content)
            tokenizer = cls(tokenizers.Tokenizer.from_str(content), config or {}, origin, **rules)
        tokenizer.file_prompt = prompt
        return tokenizer

    @classmethod
    def from_wordpiece_vocab(
        cls, path: str | Path, config: dict[str, Any] | None = None, **rules: Any
    ) -> LibraryTokenizer:
        """BERT's WordPiece tokenizer from a ``vocab.txt``.

        Parameters
        ----------
        path : str or Path
        config : dict, optional
            Content of ``tokenizer_config.json``: ``do_lower_case`` (default true), ``strip_accents`` (default as
            ``do_lower_case``) and ``tokenize_chinese_chars`` (default true) are read.
        rules
            Other arguments of the class.

        Raises
        ------
        ModelError
            If the file can't be read or lacks one of BERT's special tokens.
        """
        import tokenizers
        from tokenizers import BertWordPieceTokenizer

        config = config or {}
        with _library_errors(f"{path}: not a WordPiece vocabulary"):
            vocab = tokenizers.models.WordPiece.read_file(str(path))
        for token in ("[UNK]", "[SEP]", "[CLS]", "[PAD]"):
            if token not in vocab:
                raise ModelError(f"{path}: the vocabulary lacks {token}.")
        with _library_errors(f"{path}: the tokenizers library can't make a WordPiece tokenizer of the vocabulary"):
            wordpiece = BertWordPieceTokenizer(
                vocab=vocab,
                lowercase=config.get("do_lower_case", True),
                strip_accents=config.get("strip_accents"),
                handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            )
            content = with_flags(wordpiece.to_str(), rules.get("added", ()))
            return cls(tokenizers.Tokenizer.from_str(content), config, str(path), **rules)

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """Token ids of each text; without special tokens, a text without tokens becomes one padding token.

        Raises
        ------
        DataError
            If a text holds a lone surrogate.
        ModelError
            If the library fails.
        """
        token_ids = self.encode_texts(texts)
        if self.skipped_at_end is not None:
            token_ids = [_without_end(ids, self.skipped_at_end) for ids in token_ids]
        empty = [] if self.prefix or self.suffix else [self.pad_token_id]
        return [ids or empty for ids in token_ids]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens; raises as :meth:`encode_batch`."""
        return [encoding.ids for encoding in self._encoded(texts, self._tokenizer.encode_batch_fast)]

    def _encoded(self, texts: Sequence[str], encode: Callable[..., list[tokenizers.Encoding]]) -> Any:
        with _library_errors("the tokenizer can't encode a text"):
            try:
                return encode(list(texts), add_special_tokens=False)
            except (UnicodeEncodeError, TypeError) as error:
                raise DataError(f"a text is not valid Unicode: it holds a lone surrogate ({error}).") from error

    def encode_with_offsets(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[Offsets]:
        """The tokens of :meth:`encode_batch`, with the characters that each of them stands for."""
        ids = self.encode_batch(texts)
        pad = self.pad_token_id
        return [
            each.shortened(own) if len(own) <= len(each.ids) else each.or_token(pad)
            for each, own in zip(self.offsets_of(texts), ids, strict=True)
        ]

    def offsets_of(self, texts: Sequence[str]) -> list[Offsets]:
        """The tokens of :meth:`encode_texts`, with the characters that each of them stands for."""
        encoded = self._encoded(texts, self._tokenizer.encode_batch)
        return [Offsets(each.ids, [tuple(span) for span in each.offsets]) for each in encoded]

    def special_id(self, name: str) -> int | None:
        """Id of the special token ``"mask"`` or ``"unk"``; ``None`` where the tokenizer has none."""
        token = self._special.get(f"{name}_token")
        return None if token is None else self._tokenizer.token_to_id(token)

    def pair_probe(self) -> list[tuple[int, int, int | None]]:
        """Id, type and text (0, 1 or ``None`` for special tokens) of the tokens of a pair of short texts."""
        with _library_errors("the tokenizer can't encode a pair of texts"):
            encoding = self._tokenizer.encode("a", "a")
        return list(zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True))

    @property
    def whole(self) -> list[str]:
        """Texts that are one token wherever they stand in a text."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return [token.content for token in added if not (token.special and self.splits_special_tokens)]

    @cached_property
    def fingerprint(self) -> str:
        """The library's version, a hash of ``tokenizer.json``, and the rule for special tokens."""
        content = f"tokenizers {version('tokenizers')} {hashlib.sha256(self.to_json().encode()).hexdigest()}"
        rule = f" special tokens, {self.skipped_at_end} skipped at the end"
        return content if self.splits_special_tokens else content + rule

    def to_json(self) -> str:
        """Content of a ``tokenizer.json``."""
        return self._tokenizer.to_str()

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        """Files that ``transformers.AutoTokenizer`` opens, name to content."""
        return tokenizer_files(
            self.to_json(),
            self.pad_token,
            max_length,
            truncation_side,
            self._special,
            splits_special_tokens=self.splits_special_tokens,
        )


@contextmanager
def _library_errors(message: str) -> Iterator[None]:
    """Turns what the tokenizers library raises, bare Exception or its own panic, into :class:`ModelError`."""
    try:
        yield
    except PyllmclfError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{message} ({error}).") from error


def _without_end(ids: list[int], token: int) -> list[int]:
    """The ids without the token at their end; the first id stays."""
    end = len(ids)
    while end > 1 and ids[end - 1] == token:
        end -= 1
    return ids[:end]


def _token_text(token: Any) -> str | None:
    """Text of a token in a configuration, where it is a string or an object with ``content``."""
    return token.get("content") if isinstance(token, dict) else token
