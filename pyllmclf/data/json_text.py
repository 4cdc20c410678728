"""JSON of files that anybody may have written."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: str) -> Any:
    """What ``json.loads`` gives.

    Raises
    ------
    ValueError
        If it is no JSON, or nested too deeply for Python.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
