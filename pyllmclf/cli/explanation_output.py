"""Explanations as JSON lines, a JSON array, CSV, an HTML page, or coloured text in a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .csv_rows import row_writer
from .formulas import without_formulas
from .streams import utf8_output

if TYPE_CHECKING:
    from ..explain import Explanation, Explanations

FORMATS = ("jsonl", "json", "csv", "html", "terminal")
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".html": "html", ".htm": "html"}
COLUMNS = ("text_index", "target", "word", "start", "end", "weight", "part")


def chosen_format(chosen: str | None, output: Path | None, as_json: bool) -> str:
    """Format of the output by the options, by the ending of its name, or by what standard output is.

    Raises
    ------
    UsageError
        If the options contradict each other, or the name doesn't tell the format.
    """
    if as_json and chosen is not None:
        raise UsageError("--format and --json name different outputs; leave one out.")
    if as_json:
        return "json"
    if chosen is not None and chosen not in FORMATS:
        raise UsageError(f"--format: {chosen!r} is unknown; it is one of {', '.join(FORMATS)}.")
    if chosen is not None:
        return chosen
    if output is None:
        return "terminal" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
    ending = output.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"--output {output}: can't tell the format from the ending {ending!r}; say --format, or name it "
            f"{', '.join(ENDINGS)}."
        )
    return ENDINGS[ending]


@contextmanager
def open_explanations(output: Path | None, kind: str, escape_formulas: bool) -> Iterator[Writer]:
    """Makes the writer of a format; a file is complete at the end of the block, or as before where that fails.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    from ..data.atomic_folder import new_file

    standard = sys.stdout if sys.stdout is not None else open(os.devnull, "w")  # noqa: SIM115
    if kind not in ("json", "jsonl"):  # JSON has escapes for characters that an encoding lacks
        standard = utf8_output(standard)
    with nullcontext(standard) if output is None else new_file(output) as file:
        writer = WRITERS[kind](file, escape_formulas)
        writer.begin()
        yield writer
        writer.end()


class Writer:
    """Writes explanations; subclasses have a format each.

    Parameters
    ----------
    file : file
    escape_formulas : bool
        Whether ' is put before cells that a spreadsheet takes for formulas.
    """

    def __init__(self, file: Any, escape_formulas: bool) -> None:
        self.file, self.escape_formulas, self.count = file, escape_formulas, 0

    def begin(self) -> None:
        """Writes what comes before the first text."""

    def write(self, explanations: Explanations) -> None:
        """Writes the explanations of some texts."""
        for each in explanations:
            self.write_one(each)
            self.count += 1
        self.file.flush()

    def write_one(self, explanation: Explanation) -> None:
        """Writes the explanation of a text."""

    def end(self) -> None:
        """Writes what comes after the last text."""


class JsonLines(Writer):
    """An object per line, as :meth:`.Explanation.to_dict`."""

    def write_one(self, explanation: Explanation) -> None:
        self.file.write(self.dumps(explanation) + "\n")

    def dumps(self, explanation: Explanation) -> str:
        """JSON that the file's encoding has."""
        encoding = (getattr(self.file, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
        return json.dumps(explanation.to_dict(), ensure_ascii=encoding != "utf8")


class JsonArray(JsonLines):
    """One array of the same objects."""

    def begin(self) -> None:
        self.file.write("[")

    def write_one(self, explanation: Explanation) -> None:
        self.file.write((", " if self.count else "") + self.dumps(explanation))

    def end(self) -> None:
        self.file.write("]\n")


class Table(Writer):
    """CSV with a row for each word."""

    def begin(self) -> None:
        self.rows = row_writer(self.file)
        self.rows.writerow(COLUMNS)

    def write_one(self, explanation: Explanation) -> None:
        for word in explanation.words:
            weight = "" if word.weight is None else word.weight
            cells = [str(explanation.target), word.text]
            if self.escape_formulas:
                cells = [without_formulas(cell) for cell in cells]
            self.rows.writerow([self.count, *cells, word.start, word.end, weight, word.part])


class Page(Writer):
    """An HTML page, written when all texts are explained."""

    def begin(self) -> None:
        self.all: list[Explanation] = []

    def write_one(self, explanation: Explanation) -> None:
        self.all.append(explanation)

    def end(self) -> None:
        from ..explain import Explanations

        self.file.write(Explanations(self.all).to_html())


class Coloured(Writer):
    """Coloured words where a terminal has colours, and the strongest words in a line below."""

    def begin(self) -> None:
        from rich.console import Console

        self.console = Console(file=self.file, soft_wrap=True, highlight=False, emoji=False, markup=False)

    def write_one(self, explanation: Explanation) -> None:
        self.console.print(explanation)


WRITERS: dict[str, type[Writer]] = {
    "jsonl": JsonLines,
    "json": JsonArray,
    "csv": Table,
    "html": Page,
    "terminal": Coloured,
}
