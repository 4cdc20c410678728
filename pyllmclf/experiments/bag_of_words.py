"""Baseline without a language model: scikit-learn's word counts and logistic regression."""

from __future__ import annotations

import time
from typing import Any

from ..data.readers import TextData
from ..errors import DataError
from ..training.baselines import bag_of_words


def run_bag_of_words(splits: dict[str, TextData], seed: int) -> dict[str, Any]:
    """Fits the baseline on the training texts, and measures it on all splits.

    Parameters
    ----------
    splits : dict of str to TextData
        With ``"train"``; all with labels.
    seed : int

    Returns
    -------
    dict
        ``"accuracy"`` by split, ``"train_seconds"``, ``"total_seconds"``, and ``None`` as ``"tokens_per_second"``.

    Raises
    ------
    DataError
        If the training texts have no words.
    """

    def labels(data: TextData) -> list[str]:
        assert data.labels is not None
        return [str(label) for label in data.labels]

    model = bag_of_words(seed)
    started = time.perf_counter()
    try:
        model.fit(list(map(str, splits["train"].texts)), labels(splits["train"]))
    except ValueError as error:
        raise DataError(f"{splits['train'].origin}: no bag of words can be fitted ({error}).") from error
    seconds = time.perf_counter() - started
    accuracy = {split: float(model.score(list(map(str, data.texts)), labels(data))) for split, data in splits.items()}
    return {
        "accuracy": accuracy,
        "train_seconds": seconds,
        "total_seconds": time.perf_counter() - started,
        "tokens_per_second": None,
    }
