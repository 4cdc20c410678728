"""Metrics of an evaluation as lines and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Table

if TYPE_CHECKING:
    import pandas as pd

# Most classes whose confusion matrix is shown; of more, the most frequent wrong predictions.
SHOWN_MATRIX = 12


def evaluation_parts(metrics: dict[str, Any], title: str = "") -> list[Part]:
    """Headline metrics, metrics per class, and the confusion matrix: of many classes, its largest numbers.

    Parameters
    ----------
    metrics : dict
        As returned by :meth:`pyllmclf.EvaluationResult.to_dict`, or by :meth:`pyllmclf.MultiLabelResult.to_dict`, which
        has no confusion matrix.
    title : str
        What was evaluated.
    """
    classes = list(map(str, metrics["classes"]))
    headline = (
        f"accuracy {metrics['accuracy']:.2%}, macro-F1 {metrics['macro_f1']:.4f}, log-loss {metrics['log_loss']:.4f} "
        f"({metrics['texts']:,} texts, {metrics['seconds']:.1f} s)"
    )
    figures = [
        (name, *(f"{each[key]:.4f}" for key in ("precision", "recall", "f1")), f"{each['support']:,}")
        for name, each in zip(classes, metrics["per_class"].values(), strict=True)
    ]
    parts: list[Part] = [
        Line(f": {headline}", title) if title else Line(headline),
        Table(("class", "precision", "recall", "F1", "texts"), figures),
    ]
    if "micro_f1" in metrics:
        micro = f"micro-F1 {metrics['micro_f1']:.4f}"
        return [*parts, Line(f"all classes of a text right: {metrics['accuracy']:.2%}; {micro}")]
    if len(classes) <= SHOWN_MATRIX:
        rows = [
            (name, *(f"{n:,}" for n in row)) for name, row in zip(classes, metrics["confusion_matrix"], strict=True)
        ]
        return [*parts, Table(("true class ↓ predicted →", *classes), rows)]
    rows = [(row["class"], row["predicted"], f"{row['texts']:,}") for row in metrics["confusions"]]
    if not rows:
        return [*parts, Line("no wrong predictions")]
    return [*parts, Line("most frequent wrong predictions:"), Table(("class", "predicted", "texts"), rows, left=2)]


def per_class_frame(per_class: dict[Any, Any]) -> pd.DataFrame:
    """Precision, recall, F1 and support by class, as a DataFrame of pandas whose index are the classes."""
    import pandas as pd

    index = pd.Index(list(per_class), name="class", dtype=None if per_class else object)
    return pd.DataFrame([vars(figures) for figures in per_class.values()], index=index)
