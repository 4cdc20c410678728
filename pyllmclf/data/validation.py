"""Checks labelled data for what makes a training or its figures wrong, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Shown
from . import damaged_text
from .label_types import about_names, each_label, kind_of, near_duplicates, quoted_if_odd
from .labels import classes_of
from .lengths import LengthReport
from .packing import Packer
from .readers import Fault, TextData
from .row_layout import RowLayout
from .token_store import TokenStore
from .tokenizers import Tokenizer, special_count

if TYPE_CHECKING:
    import pandas as pd

# Maximum number of rows or classes of each kind that a report names.
SHOWN = 10
# A class with fewer texts is rare.
RARE = 5
# Most classes whose texts are counted in a line.
CLASSES = 20


@dataclass(frozen=True)
class Rows:
    """Rows with one thing in common.

    Attributes
    ----------
    count : int
    first : list of str
        Places of the first ten.
    """

    count: int
    first: list[str]

    @classmethod
    def of(cls, places: Sequence[str]) -> Rows:
        """Counts places, in order."""
        return cls(len(places), list(places[:SHOWN]))

    @classmethod
    def matching(cls, data: TextData, check: Callable[[str], bool]) -> Rows:
        """The rows whose texts meet a check."""
        return cls.of([data.where(row) for row, text in enumerate(data.texts) if check(text)])

    def __str__(self) -> str:
        return "; ".join(self.first) + ("; ..." if self.count > len(self.first) else "")


# Kinds of rows, and what a line says of them: the first make a training or its figures wrong, others may be intended.
_PROBLEMS = {
    "broken_rows": "rows can't be read",
    "missing_texts": "texts are missing",
    "missing_labels": "labels are missing",
    "invalid_texts": "texts are no strings",
    "invalid_labels": "labels are no text, number or boolean",
    "replaced": "texts hold U+FFFD, which stands for bytes that could not be read",
    "mojibake": "texts look like UTF-8 that was read as Latin-1 ('Ã©' for 'é')",
}
_NOTES = {
    "missing_words": "labels are words for missing values, or white space",
    "control_characters": "texts hold control characters",
    "few_letters": "texts are hardly letters",
}
_FAULTS = {
    "row": "broken_rows",
    "missing text": "missing_texts",
    "missing label": "missing_labels",
    "text": "invalid_texts",
    "label": "invalid_labels",
}


@dataclass(frozen=True)
class SplitReport:
    """Report on one split of a data set.

    Attributes
    ----------
    texts : int
        Number of texts that can be used.
    classes : dict of str to int
        Number of texts of each class, in the order of the classes.
    labels : {"text", "booleans", "integers", "numbers with fractions"}
        Kind of the labels.
    empty : list of str
        Places of the texts that are empty or white space.
    duplicates : int
        Number of texts that also appear earlier in the split.
    conflicting : list of list of str
        For each text with different labels, its places.
    rows : dict of str to Rows
        By kind: rows that can't be read, whose text or label is missing or of no use, or whose text is damaged.
    rare : dict of str to int
        Number of texts of each class with fewer than five.
    lengths : dict, optional
        See :class:`pyllmclf.data.lengths.LengthReport`.
    """

    texts: int
    classes: dict[str, int]
    labels: str
    empty: list[str]
    duplicates: int
    conflicting: list[list[str]]
    rows: dict[str, Rows] = field(default_factory=dict)
    rare: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, float | int] | None = None

    def lines(self, name: str) -> list[str]:
        """Lines on texts, classes and duplicates, and on lengths where they are known."""
        shown = list(self.classes.items())[:CLASSES]
        shares = ", ".join(
            f"{quoted_if_odd(label)} {count:,} ({count / max(1, self.texts):.1%})" for label, count in shown
        )
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
    near_duplicates : list of list of str
        Classes of any split that differ only in white space, case or Unicode normalisation.
    """

    splits: dict[str, SplitReport]
    overlaps: list[Overlap] = field(default_factory=list)
    unknown_classes: dict[str, list[str]] = field(default_factory=dict)
    near_duplicates: list[list[str]] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """One line per problem: what makes a training fail, or its figures wrong."""
        lines = []
        for name, split in self.splits.items():
            lines += _lines(name, split, _PROBLEMS)
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
            lines.append(f"{name}: no training text has the label {_some(list(map(quoted_if_odd, classes)))}")
        return lines + about_names(list(dict.fromkeys(one for split in self.splits.values() for one in split.classes)))

    @property
    def notes(self) -> list[str]:
        """One line for each thing that may be as intended: rare classes, unusual texts and labels."""
        lines = []
        for name, split in self.splits.items():
            lines += _lines(name, split, _NOTES)
            if split.rare and name == next(iter(self.splits)):
                rarest = sorted(split.rare.items(), key=lambda item: item[1])
                named = _some([f"{quoted_if_odd(label)}: {count}" for label, count in rarest])
                lines.append(
                    f"{name}: {len(rarest):,} classes have fewer than {RARE} texts ({named}); a validation fraction "
                    "may hold none of them, and the text of a class with one stays in training"
                )
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
        """Texts, classes, duplicates and lengths of each split, all problems, and notes."""
        lines = [line for name, split in self.splits.items() for line in split.lines(name)]
        notes = [f"note: {note}" for note in self.notes]
        return list(map(Line, [*lines, *(self.problems or ["no problem found"]), *notes]))

    def to_dict(self) -> dict[str, Any]:
        """The whole report in values that JSON can hold; the splits are under ``"parts"``."""
        content = asdict(self)
        return {"parts": content.pop("splits")} | content | {"problems": self.problems, "notes": self.notes}


def validate_splits(
    splits: dict[str, TextData], tokenizer: Tokenizer | None = None, positions: int | None = None
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
        reports, overlaps, {name: classes for name, classes in unknown.items() if classes}, near_duplicates(every)
    )


def _report(
    data: TextData, labels: dict[str, set[str]], tokenizer: Tokenizer | None, positions: int | None
) -> SplitReport:
    """Report on one split, whose distinct texts have these labels."""
    places: dict[str, list[str]] = {text: [] for text, distinct in labels.items() if len(distinct) > 1}
    for row, text in enumerate(data.texts):
        if text in places:
            places[text].append(data.where(row))
    counts = Counter(map(str, each_label(data)))
    classes = {name: counts[name] for name in map(str, classes_of(each_label(data)))}
    return SplitReport(
        texts=len(data),
        classes=classes,
        labels=kind_of(each_label(data)),
        empty=[data.where(row) for row, text in enumerate(data.texts) if not text.strip()],
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


def _lines(name: str, split: SplitReport, kinds: dict[str, str]) -> list[str]:
    return [f"{name}: {rows.count:,} {kinds[kind]} ({rows})" for kind, rows in split.rows.items() if kind in kinds]


def _some(entries: list[str]) -> str:
    return "; ".join(entries[:SHOWN]) + ("; ..." if len(entries) > SHOWN else "")
