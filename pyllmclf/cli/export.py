"""``pyllmclf export``: writes a classifier for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..printable import printable
from .options import Debug, Json, print_json, user_paths

if TYPE_CHECKING:
    from ..choices import ExportFormat


@user_paths
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    folder: Annotated[Path, typer.Argument(help="Folder to create and write to.")],
    format: Annotated[
        str, typer.Option(help="huggingface (LoRA merged), peft (the adapter), onnx, or torch (torch.export).")
    ] = "huggingface",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export, classifier or run in the folder.")
    ] = False,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="With --format onnx: in int8, if the labels of these texts (a file or a data set) stay as they are."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a classifier for other tools."""
    from ..classifier import load

    chosen = cast("ExportFormat", format)
    load(checkpoint, device="cpu").export(folder, chosen, overwrite=overwrite, quantize=quantize)
    if as_json:
        print_json({"checkpoint": str(checkpoint), "folder": str(folder), "format": format})
    else:
        print(f"written to {printable(folder)}")
