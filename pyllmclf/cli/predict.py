"""``pyllmclf predict``: labels and probabilities of texts, as they arrive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..file_types import listed
from ..progress import progress_bar
from .loading import open_classifier
from .options import (
    Abstain,
    Backend,
    Calibration,
    Conformal,
    Costs,
    Debug,
    Delimiter,
    Device,
    Encoding,
    EncodingErrors,
    Header,
    HeldOutTexts,
    LoadDtype,
    Progress,
    TextColumn,
    TextPairColumn,
    Thresholds,
    user_paths,
)
from .prediction_input import check_output, open_source, texts_of_options
from .prediction_output import FORMATS, open_writer, output_format
from .prediction_writer import Shape

INPUT, OUTPUT = "Data", "Output"

Data = Annotated[
    str | None,
    typer.Argument(
        help=f"{listed()} file (text: one per line); - (default) for standard input; or a text of several words.",
        show_default=False,
    ),
]
Text = Annotated[
    list[str] | None, typer.Option(help="A text, instead of DATA; can be repeated.", rich_help_panel=INPUT)
]
TextPairs = Annotated[
    list[str] | None,
    typer.Option("--text-pair", help="The second text of a pair, once for each --text.", rich_help_panel=INPUT),
]
InputFormat = Annotated[
    str | None,
    typer.Option(
        help="Format of DATA where its name doesn't tell: txt (a text per line), csv, tsv, jsonl or parquet.",
        rich_help_panel=INPUT,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(help="File for the predictions, complete or absent; default: print.", rich_help_panel=OUTPUT),
]
Format = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}; default: by the ending of --output, else jsonl.",
        rich_help_panel=OUTPUT,
    ),
]
JsonArray = Annotated[
    bool, typer.Option("--json", help="One JSON array: the same as --format json.", rich_help_panel=OUTPUT)
]
LabelOnly = Annotated[
    bool, typer.Option("--label-only", help="A line with the label of each text.", rich_help_panel=OUTPUT)
]
TopK = Annotated[
    int | None, typer.Option(help="Only this many classes, the most probable first.", rich_help_panel=OUTPUT)
]
Proba = Annotated[
    bool,
    typer.Option(
        "--proba", help="In tables too, the probabilities of all classes; JSON has them.", rich_help_panel=OUTPUT
    ),
]
KeepColumns = Annotated[
    bool, typer.Option(help="Keep the columns of DATA, before those of the predictions.", rich_help_panel=OUTPUT)
]
EscapeFormulas = Annotated[
    bool,
    typer.Option(
        "--escape-formulas",
        help="In CSV and TSV, put ' before cells that a spreadsheet takes for formulas.",
        rich_help_panel=OUTPUT,
    ),
]


@user_paths
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Data = None,
    text: Text = None,
    text_pair: TextPairs = None,
    input_format: InputFormat = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    encoding_errors: EncodingErrors = "strict",
    encoding: Encoding = "auto",
    delimiter: Delimiter = None,
    header: Header = True,
    output: Output = None,
    format: Format = None,
    as_json: JsonArray = False,
    label_only: LabelOnly = False,
    top_k: TopK = None,
    proba: Proba = False,
    keep_columns: KeepColumns = True,
    escape_formulas: EscapeFormulas = False,
    abstain: Abstain = None,
    conformal: Conformal = None,
    thresholds: Thresholds = None,
    cost: Costs = None,
    held_out: HeldOutTexts = None,
    device: Device = "auto",
    dtype: LoadDtype = "auto",
    calibration: Calibration = None,
    backend: Backend = "auto",
    progress: Progress = True,
    debug: Debug = False,
) -> None:
    """Classify texts: an object with label and probabilities for each, a line each, as they arrive."""
    if output is not None and str(output) == "-":
        output = None
    shape = Shape(output_format(format, output, as_json, label_only), top_k, proba, keep_columns, escape_formulas)
    _check_shape(shape)
    from ..classifier.checkpoint import kind_of
    from ..classifier.swapped import check_checkpoint_and_data
    from ..data.readers import ReadOptions

    texts = texts_of_options(text, text_pair)
    check_checkpoint_and_data(checkpoint, data)
    check_output(output, checkpoint, data, calibration, held_out, reads_standard_input=not text)
    options = ReadOptions(
        text_column=text_column,
        text_pair_column=text_pair_column,
        pairs=kind_of(checkpoint).has_pairs,
        labelled=False,
        encoding_errors=encoding_errors,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
    )
    stream = open_source(data, texts, input_format, options, progress)
    from ..classifier.inputs import TextInput

    classifier = open_classifier(
        checkpoint,
        progress=progress,
        device=device,
        dtype=dtype,
        backend=backend,
        calibration=calibration,
        abstain=abstain,
        conformal=conformal,
        thresholds=thresholds,
        costs=cost,
        held_out=held_out,
    )
    distances = classifier.decisions.unlike is not None
    # On a terminal the bar would stand among the predictions.
    shown = progress and (output is not None or sys.stdout is None or not sys.stdout.isatty())
    with progress_bar(None, "text", shown) as bar, open_writer(output, shape, classifier, stream) as writer:
        for rows in stream.batches:
            writer.write(rows, *classifier.outputs(TextInput(list(rows.texts)), distances=distances))
            bar.update(len(rows.texts))


def _check_shape(shape: Shape) -> None:
    """Raises :class:`UsageError` for options that don't fit together."""
    if shape.top_k is not None and shape.top_k < 1:
        raise UsageError(f"--top-k: {shape.top_k} is not a positive number.")
    if shape.top_k is not None and shape.proba:
        raise UsageError("--proba is for all classes, --top-k for the most probable ones; leave one out.")
    if shape.format == "labels" and (shape.top_k is not None or shape.proba):
        raise UsageError("--label-only leaves probabilities out; leave out --top-k and --proba, or it.")
    if shape.escape_formulas and shape.format not in ("csv", "tsv"):
        raise UsageError("--escape-formulas changes CSV and TSV; say --format csv, or leave it out.")
