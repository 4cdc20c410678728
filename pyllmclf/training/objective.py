"""What training minimises: cross-entropy, with weights for classes and smoothed labels where these are asked for."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..data.labels import LabelEncoder
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


def resolve_class_weights(given: Any, encoder: LabelEncoder, labels: np.ndarray) -> Tensor | None:
    """Weights in the order of the classes, from what a user gives.

    Parameters
    ----------
    given : None, "balanced", mapping of label to weight, or sequence of weights
        ``"balanced"``: texts / (classes * texts of the class), as scikit-learn's.
    encoder : LabelEncoder
    labels : ndarray of int64, shape [texts]
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
        counts = np.bincount(labels, minlength=len(names))
        return torch.from_numpy((len(labels) / (len(names) * counts)).astype(np.float32))
    if isinstance(given, Mapping):
        by_name = {str(label): weight for label, weight in given.items()}
        if set(by_name) != set(names):
            raise UsageError(f"class_weights names {', '.join(sorted(by_name))}; the classes are {', '.join(names)}.")
        weights = [by_name[name] for name in names]
    elif isinstance(given, (Sequence, np.ndarray, Tensor)):
        weights = list(given)
    else:
        raise UsageError("class_weights must be 'balanced', a mapping or a sequence.")
    weights = [weight.item() if isinstance(weight, (Tensor, np.generic)) else weight for weight in weights]
    numbers_only = all(isinstance(w, numbers.Real) and not isinstance(w, bool) for w in weights)
    if len(weights) != len(names) or not numbers_only or not all(0.0 < w < math.inf for w in weights):
        raise UsageError(f"class_weights must be a positive number for each of the {len(names)} classes.")
    return torch.tensor(weights, dtype=torch.float32)
