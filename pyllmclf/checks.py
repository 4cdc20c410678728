"""Checks of single values, used where arguments are declared and where ops and models take them."""

from __future__ import annotations

import numbers
import sys
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value is a real number; booleans are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether a value is an integer; booleans are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_rate(p: float) -> bool:
    """Whether ``p`` is a dropout rate: a 32-bit mask must keep some elements."""
    return 0.0 <= p < 1.0 and round(p * 2**32) < 2**32


def plain(value: Any) -> Any:
    """Python's own number, boolean or string in the place of a NumPy scalar; any other value as it is."""
    numpy = sys.modules.get("numpy")  # where nobody has imported NumPy, no value is one of its scalars
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value
