"""Training objectives: cross-entropy and binary cross-entropy, weights of classes and texts, label smoothing."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..checks import as_float
from ..data.labels import LabelEncoder, MultiLabelEncoder, class_finder
from ..data.readers import Label, shorten
from ..errors import UsageError


@dataclass(frozen=True)
class Objective:
    """Cross-entropy of texts with one label each: the sum of weight * loss over the sum of weight.

    The weight of a text is that of its class times its own. Without weights of texts the same as
    ``torch.nn.CrossEntropyLoss(weight, label_smoothing=...)``.

    Attributes
    ----------
    class_weight : fp32 tensor, shape [classes], or None
    label_smoothing : float
        Share of a label that is spread over all classes (Szegedy et al. 2016).
    """

    class_weight: Tensor | None = None
    label_smoothing: float = 0.0

    def to(self, device: torch.device) -> Objective:
        """Copies the objective to a device."""
        weight = None if self.class_weight is None else self.class_weight.to(device)
        return Objective(weight, self.label_smoothing)

    def loss_sum(self, logits: Tensor, labels: Tensor, text_weight: Tensor | None = None) -> Tensor:
        """Sums the weighted loss over the texts; :meth:`total` is the divisor of the mean.

        Parameters
        ----------
        logits : tensor, shape [texts, classes]
        labels : int64 tensor, shape [texts]
        text_weight : fp32 tensor, shape [texts], optional

        Returns
        -------
        fp32 tensor, shape []
        """
        if self.label_smoothing == 0.0:
            return ops.cross_entropy(logits, labels, self.class_weight, text_weight)
        reduction = "sum" if text_weight is None else "none"
        loss = F.cross_entropy(
            logits.float(), labels, self.class_weight, reduction=reduction, label_smoothing=self.label_smoothing
        )
        return loss if text_weight is None else (loss * text_weight).sum()

    def weights(self, labels: Tensor, text_weight: Tensor | None = None) -> Tensor | None:
        """Weight of each text, fp32, shape [texts], on their device; ``None`` where all are 1."""
        if self.class_weight is None:
            return text_weight
        class_weight = self.class_weight[labels]
        return class_weight if text_weight is None else class_weight * text_weight

    def total(self, labels: Tensor, text_weight: Tensor | None = None) -> Tensor | int:
        """Sums the texts' weights, on their device."""
        weights = self.weights(labels, text_weight)
        return len(labels) if weights is None else weights.sum()

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the texts that are classified correctly, on their device."""
        return (logits.argmax(dim=1) == labels).sum()


@dataclass(frozen=True)
class MultiLabelObjective:
    """Binary cross-entropy of texts with several labels, the weighted mean over texts and the mean over classes.

    Without weights of texts the same as ``torch.nn.BCEWithLogitsLoss(pos_weight=...)``.

    Attributes
    ----------
    positive_weight : fp32 tensor, shape [classes], or None
        Weight of the loss of texts that have a class.
    label_smoothing : float
        Share of a label that moves to 0.5, halfway between having a class and not.
    """

    positive_weight: Tensor | None = None
    label_smoothing: float = 0.0

    @property
    def class_weight(self) -> Tensor | None:
        """The same weights, by the name that :class:`Objective` has for them."""
        return self.positive_weight

    def to(self, device: torch.device) -> MultiLabelObjective:
        """Copies the objective to a device."""
        weight = None if self.positive_weight is None else self.positive_weight.to(device)
        return MultiLabelObjective(weight, self.label_smoothing)

    def loss_sum(self, logits: Tensor, labels: Tensor, text_weight: Tensor | None = None) -> Tensor:
        """Sums, over the texts, the weighted mean loss over the classes.

        Parameters
        ----------
        logits : tensor, shape [texts, classes]
        labels : fp32 tensor of 0 and 1, shape [texts, classes]
        text_weight : fp32 tensor, shape [texts], optional

        Returns
        -------
        fp32 tensor, shape []
        """
        smooth = labels * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        each = F.binary_cross_entropy_with_logits(
            logits.float(), smooth, pos_weight=self.positive_weight, reduction="none"
        )
        by_text = each.mean(dim=1)
        return (by_text if text_weight is None else by_text * text_weight).sum()

    def weights(self, labels: Tensor, text_weight: Tensor | None = None) -> Tensor | None:
        """Weight of each text, which is its own; ``None`` where all are 1."""
        return text_weight

    def total(self, labels: Tensor, text_weight: Tensor | None = None) -> Tensor | int:
        """Sums the texts' weights, on their device."""
        return len(labels) if text_weight is None else text_weight.sum()

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the texts with every class correct, on their device."""
        return ((logits > 0) == (labels > 0.5)).all(dim=1).sum()


@dataclass(frozen=True)
class ContrastiveObjective:
    """Squared errors of the cosines of a batch's pairs: 1 of texts of one class, 0 of others.

    The loss of a batch is the mean over its pairs of one class plus the mean over the others; texts' weights multiply
    in a pair. In the place of logits it takes the rows that the head reads. Tunstall et al. 2022 minimise the same
    error on pairs that are drawn one by one, and read each text as often as it is drawn.
    """

    class_weight = None

    def to(self, device: torch.device) -> ContrastiveObjective:
        """Nothing is on a device."""
        return self

    def loss_sum(self, rows: Tensor, labels: Tensor, text_weight: Tensor | None = None) -> Tensor:
        """The batch's loss times :meth:`total`.

        Parameters
        ----------
        rows : tensor, shape [texts, width]
        labels : int64 tensor, shape [texts]
        text_weight : fp32 tensor, shape [texts], optional

        Returns
        -------
        fp32 tensor, shape []
        """
        cosines, same, other = _pairs(rows, labels)
        weights = torch.ones_like(cosines) if text_weight is None else text_weight[:, None] * text_weight[None, :]
        loss = _mean((1.0 - cosines).square(), weights * same) + _mean(cosines.square(), weights * other)
        return loss * self.total(labels, text_weight)

    def weights(self, labels: Tensor, text_weight: Tensor | None = None) -> Tensor | None:
        """Weight of each text, which is its own; ``None`` where all are 1."""
        return text_weight

    def total(self, labels: Tensor, text_weight: Tensor | None = None) -> Tensor | int:
        """Sums the texts' weights, on their device."""
        return len(labels) if text_weight is None else text_weight.sum()

    def correct(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Counts the texts whose most similar other text in the batch has their class, on their device."""
        cosines, same, other = _pairs(rows, labels)
        nearest = cosines.fill_diagonal_(-torch.inf).argmax(dim=1)
        return ((labels[nearest] == labels) & (same | other).any(dim=1)).sum()


AnyObjective = Objective | MultiLabelObjective | ContrastiveObjective


def _pairs(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of all pairs, fp32, and which pairs are of one class and of two, shape [texts, texts].

    A text is no pair with itself.
    """
    units = F.normalize(rows.float(), dim=1)
    same = labels[:, None] == labels[None, :]
    pairs = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return units @ units.t(), same & pairs, ~same


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0 without weights."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def resolve_sample_weights(weights: Sequence[float] | None) -> np.ndarray | None:
    """Scales the texts' weights by a power of two, so that the largest is in [0.5, 1).

    A step's loss depends on their ratios alone, and sums of them in fp32 then neither overflow nor underflow.

    Parameters
    ----------
    weights : sequence of float or None
        Positive and finite.

    Returns
    -------
    ndarray of float32, shape [texts], or None
        ``None`` where all are equal, which is the same as no weights.
    """
    if weights is None or min(weights) == max(weights):
        return None
    values = np.asarray(weights, dtype=np.float64)
    return np.ldexp(values, -np.frexp(values.max())[1]).astype(np.float32)


def resolve_class_weights(
    class_weights: Any,
    encoder: LabelEncoder | MultiLabelEncoder,
    labels: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> Tensor | None:
    """Resolves the argument ``class_weights`` to weights in the order of the classes.

    Parameters
    ----------
    class_weights : None, "balanced", mapping of label to weight, or sequence of weights
        ``"balanced"``: texts / (classes * texts of the class), as scikit-learn's; where texts have several labels,
        texts without the class / texts with it. Where texts have weights, these are counted instead of texts.
    encoder : LabelEncoder or MultiLabelEncoder
    labels : ndarray of int64, shape [texts], or of float32, shape [texts, classes]
        Labels of the training texts.
    sample_weight : ndarray of float32, shape [texts], optional

    Returns
    -------
    fp32 tensor, shape [classes], or None

    Raises
    ------
    UsageError
        If the argument is not one positive number per class.
    """
    if class_weights is None:
        return None
    names = encoder.names
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise UsageError(f"class_weights={class_weights!r} is unknown; it is 'balanced', a mapping or a sequence.")
        return torch.from_numpy(_balanced(labels, len(names), sample_weight).astype(np.float32))
    if isinstance(class_weights, Mapping):
        find = class_finder(names)
        by_class = {_index(label, find): weight for label, weight in class_weights.items()}
        if set(by_class) != set(range(len(names))) or len(by_class) < len(class_weights):
            listed = ", ".join(sorted(one if isinstance(one, str) else shorten(one) for one in class_weights))
            raise UsageError(f"class_weights names {listed}; the classes are {', '.join(names)}.")
        weights = [by_class[i] for i in range(len(names))]
    elif isinstance(class_weights, (Sequence, np.ndarray, Tensor)):
        weights = list(class_weights)
    else:
        raise UsageError("class_weights must be 'balanced', a mapping or a sequence.")
    weights = [weight.item() if isinstance(weight, (Tensor, np.generic)) else weight for weight in weights]
    numbers_only = all(isinstance(w, numbers.Real) and not isinstance(w, bool) for w in weights)
    resolved = torch.tensor([as_float(w) for w in weights] if numbers_only else [], dtype=torch.float64).float()
    if len(resolved) != len(names) or not (resolved > 0.0).all() or not resolved.isfinite().all():
        raise UsageError(f"class_weights must be a positive number for each of the {len(names)} classes.")
    return resolved


def _balanced(labels: np.ndarray, classes: int, sample_weight: np.ndarray | None) -> np.ndarray:
    """Weights of the classes, shape [classes]; that of a class without texts has no effect."""
    shares = None if sample_weight is None else sample_weight / sample_weight.mean(dtype=np.float64)
    if labels.ndim == 2:
        positives = labels.sum(axis=0) if shares is None else shares @ labels
        negatives = len(labels) - positives if shares is None else shares @ (1.0 - labels)
        return np.where(negatives > 0, negatives, 1.0) / np.where(positives > 0, positives, 1.0)
    counts = np.bincount(labels, shares, minlength=classes)
    return len(labels) / (classes * np.where(counts > 0, counts, len(labels) / classes))


def _index(label: Any, find: Callable[[Label], int | None]) -> int | None:
    """Index of the class of a label; labels of an integer column may have been read as floats."""
    try:
        index = find(label)
        whole = index is None and isinstance(label, numbers.Real) and float(label).is_integer()
        return find(int(float(label))) if whole else index
    except (ValueError, OverflowError):  # an integer of very many digits
        return None
