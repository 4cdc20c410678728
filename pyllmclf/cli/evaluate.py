"""``pyllmclf eval`` and ``pyllmclf-eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ResourceError
from .options import Backend, Debug, Device, Dtype, Json, LabelColumn, Progress, TextColumn, print_json
from .tables import print_evaluation


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Annotated[str, typer.Argument(help="Data set (sms_spam, imdb, sample) or CSV, TSV, JSONL or Parquet file.")],
    split: Annotated[
        str | None, typer.Option(help="Part of a data set: train, validation, test or all. Default: test.")
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
    result = classifier.evaluate_texts(read, progress=progress)
    if predictions is not None:
        _write_predictions(predictions, read.texts, result)
    if as_json:
        print_json({"checkpoint": str(checkpoint), "data": data, "split": split} | result.to_dict())
    else:
        print_evaluation(result.to_dict(), title=f"{checkpoint} on {data}")


def _write_predictions(path: Path, texts: list[str], result: Any) -> None:
    import csv

    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["text", "label", "prediction", *(f"probability_{name}" for name in result.classes)])
            for text, label, prediction, row in zip(
                texts, result.labels, result.predictions, result.probabilities.tolist(), strict=True
            ):
                writer.writerow([text, result.classes[label], result.classes[prediction], *row])
    except OSError as error:
        raise ResourceError(f"{path} can't be written ({error}).") from error
