"""AutoIntent's preset classic-light: 20 trials of k nearest neighbours and logistic regression on embeddings."""

from __future__ import annotations

import sys
from typing import Any

import runner
from autointent import Dataset, Pipeline
from autointent.configs import SentenceTransformerEmbeddingConfig


def train(task: runner.Task) -> runner.Predict:
    classes = sorted(set(task.labels))
    rows = [{"utterance": t, "label": classes.index(label)} for t, label in zip(task.texts, task.labels, strict=True)]
    pipeline = Pipeline.from_preset("classic-light")
    pipeline.set_config(SentenceTransformerEmbeddingConfig(model_name=task.model, **task.options))
    pipeline.fit(Dataset.from_dict({"train": rows}))

    def predict(texts: list[str]) -> list[Any]:
        """Classes; ``None`` for a text that the pipeline takes to be of no class."""
        return [None if each is None else classes[each] for each in pipeline.predict(texts)]

    return predict


if __name__ == "__main__":
    sys.exit(runner.main(train, ["autointent", "sentence-transformers", "transformers", "torch", "scikit-learn"]))
