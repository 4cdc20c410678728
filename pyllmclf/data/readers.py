"""Files, frames and lists become :class:`TextData`; a text is never changed on the way."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import numbers
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError

TEXT_COLUMNS = ("text", "sentence", "message", "review", "content", "document")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
FILE_TYPES = (".csv", ".tsv", ".jsonl", ".parquet")
LABEL_SEPARATOR = "|"
EMPTY_TEXTS = ("keep", "skip", "error")
ENCODING_ERRORS = ("strict", "replace")

Label = str | int
# What one text has: a label, or where texts may have several, these.
Labels = Label | tuple[Label, ...]


@dataclass(frozen=True)
class TextData:
    """Texts with their labels, and where each came from.

    Attributes
    ----------
    texts : list of str
    labels : list of str or int, or None
        ``None`` where labels were not asked for; tuples of them where texts may have several.
    origin : str
        File or kind of object, for messages.
    lines : list of int, or None
        Line of the file on which each row begins (1-based); ``None`` for data that have no lines.
    skipped : int
        Rows that were left out because their text was empty.
    rows : list of int, or None
        Of data without lines: which of the original rows (0-based) each is; ``None`` where it is all of them.
    """

    texts: list[str]
    labels: list[Any] | None
    origin: str
    lines: list[int] | None = None
    skipped: int = 0
    rows: list[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, row: int) -> str:
        """Name of row ``row`` (0-based) for a message."""
        if self.lines is not None:
            return f"{self.origin}, line {self.lines[row]}"
        return f"{self.origin}, row {row if self.rows is None else self.rows[row]}"

    def select(self, rows: Sequence[int]) -> TextData:
        """The given rows, in the given order."""
        return TextData(
            texts=[self.texts[i] for i in rows],
            labels=None if self.labels is None else [self.labels[i] for i in rows],
            origin=self.origin,
            lines=None if self.lines is None else [self.lines[i] for i in rows],
            skipped=self.skipped,
            rows=None if self.lines is not None else [i if self.rows is None else self.rows[i] for i in rows],
        )


def check_reading(empty_texts: str, encoding_errors: str = "strict") -> None:
    """Raises :class:`UsageError` unless both are known."""
    for name, value, known in (
        ("empty_texts", empty_texts, EMPTY_TEXTS),
        ("encoding_errors", encoding_errors, ENCODING_ERRORS),
    ):
        if value not in known:
            raise UsageError(f"{name}={value!r} is unknown; it is one of {', '.join(known)}.")


@dataclass(frozen=True)
class _Wanted:
    """What is read of data, and how; the arguments of :func:`read_file`."""

    text_column: str | None
    label_column: str | None
    labelled: bool
    label_separator: str | None
    empty_texts: str
    encoding_errors: str = "strict"

    def __post_init__(self) -> None:
        check_reading(self.empty_texts, self.encoding_errors)

    def columns(self, names: Sequence[str], origin: str) -> tuple[str, str | None]:
        """:func:`pick_columns` of what is wanted."""
        return pick_columns(names, self.text_column, self.label_column, self.labelled, origin)


def read_file(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
    label_separator: str | None = None,
    empty_texts: str = "keep",
    encoding_errors: str = "strict",
) -> TextData:
    """Reads a CSV, TSV, JSONL (each also gzipped) or Parquet file.

    Parameters
    ----------
    path : str or Path
        The ending decides the format.
    text_column, label_column : str, optional
        Column names; found by their usual names where not given.
    labelled : bool
        Whether a label column is needed. If not, labels are not read.
    label_separator : str, optional
        Texts may have several labels, or none: lists, or strings in which this stands between them.
    empty_texts : {"keep", "skip", "error"}
        What becomes of texts that are empty or white space; those that are skipped are counted.
    encoding_errors : {"strict", "replace"}
        Whether bytes that are not UTF-8 are refused, or become U+FFFD, with a warning that counts them.

    Raises
    ------
    DataError
        If the file can't be read, is malformed, or lacks a column; with file and line.
    UsageError
        For an unknown ``empty_texts`` or ``encoding_errors``.
    """
    wanted = _Wanted(text_column, label_column, labelled, label_separator, empty_texts, encoding_errors)
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    suffixes = [s.lower() for s in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] == ".gz"
    kind = suffixes[-2] if compressed and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if kind == ".parquet" and not compressed:
        return _read_parquet(path, wanted)
    if kind not in FILE_TYPES or kind == ".parquet":
        raise DataError(f"{path}: can't tell the format; the name must end in one of {', '.join(FILE_TYPES)}.")
    content = decode(read_bytes(path, compressed), str(path), encoding_errors)
    if kind == ".jsonl":
        return _read_jsonl(path, content, wanted)
    return _read_delimited(path, content, DELIMITERS[kind], wanted)


def read_object(
    data: Any,
    *,
    text_column: str | None,
    label_column: str | None,
    labelled: bool = True,
    label_separator: str | None = None,
    empty_texts: str = "keep",
) -> TextData:
    """Reads a DataFrame, a ``datasets.Dataset``, or ``(texts, labels)``.

    Where labels are not needed, a plain list of texts will do. The rest is as for :func:`read_file`.

    Raises
    ------
    DataError
        If a text is not a string, a label neither string nor integer, or the counts differ.
    UsageError
        If the object is none of these.
    """
    wanted = _Wanted(text_column, label_column, labelled, label_separator, empty_texts)
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        columns, origin = [str(c) for c in data.columns], "DataFrame"
        by_name = dict(zip(columns, data.columns, strict=True))
    elif hasattr(data, "column_names") and hasattr(data, "features"):
        columns, origin = list(data.column_names), "Dataset"
        by_name = {c: c for c in columns}
    elif isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str):
        if not all(hasattr(part, "__iter__") for part in data):
            raise UsageError("(texts, labels) must hold two sequences.")
        texts = list(data[0])
        labels = list(data[1] if label_separator is None else _of_indicator(data[1]))
        if len(texts) != len(labels):
            raise DataError(f"(texts, labels) holds {len(texts)} texts but {len(labels)} labels.")
        return _checked(texts, labels if labelled else None, "(texts, labels)", None, wanted)
    elif not labelled and not isinstance(data, (str, bytes, dict)) and hasattr(data, "__iter__"):
        return _checked(list(data), None, "texts", None, wanted)
    else:
        raise UsageError(
            f"can't read data of type {type(data).__name__}: give the name of a data set, the path of a file, "
            "a DataFrame, a datasets.Dataset, or (texts, labels)."
        )
    text_name, label_name = wanted.columns(columns, origin)
    texts = list(data[by_name[text_name]])
    found = list(data[by_name[label_name]]) if label_name is not None else None
    if found is not None and origin == "Dataset":
        feature = data.features[label_name]
        found = [_named(label, getattr(feature, "feature", feature), row) for row, label in enumerate(found)]
    return _checked(texts, found, origin, None, wanted)


def _named(label: Any, feature: Any, row: int) -> Any:
    """The name that a ``datasets.ClassLabel`` has for a number, or the names for several."""
    names = getattr(feature, "names", None)
    if names is None or label is None:
        return label
    if isinstance(label, list):
        return [_named(one, feature, row) for one in label]
    if not isinstance(label, int) or not 0 <= label < len(names):
        raise DataError(
            f"Dataset, row {row}: the label is {_shown(label)}, which stands for none of {len(names)} names."
        )
    return names[label]


def check_label_separator(separator: str, *, several: bool) -> None:
    """Raises :class:`UsageError` if it can stand between no labels, or is given where a text has one."""
    if not isinstance(separator, str) or not separator.strip():
        raise UsageError(f"label_separator={separator!r} must be a string that is not blank.")
    if separator != LABEL_SEPARATOR and not several:
        raise UsageError("label_separator is about texts with several labels; say multi_label=True, or leave it out.")


def pick_columns(
    columns: Sequence[str], text_column: str | None, label_column: str | None, labelled: bool, origin: str
) -> tuple[str, str | None]:
    """Decides which columns hold the texts and the labels.

    Raises
    ------
    DataError
        If a column is missing, stands there twice, or can't be told from the names.
    """
    repeated = sorted({c for c in columns if list(columns).count(c) > 1})
    if repeated:
        raise DataError(f"{origin}: the column {repeated[0]!r} stands there more than once; rename one of them.")
    if text_column is not None and text_column == label_column:
        raise DataError(f"{origin}: {text_column!r} can't be both the text and the label column.")
    text = _pick_one(columns, text_column, TEXT_COLUMNS, "text", origin, excluded=label_column)
    if not labelled:
        return text, None
    label = _pick_one(columns, label_column, LABEL_COLUMNS, "label", origin, excluded=text)
    return text, label


def _pick_one(
    columns: Sequence[str], asked: str | None, usual: Sequence[str], role: str, origin: str, excluded: str | None
) -> str:
    if asked is not None:
        if asked not in columns:
            raise DataError(f"{origin}: there is no column {asked!r}; the columns are {_listed(columns)}.")
        return asked
    found = [c for c in columns if c.strip().lower() in usual and c != excluded]
    if len(found) == 1:
        return found[0]
    problem = f"several columns could be the {role}" if found else f"no column is named like a {role}"
    raise DataError(
        f"{origin}: {problem} among {_listed(columns)}; say which one with {role}_column (--{role}-column)."
    )


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(repr(n) for n in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def read_bytes(path: Path, compressed: bool = False) -> bytes:
    """The content of a file, or a :class:`DataError` that names it."""
    try:
        return gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read ({error}).") from error


def decode(raw: bytes, origin: str, errors: str = "strict") -> str:
    """UTF-8, with or without a byte order mark.

    Raises
    ------
    DataError
        If ``errors`` is ``"strict"`` and it is none, with line and byte.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The offset counts behind a byte order mark that the codec took off.
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") and len(error.object) < len(raw) else 0)
        line = raw.count(b"\n", 0, start) + 1
        if errors == "strict":
            raise DataError(
                f"{origin}, line {line}: byte {start} (0x{raw[start]:02x}) is not valid UTF-8; convert the file to "
                'UTF-8, or say encoding_errors="replace" (--encoding-errors replace).'
            ) from error
    content = raw.decode("utf-8-sig", errors="replace")
    _say_replaced(origin, content.count("\ufffd") - raw.count("\ufffd".encode()))
    return content


