"""Declarations of arguments, as metadata of a dataclass's fields, and parsers for the text of their options.

:class:`pyllmclf.settings.Settings` and :class:`pyllmclf.lora_config.LoRAConfig` are made of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from .argument_checks import Check
from .errors import UsageError


@dataclass(frozen=True)
class Argument:
    """Declaration of an argument, beside its type and its default.

    Attributes
    ----------
    help : str
        Help text of the option.
    group : str
        Heading of the option in ``--help``.
    check : callable, optional
        Takes name and value; raises :class:`UsageError` for a value that is invalid for every model and data set.
    parse : callable, optional
        Takes the argument's name and the option's text; returns the argument's value. Without it, the option takes a
        value of the argument's type.
    option : bool
        Whether the command line has an option for it.
    estimator : bool
        Whether :class:`pyllmclf.sklearn.LLMClassifier` has the argument.
    changes_result : bool
        Whether a resumed run must have the same value. Data and model are compared by content instead.
    same_in_processes : bool
        Whether all processes of a training must have the same value even though it changes no result.
    recorded : bool
        Whether checkpoints record the value.
    resolved : bool
        Whether ``None`` or ``"auto"`` leaves the choice to the run, which records its value; a resumed run takes the
        recorded value.
    on_card : bool
        Whether the model card shows the value.
    absent : object
        Value that stands for a missing record, in checkpoints of versions without this argument.
    """

    help: str
    group: str
    check: Check | None = None
    parse: Callable[[str, str], Any] | None = None
    option: bool = True
    estimator: bool = True
    changes_result: bool = True
    same_in_processes: bool = False
    recorded: bool = True
    resolved: bool = False
    on_card: bool = False
    absent: Any = None


def argument(default: Any, help: str, **declared: Any) -> Any:
    """Makes a dataclass field that declares an argument; ``declared`` are other fields of :class:`Argument`."""
    return field(default=default, metadata={"argument": Argument(help, **declared)})


def arguments_of(cls: type) -> dict[str, Argument]:
    """Declarations of a dataclass whose fields are arguments, by name."""
    return {f.name: declared_of(f) for f in fields(cls)}


def declared_of(dataclass_field: Field[Any]) -> Argument:
    """Declaration of a field made by :func:`argument`."""
    return dataclass_field.metadata["argument"]


# --- parsers of options' text ---------------------------------------------------------------------------------------


def as_data(name: str, text: str) -> Any:
    """Parses the name of a data set or a path; ``none`` becomes ``False``, no data at all."""
    return False if text == "none" else text


def as_data_or_fraction(name: str, text: str) -> Any:
    """Parses a fraction of the training texts; otherwise as :func:`as_data`."""
    try:
        return float(text)
    except ValueError:
        return as_data(name, text)


def as_number(name: str, text: str) -> float:
    """Parses a number.

    Raises
    ------
    UsageError
        If the text is no number.
    """
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{option_of(name)}: {text!r} is not a number.") from error


def as_number_or_word(name: str, text: str) -> float | str:
    """Parses a number, or one of the words ``auto`` and ``config``.

    Raises
    ------
    UsageError
        If the text is neither.
    """
    return text if text in ("auto", "config") else as_number(name, text)


def as_count_or_word(name: str, text: str) -> int | str:
    """Parses a number of tokens; any other text is returned unchanged."""
    return int(text) if re.fullmatch("[0-9]+", text) else text


def as_count_or_auto(name: str, text: str) -> int | str:
    """Parses a count, or the word ``auto``.

    Raises
    ------
    UsageError
        If the text is neither.
    """
    if text != "auto" and not re.fullmatch("-?[0-9]+", text):
        raise UsageError(f"{option_of(name)}: {text!r} is neither a whole number nor auto.")
    return text if text == "auto" else int(text)


def as_words(name: str, text: str) -> list[str]:
    """Parses words separated by commas."""
    return [word.strip() for word in text.split(",")]


def as_prompt(name: str, text: str) -> str | None:
    """Parses a prompt; ``none`` becomes ``None``."""
    return None if text == "none" else text


def as_class_weights(name: str, text: str) -> str | dict[str, float]:
    """Parses ``class=weight`` pairs separated by commas; a text without ``=`` is returned unchanged.

    Raises
    ------
    UsageError
        If a pair is malformed.
    """
    if "=" not in text:
        return text
    weights = {}
    for pair in text.split(","):
        label, equals, weight = pair.strip().rpartition("=")
        if not equals or not label:
            raise UsageError(f"{option_of(name)}: {pair!r} is not a class and its weight, as spam=2.")
        weights[label] = as_number(name, weight)
    return weights


def as_modules(name: str, text: str) -> str | tuple[str, ...]:
    """Parses names of layers separated by commas, or the word ``all-linear``."""
    return text if text == "all-linear" else tuple(as_words(name, text))


def as_blocks(name: str, text: str) -> tuple[int, ...]:
    """Parses numbers of blocks separated by commas.

    Raises
    ------
    UsageError
        If one is no number.
    """
    for number in as_words(name, text):
        if not re.fullmatch("[0-9]+", number):
            raise UsageError(f"{option_of(name)}: {number!r} is not the number of a block.")
    return tuple(map(int, as_words(name, text)))


def option_of(name: str) -> str:
    """Spelling of an argument on the command line."""
    return f"--{name.replace('_', '-')}"
