"""The report of a training: of its test texts, its validation texts, or those that the classifier has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.lengths import LengthReport
from ..data.packing import Packer
from ..data.readers import TextData
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..evaluation.report import Baselines, Search, find_near_duplicates, provenance, write_report

NAME = "report.html"
OF_BASELINES = "the validation texts of the training"
OF_FOLDS = "Each text is classified by a classifier with the same settings that was trained without it."


@dataclass(frozen=True)
class OutOfFold:
    """Figures of training texts, each by a classifier that was trained without it.

    Attributes
    ----------
    result : EvaluationResult or MultiLabelResult
    rows : ndarray of int64, shape [texts]
        Numbers of the training texts.
    """

    result: EvaluationResult | MultiLabelResult
    rows: np.ndarray


@dataclass(frozen=True)
class Measurements:
    """What a training has measured.

    Attributes
    ----------
    texts : mapping of str to TextData
        By split.
    packers : mapping of str to Packer
        By split.
    results : mapping of str to EvaluationResult or MultiLabelResult
        By split that was evaluated.
    history : sequence of dict
        The record of each epoch.
    lengths : LengthReport
        Of the training texts.
    accuracy : float or None
        On the validation texts.
    baselines : mapping
        As :attr:`FinetuneResult.baselines`.
    """

    texts: Mapping[str, TextData]
    packers: Mapping[str, Packer]
    results: Mapping[str, EvaluationResult | MultiLabelResult]
    history: Sequence[dict[str, Any]]
    lengths: LengthReport
    accuracy: float | None
    baselines: Mapping[str, Mapping[str, Any]]


def write_run_report(
    folder: Path,
    link: str,
    device: str,
    measured: Measurements,
    *,
    search: Search | None = None,
    issues: Sequence[Mapping[str, Any]] = (),
    out_of_fold: OutOfFold | None = None,
) -> None:
    """Writes ``report.html`` into the folder of a run.

    Parameters
    ----------
    folder : Path
    link : str
        Name of the link to the checkpoint in it.
    device : str
    measured : Measurements
    search, issues
        As for :func:`pyllmclf.evaluation.report.write_report`.
    out_of_fold : OutOfFold, optional
        What is reported where there is neither a test nor a validation split.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    split = next((name for name in ("test", "validation") if name in measured.packers), "train")
    data, tokens = measured.texts[split], measured.packers[split].tokens_by_text
    if split == "train":
        assert out_of_fold is not None
        # The figures of a fold have no lengths: they are those of the training texts.
        result, note = replace(out_of_fold.result, lengths=measured.lengths.to_dict()), OF_FOLDS
        data, tokens = data.select(out_of_fold.rows.tolist()), tokens[out_of_fold.rows]
    else:
        result, note = measured.results[split], ""
    figures = {name: float(each["accuracy"]) for name, each in measured.baselines.items()}
    write_report(
        folder / NAME,
        result,
        data,
        tokens,
        provenance((folder / link).resolve(), data, device),
        measured.history,
        baselines=Baselines(OF_BASELINES, measured.accuracy, figures) if figures else None,
        search=search,
        issues=issues,
        near=None if split == "train" else find_near_duplicates(measured.texts["train"], data),
        measured=note,
    )
