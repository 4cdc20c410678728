"""Gathers the figures of an evaluation, and writes its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.atomic_folder import write_text
from ...data.readers import TextData
from ...pages.charts import Chart
from ...pages.page import render_page
from ...tables import Table
from ...text_pair import Text, TextPair
from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult
from ..multi_label_statistics import best_thresholds, decision_calibration
from ..selective import risk_coverage
from ..statistics import Calibration, calibration, thresholds
from .classes import class_rows
from .confidence import (
    calibration_bins,
    calibration_chart,
    coverage_chart,
    coverage_rows,
    slider_rows,
)
from .confusion import TABLE_CLASSES, confusion_cells, matrix_image, matrix_rows, pairs_of
from .curves import curve_charts, curve_data, curves_of, shown_curves
from .errors import Error, errors_of
from .lengths import accuracy_by_length, length_chart
from .near_duplicates import SHOWN, NearDuplicates
from .shown_text import shown_text
from .summary import Baselines, headline, most_frequent
from .training_curve import training_charts, training_rows

if TYPE_CHECKING:
    from markupsafe import Markup

ISSUES = 50
"""Labels to look at in the page."""


@dataclass(frozen=True)
class Search:
    """What a search adds to the report of its winner.

    Attributes
    ----------
    leaderboard : Table
        The candidates, with their names in the second column.
    winner : str
        What the best candidate is.
    chart : Chart or None
        Accuracies of the candidates with their spread over the folds.
    folds : bool
        Whether candidates are measured on folds of the training texts, rather than on validation texts.
    """

    leaderboard: Table
    winner: str
    chart: Chart | None = None
    folds: bool = True


def write_report(
    path: Path,
    result: EvaluationResult | MultiLabelResult,
    data: TextData,
    tokens: np.ndarray,
    about: Mapping[str, str],
    history: Sequence[Mapping[str, Any]],
    *,
    baselines: Baselines | None = None,
    search: Search | None = None,
    issues: Sequence[Mapping[str, Any]] = (),
    near: NearDuplicates | None = None,
    highlights: Mapping[int, Markup] | None = None,
    highlight_style: str = "",
    measured: str = "",
) -> None:
    """Writes the report of an evaluation.

    Parameters
    ----------
    path : Path
    result : EvaluationResult or MultiLabelResult
    data : TextData
        The evaluated texts.
    tokens : ndarray of int64, shape [texts]
        Number of tokens that the model reads of each text.
    about : mapping
        As :func:`provenance` returns it.
    history : sequence of mapping
        The record of each epoch of the training, which may be empty.
    baselines : Baselines, optional
        What simple classifiers reach.
    search : Search, optional
        The candidates that the classifier is the best of.
    issues : sequence of mapping
        Labels that are probably wrong: ``where``, ``text`` (of pairs ``text_pair``, too), ``label``, ``suggested`` and
        ``score``.
    near : NearDuplicates, optional
        Evaluated texts that are training texts, or nearly.
    highlights : mapping of int to Markup, optional
        Safe HTML that is shown instead of a wrongly classified text, by the text's number (from 0): the text with the
        words that weigh in its prediction inside of ``<mark>``, for example. It must have no ``style`` attributes,
        which the page's policy forbids.
    highlight_style : str
        Rules of a style sheet for them.
    measured : str
        A sentence that says which classifier was measured, if it isn't the checkpoint itself.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    errors = errors_of(result, data, tokens, highlights)
    one = isinstance(result, EvaluationResult)
    values, figures = _common(result, data, tokens, errors)
    special, added = _of_one_label(result) if isinstance(result, EvaluationResult) else _of_several_labels(result)
    calibrated: Calibration = special["calibration"]
    extra = {"baselines": None if baselines is None else baselines.to_dict()}
    page = render_page(
        __package__,
        "report.html",
        f"Evaluation of {about['checkpoint']}: accuracy {result.accuracy:.2%}",
        figures | added | extra,
        style=highlight_style,
        one=one,
        result=result,
        rules=result.decisions or {},
        about=about,
        measured=measured,
        headline=headline(result, calibrated.ece, calibrated.brier, int(tokens.sum())),
        baselines=baselines,
        search=search,
        issues=[dict(issue) | {"shown": shown_text(_text_of(issue))} for issue in issues[:ISSUES]],
        all_issues=len(issues),
        near=near,
        near_shown=SHOWN,
        training=training_charts(history),
        training_rows=training_rows(history),
        **values,
        **special,
    )
    write_text(path, page)


def _common(
    result: EvaluationResult | MultiLabelResult, data: TextData, tokens: np.ndarray, errors: list[Error]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both kinds of results have: values of the template, and figures for the script."""
    curves = curves_of(result)
    shown = shown_curves(curves)
    values = {
        "classes": class_rows(result, curves),
        "pairs": pairs_of(result, data),
        "curves": shown,
        "curve_charts": curve_charts(shown),
        "curve_names": {c: each.name for c, each in curves.items()},
        "errors": errors,
        "wrong": int((~result.right).sum()),
        "lengths": result.lengths,
        "length_chart": length_chart(result.right, tokens),
        "by_length": accuracy_by_length(result, tokens),
    }
    # The confusion matrix is in its cells that are not 0: a dense one of a thousand classes has a million numbers.
    metrics = {name: value for name, value in result.to_dict().items() if name != "confusion_matrix"}
    figures = {
        "figures": metrics,
        "errors": [error.to_dict() for error in errors],
        "curves": curve_data(curves),
    }
    return values, figures


def _of_one_label(result: EvaluationResult) -> tuple[dict[str, Any], dict[str, Any]]:
    calibrated = calibration(result)
    bins = calibration_bins(calibrated)
    curve = risk_coverage(result.confidence, result.right)
    slider = slider_rows(curve)
    many = len(result.classes) > TABLE_CLASSES
    image = matrix_image(result) if many else None
    values = {
        "calibration": calibrated,
        "bins": bins,
        "calibration_chart": calibration_chart(bins, "probability of the predicted class", "share that is right"),
        "coverage_chart": coverage_chart(slider),
        "coverage": coverage_rows(curve),
        "positions": len(slider),
        "area": curve.area,
        "matrix": None if many else matrix_rows(result),
        "image": image,
        "majority": most_frequent(result),
        "thresholds": thresholds(result) if len(result.classes) == 2 else [],
        "best_thresholds": [],
    }
    figures = {
        "confusion_cells": confusion_cells(result),
        "order": [] if image is None else image.order,
        "coverage": slider,
        "calibration_error": calibrated.ece,
        "brier": calibrated.brier,
    }
    return values, figures


def _of_several_labels(result: MultiLabelResult) -> tuple[dict[str, Any], dict[str, Any]]:
    calibrated = decision_calibration(result)
    bins = calibration_bins(calibrated)
    names = map(str, result.classes)
    values = {
        "calibration": calibrated,
        "bins": bins,
        "calibration_chart": calibration_chart(bins, "probability of a label", "share of texts that have it"),
        "coverage_chart": None,
        "matrix": None,
        "image": None,
        "majority": None,
        "thresholds": [],
        "best_thresholds": list(zip(names, result.per_class.values(), best_thresholds(result), strict=True)),
    }
    return values, {"calibration_error": calibrated.ece, "brier": calibrated.brier}


def _text_of(row: Mapping[str, Any]) -> Text:
    """The text of a row, or both texts of a pair."""
    return TextPair(str(row["text"]), str(row["text_pair"])) if "text_pair" in row else str(row["text"])
