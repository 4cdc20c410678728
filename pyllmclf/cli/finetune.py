"""``pyllmclf finetune``, with options made from :mod:`pyllmclf.settings`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..lora_config import LoRAConfig
from ..printable import printable
from ..settings import Settings
from .interrupts import interrupts_mean
from .options import HINTS, print_json
from .tables import print_parts
from .training_options import (
    CONTEXT,
    DATA,
    NOTHING_SAVED,
    OF_COMMAND,
    Option,
    kept_classifier,
    options_of,
    training_data,
    values_of,
    with_options,
)

if TYPE_CHECKING:
    from ..api import FinetuneResult

LORA = "lora_"
SEEDS: dict[str, Option] = {
    "seeds": (
        Annotated[
            int | None,
            typer.Option(
                help="Train with this many seeds, from --seed on; print mean and spread.",
                rich_help_panel="Training",
            ),
        ],
        None,
    ),
}


def finetune(**options: Any) -> None:
    """Fine-tune a model into a classifier."""
    options["train"] = training_data(options, "finetune")
    arguments = values_of(Settings, options)
    lora = {name: value for name, value in values_of(LoRAConfig, options, LORA).items() if value is not None}
    arguments["lora"] = lora or None
    prints = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, the first
    interrupts = nullcontext() if arguments["output_dir"] is not None else interrupts_mean(NOTHING_SAVED)
    if options["seeds"] is not None:
        _finetune_seeds(arguments, options, interrupts, prints=prints)
        return
    with kept_classifier(arguments, save=options["save"], first=prints) as folder:
        with interrupts:
            from ..api import finetune as run

            result = run(**arguments)
        if prints and options["as_json"]:
            print_json(result.to_dict() | ({} if folder is None else {"output_dir": str(folder)}))
        elif prints:
            _print(result, folder)


def _finetune_seeds(
    arguments: dict[str, Any], options: dict[str, Any], interrupts: AbstractContextManager[None], *, prints: bool
) -> None:
    """Trains with several seeds; their classifiers are saved in an output folder only."""
    from ..seeds import finetune_seeds

    with interrupts:
        repeated = finetune_seeds(seeds=options["seeds"], **arguments)
    if prints and options["as_json"]:
        print_json(repeated.to_dict())
    elif prints:
        print_parts(repeated.parts())
        if arguments["output_dir"] is None:
            print("no classifier was saved; --output-dir saves that of each seed")


def _print(result: FinetuneResult, folder: Path | None) -> None:
    print_parts(result.parts())
    if result.output_dir is None and folder is not None:
        print(f"classifier in {printable(folder)}")


_settings = dict(options_of(Settings, HINTS))
_lora = dict(options_of(LoRAConfig, get_type_hints(LoRAConfig), LORA))
with_options(finetune, {**_settings, **_lora, **CONTEXT, **DATA, **SEEDS, **OF_COMMAND})
