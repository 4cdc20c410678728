"""Tables and a plot of results beside the published ones, as JSON, CSV, Markdown and SVG."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.atomic_folder import write_text
from .runner import RowResult

COLUMNS = (
    "row",
    "model",
    "weights",
    "experiment",
    "published_train",
    "published_validation",
    "published_test",
    "published_minutes",
    "seeds",
    "train",
    "validation",
    "test",
    "test_lowest",
    "test_highest",
    "minutes",
    "tokens_per_second",
    "skipped",
    "differs",
    "best",
)


def summary(result: RowResult) -> dict[str, Any]:
    """Figures of a row by column: accuracies in percent, means over the seeds; ``None`` for missing figures."""
    row, runs = result.row, result.runs
    figures: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "row": row.name,
        "model": row.model,
        "weights": row.weights,
        "experiment": row.describe(),
        "seeds": [run["seed"] for run in runs],
        "skipped": result.skipped,
        "differs": "; ".join(row.differs) or None,
    }
    for name in ("train", "validation", "test", "minutes"):
        figures[f"published_{name}"] = getattr(row.published, name)
    if runs:
        for split in ("train", "validation", "test"):
            figures[split] = 100.0 * statistics.mean(run["accuracy"][split] for run in runs)
        tests = [100.0 * run["accuracy"]["test"] for run in runs]
        figures |= {"test_lowest": min(tests), "test_highest": max(tests)}
        figures["minutes"] = statistics.mean(run["train_seconds"] for run in runs) / 60
        rates = [run["tokens_per_second"] for run in runs if run["tokens_per_second"] is not None]
        figures["tokens_per_second"] = statistics.mean(rates) if rates else None
    return figures


def summaries(results: Sequence[RowResult]) -> list[dict[str, Any]]:
    """:func:`summary` of each row; ``best`` says whether no other row has a higher test accuracy."""
    rows = [summary(result) for result in results]
    tests = [row["test"] for row in rows if row["test"] is not None]
    # Where nothing is compared, no row is the best.
    best = max(tests) if len(tests) > 1 else None
    return [row | {"best": best is not None and row["test"] == best} for row in rows]


def markdown(results: Sequence[RowResult]) -> str:
    """Formats results as a Markdown table, with reasons of skipped rows and differences below it.

    The test accuracy of the best row is bold, and published figures are there if any row has some.
    """
    rows = summaries(results)
    published = any(row["published_test"] is not None for row in rows)
    columns = ["published: train", "validation", "test", "minutes"] if published else []
    columns += ["here: train" if published else "train", "validation", "test", "minutes"]
    header = ["row", "model", "experiment", *columns]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for f in rows:
        ours = [_number(f["train"]), _number(f["validation"]), _spread(f), _number(f["minutes"])]
        if f["best"]:
            ours[2] = f"**{ours[2]}**"
        if f["skipped"] is not None:
            ours[2] = "skipped"
        theirs = [_number(f[f"published_{name}"]) for name in ("train", "validation", "test", "minutes")]
        cells = [f["row"], short_model(f), f["experiment"], *(theirs if published else []), *ours]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes_of(results))]) + "\n"


def short_model(figures: dict[str, Any]) -> str:
    """The model of a row of :func:`summaries`: of a folder's path the end."""
    model = "/".join(Path(figures["model"]).parts[-2:])
    return f"{model}, random weights" if figures["weights"] == "random" else model


def notes_of(results: Sequence[RowResult]) -> list[str]:
    """Why rows are skipped, and in what others differ from the published ones: a sentence for each reason."""
    notes: dict[str, list[str]] = {}
    for result in results:
        reasons = result.row.differs if result.skipped is None else [f"skipped: {result.skipped.rstrip('.')}"]
        for reason in reasons:
            notes.setdefault(reason, []).append(result.row.name)
    return [f"{'Row' if len(rows) == 1 else 'Rows'} {', '.join(rows)}: {note}." for note, rows in notes.items()]


def write_results(folder: Path, results: Sequence[RowResult], about: dict[str, Any]) -> None:
    """Writes ``results.json``, ``results.csv``, ``results.md`` and ``results.svg``.

    Parameters
    ----------
    folder : Path
    results : sequence of RowResult
    about : dict
        Lines above the table, by name.

    Raises
    ------
    ResourceError
        If a file can't be written.
    """
    rows = summaries(results)
    runs = {result.row.name: result.runs for result in results}
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"seeds": " ".join(map(str, row["seeds"]))} for row in rows)
    heading = "".join(f"- {name}: {value}\n" for name, value in about.items())
    contents: dict[str, str] = {
        "results.json": json.dumps(about | {"rows": rows, "runs": runs}, indent=2),
        "results.csv": file.getvalue(),
        "results.md": f"# Experiments\n\n{heading}\n{markdown(results)}",
        "results.svg": plot(results),
    }
    for name, content in contents.items():
        write_text(folder / name, content)


def plot(results: Sequence[RowResult]) -> str:
    """Plots the test accuracy of each row, as published and for every seed, as SVG."""
    from matplotlib.figure import Figure

    shown = [result for result in results if result.runs or result.row.published.test is not None]
    figure = Figure(figsize=(9, 1.4 + 0.32 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    for i, result in enumerate(shown):
        if (published := result.row.published.test) is not None:
            axes.plot(published, i, "D", color="#888888", label="published" if i == 0 else None)
        tests = [100.0 * run["accuracy"]["test"] for run in result.runs]
        if tests:
            axes.plot([min(tests), max(tests)], [i, i], color="#1f77b4", linewidth=2)
            axes.plot(tests, [i] * len(tests), "o", color="#1f77b4", markersize=5)
    axes.plot([], [], "o-", color="#1f77b4", label="here, each seed")
    axes.set_yticks(range(len(shown)), [f"{r.row.name}: {r.row.describe()}" for r in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(figures: dict[str, Any]) -> str:
    if figures["test"] is None or len(figures["seeds"]) == 1:
        return _number(figures["test"])
    return f"{figures['test']:.2f} ({figures['test_lowest']:.2f}–{figures['test_highest']:.2f})"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
