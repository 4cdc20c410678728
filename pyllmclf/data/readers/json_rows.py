"""JSON text to rows: lines of objects, an array, or columns, in whatever form they are in, with the line of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from ...errors import DataError
from .encoding import TextFile
from .options import ReadOptions
from .text_data import Fault
from .values import broken_row

# A row and the line on which it begins; None where rows are made of columns.
Row = tuple[int | None, Any]
_BLANK = re.compile(r"[ \t\r\n]*")


def json_rows(text: TextFile, options: ReadOptions, origin: str, broken: list[Fault] | None = None) -> Iterator[Row]:
    """Yields the rows of JSON text.

    The text is one of: a value per line, of which one line at a time is in memory; an array of values; objects one
    below the other, each over several lines; one object that holds columns (:func:`_rows_of_object`).

    Parameters
    ----------
    text : TextFile
    options : ReadOptions
        Decides between rows and columns where keys of both are objects.
    origin : str
        For messages.
    broken : list of Fault, optional
        Gets the lines of JSON lines that are not valid, where ``options`` collect faults.

    Yields
    ------
    (line, row) : tuple of int or None and object
        Rows are whatever the text holds; the caller checks that they are objects.

    Raises
    ------
    DataError
        If the text is not valid JSON, or an object is neither a row nor a table; names the line.
    """
    if _has_a_value_per_line(text):
        yield from _lines(text, options, origin, broken)
        return
    content = text.read()
    start = _skip(content, 0)
    if content.startswith("[", start):
        yield from _array(content, start, origin)
    elif start < len(content):
        yield from _documents(content, start, origin, options)


def _has_a_value_per_line(text: TextFile) -> bool:
    """Whether there are several lines, each a value; those after the first tell, where that is broken."""
    with text.open(newline="\n") as file:
        first, second, third = islice(chain((line for line in file if not line.isspace()), [None] * 3), 3)
    if first is None or second is None or re.match(r"\s*\[\s*{", first):
        return False
    if _is_value(first):
        return True
    return first.lstrip().startswith("{") and all(_is_value(line) for line in (second, third) if line is not None)


def _is_value(line: str) -> bool:
    try:
        _decoder.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(text: TextFile, options: ReadOptions, origin: str, broken: list[Fault] | None) -> Iterator[Row]:
    """Rows of a value per line."""
    # Line ends as in the file, and no others: JSON strings may hold U+2028 and other line separators of Unicode.
    with text.open(newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                value = _decoder.decode(line)
            except (ValueError, RecursionError) as error:
                invalid = _invalid(error, origin, number)
                if not options.collects:
                    raise invalid from error
                where, _, problem = str(invalid).removesuffix(".").partition(f", line {number}: ")
                if broken is not None:
                    broken.append(broken_row(f"{where}, line {number}", problem, options))
                continue
            yield number, value


def _array(content: str, start: int, origin: str) -> Iterator[Row]:
    """Elements of the array that begins at ``start``, one at a time: the whole array never lies in memory."""
    place = _Place(content, origin)
    position = _skip(content, start + 1)
    if content.startswith("]", position):
        position += 1
    else:
        while True:
            line = place.line(position)
            value, position = place.decode(position)
            yield line, value
            position = _skip(content, position)
            after = content[position : position + 1]
            position = _skip(content, position + 1)
            if after == "]":
                break
            if after != ",":
                raise place.error("a comma or the end of the array is missing", position)
    if _skip(content, position) < len(content):
        raise place.error("something follows the end of the array", _skip(content, position))


def _documents(content: str, start: int, origin: str, options: ReadOptions) -> Iterator[Row]:
    """Rows of one value, or of several that begin on lines of their own."""
    place = _Place(content, origin)
    line = place.line(start)
    value, position = place.decode(start)
    if _skip(content, position) == len(content):
        yield from _rows_of_object(value, line, options, origin) if isinstance(value, dict) else [(line, value)]
        return
    yield line, value
    while (following := _skip(content, position)) < len(content):
        if "\n" not in content[position:following]:
            raise place.error("a line holds one value, and nothing after it", following)
        line = place.line(following)
        value, position = place.decode(following)
        yield line, value


def _rows_of_object(value: dict[str, Any], line: int, options: ReadOptions, origin: str) -> Iterator[Row]:
    """Rows of a single object: itself, or the table that it holds.

    Tables are ``{"text": [...], "label": [...]}``, what pandas writes with ``orient="columns"``, ``"index"``,
    ``"split"``, ``"tight"`` and ``"table"``, and one list of objects beside other values (``{"data": [{...}, ...]}``).
    """
    columns, data = value.get("columns"), value.get("data")
    lists = {name: each for name, each in value.items() if isinstance(each, list)}
    nested = [name for name, each in lists.items() if each and all(isinstance(row, dict) for row in each)]
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        for number, row in enumerate(data):
            if len(row) != len(columns):
                raise DataError(f"{origin}: row {number} has {len(row)} values where there are {len(columns)} columns.")
            yield None, dict(zip(map(str, columns), row, strict=True))
    elif nested and not options.fits(list(value)):
        if len(nested) == 1:
            yield from ((None, row) for row in value[nested[0]])
            return
        raise DataError(
            f"{origin}: the object holds several lists of rows ({', '.join(map(repr, nested[:4]))}); "
            "write each into a file of its own."
        )
    elif value and len(lists) == len(value):
        yield from _rows_of_columns(value, options, origin)
    elif value and all(isinstance(each, dict) for each in value.values()):
        if not options.fits(list(value)) and options.fits(list(next(iter(value.values())))):
            yield from ((None, row) for row in value.values())
        else:
            keys = list(dict.fromkeys(key for column in value.values() for key in column))
            for key in keys:
                yield None, {name: column.get(key) for name, column in value.items()}
    else:
        yield line, value


def _rows_of_columns(columns: dict[str, list[Any]], options: ReadOptions, origin: str) -> Iterator[Row]:
    names = list(columns)
    try:
        picked = options.pick(names, origin, header=True)
        read = {names[place]: columns[names[place]] for place in picked.places}
    except DataError:  # columns may be found by what they hold
        read = columns
    if len(set(map(len, columns.values()))) == 1:
        read = columns
    if len(set(map(len, read.values()))) > 1:
        counts = ", ".join(f"{name!r} has {len(values):,}" for name, values in read.items())
        raise DataError(f"{origin}: the columns have different numbers of values: {counts}.")
    for values in zip(*read.values(), strict=True):
        yield None, dict(zip(read, values, strict=True))


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ``ValueError`` for a repeated name, whose first value would be lost."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a name appears more than once")
    return row


_decoder = json.JSONDecoder(object_pairs_hook=object_of)


def _skip(content: str, position: int) -> int:
    """Position of the first character that is not white space of JSON."""
    match = _BLANK.match(content, position)
    assert match is not None
    return match.end()


def _invalid(error: Exception, origin: str, line: int) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        # The parser counts lines within the text that it got, which may be one line of the file.
        problem = f"{error.msg}, column {error.colno}"
    else:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DataError(f"{origin}, line {line}: not valid JSON ({problem}).")


class _Place:
    """Parses values at positions that only grow, and counts the lines before them."""

    def __init__(self, content: str, origin: str) -> None:
        self._content = content
        self._origin = origin
        self._position = 0
        self._line = 1

    def line(self, position: int) -> int:
        """Line (1-based) of a position that is no smaller than the one before."""
        self._line += self._content.count("\n", self._position, position)
        self._position = position
        return self._line

    def decode(self, position: int) -> tuple[Any, int]:
        """The value that begins at a position, and the position after it."""
        try:
            return _decoder.raw_decode(self._content, position)
        except json.JSONDecodeError as error:
            raise _invalid(error, self._origin, error.lineno) from error
        except (ValueError, RecursionError) as error:
            raise _invalid(error, self._origin, self.line(position)) from error

    def error(self, problem: str, position: int) -> DataError:
        """The error of a position."""
        return DataError(f"{self._origin}, line {self.line(position)}: not valid JSON ({problem}).")
