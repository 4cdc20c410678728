"""Metrics of an evaluation as lines and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Table

if TYPE_CHECKING:
    import pandas as pd

# Most classes whose confusion matrix is shown; of more, the most frequent wrong predictions.
SHOWN_MATRIX = 12
# Most classes whose figures are shown; of more, those with the lowest F1.
SHOWN_CLASSES = 20


def evaluation_parts(metrics: dict[str, Any], title: str = "") -> list[Part]:
    """Headline metrics, metrics per class, the confusion matrix (of many classes its largest numbers), rules.

    Of more than :data:`SHOWN_CLASSES` classes, those with the lowest F1 are shown, the lowest first.

    Parameters
    ----------
    metrics : dict
        As returned by :meth:`pyllmclf.EvaluationResult.to_dict`, or by :meth:`pyllmclf.MultiLabelResult.to_dict`, which
        has no confusion matrix.
    title : str
        What was evaluated.
    """
    return _metrics_parts(metrics, title) + decision_lines(metrics.get("decisions") or {})


def _metrics_parts(metrics: dict[str, Any], title: str) -> list[Part]:
    """:func:`evaluation_parts` without the figures of rules."""
    classes = list(map(str, metrics["classes"]))
    headline = (
        f"accuracy {metrics['accuracy']:.2%}, macro-F1 {metrics['macro_f1']:.4f}, log-loss {metrics['log_loss']:.4f} "
        f"({metrics['texts']:,} texts, {metrics['seconds']:.1f} s)"
    )
    parts: list[Part] = [
        Line(f": {headline}", title) if title else Line(headline),
        *_class_parts(classes, list(metrics["per_class"].values())),
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


def decision_lines(figures: dict[str, Any]) -> list[Part]:
    """The figures of a classifier's rules, as :attr:`pyllmclf.EvaluationResult.decisions` has them."""
    lines = list[str]()
    if found := figures.get("abstain"):
        low, high = found["interval"]
        line = f"answered: {found['answered']:.1%} of the texts"
        if found["accuracy"] is not None:
            line += f", {found['accuracy']:.2%} of these right (95 % interval {low:.2%} to {high:.2%})"
        lines.append(line)
        lines += [f"not answered: {count:,} texts {reason}" for reason, count in found["reasons"].items()]
    if found := figures.get("conformal"):
        lines.append(
            f"label sets: {found['coverage']:.2%} hold the true label (promised {1 - found['error']:.4g}), with "
            f"{found['mean_labels']:.2f} labels on average; {found['one_label']:.1%} have one"
        )
    if found := figures.get("costs"):
        lines.append(
            f"mean cost {found['mean_cost']:.4f}, by the most probable class {found['mean_cost_of_most_probable']:.4f}"
        )
    return [Line(line) for line in lines]


def _class_parts(classes: list[str], per_class: list[dict[str, Any]]) -> list[Part]:
    """A table of the classes in their order, or of many those with the lowest F1; of equal ones, with most texts."""
    chosen = list(range(len(classes)))
    lines: list[Part] = []
    if len(classes) > SHOWN_CLASSES:
        chosen.sort(key=lambda c: (per_class[c]["support"] == 0, per_class[c]["f1"], -per_class[c]["support"]))
        chosen = chosen[:SHOWN_CLASSES]
        lines.append(Line(f"the {SHOWN_CLASSES} of {len(classes):,} classes with the lowest F1:"))
    figures = [
        (
            classes[c],
            *(f"{per_class[c][key]:.4f}" for key in ("precision", "recall", "f1")),
            f"{per_class[c]['support']:,}",
        )
        for c in chosen
    ]
    return [*lines, Table(("class", "precision", "recall", "F1", "texts"), figures)]


def per_class_frame(per_class: dict[Any, Any]) -> pd.DataFrame:
    """Precision, recall, F1 and support by class, as a DataFrame of pandas whose index are the classes."""
    import pandas as pd

    index = pd.Index(list(per_class), name="class", dtype=None if per_class else object)
    return pd.DataFrame([vars(figures) for figures in per_class.values()], index=index)
