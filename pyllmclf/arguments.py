"""Arguments as users pass them: NumPy's numbers are numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def plain_numbers(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which gets Python's own numbers, booleans and strings in the place of NumPy's scalars."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = [plain(value) for value in args]
        named: Any = {name: plain(value) for name, value in kwargs.items()}
        return function(*given, **named)

    return called


def plain(value: Any) -> Any:
    """Python's own number, boolean or string in the place of NumPy's."""
    return value.item() if isinstance(value, np.generic) else value
