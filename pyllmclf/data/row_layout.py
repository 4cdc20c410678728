"""How many rows a text takes: truncation, windows and padding."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from ..settings import check_argument


@dataclass(frozen=True)
class RowLayout:
    """How a text becomes rows.

    Attributes
    ----------
    max_length : int
        Maximum number of tokens of a text, special tokens included.
    pad_to : int
        0 for packed rows; otherwise every text takes this many rows, and padding tokens are ordinary tokens.
    long_texts : {"head", "tail", "both", "windows"}
        What is read of a longer text: its first tokens, its last ones, half of each, or windows that overlap by half.
    pair_truncation : {"longest_first", "only_second"}
        Which text of a pair loses tokens.
    """

    max_length: int
    pad_to: int = 0
    long_texts: str = "head"
    pair_truncation: str = "longest_first"

    def check(self, positions: int) -> None:
        """Raises :class:`UsageError` unless the layout fits a model with this many positions."""
        whole = type(self.max_length) is int and type(self.pad_to) is int
        if not whole or not 1 <= self.max_length <= positions:
            raise UsageError(f"max_length={self.max_length!r} does not fit a model with {positions} positions.")
        check_argument("long_texts", self.long_texts)
        check_argument("pair_truncation", self.pair_truncation)
        if self.pad_to and not self.max_length <= self.pad_to <= positions:
            raise UsageError(f"pad_to={self.pad_to!r} does not fit a model with {positions} positions.")

    @classmethod
    def resolve(
        cls,
        padding: str | int,
        max_length: int | None,
        long_texts: str = "head",
        *,
        positions: int,
        longest_train: int,
        specials: int,
        prompt: int = 0,
        pair_truncation: str = "longest_first",
    ) -> RowLayout:
        """Makes a layout from the arguments of :func:`pyllmclf.finetune`.

        Parameters
        ----------
        padding : {"none", "train_longest", "context"} or int
        max_length : int or None
        long_texts : {"head", "tail", "both", "windows"}
        positions : int
            Number of the model's positions.
        longest_train : int
            Tokens of the longest training text, special tokens included.
        specials : int
            Number of special tokens per text, the prompt's included.
        prompt : int
            How many of them are the prompt's.
        pair_truncation : {"longest_first", "only_second"}

        Raises
        ------
        UsageError
            If an argument is unknown, exceeds the model's positions, or leaves no room for text.
        """
        check_padding(padding, max_length, long_texts)
        limit = positions if max_length is None else max_length
        for name, value in (("max_length", max_length), ("padding", padding)):
            if isinstance(value, int) and not specials < value <= positions:
                raise UsageError(f"{name}={value} does not fit: {_taken(positions, specials, prompt)}.")
        if specials >= limit:
            raise UsageError(f"no text fits: {_taken(positions, specials, prompt)}.")
        if padding == "none":
            return cls(limit, 0, long_texts, pair_truncation)
        if isinstance(padding, int):
            pad_to = padding
        elif padding == "context":
            pad_to = positions
        else:
            pad_to = min(longest_train, limit)
        return cls(min(limit, pad_to), pad_to, long_texts, pair_truncation)


def _taken(positions: int, specials: int, prompt: int) -> str:
    """Says how many positions there are, and how many special tokens and the prompt take of them."""
    of_prompt = f", {prompt} of them the prompt's" if prompt else ""
    return f"the model has {positions} positions and {specials} of a row are special tokens{of_prompt}"


def check_padding(padding: str | int, max_length: int | None, long_texts: str = "head") -> None:
    """Raises :class:`UsageError` for values that are wrong for every model."""
    for name, value in (("padding", padding), ("max_length", max_length), ("long_texts", long_texts)):
        check_argument(name, value)
