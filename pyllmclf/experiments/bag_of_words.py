"""The baseline without a language model: word counts and logistic regression, by scikit-learn."""

from __future__ import annotations

import time
from typing import Any

from ..data.readers import TextData
from ..errors import DataError


def run_bag_of_words(parts: dict[str, TextData], seed: int) -> dict[str, Any]:
    """Fits on the training texts; accuracies of all parts, and seconds."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def labels(part: TextData) -> list[str]:
        assert part.labels is not None
        return [str(label) for label in part.labels]

    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000, random_state=seed))
    started = time.perf_counter()
    try:
        model.fit(parts["train"].texts, labels(parts["train"]))
    except ValueError as error:
        raise DataError(f"{parts['train'].origin}: no bag of words can be fitted ({error}).") from error
    seconds = time.perf_counter() - started
    accuracy = {name: float(model.score(part.texts, labels(part))) for name, part in parts.items()}
    return {
        "accuracy": accuracy,
        "train_seconds": seconds,
        "total_seconds": time.perf_counter() - started,
        "tokens_per_second": None,
    }
