"""Options of the commands, made from the declarations of :mod:`pyllmclf.settings`."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from .. import choices
from ..arguments import declared_of
from ..paths import user_path
from ..settings import MACHINE, Settings
from ..version import __version__
from .streams import print_json as print_json

# Options whose text may be a path; those of type Path are known by it.
_MAY_BE_PATHS = ("data", "model", "test", "calibration", "quantize", "held_out")


def user_paths(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command with ``~`` replaced in its paths: a shell doesn't do it behind ``=``, or in a quoted word."""

    def expanded(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [expanded(name, entry) for entry in value]
        return user_path(value) if isinstance(value, Path) or name in _MAY_BE_PATHS else value

    @functools.wraps(command)
    def run(**options: Any) -> None:
        command(**{name: expanded(name, value) for name, value in options.items()})

    return run


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
    """Makes the option of a setting, for commands other than finetune."""
    return option(_FIELDS[name], HINTS[name])


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pyllmclf {__version__}")
        raise typer.Exit


TextColumn = _settings_option("text_column")
TextPairColumn = _settings_option("text_pair_column")
LabelColumn = _settings_option("label_column")
EmptyTexts = _settings_option("empty_texts")
EncodingErrors = _settings_option("encoding_errors")
Missing = _settings_option("missing")
Encoding = _settings_option("encoding")
Delimiter = _settings_option("delimiter")
Header = _settings_option("header")
Prompt = _settings_option("prompt")
Device = _settings_option("device")
Dtype = _settings_option("dtype")
LoadDtype = Annotated[
    choices.LoadDtype,
    typer.Option(
        help="Dtype of the matmuls: auto, float32, bfloat16, float16, or int8 on a CPU.", rich_help_panel=MACHINE
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="For --dtype int8: a file of texts, or a data set, on which labels are compared with those of float32.",
        rich_help_panel=MACHINE,
    ),
]
Backend = _settings_option("backend")
ANSWERS = "Answers"
Abstain = Annotated[
    str | None,
    typer.Option(
        help="When a text gets no answer: accuracy=0.98, answered=0.9 or probability=0.8, and unlike=0.99; off.",
        rich_help_panel=ANSWERS,
    ),
]
Conformal = Annotated[
    str | None,
    typer.Option(
        help="Error rate of label sets, such as 0.1; 0.1,by_class for each class; off.", rich_help_panel=ANSWERS
    ),
]
Thresholds = Annotated[
    str | None,
    typer.Option(
        help="Where texts may have several labels: f1, precision=0.9, 0.4, or CLASS=0.4,OTHER=0.6; off.",
        rich_help_panel=ANSWERS,
    ),
]
Costs = Annotated[
    list[str] | None,
    typer.Option(
        "--cost",
        help="TRUE:PREDICTED=5: what predicting a class for another costs; other errors 1. Can be repeated; off.",
        rich_help_panel=ANSWERS,
    ),
]
HeldOutTexts = Annotated[
    str | None,
    typer.Option(
        "--held-out",
        help="Labelled texts that the classifier was not trained on, which --abstain and the others are chosen on.",
        rich_help_panel=ANSWERS,
    ),
]
Progress = _settings_option("progress")
Version = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, expose_value=False, help="Show the version."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
