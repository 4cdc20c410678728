"""``pyllmclf eval`` and ``pyllmclf-eval``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from ..errors import ResourceError
from .options import Backend, Debug, Device, Dtype, Json, LabelColumn, Progress, TextColumn, print_json
from .tables import print_evaluation


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Annotated[str, typer.Argument(help="Data set (sms_spam, imdb, sample) or CSV, TSV, JSONL or Parquet file.")],
    split: Annotated[
        str | None,
        typer.Option(help="Part of a data set: train, validation, test or all. Default: test if there is one."),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write each text's label, prediction and probabilities to this CSV file.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    progress: Progress = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a classifier on labelled texts."""
    from ..classifier import load
    from ..data.sources import read_data

    # Data first: a wrong file is said before weights are read.
    read = read_data(data, split=split, default_split="test", text_column=text_column, label_column=label_column)
    classifier = load(checkpoint, device=device, dtype=dtype, backend=backend)
    with _open_for_writing(predictions) as file:
        result = classifier.evaluate_texts(read, progress=progress)
        if file is not None:
            _write_predictions(file, read.texts, result)
    if as_json:
        about = {"checkpoint": str(checkpoint), "data": data, "split": split, "evaluated": read.origin}
        print_json(about | result.to_dict())
    else:
        print_evaluation(result.to_dict(), title=f"{checkpoint} on {read.origin}")


@contextmanager
def _open_for_writing(path: Path | None) -> Iterator[TextIO | None]:
    """Opened before the work, so that a wrong path is said at once."""
    if path is None:
        yield None
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise ResourceError(f"{path} can't be written ({error}).") from error


def _write_predictions(file: TextIO, texts: list[str], result: Any) -> None:
    import csv

    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["text", "label", "prediction", *(f"probability_{name}" for name in result.classes)])
    for text, label, prediction, row in zip(
        texts, result.labels, result.predictions, result.probabilities.tolist(), strict=True
    ):
        writer.writerow([text, result.classes[label], result.classes[prediction], *row])
