"""The report of an evaluation: one page that needs no network."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..data.atomic_folder import MANIFEST, write_text
from ..data.fetch import sha256
from ..data.readers import TextData
from ..version import __version__
from . import plots
from .metrics import EvaluationResult
from .statistics import calibration, intervals, thresholds

ERRORS = 20
TEXT_SHOWN = 600
LENGTH_BINS = 5
PACKAGES = ("torch", "numpy", "scikit-learn", "tokenizers", "tiktoken")


def provenance(checkpoint: Path, data: TextData, device: str) -> dict[str, str]:
    """What the figures depend on: hashes and versions."""
    digest = hashlib.sha256(json.dumps([data.texts, list(map(str, data.labels or []))]).encode())
    found = {
        "checkpoint": _printable(checkpoint),
        **_hashes(checkpoint),
        "data": _printable(data.origin),
        "data, SHA-256 of texts and labels": digest.hexdigest(),
        "device": device,
        "pyllmclf": __version__,
        "Python": platform.python_version(),
    }
    return found | {package: metadata.version(package) for package in PACKAGES}


def _hashes(checkpoint: Path) -> dict[str, str]:
    """Of a folder's manifest, or of the weights in one that another library wrote."""
    if (checkpoint / MANIFEST).is_file():
        return {"checkpoint, SHA-256 of its manifest": sha256(checkpoint / MANIFEST)}
    return {f"{path.name}, SHA-256": sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))}


def _printable(name: str | os.PathLike[str]) -> str:
    """A path whose bytes may be no UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def accuracy_by_length(result: EvaluationResult, tokens: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of the shortest fifth of the texts, of the next, and so on; texts of one length stay together."""
    right = result.predictions == result.labels
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, LENGTH_BINS + 1), method="lower"))
    edges[-1] += 1
    if len(edges) == 1:
        edges = np.array([edges[0] - 1, edges[0]])
    rows = []
    for low, high in pairwise(edges):
        chosen = (tokens >= low) & (tokens < high)
        if chosen.any():
            accuracy = float(right[chosen].mean())
            rows.append({"low": int(low), "high": int(high) - 1, "texts": int(chosen.sum()), "accuracy": accuracy})
    return rows


def confident_errors(result: EvaluationResult, data: TextData) -> list[dict[str, Any]]:
    """The wrong predictions with the highest probabilities, and where their texts stand."""
    wrong = np.flatnonzero(result.predictions != result.labels)
    confidence = result.probabilities.max(axis=1)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:ERRORS]
    return [
        {
            "where": data.where(int(i)).removeprefix(f"{data.origin}, "),
            "text": _cut(data.texts[i]),
            "label": result.classes[result.labels[i]],
            "prediction": result.classes[result.predictions[i]],
            "probability": float(confidence[i]),
        }
        for i in chosen
    ]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN] + " …"


def write_report(
    path: Path,
    result: EvaluationResult,
    data: TextData,
    tokens: np.ndarray,
    about: dict[str, str],
    history: list[dict[str, Any]],
) -> None:
    """Writes the page.

    Parameters
    ----------
    path : Path
    result : EvaluationResult
    data : TextData
        The evaluated texts.
    tokens : ndarray of int64, shape [texts]
        That the model reads of each.
    about : dict
        See :func:`provenance`.
    history : list of dict
        Epochs of the training, as the checkpoint holds them; may be empty.

    Raises
    ------
    ResourceError
        If it can't be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Everything is escaped but the plots, which are ours, and in which matplotlib escapes names.
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = calibration(result)
    page = environment.get_template("report.html").render(
        result=result,
        intervals=intervals(result),
        calibration=found,
        thresholds=thresholds(result) if len(result.classes) == 2 else [],
        by_length=accuracy_by_length(result, tokens),
        errors=confident_errors(result, data),
        wrong=int((result.predictions != result.labels).sum()),
        lengths=result.lengths,
        rate=int(tokens.sum()) / result.seconds if result.seconds else None,
        about=about,
        plots={
            "confusion": plots.confusion(result),
            "roc": plots.roc(result),
            "precision_recall": plots.precision_recall(result),
            "reliability": plots.reliability(found),
            "lengths": plots.lengths(tokens),
            "training": plots.training(history) if history else "",
        },
    )
    write_text(path, page)
