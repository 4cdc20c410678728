"""How the fields of a delimited file are separated and quoted."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from .encoding import TextFile
from .notes import Notes
from .usual_names import is_usual_name

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
ENDINGS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
# For a file of one column: a code point that no text holds.
NO_DELIMITER = "\U0010ffff"

_MOST_LABELS = 10_000
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)
_SAMPLE_ROWS = 200
_SAMPLE_CHARACTERS = 1 << 18
_CONSISTENT = 0.95
# A file with commas and fewer rows shows too little to be taken for one without quoting.
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Dialect:
    """How a file's rows are read.

    Attributes
    ----------
    delimiter : str
        One character.
    quoted : bool
        Whether double quotes enclose fields, rather than being characters as any other.
    surely_quoted : bool
        Whether the header is quoted, so that there is no doubt.
    skipped : int
        Number of lines before the header: that of Excel which names the delimiter.
    """

    delimiter: str
    quoted: bool = True
    surely_quoted: bool = False
    skipped: int = 0

    def reader(self, lines: Iterable[str]) -> Any:
        """A reader of the csv module, which counts lines."""
        if self.quoted:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)


def sniff(
    text: TextFile, own: str | None, chosen: str | None, header: bool, names: Sequence[str], notes: Notes
) -> Dialect:
    """Finds the delimiter.

    Parameters
    ----------
    text : TextFile
    own : str or None
        The delimiter that files with this ending have.
    chosen : str or None
        The user's choice.
    header : bool
        Whether the first row names the columns.
    names : sequence of str
        Names of columns that the user has chosen.
    notes : Notes
        Gets the delimiter, unless the ending or the user says it.
    """
    with text.open() as file:
        sample = _sample(file)
    if not sample:
        return Dialect(chosen or own or ",")
    separator = _SEPARATOR_LINE.fullmatch(sample[0])
    if separator is not None and separator[1] not in "\r\n":
        return Dialect(_noted(chosen, separator[1], own, notes), skipped=1)
    if chosen is not None:
        return Dialect(chosen)
    best = _best_delimiter(sample, own, header, set(names))
    if best is None:
        if any((own or ",") in line and '"' not in line for line in sample[1:]):
            notes.add("as one column, since the first line has no delimiter", "delimiter")
        return Dialect(NO_DELIMITER)
    return Dialect(_noted(None, best, own, notes))


def without_quoting(
    text: TextFile, dialect: Dialect, header: bool, label_of: Callable[[list[str]], int | None], notes: Notes
) -> Dialect:
    """The dialect, without quoting where the file shows that a double quote is a character as any other.

    It does so if every line has as many fields as the first when quotes are ignored, quotes would join lines or break
    rows, and no field shows that quoting is used: a name of a column in quotes, a doubled quote inside quotes, quotes
    around a field of most lines. Files with commas or semicolons are quoted by convention: they need more rows, and
    the lines that quotes would join need labels that other lines have, too.

    Parameters
    ----------
    text : TextFile
    dialect : Dialect
    header : bool
        Whether the first line names the columns.
    label_of : callable
        Gives the column of the labels for the fields of the first line; ``None`` where it is unknown.
    notes : Notes
        Gets what was decided, and the lines that show it.
    """
    if not text.has_quotes:
        return dialect
    lines = _Lines(text, dialect, header)
    if not lines.all_have_the_same_width() or not lines.has_opening_quotes:
        return replace(dialect, surely_quoted=lines.has_quoted_header)
    joined, broken = lines.joined_by_quotes()
    if not joined and broken is None:
        return dialect
    if dialect.delimiter == NO_DELIMITER:
        if joined and not lines.have_bare_commas(joined):
            return dialect
    elif dialect.delimiter in ",;":
        label = label_of(lines.first)
        spans = [*joined, *([] if broken is None else [(broken, broken)])]
        if lines.count < _FEWEST_ROWS or (joined if label is None else not lines.labels_are_known(spans, label)):
            return dialect
    where = (
        f"quotes would join lines {joined[0][0]} and {joined[0][1]}"
        if joined
        else f"the quote in line {broken} stays open"
    )
    notes.add(f"without quoting, since {where} and every line has {lines.width} fields of its own")
    return replace(dialect, quoted=False)


class _Lines:
    """The lines of a file, split without regard to quotes."""

    def __init__(self, text: TextFile, dialect: Dialect, header: bool) -> None:
        self.text, self.dialect, self.header = text, dialect, header
        self.first: list[str] = []
        self.count = 0
        self.has_quoted_header = False
        self.has_opening_quotes = False

    @property
    def width(self) -> int:
        """Number of fields of the first line."""
        return len(self.first)

    def all_have_the_same_width(self) -> bool:
        """Whether all lines have as many fields as the first, and none shows that quoting is used."""
        enclosed = 0
        for _, line in self._numbered():
            if self.first and '"' not in line:
                if line.count(self.dialect.delimiter) + 1 != self.width:
                    return False
                self.count += 1
                continue
            fields = line.split(self.dialect.delimiter)
            within_quotes = [field for field in fields if _is_enclosed(field)]
            if not self.first:
                self.first = fields
                if within_quotes and self.header:
                    self.has_quoted_header = True
                    return False
            if len(fields) != self.width or any('""' in field[1:-1] for field in within_quotes):
                return False
            self.count += 1
            self.has_opening_quotes = self.has_opening_quotes or any(field.startswith('"') for field in fields)
            enclosed += bool(within_quotes)
        return enclosed * 2 <= self.count

    def joined_by_quotes(self) -> tuple[list[tuple[int, int]], int | None]:
        """First and last lines of the rows that quotes make of several lines, and the line of a row that they break."""
        joined: list[tuple[int, int]] = []
        line = self.dialect.skipped + 1
        with self.text.open() as file:
            lines = itertools.islice(file, self.dialect.skipped, None)
            reader = self.dialect.reader(lines)
            try:
                for row in reader:
                    last = self.dialect.skipped + reader.line_num
                    if row and len(row) != self.width:
                        return joined, line
                    if last > line:
                        joined.append((line, last))
                    line = last + 1
            except csv.Error:
                return joined, line
        return joined, None

    def have_bare_commas(self, joined: Sequence[tuple[int, int]]) -> bool:
        """Whether a line has a comma and no quote, other than the first line and those of rows of several lines."""
        starts, last = dict(joined), 0
        for place, (number, line) in enumerate(self._numbered()):
            last = max(last, starts.get(number, 0))
            if place > 0 and number > last and "," in line and '"' not in line:
                return True
        return False

    def labels_are_known(self, spans: Sequence[tuple[int, int]], label: int) -> bool:
        """Whether the lines from each first to each last one have labels that others, without quotes, have, too."""
        known: set[str] = set()
        needed: set[str] = set()
        starts, last = dict(spans), 0
        for number, line in self._numbered():
            last = max(last, starts.get(number, 0))
            value = line.split(self.dialect.delimiter)[label]
            if number <= last:
                needed.add(value)
            elif '"' not in line and len(known) < _MOST_LABELS:
                known.add(value)
        return needed <= known

    def _numbered(self) -> Iterator[tuple[int, str]]:
        """Numbers and contents of the lines that are not empty, without line ends."""
        with self.text.open() as file:
            for number, line in enumerate(file, start=1):
                line = line.rstrip("\r\n")
                if line and number > self.dialect.skipped:
                    yield number, line


def _is_enclosed(field: str) -> bool:
    """Whether a field is in quotes, with every quote inside doubled."""
    # No regular expression: its stack would take 100 bytes for each character.
    ends = len(field) >= 2 and field.startswith('"') and field.endswith('"')
    return ends and '"' not in field[1:-1].replace('""', "")


def _noted(chosen: str | None, found: str, own: str | None, notes: Notes) -> str:
    """The delimiter, noted if neither the user nor the ending says it."""
    if chosen is None and found != own:
        notes.add(f"with {_NAMES.get(found, repr(found))} between fields", "delimiter")
    return chosen or found


def _sample(file: TextIO) -> list[str]:
    """The first lines of a file that are not empty, without line ends; the last one may be incomplete."""
    lines = io.StringIO(file.read(_SAMPLE_CHARACTERS), newline="")
    return [line.rstrip("\r\n") for line in lines if line.strip("\r\n")]


def _best_delimiter(sample: list[str], own: str | None, header: bool, names: set[str]) -> str | None:
    """The delimiter that fits the first row and most others; ``None`` if there is none in the first row."""
    ranked = []
    for delimiter in dict.fromkeys((own or ",", *_NAMES)):
        width, share, known = _fit(sample, delimiter, header, names)
        if width >= 2:
            ranked.append(((share >= _CONSISTENT, known, delimiter == own, share, width), delimiter))
    if not ranked:
        return None
    (consistent, _, _, share, _), best = max(ranked, key=lambda entry: entry[0])
    if consistent or best == own:
        return best
    # Neither the ending's own nor one that fits: a sign in the text of the only column's name.
    if not header:
        return own
    return best if share >= 0.5 else None


def _fit(sample: list[str], delimiter: str, header: bool, names: set[str]) -> tuple[int, float, bool]:
    """Fields of the first row, the share of the other rows that have as many, whether the first has a usual name."""
    readings: list[Iterable[list[str]]] = [csv.reader((line + "\n" for line in sample), delimiter=delimiter)]
    if '"' not in sample[0]:
        readings.append(line.split(delimiter) for line in sample)
    return max((_width(reading, header, names) for reading in readings), key=lambda fit: (fit[0] >= 2, fit[1]))


def _width(reading: Iterable[list[str]], header: bool, names: set[str]) -> tuple[int, float, bool]:
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # the reader of the whole file names its line
        rows.extend(itertools.islice(reading, _SAMPLE_ROWS))
    rows = rows[: max(2, len(rows) - 1)]  # the last one may be incomplete
    if not rows:
        return 0, 0.0, False
    if not header:
        width, times = Counter(map(len, rows)).most_common(1)[0]
        return width, times / len(rows), False
    width = len(rows[0])
    others = [len(row) == width for row in rows[1:]]
    known = any(name in names or is_usual_name(name) for name in map(str.strip, rows[0]))
    return width, sum(others) / len(others) if others else 1.0, known
