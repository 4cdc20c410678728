"""Paths as users write them: ``~`` is the home folder, in Python, on the command line and in files of options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import ResourceError


def user_path(value: Any) -> Any:
    """Replaces a leading ``~`` or ``~user`` of a path; names, hub ids and other values stay as they are.

    Parameters
    ----------
    value : object
        A string or a path; anything else is returned unchanged.

    Returns
    -------
    object
        A string for a string, a :class:`Path` for a path.

    Raises
    ------
    ResourceError
        If the path begins with ``~`` alone, and there is no home folder.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text.startswith("~"):
        return value
    expanded = os.path.expanduser(text)
    if expanded == text and text.partition("/")[0] == "~":
        raise ResourceError(f"{text}: there is no home folder; set HOME, or write the path without ~.")
    return expanded if isinstance(value, str) else Path(expanded)


def environment_path(name: str) -> Path | None:
    """Path in an environment variable; ``None`` if the variable is missing or empty."""
    value = os.environ.get(name)
    return Path(user_path(value)) if value else None
