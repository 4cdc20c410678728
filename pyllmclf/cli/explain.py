"""``pyllmclf explain``: what each word of texts adds to the logit of a class."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..progress import progress_bar
from .explanation_output import FORMATS, chosen_format, open_explanations
from .options import (
    Backend,
    Debug,
    Delimiter,
    Device,
    Encoding,
    EncodingErrors,
    Header,
    Progress,
    TextColumn,
    TextPairColumn,
    user_paths,
)
from .predict import OUTPUT, Data, EscapeFormulas, InputFormat, JsonArray, Text, TextPairs
from .prediction_input import check_output, open_source, texts_of_options

if TYPE_CHECKING:
    from ..data.readers.row_batches import RowStream
    from ..text_pair import Text as AnyText

METHOD = "Explanation"
# Texts that are explained and written at a time.
TEXTS = 64

Target = Annotated[
    str | None,
    typer.Option(
        help="Class whose logit is explained; default: the most probable one of each text.", rich_help_panel=METHOD
    ),
]
Method = Annotated[
    str, typer.Option(help="integrated_gradients, gradient_x_input or occlusion.", rich_help_panel=METHOD)
]
Steps = Annotated[int, typer.Option(help="Points of integration, of integrated gradients.", rich_help_panel=METHOD)]
BaselineName = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        help="What stands for no word: pad, mask, unk or zero; default: pad, of occlusion mask.",
        rich_help_panel=METHOD,
    ),
]
Limit = Annotated[int | None, typer.Option(help="Explain the first texts only, this many.", rich_help_panel="Data")]
Output = Annotated[
    Path | None,
    typer.Option(help="File for the explanations, complete or absent; default: print.", rich_help_panel=OUTPUT),
]
Format = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}; default: by the ending of --output, else terminal or, where "
        "standard output is none, jsonl.",
        rich_help_panel=OUTPUT,
    ),
]


@user_paths
def explain(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Data = None,
    text: Text = None,
    text_pair: TextPairs = None,
    input_format: InputFormat = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    limit: Limit = None,
    encoding_errors: EncodingErrors = "strict",
    encoding: Encoding = "auto",
    delimiter: Delimiter = None,
    header: Header = True,
    target: Target = None,
    method: Method = "integrated_gradients",
    steps: Steps = 32,
    baseline: BaselineName = None,
    output: Output = None,
    format: Format = None,
    as_json: JsonArray = False,
    escape_formulas: EscapeFormulas = False,
    device: Device = "auto",
    backend: Backend = "auto",
    progress: Progress = True,
    debug: Debug = False,
) -> None:
    """Explain texts: how much each word adds to the logit of a class."""
    if output is not None and str(output) == "-":
        output = None
    kind = chosen_format(format, output, as_json)
    if escape_formulas and kind != "csv":
        raise UsageError("--escape-formulas changes CSV; say --format csv, or leave it out.")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit: {limit} is not a positive number.")
    from ..classifier.checkpoint import kind_of
    from ..classifier.swapped import check_checkpoint_and_data
    from ..data.readers import ReadOptions

    texts = texts_of_options(text, text_pair)
    check_checkpoint_and_data(checkpoint, data)
    check_output(output, checkpoint, data, reads_standard_input=not text)
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
    from ..classifier import load

    # Weights are computed in float32, whatever the classifier predicts in.
    classifier = load(checkpoint, device=device, dtype="float32", backend=backend)
    arguments: dict[str, Any] = {"target": target, "method": method, "steps": steps, "baseline": baseline}
    classifier.explain([], **arguments)  # errors in arguments come before the first text
    shown = progress and (output is not None or sys.stdout is None or not sys.stdout.isatty())
    with progress_bar(None, "text", shown) as bar, open_explanations(output, kind, escape_formulas) as writer:
        for some in _texts(stream, limit):
            writer.write(classifier.explain(some, **arguments))
            bar.update(len(some))


def _texts(stream: RowStream, limit: int | None) -> Iterator[list[AnyText]]:
    """Texts of a source, some at a time; what has arrived is not held back."""
    left = limit
    for rows in stream.batches:
        several = iter(rows.texts if left is None else rows.texts[:left])
        while some := list(islice(several, TEXTS)):
            yield some
        left = None if left is None else left - len(rows.texts)
        if left is not None and left <= 0:
            return
