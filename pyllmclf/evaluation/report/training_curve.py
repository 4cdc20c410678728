"""Loss and accuracy of a training by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...pages.charts import Chart, Line, numbers

SPLITS = ("train", "validation")


def training_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Charts of loss and accuracy, each with a line for the training texts and one for the validation texts.

    Parameters
    ----------
    history : sequence of mapping
        The record of each epoch, which may be empty.
    """
    return [chart for name in ("loss", "accuracy") if (chart := _chart(name, history)) is not None]


def training_rows(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Epoch, and loss and accuracy of both splits, as texts."""
    names = [f"{split}_{name}" for split in SPLITS for name in ("loss", "accuracy")]
    return [
        [str(record["epoch"]), *("–" if record.get(name) is None else f"{record[name]:.4f}" for name in names)]
        for record in history
    ]


def _chart(name: str, history: Sequence[Mapping[str, Any]]) -> Chart | None:
    lines = []
    for style, split in enumerate(SPLITS):
        known = [record for record in history if record.get(f"{split}_{name}") is not None]
        if known:
            x, y = ([float(record[key]) for record in known] for key in ("epoch", f"{split}_{name}"))
            lines.append(Line(f"{split} texts", x, y, style, marked=True))
    if not lines:
        return None
    values = [value for line in lines for value in line.y]
    spread = max(values) - min(values)
    epochs = [float(record["epoch"]) for record in history]
    return Chart(
        f"training-{name}",
        f"{name.capitalize()} by epoch",
        "; ".join(f"{line.name} from {line.y[0]:.4f} to {line.y[-1]:.4f}" for line in lines) + ".",
        numbers("epoch", min(epochs), max(epochs), integers=True),
        numbers(name, min(values) - 0.05 * spread, max(values) + 0.05 * spread),
        lines=lines,
    )
