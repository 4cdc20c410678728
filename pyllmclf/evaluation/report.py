"""The report of an evaluation: one HTML page that needs no network."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..data.atomic_folder import MANIFEST, write_text
from ..data.fetch import sha256
from ..data.readers import TextData
from ..printable import printable
from ..tables import Table
from ..text_pair import parts_of
from ..version import __version__
from . import plots
from .metrics import EvaluationResult
from .statistics import calibration, intervals, thresholds

ERRORS = 20  # wrong predictions in the report
MAX_CHARACTERS = 600  # of a text in the report
BETWEEN_TEXTS = " | "  # of a pair
LENGTH_BINS = 5
PACKAGES = ("torch", "numpy", "scikit-learn", "tokenizers", "tiktoken")


def provenance(checkpoint: Path, data: TextData, device: str) -> dict[str, str]:
    """Hashes and versions that the figures depend on.

    Parameters
    ----------
    checkpoint : Path
    data : TextData
        The evaluated texts.
    device : str

    Returns
    -------
    dict of str to str
        Description to value, in the order of the report.
    """
    digest = hashlib.sha256(json.dumps([data.texts, list(map(str, data.labels or []))]).encode())
    entries = {
        "checkpoint": _printable(checkpoint),
        **_hashes(checkpoint),
        "data": _printable(data.origin),
        "data, SHA-256 of texts and labels": digest.hexdigest(),
        "device": device,
        "pyllmclf": __version__,
        "Python": platform.python_version(),
    }
    return entries | {package: metadata.version(package) for package in PACKAGES}


def _hashes(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of a folder's manifest, or of the weights in a folder that another library wrote."""
    if (checkpoint / MANIFEST).is_file():
        return {"checkpoint, SHA-256 of its manifest": sha256(checkpoint / MANIFEST)}
    return {f"{path.name}, SHA-256": sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))}


def _printable(name: str | os.PathLike[str]) -> str:
    """A path as UTF-8, with U+FFFD for bytes that are not."""
    return os.fsencode(name).decode("utf-8", "replace")


def accuracy_by_length(result: EvaluationResult, tokens: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy by length: of the shortest fifth of the texts, of the next one, and so on.

    Parameters
    ----------
    result : EvaluationResult
    tokens : ndarray of int64, shape [texts]
        Number of tokens that the model reads of each text.

    Returns
    -------
    list of dict
        For each bin ``low`` and ``high`` (tokens, both inclusive), ``texts`` and ``accuracy``. Texts of one length are
        in one bin, so that there may be fewer than five.
    """
    right = result.right
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, LENGTH_BINS + 1), method="lower"))
    edges[-1] += 1
    if len(edges) == 1:
        edges = np.array([edges[0] - 1, edges[0]])
    rows = []
    for low, high in pairwise(edges):
        in_bin = (tokens >= low) & (tokens < high)
        if in_bin.any():
            accuracy = float(right[in_bin].mean())
            rows.append({"low": int(low), "high": int(high) - 1, "texts": int(in_bin.sum()), "accuracy": accuracy})
    return rows


def confident_errors(result: EvaluationResult, data: TextData) -> list[dict[str, Any]]:
    """The wrong predictions with the highest probabilities, highest first.

    Returns
    -------
    list of dict
        At most 20, each with ``where`` (row or line in the data), ``text``, ``label``, ``prediction`` and
        ``probability``.
    """
    wrong = np.flatnonzero(~result.right)
    confidence = result.probabilities.max(axis=1)
    highest = wrong[np.argsort(-confidence[wrong], kind="stable")][:ERRORS]
    return [
        {
            "where": data.where(int(i)).removeprefix(f"{data.origin}, "),
            "text": _truncate(BETWEEN_TEXTS.join(parts_of(data.texts[i]))),
            "label": str(result.classes[result.labels[i]]),
            "prediction": str(result.classes[result.predictions[i]]),
            "probability": float(confidence[i]),
        }
        for i in highest
    ]


def _shown(value: Any) -> Any:
    """A value in the page: control characters of names and texts as visible escapes, but for line ends and tabs."""
    return printable(value, keep="\n\r\t") if type(value) is str else value


def _shown_texts(row: Mapping[str, Any]) -> str:
    """The text of a row, or both texts of a pair."""
    return BETWEEN_TEXTS.join(str(row[name]) for name in ("text", "text_pair") if name in row)


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " …"


def write_report(
    path: Path,
    result: EvaluationResult,
    data: TextData,
    tokens: np.ndarray,
    about: dict[str, str],
    history: list[dict[str, Any]],
    *,
    leaderboard: Table | None = None,
    issues: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes the report of an evaluation.

    Parameters
    ----------
    path : Path
    result : EvaluationResult
    data : TextData
        The evaluated texts.
    tokens : ndarray of int64, shape [texts]
        Number of tokens that the model reads of each text.
    about : dict
        As :func:`provenance` returns it.
    history : list of dict
        The record of each epoch of the training, which may be empty.
    leaderboard : Table, optional
        Candidates of a search, with their names in the second column.
    issues : sequence of mapping
        Labels that are probably wrong: ``where``, ``text``, ``label``, ``suggested`` and ``score``.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # All values are escaped but the plots, in which matplotlib escapes the names of classes.
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    calibrated = calibration(result)
    page = environment.get_template("report.html").render(
        result=result,
        intervals=intervals(result),
        calibration=calibrated,
        thresholds=thresholds(result) if len(result.classes) == 2 else [],
        by_length=accuracy_by_length(result, tokens),
        errors=confident_errors(result, data),
        wrong=int((~result.right).sum()),
        lengths=result.lengths,
        rate=int(tokens.sum()) / result.seconds if result.seconds else None,
        about=about,
        leaderboard=leaderboard,
        issues=[dict(each) | {"text": _truncate(_shown_texts(each))} for each in issues[:ERRORS]],
        plots={
            "confusion": plots.confusion(result),
            "roc": plots.roc(result),
            "precision_recall": plots.precision_recall(result),
            "reliability": plots.reliability(calibrated),
            "lengths": plots.lengths(tokens),
            "training": plots.training(history) if history else "",
        },
    )
    write_text(path, page)
