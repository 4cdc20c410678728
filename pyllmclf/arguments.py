"""How an argument of a training is declared: the metadata of a field of :class:`pyllmclf.settings.Settings`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from .errors import UsageError

Check = Callable[[str, Any], None]
# The value of an argument whose checkpoints of version 0.1 always record it.
RECORDED: Any = object()


@dataclass(frozen=True)
class Argument:
    """What is declared of one argument, beside its type and its default.

    Attributes
    ----------
    help : str
        Of the command line's option.
    group : str
        Heading under which ``--help`` lists the option.
    check : callable, optional
        Takes name and value; raises :class:`UsageError` for a value that no training could take.
    parse : callable, optional
        Turns the option's text into the argument's value; takes the option's name and the text. Without it, the
        argument's type says what the command line takes.
    option : bool
        Whether the command line has it.
    estimator : bool
        Whether :class:`pyllmclf.sklearn.LLMClassifier` has it.
    changes_result : bool
        Whether a run must be resumed with the same value. Data and model are compared by their content instead.
    same_in_processes : bool
        Whether all processes of a training must have the same value, although it changes no result.
    recorded : bool
        Whether checkpoints hold the value.
    resolved : bool
        Whether ``None`` or ``"auto"`` stands for a value that a run chooses and records; a resumed run takes that one.
    on_card : bool
        Whether the model card shows it.
    absent : object
        The value that a checkpoint without it was trained with: what earlier versions did.
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
    absent: Any = RECORDED


def argument(default: Any, help: str, **declared: Any) -> Any:
    """A dataclass field that declares an argument; ``declared`` are the fields of :class:`Argument`."""
    return field(default=default, metadata={"argument": Argument(help, **declared)})


def arguments_of(cls: type) -> dict[str, Argument]:
    """The declarations of a dataclass whose fields are arguments, by name."""
    return {f.name: declared_of(f) for f in fields(cls)}


def declared_of(of: Field[Any]) -> Argument:
    """The declaration that a field carries."""
    return of.metadata["argument"]


# --- checks ---------------------------------------------------------------------------------------------------------


def all_of(*checks: Check) -> Check:
    """Every one of the checks, in this order."""

    def check(name: str, value: Any) -> None:
        for each in checks:
            each(name, value)

    return check


def optional(check: Check) -> Check:
    """The check, unless the value is ``None``."""
    return lambda name, value: None if value is None else check(name, value)


def satisfies(test: Callable[[Any], bool], must: str) -> Check:
    """Whether the value passes a test; ``must`` completes the sentence that begins with name and value."""

    def check(name: str, value: Any) -> None:
        if not test(value):
            raise UsageError(f"{name}={value!r} must {must}.")

    return check


def one_of(known: Iterable[str]) -> Check:
    """Whether the value is one of the known words."""
    words = tuple(known)

    def check(name: str, value: Any) -> None:
        if value not in words:
            raise UsageError(f"{name}={value!r} is unknown; it is one of {', '.join(words)}.")

    return check


# --- the command line's text ----------------------------------------------------------------------------------------


def as_data(name: str, text: str) -> Any:
    """A data set's name or a path; ``none`` is no data at all."""
    return False if text == "none" else text


def as_data_or_fraction(name: str, text: str) -> Any:
    """As :func:`as_data`, or a fraction of the training texts."""
    try:
        return float(text)
    except ValueError:
        return as_data(name, text)


def as_number(name: str, text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{option_of(name)}: {text!r} is not a number.") from error


def as_rate_or_word(name: str, text: str) -> float | str:
    """A number, or the word ``config``."""
    return text if text == "config" else as_number(name, text)


def as_count_or_word(name: str, text: str) -> int | str:
    """A number of tokens, or a word."""
    return int(text) if re.fullmatch("[0-9]+", text) else text


def as_words(name: str, text: str) -> list[str]:
    """Words separated by commas."""
    return [word.strip() for word in text.split(",")]


def as_class_weights(name: str, text: str) -> str | dict[str, float]:
    """One word, or ``class=weight`` pairs separated by commas."""
    if "=" not in text:
        return text
    weights = {}
    for part in text.split(","):
        label, equals, weight = part.strip().rpartition("=")
        if not equals or not label:
            raise UsageError(f"{option_of(name)}: {part!r} is not a class and its weight, as spam=2.")
        weights[label] = as_number(name, weight)
    return weights


def as_modules(name: str, text: str) -> str | tuple[str, ...]:
    """Names of layers separated by commas, or ``all-linear``."""
    return text if text == "all-linear" else tuple(as_words(name, text))


def as_blocks(name: str, text: str) -> tuple[int, ...]:
    """Numbers of blocks separated by commas."""
    for number in as_words(name, text):
        if not re.fullmatch("[0-9]+", number):
            raise UsageError(f"{option_of(name)}: {number!r} is not the number of a block.")
    return tuple(map(int, as_words(name, text)))


def option_of(name: str) -> str:
    """The command line's option for an argument."""
    return f"--{name.replace('_', '-')}"
