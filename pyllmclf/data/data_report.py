"""Reports on labelled data: what makes a training or its figures wrong, as lines, tables and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Shown
from ..text_pair import parts_of
from .label_types import about_names, about_number, quoted_if_odd
from .readers import TextData

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
        """The rows whose text, or one of whose two texts, meets a check."""
        return cls.of([data.where(row) for row, text in enumerate(data.texts) if any(map(check, parts_of(text)))])

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


@dataclass(frozen=True)
class NearOverlap:
    """Texts of a split that nearly are texts of another; equal ones are left out.

    Attributes
    ----------
    first, second : str
        Names of the splits.
    texts : int
        Number of distinct texts of the second split.
    conflicting : int
        Number of these texts whose labels differ from those of the most similar text.
    examples : list of dict
        The ten most similar ones: ``first`` and ``second``, their places, and ``similarity``, of which
        :class:`pyllmclf.data.near_duplicates.NearDuplicate` has more.
    """

    first: str
    second: str
    texts: int
    conflicting: int
    examples: list[dict[str, Any]]


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
    near_overlaps : list of NearOverlap, optional
        ``None`` where near-duplicates were not looked for.
    """

    splits: dict[str, SplitReport]
    overlaps: list[Overlap] = field(default_factory=list)
    unknown_classes: dict[str, list[str]] = field(default_factory=dict)
    near_duplicates: list[list[str]] = field(default_factory=list)
    near_overlaps: list[NearOverlap] | None = None

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
            if name == next(iter(self.splits)) and (line := about_number(len(split.classes), split.texts)) is not None:
                lines.append(f"{name}: {line}")
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
        """One line for each thing that may be as intended: near-duplicates, rare classes, unusual texts and labels."""
        lines = []
        for near in self.near_overlaps or ():
            line = f"{near.texts:,} texts of {near.second} are nearly the same as texts of {near.first}"
            others = f", {near.conflicting:,} with other labels" if near.conflicting else ""
            lines.append(f"{line}{others} ({_some([_pair(each) for each in near.examples[:3]])})")
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


def _lines(name: str, split: SplitReport, kinds: dict[str, str]) -> list[str]:
    return [f"{name}: {rows.count:,} {kinds[kind]} ({rows})" for kind, rows in split.rows.items() if kind in kinds]


def _pair(example: dict[str, Any]) -> str:
    return f"{example['second']} and {example['first']}: {example['similarity']:.0%} alike"


def _some(entries: list[str]) -> str:
    return "; ".join(entries[:SHOWN]) + ("; ..." if len(entries) > SHOWN else "")
