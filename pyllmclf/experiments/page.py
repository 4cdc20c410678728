"""The page of experiments: a chart and a table of the rows, in the style of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.atomic_folder import write_text
from ..pages.charts import Axis, Chart, Line, Range, numbers
from ..pages.page import render_page
from .results import notes_of, short_model, summaries
from .runner import RowResult


def write_page(path: Path, results: Sequence[RowResult], about: Mapping[str, Any]) -> None:
    """Writes the rows, the published figures beside them, and a chart of the test accuracies.

    Parameters
    ----------
    path : Path
    results : sequence of RowResult
    about : mapping
        What the experiments are of, by name.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    rows = summaries(results)
    page = render_page(
        __package__,
        "experiments.html",
        f"Experiments on {about['data']}",
        {"rows": rows},
        about={name: str(value) for name, value in about.items()},
        rows=[row | {"shown_model": short_model(row)} for row in rows],
        published=any(row["published_test"] is not None for row in rows),
        several=any(len(row["seeds"]) > 1 for row in rows),
        chart_of_rows=_chart(rows),
        notes=notes_of(results),
    )
    write_text(path, page)


def _chart(rows: list[dict[str, Any]]) -> Chart | None:
    """Test accuracy of each row, with the lowest and highest of its seeds, and as published."""
    shown = [row for row in rows if row["test"] is not None or row["published_test"] is not None]
    if not shown:
        return None
    places = {row["row"]: float(place) for place, row in enumerate(shown, 1)}
    lines, ranges, values = [], [], []
    for style, (key, name) in enumerate((("test", "here"), ("published_test", "published"))):
        known = [(places[row["row"]], row[key]) for row in shown if row[key] is not None]
        if known:
            x, y = map(list, zip(*known, strict=True))
            lines.append(Line(name, x, y, style, marked=True, joined=False))
            values += y
    for row in shown:
        if row["test"] is not None and len(row["seeds"]) > 1:
            ranges.append(Range(places[row["row"]], row["test_lowest"], row["test_highest"]))
            values += [row["test_lowest"], row["test_highest"]]
    room = 0.05 * (max(values) - min(values))
    return Chart(
        "rows",
        "Test accuracy of the rows",
        f"{len(shown)} rows, from {min(values):.2f} % to {max(values):.2f} %.",
        Axis("row", 0.5, len(shown) + 0.5, [(place, name) for name, place in places.items()]),
        numbers("test accuracy, %", min(values) - room, max(values) + room),
        lines=lines,
        ranges=ranges,
    )
