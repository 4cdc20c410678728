"""What training minimises: cross-entropy, with weights for classes and smoothed labels where these are asked for."""

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
    """Mean over the texts of weight[label] times the cross-entropy with the smoothed label, over the mean weight.

    As ``torch.nn.CrossEntropyLoss(weight, label_smoothing=...)``.

    Attributes
    ----------
    class_weight : fp32 tensor, shape [classes], or None
    label_smoothing : float
        Share of a label that is spread over all classes (Szegedy et al. 2016).
    """

    class_weight: Tensor | None = None
    label_smoothing: float = 0.0

    def to(self, device: torch.device) -> Objective:
        """The same on a device."""
        weight = None if self.class_weight is None else self.class_weight.to(device)
        return Objective(weight, self.label_smoothing)

    def loss_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over the texts, before division by :meth:`total`."""
        if self.label_smoothing == 0.0:
            return ops.cross_entropy(logits, labels, self.class_weight)
        return F.cross_entropy(
            logits.float(), labels, self.class_weight, reduction="sum", label_smoothing=self.label_smoothing
        )

    def total(self, labels: Tensor) -> Tensor | int:
        """Sum of the texts' weights, on their device."""
        return len(labels) if self.class_weight is None else self.class_weight[labels].sum()

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many texts are classified rightly, on their device."""
        return (logits.argmax(dim=1) == labels).sum()


@dataclass(frozen=True)
class MultiLabelObjective:
    """Mean over texts and classes of the binary cross-entropy, as ``torch.nn.BCEWithLogitsLoss(pos_weight=...)``.

    Attributes
    ----------
    positive_weight : fp32 tensor, shape [classes], or None
        Of the texts that have a class.
    label_smoothing : float
        Share of a label that goes to the middle between having a class and not.
    """

    positive_weight: Tensor | None = None
    label_smoothing: float = 0.0
    class_weight: None = None  # texts weigh the same

    def to(self, device: torch.device) -> MultiLabelObjective:
        """The same on a device."""
        weight = None if self.positive_weight is None else self.positive_weight.to(device)
        return MultiLabelObjective(weight, self.label_smoothing)

    def loss_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over the texts of the mean over the classes."""
        smooth = labels * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        each = F.binary_cross_entropy_with_logits(
            logits.float(), smooth, pos_weight=self.positive_weight, reduction="none"
        )
        return each.mean(dim=1).sum()

    def total(self, labels: Tensor) -> int:
        """The number of texts."""
        return len(labels)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many texts have all classes right, on their device."""
        return ((logits > 0) == (labels > 0.5)).all(dim=1).sum()


def resolve_class_weights(given: Any, encoder: LabelEncoder | MultiLabelEncoder, labels: np.ndarray) -> Tensor | None:
    """Weights in the order of the classes, from what a user gives.

    Parameters
    ----------
    given : None, "balanced", mapping of label to weight, or sequence of weights
        ``"balanced"``: texts / (classes * texts of the class), as scikit-learn's; where texts have several labels,
        texts without the class / texts with it.
    encoder : LabelEncoder or MultiLabelEncoder
    labels : ndarray of int64, shape [texts], or of float32, shape [texts, classes]
        Of the training texts.

    Raises
    ------
    UsageError
        Unless there is one positive number for each class.
    """
    if given is None:
        return None
    names = encoder.names
    if isinstance(given, str):
        if given != "balanced":
            raise UsageError(f"class_weights={given!r} is unknown; it is 'balanced', a mapping or a sequence.")
        if labels.ndim == 2:
            having = labels.sum(axis=0)
            balanced = np.maximum(len(labels) - having, 1.0) / np.maximum(having, 1.0)
            return torch.from_numpy(balanced.astype(np.float32))
        counts = np.bincount(labels, minlength=len(names))
        return torch.from_numpy((len(labels) / (len(names) * counts)).astype(np.float32))
    if isinstance(given, Mapping):
        by_name = {_name(label, names): weight for label, weight in given.items()}
        if set(by_name) != set(names):
            raise UsageError(f"class_weights names {', '.join(sorted(by_name))}; the classes are {', '.join(names)}.")
        weights = [by_name[name] for name in names]
    elif isinstance(given, (Sequence, np.ndarray, Tensor)):
        weights = list(given)
    else:
        raise UsageError("class_weights must be 'balanced', a mapping or a sequence.")
    weights = [weight.item() if isinstance(weight, (Tensor, np.generic)) else weight for weight in weights]
    numbers_only = all(isinstance(w, numbers.Real) and not isinstance(w, bool) for w in weights)
    made = torch.tensor(weights if numbers_only else [], dtype=torch.float64).float()
    if len(made) != len(names) or not (made > 0.0).all() or not made.isfinite().all():
        raise UsageError(f"class_weights must be a positive number for each of the {len(names)} classes.")
    return made


def _name(label: Any, names: Sequence[str]) -> str:
    """The class that a label is of; those of a column of integers may have been read as floats."""
    if str(label) not in names and isinstance(label, numbers.Real) and float(label).is_integer():
        return str(int(float(label)))
    return str(label)
