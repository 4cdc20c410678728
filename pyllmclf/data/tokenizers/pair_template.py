"""What stands between the two texts of a pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PairTemplate:
    """Special tokens between the two texts of a pair, and the types of its tokens.

    Attributes
    ----------
    between : tuple of int
    zeros : int
        How many of them, the first ones, have type 0; with ``typed`` only.
    typed : bool
        Whether tokens after these have type 1, which the model reads; otherwise all have type 0.
    skipped_at_end : int or None
        Token that is left out at the end of a pair, whose last token then is another one.
    """

    between: tuple[int, ...]
    zeros: int
    typed: bool
    skipped_at_end: int | None = None
