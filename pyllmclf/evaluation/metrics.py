"""Metrics of a classifier on labelled texts, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tables import Part, Shown
from .tables import SHOWN_MATRIX, evaluation_parts, per_class_frame

if TYPE_CHECKING:
    import pandas as pd

# Most classes of a confusion matrix in JSON: with 4,096 it has 17 million numbers.
MATRIX_CLASSES = 4096
CONFUSIONS = 20  # the most frequent wrong predictions


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
    per_class : dict of label to ClassMetrics
    classes : list of str, int or bool
        Labels in the order of the class indices.
    probabilities : ndarray of float64, shape [texts, classes]
    labels, predictions : ndarray of int64, shape [texts]
        Class indices.
    seconds : float
        Time for tokenizing and computing.
    lengths : dict
        Lengths of the texts in tokens; see :class:`pyllmclf.data.lengths.LengthReport`.
    decisions : dict or None
        Figures of the classifier's rules, where it has any: ``"abstain"``, ``"conformal"``, ``"costs"`` and
        ``"thresholds"``.
    """

    accuracy: float
    macro_f1: float
    log_loss: float
    per_class: dict[Any, ClassMetrics]
    classes: list[Any]
    probabilities: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    predictions: np.ndarray = field(repr=False)
    seconds: float = 0.0
    lengths: dict[str, Any] = field(default_factory=dict, repr=False)
    decisions: dict[str, Any] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON can hold them, without those of single texts.

        Names of classes are strings. The confusion matrix is ``None`` above :data:`MATRIX_CLASSES` classes.
        """
        return {
            "texts": len(self.labels),
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "per_class": {str(label): vars(m) for label, m in self.per_class.items()},
            "classes": list(map(str, self.classes)),
            "confusion_matrix": self.confusion_matrix.tolist() if len(self.classes) <= MATRIX_CLASSES else None,
            "confusions": self._confusion_rows(),
            "seconds": self.seconds,
            "lengths": self.lengths,
        } | ({} if self.decisions is None else {"decisions": self.decisions})

    @cached_property
    def confusion_matrix(self) -> np.ndarray:
        """Number of texts by true class (row) and predicted class (column), int64, shape [classes, classes].

        Computed when it is first asked for: with 20,000 classes it takes 3.2 GB.
        """
        count = len(self.classes)
        matrix = np.zeros((count, count), dtype=np.int64)
        np.add.at(matrix, (self.labels, self.predictions), 1)
        return matrix

    def confusions(self, limit: int = CONFUSIONS) -> list[tuple[Any, Any, int]]:
        """The most frequent wrong predictions, most frequent first: (true label, predicted label, texts)."""
        wrong = np.flatnonzero(~self.right)
        pairs, counts = np.unique(np.stack([self.labels[wrong], self.predictions[wrong]]), axis=1, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:limit]
        return [(self.classes[pairs[0, i]], self.classes[pairs[1, i]], int(counts[i])) for i in most]

    @property
    def right(self) -> np.ndarray:
        """Whether the predicted class of each text is right, bool, shape [texts]."""
        return self.predictions == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class of each text, float64, shape [texts].

        With costs, the predicted class may be another than the most probable one.
        """
        return self.probabilities[np.arange(len(self.predictions)), self.predictions]

    def to_frame(self) -> pd.DataFrame:
        """Precision, recall, F1 and support by class, as a DataFrame of pandas."""
        return per_class_frame(self.per_class)

    def parts(self) -> list[Part]:
        """Headline metrics, metrics per class, and the confusion matrix: of many classes, its largest numbers."""
        figures = self.headline() | {"classes": self.classes, "seconds": self.seconds, "decisions": self.decisions}
        figures["per_class"] = {name: vars(m) for name, m in self.per_class.items()}
        # The whole matrix of thousands of classes takes gigabytes.
        if len(self.classes) <= SHOWN_MATRIX:
            figures["confusion_matrix"] = self.confusion_matrix.tolist()
        else:
            figures["confusions"] = self._confusion_rows()
        return evaluation_parts(figures)

    def _confusion_rows(self) -> list[dict[str, Any]]:
        return [
            {"class": str(true), "predicted": str(predicted), "texts": texts}
            for true, predicted, texts in self.confusions()
        ]

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
    values = logits.astype(np.float64)  # and in place: with many classes it is large
    values -= logits.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


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
    values = logits.astype(np.float64)
    true = values[np.arange(len(labels)), labels]
    peak = values.max(axis=1, keepdims=True)
    values -= peak
    np.exp(values, out=values)
    log_sum = peak[:, 0] + np.log(values.sum(axis=1))
    return float((log_sum - true).mean())


def evaluate_logits(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: list[Any],
    *,
    seconds: float = 0.0,
    lengths: dict[str, Any] | None = None,
    predictions: np.ndarray | None = None,
    decisions: dict[str, Any] | None = None,
) -> EvaluationResult:
    """Metrics of logits.

    Parameters
    ----------
    logits : ndarray of float32, shape [texts, classes]
    labels : ndarray of int64, shape [texts]
        Class indices.
    classes : list of str, int or bool
        Labels in the order of the class indices.
    seconds, lengths, decisions
        As in :class:`EvaluationResult`.
    predictions : ndarray of int64, shape [texts], optional
        Class indices; by default the most probable ones.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    predictions = logits.argmax(axis=1) if predictions is None else predictions
    indices = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predictions, labels=indices, zero_division=0.0
    )
    per_class = {
        label: ClassMetrics(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, label in enumerate(classes)
    }
    return EvaluationResult(
        accuracy=float((predictions == labels).mean()),
        macro_f1=float(f1_score(labels, predictions, average="macro", zero_division=0.0)),
        log_loss=cross_entropy(logits, labels),
        per_class=per_class,
        classes=classes,
        probabilities=softmax(logits),
        labels=labels,
        predictions=predictions,
        seconds=seconds,
        lengths=lengths or {},
        decisions=decisions,
    )
