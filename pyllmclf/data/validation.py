"""Checks labelled data for what makes a training or its figures wrong, before anything is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Shown
from .lengths import LengthReport
from .packing import Packer
from .readers import Label, Labels, TextData
from .row_layout import RowLayout
from .token_store import TokenStore
from .tokenizers import Tokenizer, special_count

if TYPE_CHECKING:
    import pandas as pd

# Maximum number of rows of each kind that a report names.
SHOWN = 10
# Most classes whose texts are counted in a line.
CLASSES = 20


@dataclass(frozen=True)
class SplitReport:
    """Report on one split of a data set.

    Attributes
    ----------
    texts : int
        Number of texts.
    classes : dict of str to int
        Number of texts of each class.
    empty : list of str
        Places of the texts that are empty or white space.
    duplicates : int
        Number of texts that also appear earlier in the split.
    conflicting : list of list of str
        For each text with different labels, its places.
    lengths : dict, optional
        See :class:`pyllmclf.data.lengths.LengthReport`.
    """

    texts: int
    classes: dict[str, int]
    empty: list[str]
    duplicates: int
    conflicting: list[list[str]]
    lengths: dict[str, float | int] | None = None

    def lines(self, name: str) -> list[str]:
        """Lines on texts, classes and duplicates, and on lengths where they are known."""
        shown = list(self.classes.items())[:CLASSES]
        shares = ", ".join(f"{label} {count:,} ({count / max(1, self.texts):.1%})" for label, count in shown)
        more = f" and {len(self.classes) - CLASSES:,} more classes" if len(self.classes) > CLASSES else ""
        lines = [f"{name}: {self.texts:,} texts; {shares}{more}; {self.duplicates:,} duplicates"]
        if (lengths := self.lengths) is not None:
            lines.append(
                f"  tokens: mean {lengths['mean']:.1f}, 99 % up to {lengths['percentile_99']:.0f}, "
                f"longest {lengths['longest']:,}; {lengths['truncated']:,} texts are truncated"
                + (f" at {lengths['longest']:,}" if lengths["truncated"] else "")
            )
        return lines


@dataclass(frozen=True)
class Overlap:
    """Texts that appear in two splits.

    Attributes
    ----------
    first, second : str
        Names of the splits.
    texts : int
        Number of distinct texts in both.
    rows : int
        Number of their rows in the second split.
    conflicting : int
        Number of these texts whose labels differ between the splits.
    """

    first: str
    second: str
    texts: int
    rows: int
    conflicting: int


@dataclass(frozen=True, repr=False)
class DataReport(Shown):
    """Report on all splits, and on what they share.

    Attributes
    ----------
    splits : dict of str to SplitReport
    overlaps : list of Overlap
    unknown_classes : dict of str to list of str
        By split, the classes that the first split lacks.
    """

    splits: dict[str, SplitReport]
    overlaps: list[Overlap] = field(default_factory=list)
    unknown_classes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """One line per problem: empty texts, a single class, conflicting labels, overlaps, unknown classes."""
        lines = []
        for name, split in self.splits.items():
            if split.empty:
                lines.append(f"{name}: {len(split.empty):,} texts are empty ({_some(split.empty)})")
            if len(split.classes) == 1 and name == next(iter(self.splits)):
                lines.append(f"{name}: all texts have the label {next(iter(split.classes))}")
            if split.conflicting:
                where = _some([", ".join(rows[:3]) for rows in split.conflicting[:3]])
                lines.append(f"{name}: {len(split.conflicting):,} texts have several labels ({where})")
        for overlap in self.overlaps:
            line = f"{overlap.texts:,} texts of {overlap.first} are also in {overlap.second} ({overlap.rows:,} rows"
            lines.append(line + (f", {overlap.conflicting:,} with other labels)" if overlap.conflicting else ")"))
        for name, classes in self.unknown_classes.items():
            lines.append(f"{name}: no training text has the label {_some(classes)}")
        return lines

    def to_frame(self) -> pd.DataFrame:
        """Number of texts by class (row) and split (column), as a DataFrame of pandas."""
        import pandas as pd

        counts = pd.DataFrame({name: pd.Series(split.classes, dtype="Int64") for name, split in self.splits.items()})
        return counts.fillna(0).rename_axis("class")

    def brief(self) -> dict[str, Any]:
        """Number of texts by split, of classes of the first split, and of problems."""
        texts = {name: split.texts for name, split in self.splits.items()}
        return texts | {"classes": len(next(iter(self.splits.values())).classes), "problems": len(self.problems)}

    def parts(self) -> list[Part]:
        """Texts, classes, duplicates and lengths of each split, and all problems."""
        lines = [line for name, split in self.splits.items() for line in split.lines(name)]
        return list(map(Line, [*lines, *(self.problems or ["no problem found"])]))

    def to_dict(self) -> dict[str, Any]:
        """The whole report in values that JSON can hold; the splits are under ``"parts"``."""
        content = asdict(self)
        return {"parts": content.pop("splits")} | content | {"problems": self.problems}


def validate_splits(
    splits: dict[str, TextData], tokenizer: Tokenizer | None = None, positions: int | None = None
) -> DataReport:
    """Looks for what makes a training or its figures wrong.

    Parameters
    ----------
    splits : dict of str to TextData
        Labelled, the training split first.
    tokenizer : Tokenizer, optional
        Measures lengths.
    positions : int, optional
        Number of the model's positions, needed with a tokenizer.
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
    return DataReport(reports, overlaps, {name: classes for name, classes in unknown.items() if classes})


def _report(
    data: TextData, labels: dict[str, set[str]], tokenizer: Tokenizer | None, positions: int | None
) -> SplitReport:
    """Report on one split, whose distinct texts have these labels."""
    assert data.labels is not None
    places: dict[str, list[str]] = {text: [] for text, distinct in labels.items() if len(distinct) > 1}
    for row, text in enumerate(data.texts):
        if text in places:
            places[text].append(data.where(row))
    return SplitReport(
        texts=len(data),
        classes=dict(sorted(Counter(str(one) for label in data.labels for one in _each(label)).items())),
        empty=[data.where(row) for row, text in enumerate(data.texts) if not text.strip()],
        duplicates=len(data) - len(labels),
        conflicting=list(places.values()),
        lengths=None if tokenizer is None or positions is None else _lengths(data, tokenizer, positions),
    )


def _each(label: Labels) -> tuple[Label, ...]:
    return label if isinstance(label, tuple) else (label,)


def _labels_by_text(data: TextData) -> dict[str, set[str]]:
    """For each distinct text, the labels of its rows."""
    assert data.labels is not None
    labels: dict[str, set[str]] = {}
    for text, label in zip(data.texts, data.labels, strict=True):
        labels.setdefault(text, set()).add(str(label))
    return labels


def _lengths(data: TextData, tokenizer: Tokenizer, positions: int) -> dict[str, float | int]:
    store = TokenStore.from_texts(data.texts, tokenizer)
    longest = max(positions, special_count(tokenizer) + 1)
    return LengthReport.of(Packer(store, tokenizer, RowLayout(longest)), tokenizer).to_dict()


def _some(entries: list[str]) -> str:
    return "; ".join(entries[:SHOWN]) + ("; ..." if len(entries) > SHOWN else "")
