"""Labels that are probably wrong, found in the probabilities of a classifier that has not seen the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..random_state import keeps_random_state
from ..training.result import FinetuneResult

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY = "probability_"
"""Beginning of the columns of an out-of-fold frame that have a class's probability."""
RANKED_BY = "confidence_weighted_entropy"
"""Of cleanlab's scores the one that finds most flipped labels first (docs/tuning.md)."""


def label_issues(result: FinetuneResult) -> pd.DataFrame:
    """Lists texts whose label is probably wrong, by confident learning (Northcutt et al. 2021) with cleanlab.

    Parameters
    ----------
    result : FinetuneResult
        Of :func:`pyllmclf.tune` with cross-validation, whose ``out_of_fold`` has the probabilities.

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
    """
    frame = getattr(result, "out_of_fold", None)
    if frame is None:
        raise UsageError(
            "label_issues needs out-of-fold probabilities: those of tune without validation texts, as "
            "label_issues(tune(model, data, validation=False))."
        )
    if frame["label"].map(lambda label: isinstance(label, tuple)).any():
        raise UsageError("label_issues is only for texts with one label each.")
    try:
        with keeps_random_state():
            from cleanlab.filter import find_label_issues
            from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise UsageError("label_issues needs cleanlab: pip install 'pyllmclf[labels]'.") from error
    classes = [name for name in frame.columns if str(name).startswith(PROBABILITY)]
    names = np.array([str(name).removeprefix(PROBABILITY) for name in classes])
    index = {name: number for number, name in enumerate(names)}
    labels = np.array([index[str(label)] for label in frame["label"]])
    probabilities = frame[classes].to_numpy()
    with keeps_random_state():
        found = find_label_issues(labels, probabilities, return_indices_ranked_by=RANKED_BY, n_jobs=1)
        scores = get_label_quality_scores(labels, probabilities, method=RANKED_BY)
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    named = [name for name in ("where", "text", "text_pair", "label") if name in frame]
    issues = frame.iloc[found][named].copy()
    by_name: dict[str, Any] = {str(label): label for label in frame["label"]}
    issues["suggested"] = [by_name.get(name, name) for name in names[others.argmax(axis=1)[found]]]
    issues["score"] = scores[found]
    return issues.sort_values("score", kind="stable")
