"""``pyllmclf finetune``, with options made from :mod:`pyllmclf.settings`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..arguments import declared_of
from ..errors import UsageError
from ..lora_config import LoRAConfig
from ..printable import printable
from ..settings import Settings
from .config import from_file
from .interrupts import interrupts_mean
from .options import HINTS, Debug, Json, option, option_type, print_json
from .runs import new_run_folder
from .tables import print_parts

if TYPE_CHECKING:
    from ..api import FinetuneResult

# Options that are no arguments of a training: name -> (annotation, default).
COMMAND = {
    "context": (typer.Context, inspect.Parameter.empty),
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
LORA = "lora_"
# Arguments that finetune refuses without an output folder.
NEED_OUTPUT_DIR = ("overwrite", "resume", "save_every_steps", "logs", "report")
NOTHING_SAVED = (
    "nothing was saved; with --output-dir a training that is interrupted saves a checkpoint, and --resume resumes it"
)


def _parameters() -> list[inspect.Parameter]:
    """Parameters of the command: settings, low-rank adaptation, and options of the command itself."""
    declared = [*_options(Settings, HINTS), *_options(LoRAConfig, get_type_hints(LoRAConfig), LORA), *COMMAND.items()]
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in declared
    ]


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


def _train(options: dict[str, Any]) -> str:
    """The training data, by position or by option; on the command line they replace those of a file of options.

    Raises
    ------
    UsageError
        If there are none, or both.
    """
    by_position, by_option = options["data"], options["train"]
    if by_position is None and by_option is None:
        raise UsageError("the training data are missing: pyllmclf finetune DATA (or --train DATA).")
    if by_position is None or by_option is None:
        return by_option if by_position is None else by_position
    sources = (options["context"].get_parameter_source(name) for name in ("data", "train"))
    typed = [source is not None and source.name == "COMMANDLINE" for source in sources]
    if all(typed):
        raise UsageError(
            f"the training data are named twice, {by_position} by position and {by_option} by --train; leave one out."
        )
    return by_option if typed == [False, True] else by_position


def finetune(**options: Any) -> None:
    """Fine-tune a model into a classifier."""
    options["train"] = _train(options)
    arguments = _values(Settings, options)
    lora = {name: value for name, value in _values(LoRAConfig, options, LORA).items() if value is not None}
    arguments["lora"] = lora or None
    prints = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, the first
    interrupts = nullcontext() if arguments["output_dir"] is not None else interrupts_mean(NOTHING_SAVED)
    if options["seeds"] is not None:
        _finetune_seeds(arguments, options, interrupts, prints=prints)
        return
    with _kept_classifier(arguments, save=options["save"], first=prints) as folder:
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


@contextmanager
def _kept_classifier(arguments: dict[str, Any], *, save: bool, first: bool) -> Iterator[Path | None]:
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


# Typer reads the options from the signature and the annotations.
_command: Any = finetune
_command.__signature__ = inspect.Signature(_parameters())
_command.__annotations__ = {name: each.annotation for name, each in _command.__signature__.parameters.items()}


def _print(result: FinetuneResult, folder: Path | None) -> None:
    print_parts(result.parts())
    if result.output_dir is None and folder is not None:
        print(f"classifier in {printable(folder)}")
