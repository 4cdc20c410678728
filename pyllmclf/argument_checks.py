"""Checks of the values of arguments; each takes name and value, and raises :class:`UsageError` for a wrong value."""

from __future__ import annotations

import codecs
import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from .checks import is_number, is_rate
from .choices import DELIMITERS, Padding, words
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


def column(name: str, value: Any) -> None:
    """Accepts the name or the number of a column, and ``None``."""
    if value is not None and (not isinstance(value, (str, int)) or isinstance(value, bool) or value == ""):
        raise UsageError(f"{name}={value!r} must be the name or the number of a column.")


def columns(name: str, value: Any) -> None:
    """Accepts what :func:`column` does, and a list or tuple of them."""
    several = isinstance(value, (list, tuple))
    if several and not value:
        raise UsageError(f"{name}={value!r} must name a column.")
    for each in value if several else [value]:
        column(name, "" if several and each is None else each)


def encoding(name: str, value: Any) -> None:
    """Accepts ``"auto"`` and the names of Python's codecs of text."""
    if value == "auto":
        return
    try:
        if isinstance(value, str) and codecs.lookup(value)._is_text_encoding:
            "".encode(value)  # some codecs are there, but refuse to work
            return
    except (LookupError, ValueError):
        pass
    usual = (
        "utf-8",
        "utf-16",
        "utf-32",
        "cp1252",
        "latin-1",
        "cp1250",
        "cp1251",
        "gb18030",
        "shift_jis",
        "big5",
        "euc_kr",
    )
    near = difflib.get_close_matches(str(value).lower(), usual, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else "it is 'auto' or a codec of Python, such as 'cp1252' or 'utf-16'."
    raise UsageError(f"{name}={value!r} is unknown; {hint}")


def delimiter(name: str, value: Any) -> None:
    """Accepts a character, the name of one, and ``None``."""
    if value is None or value in tuple(DELIMITERS):
        return
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n':
        raise UsageError(f"{name}={value!r} must be one character, or one of {', '.join(DELIMITERS)}.")


def byte_count(name: str, value: Any) -> None:
    """Accepts a number of bytes, and ``None``."""
    if value is not None and (not _is_int(value) or value < 0):
        raise UsageError(f"{name}={value!r} must be a number of bytes.")
