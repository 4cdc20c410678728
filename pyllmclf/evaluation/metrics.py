"""Metrics of a classifier on labelled texts, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tables import Part, Shown
from .tables import MATRIX_CLASSES, evaluation_parts, frequent_confusions, per_class_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class.

    Attributes
    ----------
    precision, recall, f1 : float
        0 where undefined.
    support : int
        Number of texts that have the class.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, repr=False)
class EvaluationResult(Shown):
    """Metrics of a classifier on labelled texts with one label each.

    Attributes
    ----------
    accuracy : float
        Fraction of the texts whose predicted class is right.
    macro_f1 : float
        Mean F1 over the classes that occur among labels or predictions.
    log_loss : float
        Mean negative log-probability of the true class, in nats.
    per_class : dict of str to ClassMetrics
    confusion_matrix : ndarray of int64, shape [classes, classes]
        Number of texts by true class (row) and predicted class (column).
    classes : list of str
        Names in the order of the class indices.
    probabilities : ndarray of float64, shape [texts, classes]
    labels, predictions : ndarray of int64, shape [texts]
        Class indices.
    seconds : float
        Time for tokenizing and computing.
    lengths : dict
        Lengths of the texts in tokens; see :class:`pyllmclf.data.lengths.LengthReport`.
    """

    accuracy: float
    macro_f1: float
    log_loss: float
    per_class: dict[str, ClassMetrics]
    confusion_matrix: np.ndarray
    classes: list[str]
    probabilities: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    predictions: np.ndarray = field(repr=False)
    seconds: float = 0.0
    lengths: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON can hold them, without those of single texts."""
        return {
            "texts": len(self.labels),
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "per_class": {name: vars(m) for name, m in self.per_class.items()},
            "classes": self.classes,
            "confusion_matrix": self.confusion_matrix.tolist(),
            "seconds": self.seconds,
            "lengths": self.lengths,
        }

    @property
    def right(self) -> np.ndarray:
        """Whether the predicted class of each text is right, bool, shape [texts]."""
        return self.predictions == self.labels

    def to_frame(self) -> pd.DataFrame:
        """Precision, recall, F1 and support by class, as a DataFrame of pandas."""
        return per_class_frame(self.per_class)

    def parts(self) -> list[Part]:
        """Headline metrics, metrics per class, and the confusion matrix: of many classes, its largest numbers."""
        figures = self.headline() | {"classes": self.classes, "seconds": self.seconds}
        figures["per_class"] = {name: vars(m) for name, m in self.per_class.items()}
        # The whole matrix of thousands of classes takes gigabytes.
        if len(self.classes) <= MATRIX_CLASSES:
            figures["confusion_matrix"] = self.confusion_matrix.tolist()
        else:
            figures["confusions"] = frequent_confusions(self.labels, self.predictions, self.classes)
        return evaluation_parts(figures)

    def brief(self) -> dict[str, Any]:
        """The main figures, and the numbers of texts and classes."""
        return self.headline() | {"classes": len(self.classes)}

    def headline(self) -> dict[str, Any]:
        """The main figures, and the number of texts."""
        return {
            "texts": len(self.labels),
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits [texts, classes], float64, of the same shape."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the true class, computed in float64 from logits, so that nothing underflows.

    Parameters
    ----------
    logits : ndarray, shape [texts, classes]
    labels : ndarray of int64, shape [texts]
        Class indices.

    Returns
    -------
    float
        In nats.
    """
    logits64 = logits.astype(np.float64)
    peak = logits64.max(axis=1, keepdims=True)
    log_sum = peak[:, 0] + np.log(np.exp(logits64 - peak).sum(axis=1))
    return float((log_sum - logits64[np.arange(len(labels)), labels]).mean())


def evaluate_logits(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    *,
    seconds: float = 0.0,
    lengths: dict[str, Any] | None = None,
) -> EvaluationResult:
    """Metrics of logits.

    Parameters
    ----------
    logits : ndarray of float32, shape [texts, classes]
    labels : ndarray of int64, shape [texts]
        Class indices.
    classes : list of str
        Names in the order of the class indices.
    seconds, lengths
        As in :class:`EvaluationResult`.
    """
    from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

    predictions = logits.argmax(axis=1)
    indices = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predictions, labels=indices, zero_division=0.0
    )
    per_class = {
        name: ClassMetrics(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(classes)
    }
    return EvaluationResult(
        accuracy=float((predictions == labels).mean()),
        macro_f1=float(f1_score(labels, predictions, average="macro", zero_division=0.0)),
        log_loss=cross_entropy(logits, labels),
        per_class=per_class,
        confusion_matrix=confusion_matrix(labels, predictions, labels=indices).astype(np.int64),
        classes=classes,
        probabilities=softmax(logits),
        labels=labels,
        predictions=predictions,
        seconds=seconds,
        lengths=lengths or {},
    )