def _say_replaced(origin: str, count: int) -> None:
    warnings.warn(
        f"{origin}: {count:,} places are not valid UTF-8 and were replaced by U+FFFD.", RuntimeWarning, stacklevel=4
    )


# The limit is one for the process, and other threads may read, too.
_field_size_lock = threading.Lock()
_field_size_readers = 0
_field_size_before = 0


@contextmanager
def _any_field_size() -> Iterator[None]:
    """Fields of any size in the csv module; its limit is as before when the last one that reads has ended."""
    global _field_size_readers, _field_size_before
    with _field_size_lock:
        if _field_size_readers == 0:
            _field_size_before = csv.field_size_limit(sys.maxsize)
        _field_size_readers += 1
    try:
        yield
    finally:
        with _field_size_lock:
            _field_size_readers -= 1
            if _field_size_readers == 0:
                csv.field_size_limit(_field_size_before)


def _read_delimited(path: Path, content: str, delimiter: str, wanted: _Wanted) -> TextData:
    # The csv module rather than pandas: it says on which line a row is broken, and never guesses a type.
    with _any_field_size():
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        text_index, label_index = 0, None
        texts: list[str] = []
        labels: list[Label] = []
        lines: list[int] = []
        line = 1
        try:
            for row in reader:
                if not row:  # an empty line
                    line = reader.line_num + 1
                    continue
                if header is None:
                    header = row
                    origin = f"{path}, line {line}"
                    text_name, label_name = wanted.columns(header, origin)
                    text_index = header.index(text_name)
                    label_index = None if label_name is None else header.index(label_name)
                else:
                    if len(row) != len(header):
                        raise DataError(
                            f"{path}, line {line}: {len(row)} fields where the header has {len(header)}; "
                            "quote fields that hold the delimiter or a line break."
                        )
                    texts.append(row[text_index])
                    lines.append(line)
                    if label_index is not None:
                        labels.append(row[label_index])
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: the quoting of the row that begins here is broken ({error}); "
                'write a quote inside a quoted field as "".'
            ) from error
    if header is None:
        raise DataError(f"{path}: the file is empty.")
    return _checked(texts, labels if wanted.labelled else None, str(path), lines, wanted)


