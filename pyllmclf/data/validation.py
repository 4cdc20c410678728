"""Checks labelled data for what makes a training or its figures wrong, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from ..text_pair import Text, is_blank
from . import damaged_text
from .data_report import RARE, SHOWN, DataReport, NearOverlap, Overlap, Rows, SplitReport
from .label_types import each_label, kind_of, near_duplicates
from .labels import classes_of
from .lengths import LengthReport
from .near_duplicates import NearDuplicate
from .packing import Packer
from .readers import Fault, TextData
from .row_layout import RowLayout
from .token_store import TokenStore
from .tokenizers import Tokenizer, special_count

# Kinds of faults, and of rows in a report.
_FAULTS = {
    "row": "broken_rows",
    "missing text": "missing_texts",
    "missing label": "missing_labels",
    "text": "invalid_texts",
    "label": "invalid_labels",
}


def validate_splits(
    splits: dict[str, TextData],
    tokenizer: Tokenizer | None = None,
    positions: int | None = None,
    near: Mapping[tuple[int, int], Sequence[NearDuplicate]] | None = None,
) -> DataReport:
    """Looks for what makes a training or its figures wrong.

    Parameters
    ----------
    splits : dict of str to TextData
        Labelled, the training split first; rows that can't be used are in :attr:`TextData.faults`.
    tokenizer : Tokenizer, optional
        Measures lengths.
    positions : int, optional
        Number of the model's positions, needed with a tokenizer.
    near : mapping, optional
        Near-duplicates as :func:`pyllmclf.data.near_duplicates.near_duplicates` returns them for the splits.
    """
    labels = {name: _labels_by_text(data) for name, data in splits.items()}
    reports = {name: _report(data, labels[name], tokenizer, positions) for name, data in splits.items()}
    overlaps = []
    for first, second in combinations(splits, 2):
        shared = labels[first].keys() & labels[second].keys()
        if shared:
            overlaps.append(
                Overlap(
                    first,
                    second,
                    texts=len(shared),
                    rows=sum(text in shared for text in splits[second].texts),
                    conflicting=sum(labels[first][text] != labels[second][text] for text in shared),
                )
            )
    known = set(next(iter(reports.values())).classes)
    unknown = {name: sorted(set(report.classes) - known) for name, report in reports.items()}
    every = dict.fromkeys(label for report in reports.values() for label in report.classes)
    return DataReport(
        reports,
        overlaps,
        {name: classes for name, classes in unknown.items() if classes},
        near_duplicates(every),
        None if near is None else _near_overlaps(splits, labels, near),
    )


def _near_overlaps(
    splits: dict[str, TextData],
    labels: dict[str, dict[Text, set[str]]],
    near: Mapping[tuple[int, int], Sequence[NearDuplicate]],
) -> list[NearOverlap]:
    names, overlaps = list(splits), []
    for numbers, found in near.items():
        first, second = (names[number] for number in numbers)
        texts = splits[first].texts, splits[second].texts
        conflicting = [labels[first][texts[0][a.first]] != labels[second][texts[1][a.second]] for a in found]
        examples = [
            {
                "first": splits[first].where(each.first),
                "second": splits[second].where(each.second),
                "similarity": each.similarity,
            }
            for each in sorted(found, key=lambda each: -each.similarity)[:SHOWN]
        ]
        if found:
            overlaps.append(NearOverlap(first, second, len(found), sum(conflicting), examples))
    return overlaps


def _report(
    data: TextData, labels: dict[Text, set[str]], tokenizer: Tokenizer | None, positions: int | None
) -> SplitReport:
    """Report on one split, whose distinct texts have these labels."""
    places: dict[Text, list[str]] = {text: [] for text, distinct in labels.items() if len(distinct) > 1}
    for row, text in enumerate(data.texts):
        if text in places:
            places[text].append(data.where(row))
    counts = Counter(map(str, each_label(data)))
    classes = {name: counts[name] for name in map(str, classes_of(each_label(data)))}
    return SplitReport(
        texts=len(data),
        classes=classes,
        labels=kind_of(each_label(data)),
        empty=[data.where(row) for row, text in enumerate(data.texts) if is_blank(text)],
        duplicates=len(data) - len(labels),
        conflicting=list(places.values()),
        rows=_rows(data),
        rare={name: count for name, count in classes.items() if count < RARE},
        lengths=None
        if tokenizer is None or positions is None or not len(data)
        else _lengths(data, tokenizer, positions),
    )


def _rows(data: TextData) -> dict[str, Rows]:
    """Rows of each kind, of all kinds that there are."""
    assert data.labels is not None
    words = [
        data.where(row)
        for row, label in enumerate(data.labels)
        if isinstance(label, str) and label.strip().lower() in damaged_text.MISSING_WORDS
    ]
    rows = {name: Rows.of(_places(data.faults, kind)) for kind, name in _FAULTS.items()} | {
        "replaced": Rows.matching(data, damaged_text.is_replaced),
        "mojibake": Rows.matching(data, damaged_text.is_mojibake),
        "missing_words": Rows.of(words),
        "control_characters": Rows.matching(data, damaged_text.has_control_characters),
        "few_letters": Rows.matching(data, damaged_text.has_few_letters),
    }
    return {name: found for name, found in rows.items() if found.count}


def _places(faults: Iterable[Fault], kind: str) -> list[str]:
    return [fault.where for fault in faults if fault.kind == kind]


def _labels_by_text(data: TextData) -> dict[Text, set[str]]:
    """For each distinct text, or pair of texts, the labels of its rows."""
    assert data.labels is not None
    labels: dict[Text, set[str]] = {}
    for text, label in zip(data.texts, data.labels, strict=True):
        labels.setdefault(text, set()).add(str(label))
    return labels


def _lengths(data: TextData, tokenizer: Tokenizer, positions: int) -> dict[str, float | int]:
    store = TokenStore.from_texts(data.texts, tokenizer)
    longest = max(positions, special_count(tokenizer) + 1)
    return LengthReport.of(Packer(store, tokenizer, RowLayout(longest)), tokenizer).to_dict()
