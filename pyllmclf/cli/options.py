"""Options that several commands have."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
TextColumn = Annotated[str | None, typer.Option(help="Column with the texts; found by its usual names if not given.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column with the labels; found likewise.")]
EmptyTexts = Annotated[str, typer.Option(help="Texts that are empty or white space: keep, skip or error.")]
EncodingErrors = Annotated[str, typer.Option(help="Bytes of a file that are not UTF-8: strict (an error) or replace.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="Of the matmuls: auto, float32, bfloat16 or float16.")]
Backend = Annotated[str, typer.Option(help="Implementation of the ops: auto, reference, native or triton.")]
Progress = Annotated[bool, typer.Option(help="Show progress on standard error.")]


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
