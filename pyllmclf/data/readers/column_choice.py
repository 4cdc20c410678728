"""Chooses the columns of texts, labels and weights: by the user's choice, by usual names, or by what they hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...suggestions import closest
from .column_values import find_columns
from .columns import Column, Columns
from .notes import Notes
from .usual_names import LABEL_NAMES, TEXT_NAMES, is_usual_other, plain_name, usual_pair


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user says of the columns.

    Attributes
    ----------
    text : str, int or sequence of them, optional
        Columns of the texts: a name, a number where no column has that name, or several, also as one string with
        commas. ``None`` looks for a usual name, then for the one column that holds texts.
    label : str or int, optional
        As ``text``, but one.
    labelled : bool
        Whether a label column is needed.
    pair : str or int, optional
        Column of the second texts.
    pairs : bool, optional
        Whether texts are pairs; ``None``: where ``pair`` says so, or where only the usual names of a pair tell columns
        of texts.
    weight : str, optional
        Column of the weights, by name or number; it is neither the texts' nor the labels'.
    """

    text: Column | Sequence[Column] | None = None
    label: Column | None = None
    labelled: bool = True
    pair: Column | None = None
    pairs: bool | None = None
    weight: str | None = None


def pick_columns(
    names: Sequence[str],
    wanted: Wanted,
    origin: str,
    *,
    header: bool = True,
    rows: Callable[[], Iterable[Sequence[Any]]] | None = None,
    notes: Notes | None = None,
) -> Columns:
    """Finds the columns of the texts, of the labels and of the weights.

    Parameters
    ----------
    names : sequence of str
        Names of all columns.
    wanted : Wanted
    origin : str
        For messages.
    header : bool
        Whether the names are those of a header, rather than numbers.
    rows : callable, optional
        Gives the values of all rows; needed to find columns by what they hold.
    notes : Notes, optional
        Gets which columns were found by what they hold, and which may be pairs.

    Raises
    ------
    DataError
        If a column is missing, is read and appears twice, or can't be told.
    """
    weight = None if wanted.weight is None else _Table(names, origin).one(wanted.weight)
    table = _Table(names, origin, weight)
    texts = None if wanted.text is None else table.several(wanted.text)
    pair = None if wanted.pair is None else table.one(wanted.pair)
    label = None
    if wanted.label is not None and (wanted.labelled or wanted.label in names):
        label = table.one(wanted.label)
    table.check_distinct(texts, pair, label)
    texts, pair, problem = table.texts(texts, pair, label, wanted, notes)
    known = (*(texts or ()), *(() if pair is None else (pair,)))
    if wanted.labelled and label is None:
        label, label_problem = table.usual(LABEL_NAMES, "label", excluded=known)
        problem = problem or label_problem
    if problem is None:
        assert texts is not None
        return Columns(tuple(names), texts, label if wanted.labelled else None, weight, pair)
    found = None
    if rows is not None:
        found = find_columns(names, rows(), texts, label, wanted.labelled, header, excluded=(weight, pair))
    if isinstance(found, tuple):
        if notes is not None:
            _note(notes, names, found, text_is_new=texts is None, label_is_new=wanted.labelled and label is None)
        return Columns(tuple(names), (found[0],) if texts is None else texts, found[1], weight, pair)
    if texts is None and pair is None and (columns := table.pairs(label, wanted, notes)) is not None:
        return columns
    raise DataError(f"{origin}: {problem}{'' if found is None else f'; {found}'}.")


