"""What ``finetune`` would do with data that ``validate`` has checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.data_report import DataReport
    from ..data.readers import TextData
    from ..data.readers.columns import Columns


def training_plan(
    splits: dict[str, TextData],
    report: DataReport,
    columns: Columns | None,
    missing: str,
) -> dict[str, Any]:
    """What ``finetune`` would do with the first split, and with the others as validation or test texts.

    Returns
    -------
    dict
        ``text_column``, ``text_pair_column`` and ``label_column`` (``None`` where the data have none), ``texts``,
        ``left_out`` (rows), ``classes`` (their number), ``labels`` (their kind), ``refuses`` (the reason, or ``None``)
        and ``unreadable`` (the reason, where a row can't be used).
    """
    from ..data.label_types import quoted_if_odd

    first, *others = report.splits.values()
    faults = [fault for split in splits.values() for fault in split.faults]
    skipped = [fault for fault in faults if missing == "skip" and fault.is_missing]
    raising = [fault for fault in faults if missing == "error" or not fault.is_missing]
    unreadable = f"{raising[0].where}: {raising[0].problem}" if raising else None
    refuses = unreadable
    if refuses is None and len(first.classes) < 2:
        refuses = "there are fewer than two classes" if first.texts else "no text is left"
    for name, classes in report.unknown_classes.items():
        if refuses is None:
            refuses = f"{name}: no training text has the label {quoted_if_odd(classes[0])}"
    if refuses is None and not all(split.texts for split in others):
        refuses = "a split has no text"
    return {
        "text_column": None if columns is None else ", ".join(columns.text_names),
        "text_pair_column": None if columns is None else columns.pair_name,
        "label_column": None if columns is None else columns.label_name,
        "texts": first.texts,
        "left_out": len(skipped),
        "classes": len(first.classes),
        "labels": first.labels,
        "refuses": refuses,
        "unreadable": unreadable,
    }


def plan_sentence(plan: dict[str, Any]) -> str:
    """The plan as a line."""
    if plan["refuses"] is not None:
        return f"finetune would refuse: {plan['refuses']}"
    columns = ""
    if plan["text_column"] is not None:
        texts = f"the texts of the column {plan['text_column']!r}"
        if plan["text_pair_column"] is not None:
            texts = f"the pairs of texts of the columns {plan['text_column']!r} and {plan['text_pair_column']!r}"
        columns = f"{texts} and the labels of {plan['label_column']!r}: "
    left_out = f"{plan['left_out']:,} rows are left out" if plan["left_out"] else "no row is left out"
    return (
        f"finetune would take {columns}{plan['texts']:,} texts, {plan['classes']:,} classes ({plan['labels']}); "
        f"{left_out}"
    )
