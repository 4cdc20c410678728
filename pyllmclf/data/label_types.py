"""Types of labels: text, booleans, integers or numbers with fractions, decided once for all splits of a run.

A source with types (a DataFrame, Parquet, JSON) says what its labels are. A source of text (CSV, TSV, lines) doesn't:
its labels get the type that all labels of the run can have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .readers import INTEGERS, Label, TextData

# Words for booleans, as pandas.read_csv has them: Python and Arrow write the first, JSON the second, R and Excel the
# third.
BOOLEANS = {"True": True, "False": False, "true": True, "false": False, "TRUE": True, "FALSE": False}
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,19})(?:\.0+)?")
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]{0,15})\.[0-9]{0,16}[1-9]")

# Kinds of labels.
TEXT, BOOLEAN, INTEGER, NUMBER = "text", "booleans", "integers", "numbers with fractions"


def parsed(text: str) -> Label:
    """The boolean or number that a label of text spells, in the one way of spelling it; any other text unchanged.

    ``007``, ``+1``, ``1_000``, ``1e3`` and ``0.50`` stay text: their spelling may matter, as that of a version ``1.10``
    does. Whole numbers may end in ``.0``: other tools write a column of integers with missing values so.
    """
    if text in BOOLEANS:
        return BOOLEANS[text]
    if (match := _WHOLE.fullmatch(text)) and int(match[1]) in INTEGERS:
        return int(match[1])
    return float(text) if _FRACTION.fullmatch(text) and repr(float(text)) == text else text


def kind_of(labels: Iterable[Label]) -> str:
    """Kind of labels that have types: that of all of them, and text for a mixture."""
    types = set(map(type, labels))
    if types == {bool}:
        return BOOLEAN
    if types == {int}:
        return INTEGER
    return NUMBER if types in ({float}, {int, float}) else TEXT


def settle_types(splits: Sequence[TextData | None], recorded: Sequence[Label] | None = None) -> list[TextData | None]:
    """Gives labels of sources of text their type, by the labels of all splits.

    They become booleans, integers, or numbers, where all labels of all splits are that; otherwise they stay text.

    Parameters
    ----------
    splits : sequence of TextData or None
    recorded : sequence of str, int or bool, optional
        Classes of the resumed run, among which labels are text that were text when it began.

    Returns
    -------
    list of TextData or None
        With ``untyped`` false.
    """
    read = [data for data in splits if data is not None and data.labels is not None]
    spelled = {label for data in read if data.untyped for label in each_label(data)}
    meaning = {label: parsed(label) if isinstance(label, str) else label for label in spelled}
    types = set(map(type, meaning.values()))
    for data in read:
        if not data.untyped:
            types |= set(map(type, each_label(data)))
    if types not in ({bool}, {int}, {float}, {int, float}) or (recorded is not None and spelled <= _texts(recorded)):
        meaning = {label: label for label in meaning}
    return [
        replace(data, labels=_replaced(data.labels, meaning), untyped=False)
        if data is not None and data.labels is not None and data.untyped
        else data
        for data in splits
    ]


def _texts(recorded: Sequence[Label]) -> set[Label]:
    return {label for label in recorded if isinstance(label, str)}


def _replaced(labels: list[Any], meaning: dict[Label, Label]) -> list[Any]:
    return [tuple(meaning[one] for one in label) if isinstance(label, tuple) else meaning[label] for label in labels]


def each_label(data: TextData) -> Iterable[Label]:
    """All labels of all texts."""
    for label in data.labels or ():
        if isinstance(label, tuple):
            yield from label
        else:
            yield label


def canonical(label: Label) -> str:
    """The one string of all spellings of a boolean or a number; other text is itself."""
    return str(parsed(label) if isinstance(label, str) else label)


def near_duplicates(names: Iterable[str]) -> list[list[str]]:
    """Groups of class names that differ only in white space, case or Unicode normalisation, each of two or more."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _folded(name: str) -> str:
    """A name without white space and characters that don't show, in one case and normalisation."""
    if name.isascii():
        return "".join(name.split()).lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")


def about_number(classes: int, texts: int) -> str | None:
    """A line where nearly every text has a class of its own, as where two columns are swapped; ``None`` otherwise."""
    if classes < 20 or 2 * classes < texts:
        return None
    return f"{classes:,} classes for {texts:,} texts: few texts share a class; are the columns swapped?"


def about_names(names: Sequence[str], shown: int = 5) -> list[str]:
    """Lines that name the classes that differ only so, and those with white space around them, quoted.

    Parameters
    ----------
    names : sequence of str
        Class names.
    shown : int
        Most groups and names of a line.
    """
    lines = []
    groups = near_duplicates(names)
    if groups:
        listed = "; ".join(" and ".join(map(quoted, group[:4])) for group in groups[:shown])
        more = f"; and {len(groups) - shown:,} more" if len(groups) > shown else ""
        lines.append(
            "classes that differ only in white space, case or Unicode normalisation are classes of their own: "
            f"{listed}{more}; write them alike if they are meant to be one"
        )
    named = {name for group in groups for name in group}
    spaced = [name for name in names if name.strip() != name and name not in named]
    if spaced:
        listed = ", ".join(map(quoted, spaced[:shown])) + (", ..." if len(spaced) > shown else "")
        lines.append(f"names of classes begin or end with white space: {listed}; remove it if it is not meant")
    return lines


def quoted(name: str) -> str:
    """A name in quotes, of at most 60 characters, with escapes where another name could look the same."""
    shown = name if len(name) <= 60 else name[:57] + "..."
    return repr(shown) if unicodedata.is_normalized("NFKC", shown) else ascii(shown)


def quoted_if_odd(name: str) -> str:
    """A name as it is, if it shows as it is and is short; quoted otherwise."""
    return name if name.isprintable() and name.strip() == name and 0 < len(name) <= 60 else quoted(name)
