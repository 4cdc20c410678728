"""What a search adds to the report of its winner: the leaderboard, and a chart of its accuracies."""

from __future__ import annotations

from typing import Any

from ..evaluation.report import Search
from ..pages.charts import Chart, Line, Range, numbers
from .result import leaderboard_table

CHARTED = 20
"""Candidates in the chart."""


def search_section(leaderboard: list[dict[str, Any]], *, folds: bool) -> Search:
    """The section of a search.

    Parameters
    ----------
    leaderboard : list of dict
        As :attr:`pyllmclf.TuneResult.leaderboard`, with at least one candidate.
    folds : bool
        Whether candidates are measured on folds of the training texts, rather than on validation texts.
    """
    table = leaderboard_table(leaderboard)
    return Search(table, table.rows[0][1], _chart(leaderboard, folds=folds), folds)


def _chart(leaderboard: list[dict[str, Any]], *, folds: bool) -> Chart | None:
    """Accuracy by rank, with the standard deviation over the folds; ``None`` where one candidate alone has figures."""
    measured = [row for row in leaderboard if row["accuracy"] is not None][:CHARTED]
    if len(measured) < 2:
        return None
    spread = [
        Range(row["rank"], row["accuracy"] - (row["std"] or 0.0), row["accuracy"] + (row["std"] or 0.0))
        for row in measured
    ]
    low, high = min(each.low for each in spread), max(each.high for each in spread)
    room = 0.05 * (high - low)
    ranks = [float(row["rank"]) for row in measured]
    accuracies = [row["accuracy"] for row in measured]
    said = "; lines are standard deviations over the folds" if folds else ""
    return Chart(
        "leaderboard",
        "Accuracy of the candidates",
        f"From {max(accuracies):.2%} to {min(accuracies):.2%}{said}.",
        numbers("rank of the candidate", ranks[0] - 0.5, ranks[-1] + 0.5, integers=True),
        numbers("accuracy", low - room, high + room),
        lines=[Line("accuracy", ranks, accuracies, marked=True, joined=False)],
        ranges=spread if folds else (),
    )
