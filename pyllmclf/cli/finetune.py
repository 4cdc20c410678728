"""``pyllmclf finetune``, with options made from :mod:`pyllmclf.settings`."""

from __future__ import annotations

import inspect
import os
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..arguments import declared_of
from ..lora_config import LoRAConfig
from ..settings import Settings
from .config import from_file
from .options import HINTS, Debug, Json, option, option_type, print_json
from .tables import print_parts

# Options that are no arguments of a training: name -> (annotation, default).
COMMAND = {
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
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                callback=from_file,
                is_eager=True,
                help="TOML file with any of these options; the command line overrides it.",
                rich_help_panel="Command",
            ),
        ],
        None,
    ),
    "as_json": (Json, False),
    "debug": (Debug, False),
}
LORA = "lora_"


def _parameters() -> list[inspect.Parameter]:
    """Parameters of the command: settings, low-rank adaptation, and options of the command itself."""
    declared = [*_options(Settings, HINTS), *_options(LoRAConfig, get_type_hints(LoRAConfig), LORA), *COMMAND.items()]
    required = {"train"}
    parameters = []
    for name, (annotation, default) in declared:
        default = inspect.Parameter.empty if name in required else default
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        )
    return sorted(parameters, key=lambda parameter: parameter.name not in required)


def _options(cls: type, hints: dict[str, Any], prefix: str = "") -> list[tuple[str, tuple[Any, Any]]]:
    """(name, (annotation, default)) of each field of a dataclass that has an option."""
    # Options of low-rank adaptation default to None, so that an adapter's settings apply.
    return [
        (
            prefix + each.name,
            (
                option(each, hints[each.name], optional=bool(prefix)),
                None if prefix else _default(each, hints[each.name]),
            ),
        )
        for each, hint in ((each, hints[each.name]) for each in fields(cls))
        if declared_of(each).option
    ]


def _default(each: Field[Any], hint: Any) -> Any:
    """Default of a field's option, as text where the option takes text."""
    assert each.default is not MISSING
    is_text = option_type(each, hint) is str
    return str(each.default) if is_text and each.default is not None else each.default


def _values(cls: type, options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parses the options of a dataclass to values of its fields.

    Raises
    ------
    UsageError
        If the text of an option is invalid.
    """
    values = {}
    for each in fields(cls):
        name, declared = prefix + each.name, declared_of(each)
        if name not in options:
            continue
        value = options[name]
        values[each.name] = declared.parse(name, value) if declared.parse is not None and value is not None else value
    return values


def finetune(**options: Any) -> None:
    """Fine-tune a model into a classifier."""
    arguments = _values(Settings, options)
    lora = {name: value for name, value in _values(LoRAConfig, options, LORA).items() if value is not None}
    arguments["lora"] = lora or None
    prints = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, the first
    if options["seeds"] is not None:
        from ..seeds import finetune_seeds

        repeated = finetune_seeds(seeds=options["seeds"], **arguments)
        if prints and options["as_json"]:
            print_json(repeated.to_dict())
        elif prints:
            print_parts(repeated.parts())
        return
    from ..api import finetune as run

    result = run(**arguments)
    if prints and options["as_json"]:
        print_json(result.to_dict())
    elif prints:
        print_parts(result.parts())


# Typer reads the options from the signature and the annotations.
_command: Any = finetune
_command.__signature__ = inspect.Signature(_parameters())
_command.__annotations__ = {name: each.annotation for name, each in _command.__signature__.parameters.items()}
