"""What is wrong with labelled data, before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from .lengths import LengthReport
from .packing import Packer, RowLayout
from .readers import Label, Labels, TextData
from .token_store import TokenStore
from .tokenizers import Tokenizer, special_count

# Rows of each kind that a report names.
SHOWN = 10


@dataclass(frozen=True)
class PartReport:
    """One part of a data set.

    Attributes
    ----------
    texts : int
    classes : dict of str to int
        Texts of each class.
    empty : list of str
        Where texts stand that are empty or white space.
    duplicates : int
        Texts that stand in the part earlier, too.
    conflicting : list of list of str
        Where each text stands that has several labels.
    lengths : dict, optional
        See :class:`pyllmclf.data.lengths.LengthReport`.
    """

    texts: int
    classes: dict[str, int]
    empty: list[str]
    duplicates: int
    conflicting: list[list[str]]
    lengths: dict[str, float | int] | None = None


@dataclass(frozen=True)
class Overlap:
    """Texts that stand in two parts.

    Attributes
    ----------
    first, second : str
    texts : int
        Distinct ones.
    rows : int
        Of the second part.
    conflicting : int
        Those of the texts whose labels differ between the parts.
    """

    first: str
    second: str
    texts: int
    rows: int
    conflicting: int


@dataclass(frozen=True)
class DataReport:
    """All parts, and what they share."""

    parts: dict[str, PartReport]
    overlaps: list[Overlap] = field(default_factory=list)
    unknown_classes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """A line for each thing that makes a training or its figures wrong: empty texts, a single class, conflicting
        labels, overlaps, unseen classes.
        """
        found = []
        for name, part in self.parts.items():
            if part.empty:
                found.append(f"{name}: {len(part.empty):,} texts are empty ({_some(part.empty)})")
            if len(part.classes) == 1 and name == next(iter(self.parts)):
                found.append(f"{name}: all texts have the label {next(iter(part.classes))}")
            if part.conflicting:
                where = _some([", ".join(rows[:3]) for rows in part.conflicting[:3]])
                found.append(f"{name}: {len(part.conflicting):,} texts have several labels ({where})")
        for overlap in self.overlaps:
            line = f"{overlap.texts:,} texts of {overlap.first} stand in {overlap.second}, too ({overlap.rows:,} rows"
            found.append(line + (f", {overlap.conflicting:,} with other labels)" if overlap.conflicting else ")"))
        for name, classes in self.unknown_classes.items():
            found.append(f"{name}: no training text has the label {_some(classes)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self) | {"problems": self.problems}


def validate_parts(
    parts: dict[str, TextData], tokenizer: Tokenizer | None = None, positions: int | None = None
) -> DataReport:
    """Looks for what makes a training or its figures wrong.

    Parameters
    ----------
    parts : dict of str to TextData
        Labelled, the training part first.
    tokenizer : Tokenizer, optional
        Lengths are measured with it.
    positions : int, optional
        Of the model, with a tokenizer.
    """
    labels = {name: _labels_of(part) for name, part in parts.items()}
    reports = {}
    for name, part in parts.items():
        assert part.labels is not None
        conflicting = {text for text, given in labels[name].items() if len(given) > 1}
        rows: dict[str, list[str]] = {text: [] for text in conflicting}
        for row, text in enumerate(part.texts):
            if text in rows:
                rows[text].append(part.where(row))
        reports[name] = PartReport(
            texts=len(part),
            classes=dict(sorted(Counter(str(one) for label in part.labels for one in _each(label)).items())),
            empty=[part.where(row) for row, text in enumerate(part.texts) if not text.strip()],
            duplicates=len(part) - len(labels[name]),
            conflicting=list(rows.values()),
            lengths=None if tokenizer is None or positions is None else _lengths(part, tokenizer, positions),
        )
    overlaps = []
    for first, second in combinations(parts, 2):
        shared = labels[first].keys() & labels[second].keys()
        if shared:
            overlaps.append(
                Overlap(
                    first,
                    second,
                    texts=len(shared),
                    rows=sum(text in shared for text in parts[second].texts),
                    conflicting=sum(labels[first][text] != labels[second][text] for text in shared),
                )
            )
    known = set(next(iter(reports.values())).classes)
    unknown = {name: sorted(set(report.classes) - known) for name, report in reports.items()}
    return DataReport(reports, overlaps, {name: classes for name, classes in unknown.items() if classes})


def _each(label: Labels) -> tuple[Label, ...]:
    return label if isinstance(label, tuple) else (label,)


def _labels_of(part: TextData) -> dict[str, set[str]]:
    assert part.labels is not None
    found: dict[str, set[str]] = {}
    for text, label in zip(part.texts, part.labels, strict=True):
        found.setdefault(text, set()).add(str(label))
    return found


def _lengths(part: TextData, tokenizer: Tokenizer, positions: int) -> dict[str, float | int]:
    store = TokenStore.from_texts(part.texts, tokenizer)
    longest = max(positions, special_count(tokenizer) + 1)
    return LengthReport.of(Packer(store, tokenizer, RowLayout(longest)), tokenizer).to_dict()


def _some(entries: list[str]) -> str:
    return "; ".join(entries[:SHOWN]) + ("; ..." if len(entries) > SHOWN else "")
