"""Integrated gradients of MiniLM on reviews: pyllmclf beside captum's LayerIntegratedGradients, the sides in turns.

Usage: ``python bench/explain.py [--texts 16] [--max-length 256] [--steps 32] [--rounds 3] [--threads 2]``;
PYLLMCLF_DATA_DIR has ``imdb/``. captum computes on transformers' model with frozen weights, of texts sorted by length:
in padded batches, and one text at a time, each with the best of several internal batch sizes, which fewer steps choose.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from transformers import AutoModelForSequenceClassification

import pyllmclf
from pyllmclf.data.sources import load_dataset

INTERNAL_BATCH_SIZES = (4, 8, 16)
TARGET = 1


class Captum:
    """captum on transformers' model of an exported classifier.

    Parameters
    ----------
    folder : Path
    token_ids : list of tensors
        Of each text, special tokens included.
    pad : int
    """

    def __init__(self, folder: Path, token_ids: list[torch.Tensor], pad: int) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval().requires_grad_(False)
        self._method = LayerIntegratedGradients(
            lambda ids, mask: model(ids, attention_mask=mask).logits, model.get_input_embeddings()
        )
        self._ids, self._pad = token_ids, pad

    def weights(self, texts: int, steps: int, internal_batch_size: int) -> list[np.ndarray]:
        """Weight of each token, of ``texts`` texts of similar length at a time."""
        order = sorted(range(len(self._ids)), key=lambda text: len(self._ids[text]))
        found: list[Any] = [None] * len(order)
        for start in range(0, len(order), texts):
            some = order[start : start + texts]
            ids = torch.nn.utils.rnn.pad_sequence(
                [self._ids[text] for text in some], batch_first=True, padding_value=self._pad
            )
            lengths = torch.tensor([len(self._ids[text]) for text in some])
            places = torch.arange(ids.shape[1])
            mask = (places[None] < lengths[:, None]).long()
            special = (places[None] == 0) | (places[None] == lengths[:, None] - 1)
            baselines = torch.where(special, ids, self._pad)
            attributions = self._method.attribute(
                ids,
                baselines,
                target=TARGET,
                additional_forward_args=(mask,),
                n_steps=steps,
                internal_batch_size=max(internal_batch_size, texts),
            )
            for text, values, length in zip(some, attributions.sum(-1), lengths, strict=True):
                found[text] = values[:length].numpy()
        return found


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def prepared(folder: Path, max_length: int) -> tuple[Any, Path]:
    """A classifier that transformers can read, and its export."""
    classifier = pyllmclf.finetune(
        "minilm", "sms_spam", trainable="last_block", epochs=1, pooling="first", max_length=max_length, progress=False
    ).classifier
    classifier = type(classifier)(classifier.state, dtype="float32")
    classifier.export(folder / "exported")
    return classifier, folder / "exported"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("texts", 16), ("max-length", 256), ("steps", 32), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    reviews = load_dataset("imdb")["test"].texts
    texts = reviews[:: len(reviews) // options.texts][: options.texts]
    with tempfile.TemporaryDirectory() as folder:
        classifier, exported = prepared(Path(folder), options.max_length)
        packer = classifier.packer(texts)
        ids = [packer.batch([text]).input_ids.long() for text in range(len(texts))]
        captum = Captum(exported, ids, classifier.state.tokenizer.pad_token_id)
        label, few = classifier.classes_[TARGET], 2

        def best(texts_at_a_time: int) -> int:
            return min(
                INTERNAL_BATCH_SIZES,
                key=lambda size: seconds_of(lambda: captum.weights(texts_at_a_time, few, size)),
            )

        classifier.explain(texts[:2], label, steps=2)
        sizes = {4: best(4), 1: best(1)}
        sides: dict[str, Callable[[], Any]] = {
            "pyllmclf": lambda: classifier.explain(texts, label, steps=options.steps),
            f"captum, 4 texts, internal batch {sizes[4]}": lambda: captum.weights(4, options.steps, sizes[4]),
            f"captum, 1 text, internal batch {sizes[1]}": lambda: captum.weights(1, options.steps, sizes[1]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        results: dict[str, Any] = {}
        for _ in range(options.rounds):
            for name, call in sides.items():
                started = time.perf_counter()
                results[name] = call()
                seconds[name].append(time.perf_counter() - started)
    ours = [
        np.array([token.weight for token in each.tokens if token.weight is not None]) for each in results["pyllmclf"]
    ]
    for name in list(sides)[1:]:
        theirs = [values[1:-1] for values in results[name]]
        differences = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]
        print(json.dumps({"side": name, "largest_relative_difference": float(max(differences))}))
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, values in seconds.items():
        ratio = float(np.median(np.array(values) / np.array(seconds["pyllmclf"])))
        print(json.dumps({"side": name, "median_s": medians[name], "seconds": values, "ratio": ratio}))
    errors = results["pyllmclf"].completeness_errors
    print(
        json.dumps(
            {"tokens": sum(map(len, ids)), "completeness_error": [float(np.median(errors)), float(errors.max())]}
        )
    )


if __name__ == "__main__":
    main()