class _Table:
    """The names of the columns of a source, of which ``weight`` is known to hold the weights."""

    def __init__(self, names: Sequence[str], origin: str, weight: int | None = None) -> None:
        self.names = list(names)
        self.origin = origin
        self.weight = weight

    def several(self, chosen: Column | Sequence[Column]) -> tuple[int, ...]:
        """Places of the columns that a user has chosen for the texts."""
        if isinstance(chosen, str) and chosen not in self.names and "," in chosen:
            chosen = [part.strip() for part in chosen.split(",")]
        if isinstance(chosen, (str, int)):
            chosen = [chosen]
        return tuple(dict.fromkeys(self.one(column) for column in chosen))

    def check_distinct(self, texts: tuple[int, ...] | None, pair: int | None, label: int | None) -> None:
        """Raises :class:`DataError` if a column is chosen for two things."""
        if label is not None and label in (*(texts or ()), pair):
            raise DataError(f"{self.origin}: {self.names[label]!r} can't be both the text and the label column.")
        if pair is not None and pair in (texts or ()):
            raise DataError(f"{self.origin}: {self.names[pair]!r} can't be both texts of a pair.")
        if self.weight is not None and self.weight in (label, pair, *(texts or ())):
            raise self.taken()

    def texts(
        self,
        texts: tuple[int, ...] | None,
        pair: int | None,
        label: int | None,
        wanted: Wanted,
        notes: Notes | None,
    ) -> tuple[tuple[int, ...] | None, int | None, str | None]:
        """Places of the texts and of the second texts, and what is wrong where the names don't tell them.

        Raises
        ------
        DataError
            If texts must be pairs, and the names don't tell both columns.
        """
        excluded = tuple(place for place in (label, self.weight) if place is not None)
        if wanted.pairs is True and pair is None:
            joined = () if texts is None else texts[1:]
            two = usual_pair(self.names, (*excluded, *joined), text=None if texts is None else texts[0])
            if two is None and not wanted.labelled and texts is None and not excluded:
                two = self._only_two(notes)
            if two is None:
                raise DataError(
                    f"{self.origin}: the texts are pairs, and the names {_listed(self.names)} don't tell both columns; "
                    "say text_column and text_pair_column (--text-column, --text-pair-column)."
                )
            return texts or two[:1], two[1], None
        if texts is not None:
            return texts, pair, None
        if pair is not None and (two := usual_pair(self.names, excluded, pair=pair)) is not None:
            return two[:1], pair, None
        others = tuple(place for place in (label, pair) if place is not None)
        place, problem = self.usual(TEXT_NAMES, "text", excluded=others)
        if place is not None and pair is None and wanted.pairs is None and notes is not None:
            two = usual_pair(self.names, excluded, text=place)
            if two is not None:
                first, second = (self.names[i] for i in two)
                found = f"the texts of {first!r} alone, of which {second!r} may be the second of a pair"
                notes.add(found, "text_pair_column")
        return None if place is None else (place,), pair, problem

    def _only_two(self, notes: Notes | None) -> tuple[int, int] | None:
        """The columns in their order, where there are just two, and neither name is that of labels or of rows."""
        if len(self.names) != 2 or any(map(is_usual_other, self.names)):
            return None
        if notes is not None:
            first, second = self.names
            notes.add(f"pairs of texts from the columns {first!r} and {second!r}", "text_column", "text_pair_column")
        return 0, 1

    def pairs(self, label: int | None, wanted: Wanted, notes: Notes | None) -> Columns | None:
        """The columns where only the usual names of a pair tell those of texts; ``None`` where they don't, either."""
        two = usual_pair(self.names, (label, self.weight)) if wanted.pairs is None else None
        if two is not None and wanted.labelled and label is None:
            label, _ = self.usual(LABEL_NAMES, "label", excluded=two)
        if two is None or (wanted.labelled and label is None):
            return None
        if notes is not None:
            first, second = (self.names[place] for place in two)
            notes.add(f"pairs of texts from the columns {first!r} and {second!r}", "text_column")
        return Columns(tuple(self.names), two[:1], label if wanted.labelled else None, self.weight, two[1])

    def one(self, chosen: Column) -> int:
        """Place of a column that a user has chosen, by name or by number."""
        name = str(chosen)
        if name in self.names:
            if self.names.count(name) > 1:
                raise self._repeated(name)
            return self.names.index(name)
        if re.fullmatch("[0-9]{1,9}", name) and int(name) < len(self.names):
            return int(name)
        alike = (other for other in self.names if plain_name(other) == plain_name(name))
        near = closest(name, self.names) or next(alike, None)
        meant = "the columns are" if near is None else f"did you mean {near!r}? The columns are"
        raise DataError(f"{self.origin}: there is no column {chosen!r}; {meant} {_listed(self.names)}.")

    def usual(
        self, usual: Sequence[Sequence[str]], role: str, excluded: Sequence[int]
    ) -> tuple[int | None, str | None]:
        """Place of the column with a usual name, or what is wrong.

        A name that means nothing but this role, as ``label`` does, is not passed over because weights are read from it.
        """
        candidates: list[int] = []
        for row in usual:
            candidates = [i for i, name in enumerate(self.names) if plain_name(name) in row and i not in excluded]
            if candidates == [self.weight] and row is usual[0]:
                raise self.taken()
            candidates = [i for i in candidates if i != self.weight]
            if candidates:
                break
        if len(candidates) == 1:
            return candidates[0], None
        named = {self.names[i] for i in candidates}
        if len(named) == 1:
            raise self._repeated(named.pop())
        problem = f"several columns could be the {role}" if candidates else f"no column is named like a {role}"
        advice = f"say which one with {role}_column (--{role}-column)"
        if candidates and role == "text":
            several = ",".join(self.names[i] for i in candidates)
            advice += f", or several to join them (--text-column {shlex.quote(several)})"
        return None, f"{problem} among {_listed(self.names)}; {advice}"

    def taken(self) -> DataError:
        """The error of a column that holds weights and something else."""
        assert self.weight is not None
        name = self.names[self.weight]
        return DataError(f"{self.origin}: {name!r} can't be the column of the weights and of the texts or labels.")

    def _repeated(self, name: str) -> DataError:
        return DataError(
            f"{self.origin}: the column {name!r} appears more than once; rename one of them, or choose by number, the "
            "first being 0."
        )


def _note(
    notes: Notes, names: Sequence[str], found: tuple[int, int | None], text_is_new: bool, label_is_new: bool
) -> None:
    text, label = found
    what, arguments = [], []
    if text_is_new:
        what.append(f"with texts from the column {names[text]!r}")
        arguments.append("text_column")
    if label_is_new and label is not None:
        what.append(f"with labels from the column {names[label]!r}")
        arguments.append("label_column")
    notes.add(" and ".join(what), *arguments)


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(repr(n) for n in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
