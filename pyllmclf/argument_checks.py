"""Checks of the values of arguments; each takes name and value, and raises :class:`UsageError` for a wrong value."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from .checks import LARGEST, as_float, is_number, is_rate
from .choices import DELIMITERS, Padding, words
from .errors import UsageError
from .printable import shown
from .suggestions import closest, did_you_mean

if TYPE_CHECKING:
    import numpy as np

Check = Callable[[str, Any], None]

AUTO: Literal["auto"] = "auto"
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


def auto_or(check: Check) -> Check:
    """Makes a check that accepts ``"auto"`` beside what ``check`` accepts."""
    return lambda name, value: None if value == AUTO else check(name, value)


def satisfies(test: Callable[[Any], bool], must: str) -> Check:
    """Makes a check from a predicate; ``must`` ends the message ``name=value must ...``."""

    def check(name: str, value: Any) -> None:
        if not test(value):
            raise UsageError(f"{name}={shown(value)} must {must}.")

    return check


def one_of(choices: Iterable[str]) -> Check:
    """Makes a check that accepts these words."""
    words = tuple(choices)

    def check(name: str, value: Any) -> None:
        if value not in words:
            raise UsageError(f"{name}={shown(value)} is unknown; it is one of {', '.join(words)}.")

    return check


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates
        return False
    return True


# Counts of batches, steps and tokens: their products fit 64 bits.
MOST = 2**31 - 1

positive_integer = satisfies(lambda value: _is_int(value) and 1 <= value <= MOST, f"be an integer from 1 to {MOST:,}")
integer = satisfies(lambda value: type(value) is int and -MOST <= value <= MOST, f"be an integer up to {MOST:,}")
seed_number = satisfies(lambda value: _is_int(value) and 0 <= value < 2**32, "be an integer from 0 to 2**32 - 1")
number = satisfies(is_number, "be a number")
positive_number = all_of(number, satisfies(lambda value: as_float(value) > 0, "be positive"))
finite_positive_number = all_of(
    number, satisfies(lambda value: 0 < as_float(value) <= LARGEST, f"be positive and at most {LARGEST:.2g}")
)
finite_nonnegative_number = all_of(
    number, satisfies(lambda value: 0 <= as_float(value) <= LARGEST, f"not be negative, and at most {LARGEST:.2g}")
)
bool_or_none = satisfies(lambda value: isinstance(value, (bool, type(None))), "be True, False or None")
separator = satisfies(lambda value: isinstance(value, str) and bool(value.strip()), "be a string that is not blank")
unicode_text = satisfies(lambda value: isinstance(value, str) and _is_unicode(value), "be a string of valid Unicode")
revision = satisfies(
    lambda value: isinstance(value, str) and bool(value.strip()) and value == value.strip(),
    "be the name of a branch, a tag or a commit",
)


def fraction_if_number(name: str, value: Any) -> None:
    """Accepts data of any kind, and a fraction of the training data."""
    if is_number(value) and not 0.0 < as_float(value) < 1.0:
        raise UsageError(f"{name}: a fraction of the training data must lie between 0 and 1, not {shown(value)}.")


rate_or_config = satisfies(
    lambda value: value == "config" or (is_number(value) and is_rate(as_float(value))),
    "be a number in [0, 1 - 2**-32] or 'config'",
)


def trainable(name: str, value: Any) -> None:
    """Accepts the names of sets of trained parameters; the model decides how many blocks there are."""
    if value not in ("head", "last_block", "all", "lora") and not LAST_BLOCKS.fullmatch(str(value)):
        raise UsageError(
            f"trainable={shown(value)} is unknown; it is 'auto', 'head', 'last_block', 'last_N_blocks' (N a number), "
            f"'all' or 'lora'{did_you_mean(value, ('head', 'last_block', 'last_2_blocks', 'all', 'lora', 'auto'))}."
        )


def padding(name: str, value: Any) -> None:
    """Accepts the paddings, and a number of tokens."""
    if value not in PADDINGS and (type(value) is not int or abs(value) > MOST):
        raise UsageError(f"padding={shown(value)} is unknown; it is {', '.join(map(repr, PADDINGS))} or a number.")


def sample_weight(name: str, value: Any) -> None:
    """Accepts ``None``, the name of a column, and an array of weights (:func:`weights_array`)."""
    if isinstance(value, str):
        satisfies(lambda text: bool(text.strip()), "be the name of a column, or a number for each text")(name, value)
    elif value is not None:
        weights_array(name, value)


def weights_array(name: str, value: Any) -> np.ndarray:
    """Converts a sequence of weights, of Python, NumPy, pandas or torch, to float64, shape [texts].

    Raises
    ------
    UsageError
        If it is no sequence of finite numbers that are not negative, or all of them are 0.
    """
    import numpy as np

    if hasattr(value, "detach"):  # a tensor, of any dtype and device
        value = value.detach().cpu().double()
    wrong_kind = f"{name} must be the name of a column, or a sequence with a number for each training text"
    is_sequence = hasattr(value, "__len__") or hasattr(value, "__array__")
    if not is_sequence or isinstance(value, (str, bytes, Mapping, Set)):
        raise UsageError(f"{wrong_kind}, not a {type(value).__name__}.")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of several lengths
        raise UsageError(f"{wrong_kind}.") from error
    if array.ndim != 1:
        raise UsageError(f"{wrong_kind}, not an array of shape {array.shape}.")
    if array.dtype.kind not in "biuf":
        for i, each in enumerate(value if isinstance(value, (list, tuple)) else array.tolist()):
            if not is_number(each) and not isinstance(each, (bool, Decimal)):
                raise UsageError(f"{name}[{i}] is {each!r}, not a number.")
    try:
        weights = array.astype(np.float64)
    except OverflowError as error:  # an integer of Python beyond every float
        raise UsageError(f"{name} has a number that is not finite.") from error
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0.0)))
    if len(wrong):
        raise UsageError(f"{name}[{wrong[0]}] is {weights[wrong[0]]:g}; a weight is finite and not negative.")
    if len(weights) and not weights.any():
        raise UsageError(f"{name} is zero for every text; at least one weight must be greater.")
    return weights


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
    near = closest(value, usual)
    hint = f"did you mean {near!r}?" if near else "it is 'auto' or a codec of Python, such as 'cp1252' or 'utf-16'."
    raise UsageError(f"{name}={value!r} is unknown; {hint}")


def delimiter(name: str, value: Any) -> None:
    """Accepts a character, the name of one, and ``None``."""
    if value is None or value in tuple(DELIMITERS):
        return
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n':
        raise UsageError(f"{name}={value!r} must be one character, or one of {', '.join(DELIMITERS)}.")


def byte_count(name: str, value: Any) -> None:
    """Accepts a number of bytes, and ``None``."""
    if value is not None and (not _is_int(value) or not 0 <= value < 2**63):
        raise UsageError(f"{name}={shown(value)} must be a number of bytes.")
