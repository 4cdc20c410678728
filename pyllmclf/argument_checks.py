"""Checks of the values of arguments; each takes name and value, and raises :class:`UsageError` for a wrong value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from .checks import is_number, is_rate
from .choices import Padding, words
from .errors import UsageError

Check = Callable[[str, Any], None]

LAST_BLOCKS = re.compile(r"last_([0-9]+)_blocks")
PADDINGS = words(Padding)


def all_of(*checks: Check) -> Check:
    """Makes a check that runs several checks, in this order."""

    def check(name: str, value: Any) -> None:
        for each in checks:
            each(name, value)

    return check


def optional(check: Check) -> Check:
    """Makes a check that accepts ``None`` beside what ``check`` accepts."""
    return lambda name, value: None if value is None else check(name, value)


def satisfies(test: Callable[[Any], bool], must: str) -> Check:
    """Makes a check from a predicate; ``must`` ends the message ``name=value must ...``."""

    def check(name: str, value: Any) -> None:
        if not test(value):
            raise UsageError(f"{name}={value!r} must {must}.")

    return check


def one_of(choices: Iterable[str]) -> Check:
    """Makes a check that accepts these words."""
    words = tuple(choices)

    def check(name: str, value: Any) -> None:
        if value not in words:
            raise UsageError(f"{name}={value!r} is unknown; it is one of {', '.join(words)}.")

    return check


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


positive_integer = satisfies(lambda value: _is_int(value) and value >= 1, "be a positive integer")
integer = satisfies(lambda value: type(value) is int, "be an integer")
seed_number = satisfies(lambda value: _is_int(value) and 0 <= value < 2**32, "be an integer from 0 to 2**32 - 1")
number = satisfies(is_number, "be a number")
positive_number = all_of(number, satisfies(lambda value: value > 0, "be positive"))
finite_positive_number = all_of(number, satisfies(lambda value: math.isfinite(value) and value > 0, "be positive"))
finite_nonnegative_number = all_of(
    number, satisfies(lambda value: math.isfinite(value) and value >= 0, "not be negative")
)
bool_or_none = satisfies(lambda value: isinstance(value, (bool, type(None))), "be True, False or None")
separator = satisfies(lambda value: isinstance(value, str) and bool(value.strip()), "be a string that is not blank")
rate_or_config = satisfies(
    lambda value: value == "config" or (is_number(value) and is_rate(float(value))),
    "be a number in [0, 1 - 2**-32] or 'config'",
)


def trainable(name: str, value: Any) -> None:
    """Accepts the names of sets of trained parameters; the model decides how many blocks there are."""
    if value not in ("head", "last_block", "all", "lora") and not LAST_BLOCKS.fullmatch(str(value)):
        raise UsageError(
            f"trainable={value!r} is unknown; it is 'head', 'last_block', 'last_N_blocks' (N a number), "
            "'all' or 'lora'."
        )


def padding(name: str, value: Any) -> None:
    """Accepts the paddings, and a number of tokens."""
    if value not in PADDINGS and type(value) is not int:
        raise UsageError(f"padding={value!r} is unknown; it is {', '.join(map(repr, PADDINGS))} or a number.")


def byte_count(name: str, value: Any) -> None:
    """Accepts a number of bytes, and ``None``."""
    if value is not None and (not _is_int(value) or value < 0):
        raise UsageError(f"{name}={value!r} must be a number of bytes.")
