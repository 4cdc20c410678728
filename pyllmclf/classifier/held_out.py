"""Scores of texts that a classifier was not trained on, and their distances to the training texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..evaluation.metrics import softmax
from ..evaluation.multi_label import sigmoid
from ..evaluation.unlike import RowStatistics
from ..models.adapters import read_tensors

Whose = Literal["this", "before_refit", "out_of_fold", "training"]
THIS: Whose = "this"
BEFORE_REFIT: Whose = "before_refit"
OUT_OF_FOLD: Whose = "out_of_fold"
TRAINING: Whose = "training"
WHOSE = {
    THIS: "this classifier, which was not trained on them",
    BEFORE_REFIT: "the classifier before the training on all texts",
    OUT_OF_FOLD: "classifiers that were trained on the other folds",
    TRAINING: "this classifier, each of the training texts without itself",
}
MOST_TEXTS = 10_000
MOST_BYTES = 64 << 20
"""Texts whose scores are kept, drawn at random; and bytes of the scores, above which they are fp16, then fewer."""
MOST_ROWS, MOST_REFERENCE = 5_000, 2_000
"""Training texts that the statistics of rows are computed from, and texts whose distances are kept."""
LARGEST_FP16 = 65504.0
MOST_STATISTICS = 64 << 20
"""Bytes of the statistics of rows, above which there are none."""


@dataclass(frozen=True)
class HeldOut:
    """Scores of texts that the classifier was not trained on, without the texts.

    Attributes
    ----------
    logits : ndarray of float32, shape [texts, classes]
    labels : ndarray of int64, shape [texts], or of 1 and 0, shape [texts, classes]
    classifier : {"this", "before_refit", "out_of_fold"}
        Which classifier the logits are of; see :data:`WHOSE`.
    distances : ndarray of float32, or None
        Of some of the texts to its training texts, for the classifier that is trained on all of them.
    """

    logits: np.ndarray
    labels: np.ndarray
    classifier: Whose = THIS
    distances: np.ndarray | None = None

    @classmethod
    def sampled(cls, logits: np.ndarray, labels: np.ndarray, classifier: Whose, seed: int) -> HeldOut:
        """At most :data:`MOST_TEXTS` texts in at most :data:`MOST_BYTES`, drawn with the seed."""
        most = max(1, min(MOST_TEXTS, MOST_BYTES // (2 * logits.shape[1])))
        chosen = sample(len(logits), most, seed)
        return cls(np.ascontiguousarray(logits[chosen]), labels[chosen], classifier)

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities of the classes, float64, shape [texts, classes]."""
        return (sigmoid if self.labels.ndim == 2 else softmax)(self.logits)

    def record(self) -> dict[str, Any]:
        """What ``pyllmclf.json`` says of it."""
        return {"classifier": self.classifier, "texts": len(self.labels)}

    def tensors(self) -> dict[str, Tensor]:
        """Content of its file; thousands of classes take fp16."""
        logits = torch.from_numpy(np.ascontiguousarray(self.logits, dtype=np.float32))
        kind = np.uint8 if self.labels.ndim == 2 else np.int32
        labels = torch.from_numpy(np.ascontiguousarray(self.labels, dtype=kind))
        if logits.nbytes > MOST_BYTES:
            logits = logits.clamp(-LARGEST_FP16, LARGEST_FP16).half()
        tensors = {"logits": logits, "labels": labels}
        if self.distances is not None:
            tensors["distances"] = torch.from_numpy(np.ascontiguousarray(self.distances, dtype=np.float32))
        return tensors

    @classmethod
    def read(cls, path: Path, record: Mapping[str, Any], classes: int, *, several: bool) -> HeldOut:
        """Reads and checks the file of a checkpoint.

        Raises
        ------
        ModelError
            If the file is damaged, or doesn't fit the classes.
        """
        tensors = read_tensors(path)
        try:
            logits, labels = tensors["logits"].float().numpy(), tensors["labels"].numpy()
        except KeyError as error:
            raise ModelError(f"{path}: lacks {error}.") from error
        shape = (record["texts"], classes)
        fits = logits.shape == shape and labels.shape == (shape if several else shape[:1])
        if not fits or not np.isfinite(logits).all() or labels.min(initial=0) < 0:
            raise ModelError(f"{path}: holds no scores and labels of {shape[0]:,} texts and {classes:,} classes.")
        if labels.max(initial=0) >= (2 if several else classes):
            raise ModelError(f"{path}: a label is none of the classes.")
        distances = tensors["distances"].float().numpy() if "distances" in tensors else None
        if distances is not None and (distances.ndim != 1 or not np.isfinite(distances).all()):
            raise ModelError(f"{path}: its distances are no finite numbers.")
        return cls(logits, labels.astype(np.float32 if several else np.int64), record["classifier"], distances)


@dataclass(frozen=True)
class TrainingRows:
    """Statistics of what the head reads of the training texts, and distances of texts to compare with.

    Attributes
    ----------
    statistics : RowStatistics
    reference : ndarray of float32, shape [texts]
        Distances of held-out texts, by their own classifier and its statistics.
    classifier : {"this", "before_refit", "training"}
        Which classifier the reference is of.
    """

    statistics: RowStatistics
    reference: np.ndarray
    classifier: Whose

    def record(self) -> dict[str, Any]:
        """What ``pyllmclf.json`` says of it."""
        return {"classifier": self.classifier, "texts": len(self.reference)}

    def tensors(self) -> dict[str, Tensor]:
        """Content of its file."""
        arrays = self.statistics.tensors() | {"reference": self.reference.astype(np.float32)}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @classmethod
    def read(cls, path: Path, record: Mapping[str, Any], width: int) -> TrainingRows:
        """Reads and checks the file of a checkpoint.

        Raises
        ------
        ModelError
            If the file is damaged, or doesn't fit the model.
        """
        found = {name: tensor.float().numpy() for name, tensor in read_tensors(path).items()}
        shapes = {"factor": (width, width), "reference": (record["texts"],)}
        means = found.get("class_means", np.zeros(0))
        fits = means.ndim == 2 and len(means) > 0 and means.shape[1] == width
        fits = fits and all(name in found and found[name].shape == shape for name, shape in shapes.items())
        if not fits or not all(np.isfinite(array).all() for array in found.values()):
            raise ModelError(f"{path}: holds no statistics of rows of width {width:,}.")
        return cls(RowStatistics(means, found["factor"]), found["reference"], record["classifier"])


def sample(count: int, most: int, seed: int) -> np.ndarray:
    """Numbers of at most ``most`` of ``count`` texts, drawn at random, increasing."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