def _read_jsonl(path: Path, content: str, wanted: _Wanted) -> TextData:
    texts: list[str] = []
    labels: list[Label] = []
    lines: list[int] = []
    names: tuple[str, str | None] | None = None
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a line must be a JSON object, not {type(row).__name__}.")
        if names is None:
            names = wanted.columns(list(row), f"{path}, line {number}")
        for name in names:
            if name is not None and name not in row:
                raise DataError(f"{path}, line {number}: the object has no {name!r}.")
        texts.append(row[names[0]])
        lines.append(number)
        if names[1] is not None:
            labels.append(row[names[1]])
    return _checked(texts, labels if wanted.labelled else None, str(path), lines, wanted)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name that stands there twice would lose the first value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there more than once")
    return found


def _read_parquet(path: Path, wanted: _Wanted) -> TextData:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        text_name, label_name = wanted.columns(file.schema_arrow.names, str(path))
        table = file.read(columns=[n for n in (text_name, label_name) if n is not None])
        texts = _strings(table.column(text_name), str(path), wanted.encoding_errors)
        labels = table.column(label_name).to_pylist() if label_name is not None else None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error
    return _checked(texts, labels, str(path), None, wanted)


def _strings(column: Any, origin: str, encoding_errors: str) -> list[Any]:
    """A column's values; strings that are not UTF-8 as ``encoding_errors`` says."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if encoding_errors == "strict" or not (
            pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        ):
            raise
    raw = column.cast(pa.large_binary()).to_pylist()
    texts = [None if value is None else value.decode(errors="replace") for value in raw]
    found = sum(text.count("\ufffd") for text in texts if text is not None)
    _say_replaced(origin, found - sum(value.count("\ufffd".encode()) for value in raw if value is not None))
    return texts


def _checked(
    texts: list[Any], labels: list[Any] | None, origin: str, lines: list[int] | None, wanted: _Wanted
) -> TextData:
    data = TextData(texts, labels, origin, lines)
    if not texts:
        raise DataError(f"{origin}: there is no row.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            if not _is_missing(text):
                raise DataError(f"{data.where(i)}: the text is {_shown(text)}, not a string.")
            if wanted.empty_texts == "keep":
                advice = "; empty_texts='skip' (--empty-texts skip) leaves out texts that are missing"
                raise DataError(f"{data.where(i)}: the text is {_shown(text)}{advice if wanted.labelled else ''}.")
            texts[i] = text = ""
        _check_unicode(text, "text", data, i)
    separator = wanted.label_separator
    if labels is not None and separator is not None and _is_indicator(labels):
        raise DataError(
            f"{origin}: the labels are rows of 0 and 1; to say which classes a text has, they must be a NumPy array."
        )
    if labels is not None:
        for i, label in enumerate(labels):
            labels[i] = _as_label(label, data, i) if separator is None else _several(label, separator, data, i)
    return without_empty(data, wanted.empty_texts)


def _check_unicode(value: str, what: str, data: TextData, row: int) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{data.where(row)}: the {what} holds a lone surrogate, which is no Unicode.") from error


def without_empty(data: TextData, empty_texts: str) -> TextData:
    """Data of which texts that are empty or white space are kept, skipped and counted, or an error.

    Raises
    ------
    DataError
        If there is one and ``empty_texts`` is ``"error"``, or nothing is left.
    """
    if empty_texts == "keep":
        return data
    rows = [row for row, text in enumerate(data.texts) if text.strip()]
    if len(rows) == len(data):
        return data
    if empty_texts == "error":
        first = next(row for row, text in enumerate(data.texts) if not text.strip())
        raise DataError(f"{data.where(first)}: the text is empty or white space ({len(data) - len(rows):,} are).")
    if not rows:
        raise DataError(f"{data.origin}: every text is empty or white space; none is left.")
    return replace(data.select(rows), skipped=data.skipped + len(data) - len(rows))


def _several(labels: Any, separator: str, data: TextData, row: int) -> tuple[Label, ...]:
    """The labels of a text, each once."""
    if isinstance(labels, str):
        labels = [part.strip() for part in labels.split(separator)] if labels.strip() else []
    elif _is_missing(labels):  # an empty cell, as pandas has it
        labels = []
    elif not hasattr(labels, "__iter__") or isinstance(labels, (bytes, dict)):
        labels = [labels]
    return tuple(dict.fromkeys(_as_label(label, data, row) for label in labels))


def _is_indicator(labels: list[Any]) -> bool:
    """Whether rows look like flags for the classes rather than like the labels of each text."""
    rows = [row for row in labels if isinstance(row, (list, tuple))]
    if len(rows) < len(labels) or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return False
    return all(isinstance(flag, (bool, int)) and flag in (0, 1) for row in rows for flag in row)


def _is_missing(value: Any) -> bool:
    """An empty cell, as JSON, Arrow or pandas has it."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def _of_indicator(labels: Any) -> Any:
    """The numbers of each text's classes, where labels are an array of 0 and 1, shape [texts, classes]."""
    if getattr(labels, "ndim", 1) != 2:
        return labels
    values = labels.toarray() if hasattr(labels, "toarray") else np.asarray(labels)
    if values.dtype.kind not in "biuf":  # names
        return labels
    if not np.isin(values, (0, 1)).all():
        raise DataError("labels of the shape [texts, classes] must be 0 and 1.")
    names = [str(c) for c in labels.columns] if hasattr(labels, "columns") else range(values.shape[1])
    return [[name for name, has in zip(names, row, strict=True) if has] for row in values.tolist()]


def _as_label(label: Any, data: TextData, row: int) -> Label:
    if isinstance(label, str) and label:
        if not label.isascii():
            _check_unicode(label, "label", data, row)
        return str(label)
    if isinstance(label, (bool, np.bool_)):  # as Python writes them, and so do CSV files of pandas
        return str(bool(label))
    if isinstance(label, numbers.Integral):
        return int(label)
    # A column of integers with a gap somewhere, or one read by pandas, arrives as floats.
    if isinstance(label, numbers.Real) and float(label).is_integer():
        return int(float(label))
    if isinstance(label, (list, tuple, set)):
        raise DataError(
            f"{data.where(row)}: the label is {_shown(label)}; where texts have several labels, say multi_label=True "
            "(--multi-label)."
        )
    raise DataError(f"{data.where(row)}: the label is {_shown(label)}; a label is a non-empty string or an integer.")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
