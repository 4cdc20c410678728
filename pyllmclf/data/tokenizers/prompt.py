"""A prompt before each text: the tokens are those of prompt and text as one string."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ...errors import DataError, UsageError
from .offsets import Offsets
from .prompt_template import with_template
from .protocol import Tokenizer

# Beginnings of texts that could be joined with the end of a prompt.
_PROBES = (
    "", "a", "The cat", "ing", "1", "é", "Ж", "日本", "_", "-", ":", ".", ")", "'s", '"', "…", "##a", "▁a", "🙂", " a",
    "  b", "\na", "\n\na", "\ta", "\u3000a", "\u0301a", "<s>", "</s>", "[SEP] a", "<mask>", "<|endoftext|>",
)  # fmt: skip


class PromptedTokenizer:
    """A tokenizer whose special tokens before a text end with a prompt; implements :class:`.protocol.Tokenizer`.

    A text is encoded together with the prompt, and the prompt's tokens are taken off: the tokens are those of the one
    string, as sentence-transformers encodes it. White space at the prompt's end may belong to the text's tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
    prompt : str
        Not empty.

    Raises
    ------
    UsageError
        If the prompt is not valid Unicode, or its tokens depend on the text that follows.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str) -> None:
        self._tokenizer = tokenizer
        self.prompt = prompt
        self._ids = _prompt_ids(tokenizer, prompt)
        self.kind = tokenizer.kind
        self.vocab_size = tokenizer.vocab_size
        self.pad_token_id = tokenizer.pad_token_id
        self.pad_token: str | None = getattr(tokenizer, "pad_token", None)
        self.prefix = [*tokenizer.prefix, *self._ids]
        self.suffix = list(tokenizer.suffix)
        self.splits_special_tokens = tokenizer.splits_special_tokens
        self.without_position = tokenizer.without_position
        self.pairs = tokenizer.pairs

    @property
    def prompt_count(self) -> int:
        """Number of tokens of ``prefix`` that are the prompt's."""
        return len(self._ids)

    @property
    def whole(self) -> list[str]:
        """Texts that are one token wherever they stand in a text."""
        return self._tokenizer.whole

    @property
    def fingerprint(self) -> str:
        """That of the tokenizer, and the prompt."""
        return f"{self._tokenizer.fingerprint} prompt {self.prompt!r}"

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """Token ids of each text, without the prompt's and the special tokens around it.

        Raises
        ------
        DataError
            If a text is not valid Unicode, or its beginning changes the prompt's tokens.
        """
        begins = [not each for each in continues] if continues else [True] * len(texts)
        joined = [self.prompt + text if begin else text for text, begin in zip(texts, begins, strict=True)]
        encoded = self._tokenizer.encode_batch(joined)
        count = len(self._ids)
        for i, begin in enumerate(begins):
            if not begin:
                continue
            if encoded[i][:count] != self._ids:
                raise DataError(
                    f"the beginning of the text {texts[i][:40]!r} changes the tokens of the prompt {self.prompt!r} "
                    "before it; give another prompt, or none."
                )
            encoded[i] = encoded[i][count:]
        return encoded

    def encode_with_offsets(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[Offsets]:
        """The tokens of :meth:`encode_batch`, with the characters of the text that each of them stands for."""
        begins = [not each for each in continues] if continues else [True] * len(texts)
        joined = [self.prompt + text if begin else text for text, begin in zip(texts, begins, strict=True)]
        encoded = self._tokenizer.encode_with_offsets(joined)
        prompt = len(self._ids), len(self.prompt)
        return [each.behind(*prompt) if begin else each for each, begin in zip(encoded, begins, strict=True)]

    def special_id(self, name: str) -> int | None:
        """As the tokenizer's."""
        return self._tokenizer.special_id(name)

    def to_json(self) -> str:
        """Content of a ``tokenizer.json``: with the prompt, unless :attr:`obstacle` says why not."""
        return self._tokenizer.to_json() if self._with_prompt is None else self._with_prompt

    @property
    def obstacle(self) -> str | None:
        """Why a ``tokenizer.json`` can't hold the prompt, as a clause for a message; ``None`` if it can."""
        if self._with_prompt is not None:
            return None
        return f"a tokenizer.json can't put the prompt {self.prompt!r} before each text as this classifier does"

    @cached_property
    def _with_prompt(self) -> str | None:
        """A ``tokenizer.json`` that gives the prompt's tokens and the text's; ``None`` where there is no such one.

        The prompt is part of the post-processor's template, like special tokens, so that truncation leaves it whole.
        """
        content = self._tokenizer.to_json()
        space = self.prompt[len(self.prompt.rstrip()) :]
        plain = with_template(content, self.prompt, self._ids)
        if plain is not None and self._gives_same_ids(plain, _PROBES):
            return plain
        # A normalizer acts on each part between added tokens, or on the texts that they are found by, and not on an
        # empty text.
        if not space or self.whole:
            return None
        spaced = with_template(content, self.prompt, self._ids, space)
        return spaced if spaced is not None and self._gives_same_ids(spaced, _PROBES[1:]) else None

    def _gives_same_ids(self, content: str, texts: Sequence[str]) -> bool:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = self.splits_special_tokens
        texts = [*texts, *(f"a {token}" for token in self.whole)]
        if self.pairs is not None:
            seconds = texts[::-1]
            encoded = self.encode_batch(texts), self.encode_batch(seconds, [True] * len(texts))
            between = self.pairs.between
            pairs = [[*self.prefix, *a, *between, *b, *self.suffix] for a, b in zip(*encoded, strict=True)]
            return [each.ids for each in tokenizer.encode_batch(list(zip(texts, seconds, strict=True)))] == pairs
        expected = [[*self.prefix, *ids, *self.suffix] for ids in self.encode_batch(texts)]
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)] == expected

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        """Files that ``transformers.AutoTokenizer`` opens, name to content."""
        return self._tokenizer.files(max_length, truncation_side) | {"tokenizer.json": self.to_json()}


def with_prompt(tokenizer: Tokenizer, prompt: str) -> Tokenizer:
    """The tokenizer with a prompt before each text; itself without one.

    Parameters
    ----------
    tokenizer : Tokenizer
        Without a prompt.
    prompt : str
        Empty for none.

    Raises
    ------
    UsageError
        As :class:`PromptedTokenizer`.
    """
    return PromptedTokenizer(tokenizer, prompt) if prompt else tokenizer


def _prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Tokens that every text with the prompt begins with: without the white space at its end, or with it."""
    probes = [*_PROBES, *tokenizer.whole]
    try:
        encoded = tokenizer.encode_batch([prompt + probe for probe in probes])
        for text in (prompt.rstrip(), prompt):
            ids = tokenizer.encode_batch([text])[0] if text else []
            if all(each[: len(ids)] == ids for each in encoded):
                return ids
    except DataError as error:
        raise UsageError(f"prompt={prompt!r}: {error}") from error
    advice = "end it with a space" if prompt == prompt.rstrip() else "give another one, or none"
    raise UsageError(
        f"prompt={prompt!r}: this model's tokenizer joins its end with the beginning of some texts, so that its tokens "
        f"depend on the text; {advice}."
    )
