"""Trains MiniLM and GPT-2 on pairs of AG News' texts, of the same class or not, and compares scores of other tools.

Usage: ``python bench/pairs.py [--pairs 4000] [--models minilm,gpt2-nano] [--epochs 3]``; PYLLMCLF_DATA_DIR has
``ag_news/test.csv``.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import pyllmclf
from pyllmclf.text_pair import TextPair

SAME, OTHER = "same", "other"


def news(path: Path) -> list[tuple[str, str]]:
    """Class and title of each text of AG News."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1]) for row in csv.reader(file)]


def pairs_of(rows: list[tuple[str, str]], count: int, seed: int) -> tuple[list[TextPair], list[str]]:
    """Pairs of different texts, half of them of the same class; each text meets several partners.

    Parameters
    ----------
    rows : list of (class, text)
    count : int
    seed : int
    """
    random = np.random.default_rng(seed)
    classes = np.array([name for name, _ in rows])
    pairs, labels = [], []
    for number in range(count):
        first = int(random.integers(max(1, min(count // 4, len(rows)))))
        same = number % 2 == 0
        candidates = np.flatnonzero((classes == classes[first]) == same)
        second = int(random.choice(candidates[candidates != first]))
        pairs.append(TextPair(rows[first][1], rows[second][1]))
        labels.append(SAME if same else OTHER)
    return pairs, labels


def scores_of_others(folder: Path, pairs: list[TextPair], classes: list[Any]) -> dict[str, np.ndarray]:
    """Probabilities by transformers' pipeline, and by sentence-transformers' CrossEncoder where it is installed."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    found = classify([{"text": pair.text, "text_pair": pair.pair} for pair in pairs], truncation=True)
    by_name = [{each["label"]: each["score"] for each in scores} for scores in found]
    others = {"pipeline": np.array([[scores[str(name)] for name in classes] for scores in by_name])}
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        return others
    encoder = CrossEncoder(str(folder), device="cpu")
    scores = encoder.predict([tuple(pair) for pair in pairs], apply_softmax=True, show_progress_bar=False)
    return others | {"CrossEncoder": scores}


def train(model: str, count: int, epochs: int, folder: Path) -> None:
    """Trains a model, and prints its accuracy on other texts and how far other tools' scores are."""
    rows = news(Path(os.environ["PYLLMCLF_DATA_DIR"]) / "ag_news" / "test.csv")
    held_out = len(rows) // 5
    pairs, labels = pairs_of(rows[held_out:], count, 0)
    others, expected = pairs_of(rows[:held_out], max(100, count // 8), 1)
    # The first token through BERT's pooler, as transformers' class reads it.
    options: dict[str, Any] = {"trainable": "all", "epochs": epochs, "validation": False, "pooling": None}
    if model == "gpt2-nano":
        options["weights"] = "random"
    classifier = pyllmclf.finetune(model, (pairs, labels), **options).classifier
    result = classifier.evaluate((others, expected))
    print(f"{model}: accuracy {result.accuracy:.2%} on {len(others):,} pairs of other texts")
    classifier.save(folder / model)
    few = others[:64]
    ours = classifier.predict_proba(few)
    for name, theirs in scores_of_others(folder / model, few, classifier.classes_).items():
        print(f"  {name}: largest difference of a probability {np.abs(ours - theirs).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--models", default="minilm,gpt2")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models.split(","):
            train(model, arguments.pairs, arguments.epochs, Path(folder))


if __name__ == "__main__":
    main()
