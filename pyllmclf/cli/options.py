"""Options of the commands, made from the declarations of :mod:`pyllmclf.settings`."""

from __future__ import annotations

import json
import os
import types
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from ..arguments import declared_of
from ..settings import Settings


def option_type(each: Field[Any], hint: Any) -> type:
    """Type of a field's option: that of the field, or ``str`` where the declaration has a parser."""
    if declared_of(each).parse is not None:
        return str
    kinds = [kind for kind in _members(hint) if kind is not type(None)]
    for plain in (bool, int, float):
        if kinds == [plain]:
            return plain
    # A model is a name in the first place, although it may be a path.
    return Path if any(get_origin(kind) is os.PathLike for kind in kinds) and each.name != "model" else str


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def option(each: Field[Any], hint: Any, *, optional: bool = False) -> Any:
    """Makes a Typer option for a field.

    Parameters
    ----------
    each : Field
        Field made by :func:`pyllmclf.arguments.argument`.
    hint : type
        Resolved type of the field.
    optional : bool
        Whether the option can be ``None`` even though the field can't.
    """
    declared, kind = declared_of(each), option_type(each, hint)
    may_be_none = optional or each.default is None
    # A switch that is off by default needs no --no-... option.
    names = [f"--{each.name.replace('_', '-')}"] if kind is bool and each.default is False else []
    annotation: Any = kind | None if may_be_none else kind
    return Annotated[annotation, typer.Option(*names, help=declared.help, rich_help_panel=declared.group)]


# Resolved once: for all fields it takes some milliseconds.
HINTS = get_type_hints(Settings)
_FIELDS = {each.name: each for each in fields(Settings)}


def _settings_option(name: str) -> Any:
    """Makes the option of a setting without a heading, for commands with few options."""
    annotation, info = get_args(option(_FIELDS[name], HINTS[name]))
    info.rich_help_panel = None
    return Annotated[annotation, info]


TextColumn = _settings_option("text_column")
LabelColumn = _settings_option("label_column")
EmptyTexts = _settings_option("empty_texts")
EncodingErrors = _settings_option("encoding_errors")
Encoding = _settings_option("encoding")
Delimiter = _settings_option("delimiter")
Header = _settings_option("header")
Device = _settings_option("device")
Dtype = _settings_option("dtype")
Backend = _settings_option("backend")
Progress = _settings_option("progress")
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def print_json(value: Any) -> None:
    """Prints one JSON object on standard output; ``value`` consists of types that JSON has."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
