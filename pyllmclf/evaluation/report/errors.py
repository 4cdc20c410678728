"""The wrong predictions of an evaluation, the most confident first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.readers import TextData
from ...printable import printable
from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult
from .shown_text import ShownText, shown_text

if TYPE_CHECKING:
    from markupsafe import Markup

ERRORS = 300
"""Wrong predictions in the page; of more, the most confident ones."""
ALL_BARS, BARS = 20, 6
"""Classes up to which an error has the probabilities of all; of more, of the likeliest, and those that it is about."""


@dataclass(frozen=True)
class Error:
    """A text whose prediction is wrong.

    Attributes
    ----------
    number : int
        Of the text, from 0.
    where : str
        Its row or line in the data.
    text : ShownText
    labels, predictions : list of str
        What it has, and what is predicted: one each, or where a text may have several labels, any number.
    confidence : float
        Probability of the predicted class; of several labels, that of the surest wrong decision.
    tokens : int
        That the model reads.
    probabilities : list of (str, float)
        Of the classes that are shown, highest first.
    """

    number: int
    where: str
    text: ShownText
    labels: list[str]
    predictions: list[str]
    confidence: float
    tokens: int
    probabilities: list[tuple[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """What the script filters by."""
        return {
            "number": self.number,
            "labels": self.labels,
            "predictions": self.predictions,
            "confidence": self.confidence,
            "tokens": self.tokens,
        }


def place_of(data: TextData, row: int) -> str:
    """The row or line of a text, without the name of its file."""
    return data.where(row).removeprefix(f"{data.origin}, ")


def errors_of(
    result: EvaluationResult | MultiLabelResult,
    data: TextData,
    tokens: np.ndarray,
    highlights: Mapping[int, Markup] | None = None,
    most: int = ERRORS,
) -> list[Error]:
    """The wrong predictions, the most confident first.

    Parameters
    ----------
    result : EvaluationResult or MultiLabelResult
    data : TextData
        The evaluated texts.
    tokens : ndarray of int64, shape [texts]
        Number of tokens that the model reads of each text.
    highlights : mapping of int to Markup, optional
        Safe HTML that is shown instead of a text, by the text's number.
    most : int
        Errors that are returned at most.
    """
    confidence = error_confidence(result)
    # As the page shows them, so that the script finds the names of the table in its data.
    names = [printable(name, keep="\n\r\t") for name in result.classes]
    return [
        Error(
            row,
            place_of(data, row),
            shown_text(data.texts[row], (highlights or {}).get(row)),
            [names[c] for c in _classes(result.labels[row])],
            [names[c] for c in _classes(result.predictions[row])],
            float(confidence[row]),
            int(tokens[row]),
            _probabilities(result, row, names),
        )
        for row in surest_errors(result, most)
    ]


def surest_errors(result: EvaluationResult | MultiLabelResult, most: int) -> list[int]:
    """Numbers of the texts whose prediction is wrong, the most confident first, at most ``most``."""
    wrong = np.flatnonzero(~result.right)
    return wrong[np.argsort(-error_confidence(result)[wrong], kind="stable")][:most].tolist()


def error_confidence(result: EvaluationResult | MultiLabelResult) -> np.ndarray:
    """Probability of the predicted class; of several labels, of the surest wrong decision, or of the surest at all."""
    if isinstance(result, EvaluationResult):
        return result.confidence
    # Of the decision as it is: with a threshold of its own, a label may be predicted at a probability below 0.5.
    sure = np.where(result.predictions, result.probabilities, 1.0 - result.probabilities)
    wrong = result.predictions != result.labels
    return np.where(wrong.any(axis=1), np.where(wrong, sure, 0.0).max(axis=1), sure.max(axis=1))


def _classes(chosen: Any) -> np.ndarray:
    """Indices of one class, or of those that a row of bools has."""
    return np.flatnonzero(chosen) if np.ndim(chosen) else np.array([chosen])


def _probabilities(result: EvaluationResult | MultiLabelResult, row: int, names: list[str]) -> list[tuple[str, float]]:
    values = result.probabilities[row]
    best = np.argsort(-values, kind="stable")[: len(values) if len(values) <= ALL_BARS else BARS]
    about = np.concatenate([_classes(result.labels[row]), _classes(result.predictions[row])])
    shown = sorted({*best.tolist(), *about.tolist()}, key=lambda c: -values[c])
    return [(names[c], float(values[c])) for c in shown]
