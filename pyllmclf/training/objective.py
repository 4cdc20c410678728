"""Training objectives: cross-entropy and binary cross-entropy, with class weights and label smoothing."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..errors import UsageError


@dataclass(frozen=True)
class Objective:
    """Cross-entropy of texts with one label each: sum of weight[label] * loss over the sum of weight[label].

    The same as ``torch.nn.CrossEntropyLoss(weight, label_smoothing=...)``.

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

    def loss_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sums the loss over the texts; :meth:`total` is the divisor of the mean.

        Parameters
        ----------
        logits : tensor, shape [texts, classes]
        labels : int64 tensor, shape [texts]

        Returns
        -------
        fp32 tensor, shape []
        """
        if self.label_smoothing == 0.0:
            return ops.cross_entropy(logits, labels, self.class_weight)
        return F.cross_entropy(
            logits.float(), labels, self.class_weight, reduction="sum", label_smoothing=self.label_smoothing
        )

    def total(self, labels: Tensor) -> Tensor | int:
        """Sums the texts' weights, on their device."""
        return len(labels) if self.class_weight is None else self.class_weight[labels].sum()

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the texts that are classified correctly, on their device."""
        return (logits.argmax(dim=1) == labels).sum()


@dataclass(frozen=True)
class MultiLabelObjective:
    """Binary cross-entropy of texts with several labels, the mean over texts and classes.

    The same as ``torch.nn.BCEWithLogitsLoss(pos_weight=...)``.

    Attributes
    ----------
    positive_weight : fp32 tensor, shape [classes], or None
        Weight of the loss of texts that have a class.
    label_smoothing : float
        Share of a label that moves to 0.5, halfway between having a class and not.
    class_weight : None
        Every text has the weight 1.
    """

    positive_weight: Tensor | None = None
    label_smoothing: float = 0.0
    class_weight: None = None

    def to(self, device: torch.device) -> MultiLabelObjective:
        """Copies the objective to a device."""
        weight = None if self.positive_weight is None else self.positive_weight.to(device)
        return MultiLabelObjective(weight, self.label_smoothing)

    def loss_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sums, over the texts, the mean loss over the classes.

        Parameters
        ----------
        logits : tensor, shape [texts, classes]
        labels : fp32 tensor of 0 and 1, shape [texts, classes]

        Returns
        -------
        fp32 tensor, shape []
        """
        smooth = labels * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        each = F.binary_cross_entropy_with_logits(
            logits.float(), smooth, pos_weight=self.positive_weight, reduction="none"
        )
        return each.mean(dim=1).sum()

    def total(self, labels: Tensor) -> int:
        """Counts the texts."""
        return len(labels)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the texts with every class correct, on their device."""
        return ((logits > 0) == (labels > 0.5)).all(dim=1).sum()


def resolve_class_weights(
    class_weights: Any, encoder: LabelEncoder | MultiLabelEncoder, labels: np.ndarray
) -> Tensor | None:
    """Resolves the argument ``class_weights`` to weights in the order of the classes.

    Parameters
    ----------
    class_weights : None, "balanced", mapping of label to weight, or sequence of weights
        ``"balanced"``: texts / (classes * texts of the class), as scikit-learn's; where texts have several labels,
        texts without the class / texts with it.
    encoder : LabelEncoder or MultiLabelEncoder
    labels : ndarray of int64, shape [texts], or of float32, shape [texts, classes]
        Labels of the training texts.

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
        if labels.ndim == 2:
            positives = labels.sum(axis=0)
            balanced = np.maximum(len(labels) - positives, 1.0) / np.maximum(positives, 1.0)
            return torch.from_numpy(balanced.astype(np.float32))
        counts = np.bincount(labels, minlength=len(names))
        return torch.from_numpy((len(labels) / (len(names) * counts)).astype(np.float32))
    if isinstance(class_weights, Mapping):
        by_name = {_class_name(label, names): weight for label, weight in class_weights.items()}
        if set(by_name) != set(names):
            raise UsageError(f"class_weights names {', '.join(sorted(by_name))}; the classes are {', '.join(names)}.")
        weights = [by_name[name] for name in names]
    elif isinstance(class_weights, (Sequence, np.ndarray, Tensor)):
        weights = list(class_weights)
    else:
        raise UsageError("class_weights must be 'balanced', a mapping or a sequence.")
    weights = [weight.item() if isinstance(weight, (Tensor, np.generic)) else weight for weight in weights]
    numbers_only = all(isinstance(w, numbers.Real) and not isinstance(w, bool) for w in weights)
    resolved = torch.tensor(weights if numbers_only else [], dtype=torch.float64).float()
    if len(resolved) != len(names) or not (resolved > 0.0).all() or not resolved.isfinite().all():
        raise UsageError(f"class_weights must be a positive number for each of the {len(names)} classes.")
    return resolved


def _class_name(label: Any, names: Sequence[str]) -> str:
    """Name of the class of a label; labels of an integer column may have been read as floats."""
    if str(label) not in names and isinstance(label, numbers.Real) and float(label).is_integer():
        return str(int(float(label)))
    return str(label)
