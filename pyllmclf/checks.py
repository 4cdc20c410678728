"""Predicates and conversions of single values, used by the declared arguments, by ops and by models."""

from __future__ import annotations

import math
import numbers
import os
import sys
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value is a real number; booleans are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# The largest finite number of fp32, in which training computes.
LARGEST = (2.0 - 2.0**-23) * 2.0**127


def as_float(value: Any) -> float:
    """A real number as float; infinity where it is larger than every float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_rate(p: float) -> bool:
    """Whether ``p`` is a dropout rate: a 32-bit mask must keep some elements."""
    return 0.0 <= p < 1.0 and round(p * 2**32) < 2**32


def plain(value: Any) -> Any:
    """Converts a NumPy scalar to the Python number, boolean or string; returns any other value unchanged."""
    numpy = sys.modules.get("numpy")  # not imported: then no value is a NumPy scalar
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def as_json(value: Any) -> Any:
    """Converts a value to types that JSON has; an object that has no such form becomes the name of its type."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, dict):
        return {str(name): as_json(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else f"<{type(value).__name__}>"
