"""Labels that are probably wrong, found in the probabilities of a classifier that has not seen the text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..evaluation.label_quality import suspicious_labels
from ..paths import user_path
from ..training.result import FinetuneResult
from .out_of_fold import PROBABILITY, read_out_of_fold

if TYPE_CHECKING:
    import pandas as pd


def label_issues(result: FinetuneResult | str | os.PathLike[str]) -> pd.DataFrame:
    """Lists texts whose label is probably wrong, by confident learning (Northcutt et al. 2021) with cleanlab.

    Parameters
    ----------
    result : FinetuneResult or path
        Of :func:`pyllmclf.tune` with cross-validation, whose ``out_of_fold`` has the probabilities; or the folder that
        it was saved to.

    Returns
    -------
    DataFrame
        From the most to the least suspicious, indexed by the number of the training text: ``where`` (its line or row
        in the data), ``text`` (of pairs ``text_pair`` too), ``label``, ``suggested``, and ``score``, the quality of
        the label from 0 to 1: low where the label is improbable, lower still where the probabilities are unsure
        (confidence-weighted entropy, Kuan and Mueller 2022).

    Raises
    ------
    UsageError
        If there are no out-of-fold probabilities, texts have several labels, or cleanlab is not installed.
    ModelError
        If the folder's file of out-of-fold probabilities is damaged.
    """
    if isinstance(result, (str, os.PathLike)):
        frame = read_out_of_fold(user_path(result))
    else:
        frame = getattr(result, "out_of_fold", None)
    if frame is None:
        raise UsageError(
            "label_issues needs out-of-fold probabilities: those of tune without validation texts, as "
            "label_issues(tune(model, data, validation=False)), or the folder of such a search."
        )
    if frame["label"].map(lambda label: isinstance(label, tuple)).any():
        raise UsageError("label_issues is only for texts with one label each.")
    classes = [name for name in frame.columns if str(name).startswith(PROBABILITY)]
    names = np.array([str(name).removeprefix(PROBABILITY) for name in classes])
    index = {name: number for number, name in enumerate(names)}
    labels = np.array([index[str(label)] for label in frame["label"]])
    found = suspicious_labels(labels, frame[classes].to_numpy())
    named = [name for name in ("where", "text", "text_pair", "label") if name in frame]
    issues = frame.iloc[found.rows][named].copy()
    by_name: dict[str, Any] = {str(label): label for label in frame["label"]}
    issues["suggested"] = [by_name.get(name, name) for name in names[found.suggested]]
    issues["score"] = found.scores
    return issues
