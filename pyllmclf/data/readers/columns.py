"""Which columns hold texts, labels and weights: by the user's choice, by usual names, or by what they hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...suggestions import closest
from .column_values import find_columns
from .missing import is_missing
from .notes import Notes
from .usual_names import LABEL_NAMES, TEXT_NAMES, plain_name

# A column named by its name, or by its number from 0 where none has that name.
Column = str | int


@dataclass(frozen=True)
class Columns:
    """Places of the columns that are read.

    Attributes
    ----------
    names : tuple of str
        Names of all columns.
    texts : tuple of int
        Columns of the texts, which are joined.
    label : int or None
    weight : int or None
    """

    names: tuple[str, ...]
    texts: tuple[int, ...]
    label: int | None
    weight: int | None = None

    @property
    def text_names(self) -> tuple[str, ...]:
        """Names of the columns of the texts."""
        return tuple(self.names[i] for i in self.texts)

    @property
    def label_name(self) -> str | None:
        """Name of the column of the labels."""
        return None if self.label is None else self.names[self.label]

    @property
    def weight_name(self) -> str | None:
        """Name of the column of the weights."""
        return None if self.weight is None else self.names[self.weight]

    @property
    def places(self) -> tuple[int, ...]:
        """Places of all columns that are read, each once."""
        others = (place for place in (self.label, self.weight) if place is not None)
        return tuple(dict.fromkeys((*self.texts, *others)))

    def text(self, row: Sequence[Any]) -> Any:
        """Text of a row; see :func:`joined`."""
        return row[self.texts[0]] if len(self.texts) == 1 else joined([row[i] for i in self.texts])

    def text_of(self, record: Mapping[str, Any], where: str) -> Any:
        """Text of a record, whose keys are the columns; only the first of several columns is required.

        Raises
        ------
        DataError
            If it has no such key; ``where`` names the record.
        """
        first, *others = self.text_names
        value = _required(record, first, where)
        return joined([value, *(record.get(name) for name in others)]) if others else value

    def label_of(self, record: Mapping[str, Any], where: str) -> Any:
        """Label of a record; raises as :meth:`text_of`."""
        assert self.label_name is not None
        return _required(record, self.label_name, where)

    def weight_of(self, record: Mapping[str, Any], where: str) -> Any:
        """Weight of a record; raises as :meth:`text_of`."""
        assert self.weight_name is not None
        return _required(record, self.weight_name, where)


def _required(record: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise DataError(f"{where}: the object has no {name!r}.")
    return record[name]


def joined(parts: Sequence[Any]) -> Any:
    """The parts of a text with a space between them, without those that are missing, empty or white space.

    A part that is no string is returned instead of a text, for the check of values to refuse; ``None`` if all parts
    are missing.
    """
    present = [part for part in parts if not (is_missing(part) or (isinstance(part, str) and not part.strip()))]
    wrong = [part for part in present if not isinstance(part, str)]
    if wrong:
        return wrong[0]
    if not present:
        return "" if any(isinstance(part, str) for part in parts) else None
    return " ".join(present)


def pick_columns(
    names: Sequence[str],
    text_column: Column | Sequence[Column] | None,
    label_column: Column | None,
    labelled: bool,
    origin: str,
    *,
    weight_column: str | None = None,
    header: bool = True,
    rows: Callable[[], Iterable[Sequence[Any]]] | None = None,
    notes: Notes | None = None,
) -> Columns:
    """Finds the columns of the texts, of the labels and of the weights.

    Parameters
    ----------
    names : sequence of str
        Names of all columns.
    text_column : str, int or sequence of them, optional
        The user's choice: a name, a number where no column has that name, or several, also as one string with commas.
        ``None`` looks for a usual name, then for the one column that holds texts.
    label_column : str or int, optional
        As ``text_column``, but one.
    labelled : bool
        Whether a label column is needed.
    origin : str
        For messages.
    weight_column : str, optional
        Column of the weights, by name or number; it is neither the texts' nor the labels'.
    header : bool
        Whether the names are those of a header, rather than numbers.
    rows : callable, optional
        Gives the values of all rows; needed to find columns by what they hold.
    notes : Notes, optional
        Gets which columns were found by what they hold.

    Raises
    ------
    DataError
        If a column is missing, is read and appears twice, or can't be told.
    """
    weight = None if weight_column is None else _Table(names, origin).one(weight_column)
    table = _Table(names, origin, weight)
    texts = None if text_column is None else table.several(text_column)
    label = None
    if label_column is not None and (labelled or label_column in names):
        label = table.one(label_column)
        if texts is not None and label in texts:
            raise DataError(f"{origin}: {names[label]!r} can't be both the text and the label column.")
    if weight is not None and (weight == label or weight in (texts or ())):
        raise table.taken()
    problem = None
    if texts is None:
        text, problem = table.usual(TEXT_NAMES, "text", excluded=() if label is None else (label,))
        texts = None if text is None else (text,)
    if labelled and label is None:
        label, label_problem = table.usual(LABEL_NAMES, "label", excluded=texts or ())
        problem = problem or label_problem
    if problem is None:
        assert texts is not None
        return Columns(tuple(names), texts, label if labelled else None, weight)
    found = None if rows is None else find_columns(names, rows(), texts, label, labelled, header, weight)
    if isinstance(found, tuple):
        if notes is not None:
            _note(notes, names, found, text_is_new=texts is None, label_is_new=labelled and label is None)
        return Columns(tuple(names), (found[0],) if texts is None else texts, found[1], weight)
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
