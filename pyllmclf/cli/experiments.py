"""``pyllmclf experiments``: repeats the published experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..errors import UsageError
from ..printable import printable
from ..progress import say
from .evaluate import check_outputs
from .options import (
    Backend,
    Debug,
    Device,
    Dtype,
    Json,
    LabelColumn,
    Progress,
    TextColumn,
    TextPairColumn,
    print_json,
    user_paths,
)

if TYPE_CHECKING:
    from ..choices import Weights


@user_paths
def experiments(
    rows: Annotated[
        str | None, typer.Option(help="Rows of the table, for example 1-5,11,bow (bag of words). Default: all.")
    ] = None,
    table: Annotated[str, typer.Option(help="The published table: sms_spam or imdb.")] = "sms_spam",
    model: Annotated[str | None, typer.Option(help="Replaces GPT-2 124M: a name, a model folder or a hub id.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set or file. Default: the data set of the table.")] = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    label_column: LabelColumn = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds per row, from 123 on.")] = 1,
    weights: Annotated[str | None, typer.Option(help="pretrained or random. Default: as in the row.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training texts. Default: as in the row.")] = None,
    share_frozen_layers: Annotated[
        bool,
        typer.Option(
            "--share-frozen-layers",
            help="Compute frozen layers once for all rows; a row's seconds leave out what an earlier one has computed.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the table and a chart to this HTML file, after each row.")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Folder for tables, a plot and each run's result; a later call reuses stored results.")
    ] = Path("experiments"),
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    progress: Progress = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Repeat the published experiments, on any model and data."""
    from ..data.atomic_folder import check_writable
    from ..experiments.page import write_page
    from ..experiments.results import markdown, summaries, write_results
    from ..experiments.runner import Runner, read_all_splits, replace_model
    from ..experiments.table import choose_rows, default_data, tables, without_published

    if table not in tables():
        raise UsageError(f"--table: there is no table {table!r}; choose one of {', '.join(tables())}.")
    if seeds < 1:
        raise UsageError(f"--seeds: {seeds} is not a positive number.")
    if weights not in (None, "pretrained", "random"):
        raise UsageError(f"--weights: {weights!r} is unknown; it is pretrained or random.")
    chosen = choose_rows(table, rows)
    if data is None or data == default_data(table):
        data = default_data(table)
    else:
        chosen = [without_published(row) for row in chosen]
    if report is not None:
        check_outputs({"--report": report}, Path(data), [])
        check_writable(report)
    splits = read_all_splits(data, text_column, label_column, text_pair_column)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "backend": backend, "progress": progress}
    overrides = {} if epochs is None else {"epochs": epochs}
    runner = Runner(output_dir, splits, options, overrides, shares_frozen_layers=share_frozen_layers)
    to_run = []
    for row in chosen:
        replaced = replace_model(row, model, cast("Weights | None", weights))
        to_run.append((row, replaced) if isinstance(replaced, str) else replaced)

    about = {
        "table": table,
        "data": data,
        "texts": ", ".join(f"{name} {len(split):,}" for name, split in splits.items()),
        "model": model or "as in the rows",
        "overrides": overrides or "none",
    }
    results = []
    for results in runner.run(to_run, range(123, 123 + seeds), lambda line: say(line, progress)):
        write_results(output_dir, results, about)
        if report is not None:
            write_page(report, results, about)
    if as_json:
        print_json(about | {"rows": summaries(results)})
        return
    print(printable(markdown(results), keep="\n"))
    print(f"tables and plot in {printable(output_dir)}")
