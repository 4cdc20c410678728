"""Predictions as JSON lines, a JSON array, CSV, TSV, Parquet or bare labels, written as they are made."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UsageError
from ..text_pair import named_parts
from .csv_rows import row_writer
from .formulas import without_formulas
from .prediction_writer import Shape, Writer, check_free, free_name, is_unicode, no_rows, no_unicode, plain_list
from .streams import utf8_output

if TYPE_CHECKING:
    import numpy as np

    from ..classifier import Classifier
    from ..data.readers.row_batches import Rows, RowStream

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
ENDINGS = {f".{name}": name for name in FORMATS} | {".ndjson": "jsonl"}


def output_format(chosen: str | None, output: Path | None, as_json: bool, label_only: bool) -> str:
    """Format of the output by the options, or by the ending of its name.

    Raises
    ------
    UsageError
        If the options contradict each other, or the name doesn't tell the format.
    """
    wanted = [
        name for name, given in (("--format", chosen), ("--json", as_json), ("--label-only", label_only)) if given
    ]
    if len(wanted) > 1:
        raise UsageError(f"{' and '.join(wanted)} name different outputs; leave one out.")
    if label_only:
        return "labels"
    if as_json:
        return "json"
    if chosen is not None and chosen not in FORMATS:
        raise UsageError(f"--format: {chosen!r} is unknown; it is one of {', '.join(FORMATS)}.")
    if chosen == "parquet" and output is None:
        raise UsageError("--format parquet is no text for standard output; give --output FILE.")
    if chosen is not None or output is None or (output.exists() and not output.is_file()):
        return chosen or "jsonl"
    ending = output.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"--output {output}: can't tell the format from the ending {ending!r}; say --format, or name it "
            f"{', '.join(ENDINGS)}."
        )
    return ENDINGS[ending]


@contextmanager
def open_writer(output: Path | None, shape: Shape, classifier: Classifier, stream: RowStream) -> Iterator[Writer]:
    """Makes the writer of a format; a file is complete at the end of the block, or as before where that fails.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    from ..data.atomic_folder import new_file, new_path

    if shape.format == "parquet":
        from .prediction_parquet import ParquetWriter

        assert output is not None
        with new_path(output) as path:
            writer: Writer = ParquetWriter(path, shape, classifier, stream)
            yield writer
            writer.end()
        return
    standard = sys.stdout if sys.stdout is not None else open(os.devnull, "w")  # noqa: SIM115
    if shape.format not in ("json", "jsonl"):  # JSON has escapes for characters that an encoding lacks
        standard = utf8_output(standard)
    with nullcontext(standard) if output is None else new_file(output) as file:
        writer = KINDS[shape.format](file, shape, classifier, stream)
        try:
            yield writer
        except BaseException:
            if output is None and writer.started:  # what is printed stays, and an array has its end
                with suppress(OSError):
                    writer.end()
            raise
        writer.end()


