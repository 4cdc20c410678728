"""What the commands that train have in common: options made from :mod:`pyllmclf.settings`, data, and what is saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..arguments import declared_of
from ..errors import UsageError
from .config import from_file
from .options import Debug, Json, option, option_type
from .runs import new_run_folder

Option = tuple[Any, Any]
"""Annotation and default of an option."""
# Arguments that finetune refuses without an output folder.
NEED_OUTPUT_DIR = ("overwrite", "resume", "save_every_steps", "logs", "report")
NOTHING_SAVED = (
    "nothing was saved; with --output-dir a training that is interrupted saves a checkpoint, and --resume resumes it"
)
CONTEXT: dict[str, Option] = {"context": (typer.Context, inspect.Parameter.empty)}
DATA: dict[str, Option] = {
    "data": (
        Annotated[
            str | None,
            typer.Argument(
                metavar="DATA",
                help="Data set (sms_spam, imdb, sample) or file of labelled texts, as --train.",
                show_default=False,
            ),
        ],
        None,
    ),
}
OF_COMMAND: dict[str, Option] = {
    "save": (
        Annotated[
            bool,
            typer.Option(
                "--save/--no-save",
                help="Without --output-dir, save the classifier in pyllmclf-runs/DATA-MODEL-N.",
                rich_help_panel="Output",
            ),
        ],
        True,
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


def with_options(command: Callable[..., None], options: Mapping[str, Option]) -> None:
    """Gives a command the signature and annotations from which Typer makes its options."""
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]
    target: Any = command
    target.__signature__ = inspect.Signature(parameters)
    target.__annotations__ = {each.name: each.annotation for each in parameters}


def options_of(cls: type, hints: dict[str, Any], prefix: str = "") -> list[tuple[str, Option]]:
    """Name, annotation and default of each field of a dataclass that has an option."""
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


def values_of(cls: type, options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
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


def training_data(options: Mapping[str, Any], command: str) -> str:
    """The training data, by position or by option; on the command line they replace those of a file of options.

    Raises
    ------
    UsageError
        If there are none, or both.
    """
    by_position, by_option = options["data"], options["train"]
    if by_position is None and by_option is None:
        raise UsageError(f"the training data are missing: pyllmclf {command} DATA (or --train DATA).")
    if by_position is None or by_option is None:
        return by_option if by_position is None else by_position
    sources = (options["context"].get_parameter_source(name) for name in ("data", "train"))
    typed = [source is not None and source.name == "COMMANDLINE" for source in sources]
    if all(typed):
        raise UsageError(
            f"the training data are named twice, {by_position} by position and {by_option} by --train; leave one out."
        )
    return by_option if typed == [False, True] else by_position


@contextmanager
def kept_classifier(arguments: dict[str, Any], *, save: bool, first: bool) -> Iterator[Path | None]:
    """Keeps the classifier of a training without an output folder; yields its folder, in the first process.

    Raises
    ------
    UsageError
        If the training has an output folder, and nothing is to be saved.
    ResourceError
        If the current folder can't be written.
    """
    if arguments["output_dir"] is not None:
        if not save:
            raise UsageError(
                "--output-dir names a folder to save in, and --no-save saves nothing; leave one of them out."
            )
        yield None
    elif not save or not first or any(arguments[name] for name in NEED_OUTPUT_DIR):  # which finetune refuses
        yield None
    else:
        from ..training.classifier_folder import keep_classifier_in

        with new_run_folder(arguments["train"], arguments["model"]) as folder, keep_classifier_in(folder):
            yield folder
