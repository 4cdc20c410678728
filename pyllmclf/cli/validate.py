"""``pyllmclf validate``: looks for problems in data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from ..file_types import DATA_HELP
from .options import Debug, Delimiter, Encoding, EncodingErrors, Header, Json, LabelColumn, TextColumn, print_json
from .tables import print_parts

if TYPE_CHECKING:
    from ..models.hub import ModelSource


def validate(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    test: Annotated[
        list[str] | None, typer.Option(help="File whose texts are searched among the training texts; can be repeated.")
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Texts may have several labels, or none.")] = False,
    label_separator: Annotated[
        str, typer.Option(help="String between the labels of a text, with --multi-label.")
    ] = "|",
    encoding_errors: EncodingErrors = "strict",
    encoding: Encoding = "auto",
    delimiter: Delimiter = None,
    header: Header = True,
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's tokenizer, and compare with its positions.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if there is a problem.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for empty and duplicate texts, conflicting labels, and texts in several splits."""
    from ..data.named import is_named, load_named
    from ..data.readers import ReadOptions, TextData
    from ..data.sources import applicable, check_applicable, read_source, split_sources
    from ..data.validation import validate_splits
    from ..settings import check_label_separator

    options = ReadOptions(
        text_column=text_column,
        label_column=label_column,
        label_separator=label_separator if multi_label else None,
        encoding_errors=encoding_errors,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
    )
    check_label_separator(label_separator, several=multi_label)
    check_applicable(options, [data, *(test or ())])

    def read(source: Any) -> TextData:
        return read_source(source, applicable(options, source), default_split="test")

    if is_named(data):
        splits = dict(load_named(data))
    else:
        splits = {name: read(part) for name, part in split_sources(data).items()} or {"train": read(data)}
    splits |= {path: read(path) for path in test or ()}
    source = None if model is None else _source(model)
    tokenizer, positions = (None, None) if source is None else (source.tokenizer, source.config.n_positions)
    report = validate_splits(splits, tokenizer, positions)
    if as_json:
        print_json({"data": data} | report.to_dict())
    else:
        print_parts(report.parts())
    if strict and report.problems:
        raise DataError(f"{data}: {len(report.problems)} problems; the first: {report.problems[0]}.")


def _source(model: str) -> ModelSource:
    """Finds a model's tokenizer and positions, without its weights; for an adapter, those of its base."""
    from ..models.adapters import ADAPTER_CONFIG
    from ..models.hub import find_model

    return find_model(model, "pretrained" if (Path(model) / ADAPTER_CONFIG).is_file() else "random")
