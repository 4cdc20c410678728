"""JSON from untrusted files."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: str) -> Any:
    """Parses JSON as ``json.loads`` does, with one kind of error.

    Raises
    ------
    ValueError
        If the content is not valid JSON, or is nested too deeply for Python.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8: JSON's escapes may make lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
