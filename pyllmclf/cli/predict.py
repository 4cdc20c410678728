"""``pyllmclf predict``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from .options import Backend, Debug, Device, Dtype, Progress, TextColumn


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Annotated[
        str,
        typer.Argument(help="CSV, TSV, JSONL or Parquet file; a .txt file with a text per line; - for standard input."),
    ] = "-",
    text_column: TextColumn = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    progress: Progress = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of one object per line.")] = False,
    debug: Debug = False,
) -> None:
    """Print each text's label (or labels) and probabilities as JSON, a line each."""
    texts = _texts(data, text_column)
    import numpy as np

    from ..classifier import load

    classifier = load(checkpoint, device=device, dtype=dtype, backend=backend)
    probabilities = list(classifier.predict_proba(texts, progress=progress)) if texts else []
    names = classifier.state.encoder.names
    decided = classifier.decide(np.array(probabilities)) if texts else []
    said = "label" if classifier.state.label_separator is None else "labels"
    rows = [
        {
            "text": text,
            said: found,
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
        for text, found, row in zip(texts, decided, probabilities, strict=True)
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))


def _texts(data: str, text_column: str | None) -> list[str]:
    if data != "-" and not data.lower().endswith(".txt"):
        from ..data.sources import read_data

        return read_data(data, text_column=text_column, labelled=False).texts
    name = "standard input" if data == "-" else data
    try:
        raw = sys.stdin.buffer.read() if data == "-" else Path(data).read_bytes()
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: byte {error.start} is not valid UTF-8.") from error
    except OSError as error:
        raise DataError(f"{name}: can't be read ({error}).") from error
    lines = content.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
