"""What a search gives: the winner's training, the leaderboard, and the probabilities of texts that it had not seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Table
from ..training.result import FinetuneResult

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Candidates in the leaderboard of a terminal."""
HIDDEN = ("rank", "number", "folds", "accuracy", "std", "log_loss", "seconds", "failed")


@dataclass(frozen=True, repr=False)
class TuneResult(FinetuneResult):
    """Result of :func:`pyllmclf.tune`: that of the winner's training on all training texts, and the search's.

    ``metrics["validation"]`` are those of the cross-validation, with ``"classifier": "out_of_fold"``, or those of the
    validation texts that were given.

    Attributes
    ----------
    leaderboard : list of dict
        The candidates from the best to the worst: ``rank``, ``number``, the arguments, ``folds`` that it was evaluated
        on, ``accuracy`` and ``log_loss`` over them, ``std`` of the folds' accuracies, ``seconds``, and ``failed``, the
        reason why it could not be trained.
    out_of_fold : DataFrame or None
        For each training text ``where`` (its line or row in the data), ``text``, ``label``, and ``probability_CLASS``
        of each class by the winner trained without it; ``None`` where validation texts were given.
    """

    leaderboard: list[dict[str, Any]] = field(default_factory=list)

    def to_frame(self) -> pd.DataFrame:
        """The leaderboard, a row per candidate, as a DataFrame of pandas; ``history`` has the winner's epochs."""
        import pandas as pd

        return pd.DataFrame(self.leaderboard).set_index("rank")

    def parts(self) -> list[Part]:
        """The leaderboard, and what every training shows."""
        return [*leaderboard_parts(self.leaderboard), Line(""), *super().parts()]

    def to_dict(self) -> dict[str, Any]:
        """All but the classifier and the out-of-fold probabilities, as types that JSON has."""
        return super().to_dict() | {"leaderboard": self.leaderboard}


def leaderboard_parts(leaderboard: list[dict[str, Any]]) -> list[Part]:
    """The best candidates as a table, and how many more there are."""
    parts: list[Part] = [leaderboard_table(leaderboard[:SHOWN])]
    if len(leaderboard) > SHOWN:
        parts.append(Line(f"and {len(leaderboard) - SHOWN:,} more"))
    return parts


def leaderboard_table(leaderboard: list[dict[str, Any]]) -> Table:
    """The leaderboard as a table."""
    rows = [
        (
            str(row["rank"]),
            ", ".join(f"{name}={value}" for name, value in row.items() if name not in HIDDEN and value is not None),
            *_figures(row),
        )
        for row in leaderboard
    ]
    return Table(("rank", "candidate", "folds", "accuracy", "log loss", "seconds"), rows, left=2)


def _figures(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["accuracy"] is None:
        return "0", "failed" if row["failed"] else "no time", "", ""
    spread = "" if row["std"] is None else f" ± {row['std']:.2%}"
    return str(row["folds"]), f"{row['accuracy']:.2%}{spread}", f"{row['log_loss']:.4f}", f"{row['seconds']:.1f}"
