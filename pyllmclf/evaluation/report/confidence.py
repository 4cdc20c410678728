"""Calibration with intervals, and what answering only the confident texts gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...pages.charts import Bar, Chart, Line, Range, numbers, shares
from ..selective import RiskCoverage, clopper_pearson
from ..statistics import BINS, Calibration

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1)
"""Rows of the table of the risk-coverage curve."""
POSITIONS = 100
"""Of its slider."""


@dataclass(frozen=True)
class CalibrationBin:
    """Decisions whose probability lies in a bin.

    Attributes
    ----------
    low, high : float
        Bounds of the bin.
    texts : int
        Number of decisions.
    confidence, accuracy : float
        Mean probability, and share that is right.
    interval : (float, float)
        Clopper-Pearson interval of the share.
    """

    low: float
    high: float
    texts: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def calibration_bins(calibration: Calibration) -> list[CalibrationBin]:
    """The bins that have texts."""
    found = []
    for place in np.flatnonzero(calibration.counts):
        texts, accuracy = int(calibration.counts[place]), float(calibration.accuracy[place])
        interval = clopper_pearson(round(accuracy * texts), texts)
        bounds = float(place) / BINS, float(place + 1) / BINS
        found.append(CalibrationBin(*bounds, texts, float(calibration.confidence[place]), accuracy, interval))
    return found


def calibration_chart(bins: list[CalibrationBin], x: str, y: str) -> Chart:
    """Share of right decisions over their probability, with intervals; bars are shares of all decisions.

    Parameters
    ----------
    bins : list of CalibrationBin
    x, y : str
        Labels of the axes.
    """
    total = sum(each.texts for each in bins)
    bars = [
        Bar(each.low + 0.005, each.high - 0.005, 0.0, each.texts / total, f"{each.texts:,} ({each.texts / total:.1%})")
        for each in bins
    ]
    middle = [each.confidence for each in bins]
    line = Line("observed", middle, [each.accuracy for each in bins], marked=True)
    outside = sum(not each.interval[0] <= each.confidence <= each.interval[1] for each in bins)
    return Chart(
        "calibration",
        "Calibration",
        f"{len(bins)} bins, of which {outside} have a mean probability outside of the 95 % interval of the share.",
        shares(x),
        shares(y),
        lines=[line],
        bars=bars,
        ranges=[Range(each.confidence, *each.interval) for each in bins],
        diagonal=True,
    )


def coverage_rows(curve: RiskCoverage) -> list[dict[str, Any]]:
    """Rows of the risk-coverage curve for a table: the fewest texts that reach each of some shares."""
    wanted = np.searchsorted(curve.coverage, np.array(COVERAGES) - 1e-12)
    return [_coverage_row(curve, int(row)) for row in dict.fromkeys(wanted.tolist())]


def slider_rows(curve: RiskCoverage) -> list[dict[str, Any]]:
    """At most 100 rows of the curve, evenly over the share of answered texts, from few to all."""
    wanted = np.searchsorted(curve.coverage, np.arange(1, POSITIONS + 1) / POSITIONS - 1e-12)
    return [_coverage_row(curve, int(row)) for row in dict.fromkeys(wanted.tolist())]


def coverage_chart(rows: list[dict[str, Any]]) -> Chart:
    """Accuracy of the answered texts over their share, from the rows of :func:`slider_rows`."""
    low = min(row["accuracy"] for row in rows)
    floor = low if low < 1.0 else 0.9
    # With room below the lowest point.
    y = numbers("accuracy of the answered texts", floor - 0.05 * (1.0 - floor), 1.0)
    x, accuracy = [row["coverage"] for row in rows], [row["accuracy"] for row in rows]
    return Chart(
        "coverage",
        "Accuracy and answered texts",
        f"From {accuracy[0]:.2%} of the most confident {x[0]:.0%} of the texts to {accuracy[-1]:.2%} of all.",
        shares("share of the texts that are answered"),
        y,
        lines=[Line("accuracy", x, accuracy)],
    )


def _coverage_row(curve: RiskCoverage, row: int) -> dict[str, Any]:
    answered, right = int(curve.answered[row]), int(curve.right[row])
    return {
        "threshold": float(curve.threshold[row]),
        "coverage": float(curve.coverage[row]),
        "answered": answered,
        "accuracy": right / answered,
        "interval": list(clopper_pearson(right, answered)),
    }
