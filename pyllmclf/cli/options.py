"""Options of the commands, from the declarations of :mod:`pyllmclf.settings`."""

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
    """The type that the command line takes for a field: its own, or text where the declaration parses it."""
    if declared_of(each).parse is not None:
        return str
    kinds = [kind for kind in _members(hint) if kind is not type(None)]
    for plain in (bool, int, float):
        if kinds == [plain]:
            return plain
    # The model may be a path, and is a name first.
    return Path if any(get_origin(kind) is os.PathLike for kind in kinds) and each.name != "model" else str


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def option(each: Field[Any], hint: Any, *, optional: bool = False) -> Any:
    """A Typer option for a field.

    Parameters
    ----------
    each : Field
        Of a dataclass whose fields are declared by :func:`pyllmclf.arguments.argument`.
    hint : type
        The field's type, resolved.
    optional : bool
        Whether ``None`` is a value beside those of the field.
    """
    declared, kind = declared_of(each), option_type(each, hint)
    may_be_none = optional or each.default is None
    # A switch that is off has no opposite.
    names = [f"--{each.name.replace('_', '-')}"] if kind is bool and each.default is False else []
    annotation: Any = kind | None if may_be_none else kind
    return Annotated[annotation, typer.Option(*names, help=declared.help, rich_help_panel=declared.group)]


_HINTS = get_type_hints(Settings)
_FIELDS = {each.name: each for each in fields(Settings)}


def _of_settings(name: str) -> Any:
    """The option of a setting, for a command that has few of them, which need no headings."""
    annotation, info = get_args(option(_FIELDS[name], _HINTS[name]))
    info.rich_help_panel = None
    return Annotated[annotation, info]


TextColumn = _of_settings("text_column")
LabelColumn = _of_settings("label_column")
EmptyTexts = _of_settings("empty_texts")
EncodingErrors = _of_settings("encoding_errors")
Device = _of_settings("device")
Dtype = _of_settings("dtype")
Backend = _of_settings("backend")
Progress = _of_settings("progress")
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def print_json(value: Any) -> None:
    """Prints one JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
