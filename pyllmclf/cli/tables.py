"""Tables of metrics on standard output."""

from __future__ import annotations

from typing import Any

from ..printable import printable


def print_evaluation(metrics: dict[str, Any], title: str) -> None:
    """Prints headline metrics, metrics per class, and the confusion matrix.

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
    table = Table("class", box=None, pad_edge=False)
    confusion = Table("true class ↓ predicted →", box=None, pad_edge=False)
    for name in ("precision", "recall", "F1", "texts"):
        table.add_column(name, justify="right")
    for name in classes:
        confusion.add_column(name, justify="right")
    for name, figures in zip(classes, metrics["per_class"].values(), strict=True):
        scores = (f"{figures[key]:.4f}" for key in ("precision", "recall", "f1"))
        table.add_row(name, *scores, f"{figures['support']:,}")
    console.print(table)
    if "confusion_matrix" in metrics:
        for name, row in zip(classes, metrics["confusion_matrix"], strict=True):
            confusion.add_row(name, *(f"{count:,}" for count in row))
        console.print(confusion)
    else:
        console.print(f"all classes of a text right: {metrics['accuracy']:.2%}; micro-F1 {metrics['micro_f1']:.4f}")
    console.print()


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
