"""``pyllmclf predict``: prints labels and probabilities of texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..file_types import listed
from .options import Backend, Debug, Delimiter, Device, Dtype, Encoding, EncodingErrors, Header, Progress, TextColumn


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Annotated[
        str,
        typer.Argument(help=f"{listed()} file (text: one per line), or - for standard input."),
    ] = "-",
    text_column: TextColumn = None,
    encoding_errors: EncodingErrors = "strict",
    encoding: Encoding = "auto",
    delimiter: Delimiter = None,
    header: Header = True,
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    progress: Progress = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array instead of one object per line.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print each text's label (or labels) and probabilities as JSON, one line per text."""
    texts = _texts(data, text_column, encoding_errors, encoding, delimiter, header)
    import numpy as np

    from ..classifier import load

    classifier = load(checkpoint, device=device, dtype=dtype, backend=backend)
    probabilities = list(classifier.predict_proba(texts, progress=progress)) if texts else []
    names = classifier.state.encoder.names
    labels = classifier.decide(np.array(probabilities)) if texts else []
    key = "label" if classifier.state.label_separator is None else "labels"
    rows = [
        {
            "text": text,
            key: label,
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
        for text, label, row in zip(texts, labels, probabilities, strict=True)
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))


def _texts(
    data: str, text_column: str | None, encoding_errors: str, encoding: str, delimiter: str | None, header: bool
) -> list[str]:
    """Reads the texts of a file or of standard input; a .txt file and standard input have one text per line.

    Raises
    ------
    UsageError, DataError
        If the arguments don't fit, or the texts can't be read.
    """
    from ..data.readers import check_reading, decode, read_bytes
    from ..data.sources import read_data

    if data != "-" and not data.lower().endswith(".txt"):
        return read_data(
            data,
            text_column=text_column,
            labelled=False,
            encoding_errors=encoding_errors,
            encoding=encoding,
            delimiter=delimiter,
            header=header,
        ).texts
    check_reading("keep", encoding_errors, encoding)
    if text_column is not None or delimiter is not None or not header:
        raise UsageError(
            "--text-column, --delimiter and --no-header are about columns, and lines of text have none; leave them out."
        )
    raw = sys.stdin.buffer.read() if data == "-" else read_bytes(Path(data))
    lines = decode(raw, "standard input" if data == "-" else data, encoding_errors, encoding).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