class JsonLines(Writer):
    """An object per line: the input's columns, ``text``, ``label``, ``probabilities``, and what rules add."""

    def begin(self) -> None:
        super().begin()
        texts = {"text", "text_pair"} if self.classifier.state.has_pairs else {"text"}
        taken = set(self.input_columns()) | texts
        added = (self.classifier.label_name, "probabilities", *self.by_rules())
        self.names = [free_name(name, taken) for name in added]

    def write_batch(self, rows: Rows, labels: list[Any], probabilities: np.ndarray) -> None:
        from ..classifier.inputs import most_probable

        classes, top_k = self.classifier.state.encoder.names, self.shape.top_k
        best = None if top_k is None else most_probable(probabilities, classes, top_k)
        by_rules = list(self.by_rules().values())
        for i, (label, row) in enumerate(zip(labels, probabilities.tolist(), strict=True)):
            values = {name: _jsonable(value) for name, value in self.input_values(rows, i).items()}
            check_free(values, self.names, rows, i)
            for name, part in named_parts(rows.texts[i]).items():
                values.setdefault(name, part)
            shown = zip(classes, row, strict=True) if best is None else best[i]
            ruled = [column[i] for column in by_rules]
            self.write_object(values | dict(zip(self.names, (label, dict(shown), *ruled), strict=True)))

    def write_object(self, value: dict[str, Any]) -> None:
        """Writes the object of a row."""
        self.file.write(self.dumps(value) + "\n")

    def dumps(self, value: Any) -> str:
        """JSON that the file's encoding has."""
        encoding = (getattr(self.file, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
        text = json.dumps(value, ensure_ascii=encoding != "utf8", default=str)
        # Only an escape can hold a lone surrogate.
        return text if is_unicode(text) else json.dumps(value, default=str)


class JsonArray(JsonLines):
    """One array of the same objects."""

    def begin(self) -> None:
        super().begin()
        self.file.write("[")
        self._first = True

    def write_object(self, value: dict[str, Any]) -> None:
        self.file.write(("" if self._first else ", ") + self.dumps(value))
        self._first = False

    def end(self) -> None:
        super().end()
        self.file.write("]\n")


class Labels(Writer):
    """The label of each text on a line."""

    def write_batch(self, rows: Rows, labels: list[Any], probabilities: np.ndarray) -> None:
        for label in labels:
            text = _cell(label, self.classifier.state.label_separator)
            self.file.write(text.replace("\r", "\\r").replace("\n", "\\n") + "\n")


class Delimited(Writer):
    """A header and a row per text, with commas or tabs between fields."""

    def begin(self) -> None:
        super().begin()
        self.writer = row_writer(self.file, "\t" if self.shape.format == "tsv" else ",")
        classes = len(self.classifier.classes_)
        self.header = self.input_columns()
        if not all(map(is_unicode, self.header)):
            raise DataError(
                "the name of a column holds a lone surrogate, which is not valid Unicode, and only JSON has an escape "
                "for it; say --format jsonl, or --no-keep-columns."
            )
        self.writer.writerow([*self.header, *self.added([], no_rows(classes))])

    def write_batch(self, rows: Rows, labels: list[Any], probabilities: np.ndarray) -> None:
        separator = self.classifier.state.label_separator
        added = [plain_list(values) for values in self.added(labels, probabilities).values()]
        for i, own in enumerate(zip(*added, strict=True)):
            values = self.input_values(rows, i)
            if extra := [name for name in values if name not in self.header]:
                line = "" if rows.lines is None else f"line {rows.lines[i]}: "
                raise DataError(
                    f"{line}the object has {extra[0]!r}, which the first object has not, and a table has no column "
                    "for it; say --format jsonl, or --no-keep-columns."
                )
            cells = [_cell(values.get(name)) for name in self.header]
            if not all(map(is_unicode, cells)):
                raise no_unicode(None if rows.lines is None else rows.lines[i], i)
            cells += [_cell(value, separator) for value in own]
            self.writer.writerow([self._escaped(cell) for cell in cells])

    def _escaped(self, cell: Any) -> Any:
        return without_formulas(cell) if self.shape.escape_formulas and isinstance(cell, str) else cell


KINDS: dict[str, type[Writer]] = {
    "jsonl": JsonLines,
    "json": JsonArray,
    "labels": Labels,
    "csv": Delimited,
    "tsv": Delimited,
}


def _jsonable(value: Any) -> Any:
    """A value as JSON has it: ``None`` for a number that is not finite; other types than JSON's become text later."""
    if isinstance(value, dict):
        return {name: _jsonable(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_jsonable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any, separator: str | None = None) -> Any:
    """A value as a cell of a table: nothing for ``None``, joined labels, JSON for other lists and objects."""
    if value is None:
        return ""
    if isinstance(value, list) and separator is not None:
        return separator.join(map(str, value))
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if isinstance(value, float) else str(value)
