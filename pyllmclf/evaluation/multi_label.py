"""Metrics of a classifier on texts that may have several labels, or none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tables import Part, Shown
from .metrics import ClassMetrics
from .tables import evaluation_parts, per_class_frame

if TYPE_CHECKING:
    import pandas as pd

# A class is predicted from this probability on.
THRESHOLD = 0.5


@dataclass(frozen=True, repr=False)
class MultiLabelResult(Shown):
    """Metrics of a classifier on texts that may have several labels, or none.

    A decision is whether one text has one class.

    Attributes
    ----------
    accuracy : float
        Fraction of the texts whose decisions are all right.
    micro_f1 : float
        F1 over all decisions.
    macro_f1 : float
        Mean F1 over the classes.
    hamming_loss : float
        Fraction of the decisions that are wrong.
    log_loss : float
        Mean binary cross-entropy of a decision, in nats.
    per_class : dict of label to ClassMetrics
    classes : list of str, int or bool
        Labels in the order of the columns.
    probabilities : ndarray of float64, shape [texts, classes]
    labels, predictions : ndarray of bool, shape [texts, classes]
        Whether a text has a class, and whether its probability is at least 0.5, or the class's threshold.
    seconds : float
        Time for tokenizing and computing.
    lengths : dict
        Lengths of the texts in tokens; see :class:`pyllmclf.data.lengths.LengthReport`.
    decisions : dict or None
        Figures of the classifier's rules, where it has any: ``"abstain"``, ``"conformal"``, ``"costs"`` and
        ``"thresholds"``.
    """

    accuracy: float
    micro_f1: float
    macro_f1: float
    hamming_loss: float
    log_loss: float
    per_class: dict[Any, ClassMetrics]
    classes: list[Any]
    probabilities: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    predictions: np.ndarray = field(repr=False)
    seconds: float = 0.0
    lengths: dict[str, Any] = field(default_factory=dict, repr=False)
    decisions: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def right(self) -> np.ndarray:
        """Whether all decisions on each text are right, bool, shape [texts]."""
        return (self.predictions == self.labels).all(axis=1)

    def headline(self) -> dict[str, Any]:
        """The main figures, and the number of texts."""
        return {
            "texts": len(self.labels),
            "accuracy": self.accuracy,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "hamming_loss": self.hamming_loss,
            "log_loss": self.log_loss,
        }

    def to_frame(self) -> pd.DataFrame:
        """Precision, recall, F1 and support by class, as a DataFrame of pandas."""
        return per_class_frame(self.per_class)

    def parts(self) -> list[Part]:
        """Headline metrics, and metrics per class."""
        return evaluation_parts(self.to_dict())

    def brief(self) -> dict[str, Any]:
        """The main figures, and the numbers of texts and classes."""
        return self.headline() | {"classes": len(self.classes)}

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON can hold them, without those of single texts."""
        figures = self.headline() | {
            "per_class": {str(label): vars(m) for label, m in self.per_class.items()},
            "classes": list(map(str, self.classes)),
            "seconds": self.seconds,
            "lengths": self.lengths,
        }
        return figures | ({} if self.decisions is None else {"decisions": self.decisions})


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits [texts, classes], float64, of the same shape."""
    from scipy.special import expit

    return expit(logits.astype(np.float64))


def binary_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross-entropy, computed in float64 from logits, so that nothing underflows.

    Parameters
    ----------
    logits : ndarray, shape [texts, classes]
    labels : ndarray, shape [texts, classes]
        1 where a text has a class, else 0.

    Returns
    -------
    float
        Mean over texts and classes, in nats.
    """
    logits64 = logits.astype(np.float64)
    return float((np.logaddexp(0.0, logits64) - logits64 * labels).mean())


def evaluate_multi_label(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: list[Any],
    *,
    seconds: float = 0.0,
    lengths: dict[str, Any] | None = None,
    predictions: np.ndarray | None = None,
    decisions: dict[str, Any] | None = None,
) -> MultiLabelResult:
    """Metrics of logits.

    Parameters
    ----------
    logits : ndarray of float32, shape [texts, classes]
    labels : ndarray of float32, shape [texts, classes]
        1 where a text has a class, else 0.
    classes : list of str, int or bool
        Labels in the order of the columns.
    seconds, lengths, decisions
        As in :class:`MultiLabelResult`.
    predictions : ndarray of bool, shape [texts, classes], optional
        By default classes with a probability of at least 0.5.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    probabilities = sigmoid(logits)
    true = labels > 0.5
    predictions = probabilities >= THRESHOLD if predictions is None else predictions
    precision, recall, f1, support = precision_recall_fscore_support(true, predictions, zero_division=0.0)
    per_class = {
        label: ClassMetrics(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, label in enumerate(classes)
    }
    return MultiLabelResult(
        accuracy=float((predictions == true).all(axis=1).mean()),
        micro_f1=float(f1_score(true, predictions, average="micro", zero_division=0.0)),
        macro_f1=float(f1.mean()),
        hamming_loss=float((predictions != true).mean()),
        log_loss=binary_cross_entropy(logits, true),
        per_class=per_class,
        classes=classes,
        probabilities=probabilities,
        labels=true,
        predictions=predictions,
        seconds=seconds,
        lengths=lengths or {},
        decisions=decisions,
    )
