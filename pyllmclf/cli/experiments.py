"""``pyllmclf experiments``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..errors import UsageError
from .options import Backend, Debug, Device, Dtype, Json, LabelColumn, Progress, TextColumn, print_json

if TYPE_CHECKING:
    from ..choices import Weights


def experiments(
    rows: Annotated[
        str | None, typer.Option(help="Rows of the table, as 1-5,11,bow (bag of words). Default: all.")
    ] = None,
    table: Annotated[str, typer.Option(help="The published table: sms_spam or imdb.")] = "sms_spam",
    model: Annotated[
        str | None, typer.Option(help="Takes the place of GPT-2 124M: a name, a model folder or a hub id.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set or file. Default: what the table was made on.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    seeds: Annotated[int, typer.Option(help="How many seeds each row is run with, from 123 on.")] = 1,
    weights: Annotated[str | None, typer.Option(help="pretrained or random. Default: as the row says.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: as the row says.")] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Receives tables, a plot and each run's result; a second call goes on from there.")
    ] = Path("experiments"),
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    progress: Progress = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the published experiments again, on any model and data."""
    from ..experiments.results import markdown, summary, write_results
    from ..experiments.runner import Runner, placed, read_parts
    from ..experiments.table import choose_rows, default_data, tables

    if table not in tables():
        raise UsageError(f"--table: there is no table {table!r}; there are {', '.join(tables())}.")
    if seeds < 1:
        raise UsageError(f"--seeds: {seeds} is not a positive number.")
    if weights not in (None, "pretrained", "random"):
        raise UsageError(f"--weights: {weights!r} is unknown; it is pretrained or random.")
    chosen = choose_rows(table, rows)
    named = default_data(table) if data is None else data
    parts = read_parts(named, text_column, label_column)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "backend": backend, "progress": progress}
    overrides = {} if epochs is None else {"epochs": epochs}
    runner = Runner(output_dir, parts, options, overrides)
    wanted = []
    for row in chosen:
        found = placed(row, model, cast("Weights | None", weights))
        wanted.append((row, found) if isinstance(found, str) else found)

    def say(line: str) -> None:
        if progress:
            print(line, file=sys.stderr)

    about = {
        "table": table,
        "data": named,
        "texts": ", ".join(f"{name} {len(part):,}" for name, part in parts.items()),
        "model": model or "as the rows say",
        "overrides": overrides or "none",
    }
    results = []
    for results in runner.run(wanted, range(123, 123 + seeds), say):
        write_results(output_dir, results, about)
    if as_json:
        print_json(about | {"rows": [summary(result) for result in results]})
        return
    print(markdown(results))
    print(f"tables and plot in {output_dir}")
