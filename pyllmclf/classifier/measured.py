"""What the training of a checkpoint has measured beside the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.report import Baselines
from ..models.hub import read_json
from .checkpoint import STATE_FILE


def training_baselines(folder: Path) -> Baselines | None:
    """Simple classifiers that the training has measured on its validation texts; ``None`` if it has recorded none.

    Raises
    ------
    ModelError
        If the training state can't be read.
    """
    state = read_json(folder / STATE_FILE)
    measured = state.get("measured")
    try:
        if isinstance(measured, Mapping):  # by a training before this one, without the validation texts
            metrics, figures = measured["metrics"], _accuracies(measured["baselines"])
        else:
            metrics = state.get("metrics", {}).get("validation", {})
            figures = {each["name"]: _share(each["right"]) for each in state.get("baselines", [])}
        accuracy = metrics.get("accuracy")
        if not figures:
            return None
        return Baselines("the validation texts of the training", None if accuracy is None else float(accuracy), figures)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None  # the record is no part of the classifier, and a report does without it


def _accuracies(baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(figures["accuracy"]) for name, figures in baselines.items()}


def _share(right: str) -> float:
    return right.count("1") / len(right)
