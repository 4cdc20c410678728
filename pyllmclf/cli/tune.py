"""``pyllmclf tune``, with options made from :mod:`pyllmclf.settings`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any, get_type_hints

import typer

from ..lora_config import LoRAConfig
from ..printable import printable
from ..settings import NOT_OF_TUNE, Settings
from .finetune import LORA
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

SEARCH = "Search"
OF_SEARCH: dict[str, Option] = {
    "model": (
        Annotated[
            list[str] | None,
            typer.Option(
                help="A model of the candidates; several by repeating it. Default: minilm.", rich_help_panel=SEARCH
            ),
        ],
        None,
    ),
    "time_limit": (
        Annotated[
            str | None,
            typer.Option(
                help="Time of the whole call: seconds, or 90s, 2m, 1.5h. Default: none.", rich_help_panel=SEARCH
            ),
        ],
        None,
    ),
    "trials": (
        Annotated[int | None, typer.Option(help="Most candidates. Default: all.", rich_help_panel=SEARCH)],
        None,
    ),
    "folds": (Annotated[int, typer.Option(help="Folds of the cross-validation.", rich_help_panel=SEARCH)], 5),
}


def tune(**options: Any) -> None:
    """Choose model, layers and settings on your own data; train the best."""
    options["train"] = training_data(options, "tune")
    search = {name: options.pop(name) for name in OF_SEARCH}
    models = search.pop("model") or ["minilm"]
    arguments = values_of(Settings, options)
    lora = {name: value for name, value in values_of(LoRAConfig, options, LORA).items() if value is not None}
    arguments["lora"] = lora or None
    interrupts = nullcontext() if arguments["output_dir"] is not None else interrupts_mean(NOTHING_SAVED)
    kept = arguments | {"model": models[0], "save_every_steps": None, "logs": None}
    with kept_classifier(kept, save=options["save"], first=True) as folder:
        with interrupts:
            from ..tuning import tune as run

            result = run(models, **arguments, **search)
        if options["as_json"]:
            print_json(result.to_dict() | ({} if folder is None else {"output_dir": str(folder)}))
            return
        print_parts(result.parts())
        if result.output_dir is None and folder is not None:
            print(f"classifier in {printable(folder)}")


_settings = {name: each for name, each in options_of(Settings, HINTS) if name not in (*NOT_OF_TUNE, "model")}
_lora = dict(options_of(LoRAConfig, get_type_hints(LoRAConfig), LORA))
with_options(tune, {**OF_SEARCH, **_settings, **_lora, **CONTEXT, **DATA, **OF_COMMAND})
