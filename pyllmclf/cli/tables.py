"""Results on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ..tables import Line, Part, as_text


def print_parts(parts: Sequence[Part]) -> None:
    """Prints lines and tables; titles are bold on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, Line) and part.title and sys.stdout.isatty():
            title = as_text([Line(part.title)])
            console.print(Text.assemble((title, "bold"), as_text([Line(part.text)])), soft_wrap=True)
        else:
            print(as_text([part]))


def print_evaluation(metrics: dict[str, Any], title: str) -> None:
    """Prints what :func:`pyllmclf.evaluation.tables.evaluation_parts` makes of metrics, and an empty line."""
    from ..evaluation.tables import evaluation_parts

    print_parts([*evaluation_parts(metrics, title), Line("")])
