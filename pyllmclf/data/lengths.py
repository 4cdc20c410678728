"""Lengths of texts in tokens, and the padding that packing avoids."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .packing import Packer
from .tokenizers import Tokenizer


def truncation(packer: Packer) -> str:
    """Says how many texts of a packer are truncated, and which of their tokens are read; empty if none is."""
    if not packer.cut:
        return ""
    length, part = packer.layout.max_length, packer.layout.long_texts
    if packer.tokenizer.pairs is not None:
        return _truncation_of_pairs(packer)
    of_text = f"first {length - length // 2} and last {length // 2}" if part == "both" else f"first {length}"
    of_text = f"last {length}" if part == "tail" else of_text
    total = len(packer.tokens_by_text)
    verb = "text has" if total == 1 else "texts have"
    return f"{packer.cut:,} of {total:,} {verb} more than {length:,} tokens, of which only the {of_text} are read"


def _truncation_of_pairs(packer: Packer) -> str:
    layout, total = packer.layout, len(packer.tokens_by_text)
    verb = "pair has" if total == 1 else "pairs have"
    some = f"{packer.cut:,} of {total:,} {verb}"
    if layout.long_texts == "windows":
        return f"{some} a first text that is too long to be in each window whole, and loses tokens"
    place = {"head": "at its end", "tail": "at its beginning", "both": "in its middle"}[layout.long_texts]
    loser = "second" if layout.pair_truncation == "only_second" else "longer"
    length = f"{layout.max_length:,}"
    return f"{some} more than {length} tokens, of which {length} are read; the {loser} text loses tokens {place}"


def _are_empty(packer: Packer, tokenizer: Tokenizer) -> np.ndarray:
    """Whether each text of a packer has no tokens of its own, bool, shape [texts]."""
    store = packer.store
    if tokenizer.pairs is not None:
        assert store.firsts is not None
        return (store.firsts == 0) & (store.lengths <= len(tokenizer.pairs.between))
    # Without special tokens a padding token; behind a prompt, the token of its last space, if that is the text's.
    (nothing,) = tokenizer.encode_batch([""])
    empty = store.lengths == len(nothing)
    for place, token in enumerate(nothing):
        rows = np.flatnonzero(empty)
        empty[rows] = store.tokens[store.offsets[rows] + place] == token
    return empty


@dataclass(frozen=True)
class LengthReport:
    """Lengths of a data set's texts in tokens, special tokens included; of their windows, where texts are cut so.

    Attributes
    ----------
    texts : int
        Number of texts.
    tokens : int
        Number of tokens that the model reads, padding excluded.
    mean, median, percentile_99 : float
    longest : int
        Tokens of the longest text, after truncation.
    empty : int
        Number of texts without any token but special ones and the prompt's; of pairs, of those with two such texts.
    truncated : int
        Number of texts that lose tokens to ``max_length``.
    skipped : int
        Number of rows left out because their text is empty, or their text or label missing.
    padding_avoided : float
        Fraction of the rows that are saved, of those that padding every text to the longest would take; 0 where texts
        are padded.
    """

    texts: int
    tokens: int
    mean: float
    median: float
    percentile_99: float
    longest: int
    empty: int
    truncated: int
    padding_avoided: float
    skipped: int = 0

    @classmethod
    def of(cls, packer: Packer, tokenizer: Tokenizer, skipped: int = 0) -> LengthReport:
        """Measures the texts of a packer; ``skipped`` is the number of rows that were left out before."""
        lengths = packer.real_lengths
        padded_rows = len(lengths) * int(lengths.max())
        computed_rows = int(packer.row_counts.sum())
        return cls(
            texts=len(packer.tokens_by_text),
            tokens=int(lengths.sum()),
            mean=float(lengths.mean()),
            median=float(np.median(lengths)),
            percentile_99=float(np.percentile(lengths, 99)),
            longest=int(lengths.max()),
            empty=int(_are_empty(packer, tokenizer).sum()),
            truncated=packer.cut,
            padding_avoided=max(0.0, 1.0 - computed_rows / padded_rows),
            skipped=skipped,
        )

    def __str__(self) -> str:
        text = f"{self.texts:,} texts, {self.tokens:,} tokens (mean {self.mean:.1f}, longest {self.longest})"
        text += f", {self.padding_avoided:.0%} of the rows of a padded batch avoided"
        if self.truncated:
            text += f", {self.truncated:,} texts cut to {self.longest} tokens"
        if self.empty:
            text += f", {self.empty:,} texts empty"
        if self.skipped:
            text += f", {self.skipped:,} rows with an empty text, or without text or label, left out"
        return text

    def to_dict(self) -> dict[str, float | int]:
        """The figures by name."""
        return asdict(self)
