"""The main figures of an evaluation with their intervals, and what simple classifiers reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...pages.page import figure, percent
from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult
from ..multi_label_statistics import multi_label_intervals
from ..statistics import Interval, intervals

NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "log_loss": "log loss",
    "hamming_loss": "Hamming loss",
}
SHARES = ("accuracy", "hamming_loss")


@dataclass(frozen=True)
class Headline:
    """A figure beside the title.

    Attributes
    ----------
    term : str
        Word of the glossary.
    name, value, note : str
    """

    term: str
    name: str
    value: str
    note: str


def headline(
    result: EvaluationResult | MultiLabelResult, error: float, brier: float | None, tokens: int
) -> list[Headline]:
    """The figures at the head of the report.

    Parameters
    ----------
    result : EvaluationResult or MultiLabelResult
    error : float
        Expected calibration error.
    brier : float or None
        Brier score.
    tokens : int
        That the model has read of all texts.
    """
    one = isinstance(result, EvaluationResult)
    found = intervals(result) if isinstance(result, EvaluationResult) else multi_label_intervals(result)
    shown = []
    for term, interval in found.items():
        name = NAMES[term] if one or term != "accuracy" else "all labels right"
        shown.append(Headline(term, name, _shown(term, interval.value), _interval(term, interval)))
    note = "" if brier is None else f"Brier score {figure(brier)}"
    shown.append(Headline("calibration_error", "calibration error", figure(error), note))
    speed = f"{tokens / result.seconds:,.0f}" if result.seconds else "–"
    shown.append(Headline("speed", "tokens a second", speed, f"{result.seconds:.1f} s in all"))
    return shown


def _shown(term: str, value: float) -> str:
    return percent(value) if term in SHARES else figure(value)


def _interval(term: str, interval: Interval) -> str:
    return f"95 % interval {_shown(term, interval.low)} to {_shown(term, interval.high)}"


def most_frequent(result: EvaluationResult) -> tuple[str, float]:
    """The most frequent class of the texts, and the accuracy of always predicting it."""
    counts = np.bincount(result.labels, minlength=len(result.classes))
    most = int(counts.argmax())
    return str(result.classes[most]), float(counts[most] / counts.sum())


@dataclass(frozen=True)
class Baselines:
    """Accuracies of simple classifiers beside the trained one, as its training has measured them.

    Attributes
    ----------
    texts : str
        The texts that they were measured on, as in "the validation texts of the training".
    accuracy : float or None
        Of the trained classifier on these texts.
    figures : dict of str to float
        Accuracy by the name of the simple classifier.
    """

    texts: str
    accuracy: float | None
    figures: Mapping[str, float]

    def rows(self) -> list[tuple[str, float]]:
        """Name and accuracy of each, the trained classifier first."""
        return ([] if self.accuracy is None else [("this classifier", self.accuracy)]) + list(self.figures.items())

    def to_dict(self) -> dict[str, Any]:
        """As types that JSON has."""
        return {"texts": self.texts, "accuracy": self.accuracy, "figures": dict(self.figures)}
