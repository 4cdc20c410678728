"""Why a classifier is wrong: the words that weigh in its most confident errors, for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data.readers import TextData
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..evaluation.report.errors import surest_errors
from ..explain import highlight
from .classifier import Classifier

if TYPE_CHECKING:
    from markupsafe import Markup


def explained_errors(
    classifier: Classifier,
    result: EvaluationResult | MultiLabelResult,
    data: TextData,
    count: int,
    *,
    progress: bool = False,
) -> dict[int, Markup]:
    """Explains the most confident errors: each text with the words that weigh for the predicted class.

    Of texts with several labels, the most probable class is explained.

    Parameters
    ----------
    classifier : Classifier
    result : EvaluationResult or MultiLabelResult
    data : TextData
        The evaluated texts.
    count : int
        Errors that are explained at most, by integrated gradients.
    progress : bool
        Whether a bar is shown.

    Returns
    -------
    dict of int to Markup
        By the number of the text; see :func:`pyllmclf.explain.highlight`.
    """
    rows = surest_errors(result, count)
    if not rows:
        return {}
    target = None
    if isinstance(result, EvaluationResult):
        target = [result.classes[result.predictions[row]] for row in rows]
    found = classifier.explain([data.texts[row] for row in rows], target, progress=progress)
    return {row: highlight(each) for row, each in zip(rows, found, strict=True)}
