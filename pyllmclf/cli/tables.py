"""Tables of metrics on standard output."""

from __future__ import annotations

from typing import Any

from ..printable import printable

# Most classes whose confusion matrix is printed; of more, the most frequent wrong predictions.
MATRIX_COLUMNS = 12
# Most classes whose figures rich lays out, which takes a second for each thousand.
TABLE_ROWS = 200
PER_CLASS = ("class", "precision", "recall", "F1", "texts")


def print_evaluation(metrics: dict[str, Any], title: str) -> None:
    """Prints headline metrics, metrics per class, and the confusion matrix: of many classes, its largest numbers.

    Parameters
    ----------
    metrics : dict
        As returned by :meth:`pyllmclf.EvaluationResult.to_dict`, or by :meth:`pyllmclf.MultiLabelResult.to_dict`, which
        has no confusion matrix.
    title : str
    """
    from rich.console import Console
    from rich.markup import escape as escape_markup
    from rich.table import Table

    def escape(text: Any) -> str:
        return escape_markup(printable(text))

    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(title)}[/bold]: accuracy {metrics['accuracy']:.2%}, macro-F1 {metrics['macro_f1']:.4f}, "
        f"log-loss {metrics['log_loss']:.4f} ({metrics['texts']:,} texts, {metrics['seconds']:.1f} s)",
        soft_wrap=True,
    )
    classes = [escape(name) for name in metrics["classes"]]
    confusion = Table("true class ↓ predicted →", box=None, pad_edge=False)
    rows = [
        (name, *(f"{figures[key]:.4f}" for key in ("precision", "recall", "f1")), f"{figures['support']:,}")
        for name, figures in zip(metrics["classes"], metrics["per_class"].values(), strict=True)
    ]
    if len(rows) > TABLE_ROWS:
        _print_rows([PER_CLASS, *rows])
    else:
        table = Table(PER_CLASS[0], box=None, pad_edge=False)
        for name in PER_CLASS[1:]:
            table.add_column(name, justify="right")
        for name, *figures in rows:
            table.add_row(escape(name), *figures)
        console.print(table)
    if "confusion_matrix" in metrics and len(classes) > MATRIX_COLUMNS:
        most = Table("class", "predicted", box=None, pad_edge=False)
        most.add_column("texts", justify="right")
        for row in metrics["confusions"]:
            most.add_row(escape(row["class"]), escape(row["predicted"]), f"{row['texts']:,}")
        console.print("most frequent wrong predictions:" if most.row_count else "no wrong predictions")
        if most.row_count:
            console.print(most)
    elif "confusion_matrix" in metrics:
        for name in classes:
            confusion.add_column(name, justify="right")
        for name, row in zip(classes, metrics["confusion_matrix"], strict=True):
            confusion.add_row(name, *(f"{count:,}" for count in row))
        console.print(confusion)
    else:
        console.print(f"all classes of a text right: {metrics['accuracy']:.2%}; micro-F1 {metrics['micro_f1']:.4f}")
    console.print()


def _print_rows(rows: list[tuple[str, ...]]) -> None:
    """Prints rows as rich prints a table without lines: the first column on the left, the others on the right."""
    from rich.cells import cell_len

    shown = [(printable(row[0]), *row[1:]) for row in rows]
    first = max(cell_len(row[0]) for row in shown)
    widths = [max(len(row[column]) for row in shown) for column in range(1, len(rows[0]))]
    for name, *figures in shown:
        cells = (figure.rjust(width) for figure, width in zip(figures, widths, strict=True))
        print("  ".join([name + " " * (first - cell_len(name)), *cells]))


def print_seeds(summary: dict[str, dict[str, dict[str, float]]], seeds: list[int]) -> None:
    """Prints mean and spread over seeds, a line per metric.

    Parameters
    ----------
    summary : dict
        As :attr:`pyllmclf.SeedsResult.summary`.
    seeds : list of int
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "metric", box=None, pad_edge=False)
    for name in ("mean", "std", "least", "largest"):
        table.add_column(name, justify="right")
    for split, metrics in summary.items():
        for metric, values in metrics.items():
            table.add_row(split, metric, *(f"{values[name]:.4f}" for name in ("mean", "std", "min", "max")))
    console = Console(highlight=False)
    console.print(f"{len(seeds)} seeds: {', '.join(map(str, seeds))}", soft_wrap=True)
    console.print(table)
