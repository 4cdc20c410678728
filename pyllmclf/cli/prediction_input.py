"""Sources of the texts of ``pyllmclf predict``: a file, standard input, or texts on the command line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from ..progress import say
from ..text_pair import Text, TextPair
from .evaluate import check_outputs

if TYPE_CHECKING:
    from ..data.readers import ReadOptions
    from ..data.readers.row_batches import Rows, RowStream

STANDARD_INPUT = "-"


def texts_of_options(texts: list[str] | None, pairs: list[str] | None) -> list[Text] | None:
    """The texts of the command line, with their second texts where there are any.

    Raises
    ------
    UsageError
        If their numbers differ.
    """
    if not pairs:
        return None if texts is None else [*texts]
    if len(pairs) != len(texts or ()):
        raise UsageError(
            f"--text-pair is there {len(pairs)} times, and --text {len(texts or ())} times; each text needs one."
        )
    return list(map(TextPair, texts or (), pairs))


def check_output(
    output: Path | None,
    checkpoint: Path,
    data: str | None,
    *others: str | None,
    reads_standard_input: bool,
) -> None:
    """Raises :class:`UsageError` if an output would replace the data or another file, or be in a checkpoint.

    Parameters
    ----------
    output : Path or None
    checkpoint : Path
    data : str or None
        File of the texts.
    others : str or None
        Other files that are read, such as calibration texts.
    reads_standard_input : bool
        Whether standard input is read where ``data`` is none.
    """
    if output is None:
        return
    for other in others:
        if other is not None:
            check_outputs({"--output": output}, Path(other), [])
    folders = [checkpoint, *(checkpoint / name for name in ("last", "best") if (checkpoint / name).exists())]
    check_outputs({"--output": output}, Path(data or STANDARD_INPUT), folders)
    if data in (None, STANDARD_INPUT) and reads_standard_input:
        _check_standard_input(output)


def _check_standard_input(output: Path) -> None:
    """Raises :class:`UsageError` if standard input is read from the file of the output."""
    try:
        same = output.is_file() and os.path.samestat(os.fstat(0), output.stat())
    except OSError:  # standard input is closed, or the file can't be asked: both are said later
        return
    if same:
        raise UsageError(f"--output {output} would be written over the data; choose another name.")


def open_source(
    data: str | None, texts: list[Text] | None, input_format: str | None, options: ReadOptions, progress: bool
) -> RowStream:
    """Opens the source; of a regular file, the first batch is read, so that errors come before weights are read.

    Raises
    ------
    UsageError, DataError
        If the arguments don't fit, or the source can't be read.
    """
    from ..data.readers import format_of_name
    from ..data.readers.file_rows import file_rows
    from ..data.readers.row_batches import first_batch_read
    from ..data.readers.row_stream import STREAMED, open_stream, read_rows, streamed_format
    from ..data.sources import check_options

    if input_format not in (None, *STREAMED):
        raise UsageError(f"--input-format: {input_format!r} is unknown; it is one of {', '.join(STREAMED)}.")
    if texts and data is not None:
        raise UsageError("DATA and --text exclude each other; leave one out.")
    if data is not None and input_format is None and _is_text(data):
        texts = [data]
    if texts:
        if input_format is not None:
            raise UsageError("--input-format is the format of a file, and --text is none; leave one out.")
        return _of_texts(texts, options)
    if data is None or data == STANDARD_INPUT:
        return _standard_input(input_format or "txt", options, progress)
    path = Path(data)
    kind = input_format or streamed_format(path)
    is_pipe = path.exists() and not path.is_file() and not path.is_dir()
    if kind is None and format_of_name(data) is not None:  # formats that are not read as they arrive
        check_options(options, data)
        return first_batch_read(file_rows(path, None, options))
    if kind is None and not is_pipe:
        return first_batch_read(_of_other(data, options))
    kind = kind or "txt"
    _check_lines(kind, options)
    if not is_pipe:
        return first_batch_read(file_rows(path, input_format, options))
    return _hinted(read_rows(open_stream(path), data, kind, options, live=True), kind, options, progress)


def _standard_input(kind: str, options: ReadOptions, progress: bool) -> RowStream:
    from ..data.readers.row_stream import read_rows

    _check_lines(kind, options)
    if sys.stdin is None:
        raise UsageError("standard input is closed; name a file, or say --text TEXT.")
    if sys.stdin.isatty():
        say("Type a text and Enter; Ctrl-D ends. (pyllmclf predict CHECKPOINT FILE reads a file.)", progress)
    return _hinted(read_rows(sys.stdin.buffer, "standard input", kind, options, live=True), kind, options, progress)


def _hinted(stream: RowStream, kind: str, options: ReadOptions, progress: bool) -> RowStream:
    """The same stream, with a hint where lines of text look like another format."""
    from ..data.readers.row_stream import looks_like

    batches = stream.batches

    def hinted() -> Iterator[Rows]:
        first = next(batches, None)
        if first is None:
            return
        if kind == "txt" and (other := looks_like(str(first.texts[0]), options)) is not None:
            say(
                f"each line is read as a text; --input-format {other} reads the columns that they seem to have",
                progress,
            )
        yield from chain([first], batches)

    stream.batches = hinted()
    return stream


def _check_lines(kind: str, options: ReadOptions) -> None:
    """Raises :class:`UsageError` for options that have no effect on a format."""
    if kind == "txt" and options.chooses_columns:
        name = "--text-pair-column" if options.text_column is None else "--text-column"
        raise UsageError(
            f"{name} chooses a column, and lines of text have none; leave it out, or say --input-format csv."
        )
    if kind not in ("csv", "tsv") and (options.delimiter is not None or not options.header):
        raise UsageError(
            "--delimiter and --no-header are about delimited files; leave them out, or say --input-format csv."
        )
    if kind == "parquet" and options.encoding != "auto":
        raise UsageError("--encoding is about files of text, which a Parquet file is not; leave it out.")


def _of_texts(texts: list[Text], options: ReadOptions) -> RowStream:
    from ..data.readers import read_object
    from ..data.readers.row_batches import Rows, RowStream

    if options.chooses_columns:
        name = "--text-pair-column" if options.text_column is None else "--text-column"
        raise UsageError(f"{name} chooses a column, and a text has none; leave it out.")
    if options.delimiter is not None or not options.header or options.encoding != "auto":
        raise UsageError("--delimiter, --no-header and --encoding are about files, and a text is none; leave them out.")
    return RowStream(iter([Rows(read_object(texts, labelled=False, pairs=options.pairs).texts)]))


def _of_other(data: str, options: ReadOptions) -> RowStream:
    """Texts of a named data set, or of a file of another format."""
    from ..data.readers.row_batches import BATCH_ROWS, Rows, RowStream
    from ..data.sources import read_data

    try:
        texts = read_data(
            data,
            text_column=options.text_column,
            text_pair_column=options.text_pair_column,
            pairs=options.pairs,
            labelled=False,
            encoding_errors=options.encoding_errors,
            encoding=options.encoding,
            delimiter=options.delimiter,
            header=options.header,
        ).texts
    except DataError as error:
        if Path(data).suffix or _exists(data):
            raise
        raise DataError(f"{str(error).removesuffix('.')}; --text classifies a text.") from error
    starts = range(0, len(texts), BATCH_ROWS)
    return RowStream(Rows(texts[start : start + BATCH_ROWS]) for start in starts)


def _is_text(data: str) -> bool:
    """Whether an argument is a text: several words that are no file, and don't look like the name of one."""
    from ..data.named import is_named

    if data == STANDARD_INPUT or not re.search(r"\S\s+\S", data) or is_named(data) or _exists(data):
        return False
    if "\n" in data:
        return True
    parent = Path(data).parent
    in_a_folder = str(parent) != "." and _exists(str(parent))
    return not in_a_folder and not re.search(r"\.[A-Za-z][A-Za-z0-9]{1,7}$", data)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False
