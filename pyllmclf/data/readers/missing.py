"""Values that stand for none."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np


def is_missing(value: Any) -> bool:
    """Whether a value is an empty cell of JSON, Arrow or pandas."""
    if isinstance(value, str):
        return False
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, (float, np.floating)) and math.isnan(value)
