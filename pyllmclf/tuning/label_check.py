"""Checks the labels of data with a trained classifier: labels that are probably wrong, and classes that it confuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..data.labels import class_finder
from ..data.readers import TextData
from ..errors import UsageError
from ..evaluation.confused_pairs import confused_pairs
from ..evaluation.label_quality import is_available, suspicious_labels
from ..evaluation.metrics import EvaluationResult, evaluate_logits
from ..text_pair import Text, TextPair
from .out_of_fold import PROBABILITY, read_out_of_fold

OUT_OF_FOLD, CLASSIFIER = "out_of_fold", "classifier"
"""Where the probabilities of a text are from: a training without it, or the classifier, which may have seen it."""


@dataclass(frozen=True)
class LabelIssue:
    """A text whose label is probably wrong.

    Attributes
    ----------
    part : str
        Name of its part of the data.
    where : str
        Its line or row in the source.
    text : str or TextPair
    label, suggested : str, int or bool
        Its label, and the most probable other class.
    score : float
        Quality of the label from 0 to 1; see :func:`pyllmclf.label_issues`.
    probabilities : {"out_of_fold", "classifier"}
        Where they are from.
    """

    part: str
    where: str
    text: Text
    label: Any
    suggested: Any
    score: float
    probabilities: str


@dataclass(frozen=True)
class LabelCheck:
    """What a classifier says of the labels of data.

    Attributes
    ----------
    issues : list of LabelIssue, or None
        The most suspicious first; ``None`` if cleanlab is not installed.
    confused : dict of str to list of dict
        By part, pairs of classes as :func:`pyllmclf.evaluation.confused_pairs.confused_pairs` returns them.
    texts : dict of str to int
        Number of checked texts, by where their probabilities are from.
    unknown : int
        Number of texts left out because the classifier lacks their label.
    """

    issues: list[LabelIssue] | None
    confused: dict[str, list[dict[str, Any]]]
    texts: dict[str, int]
    unknown: int


def check_labels(folder: Path, classifier: Classifier, parts: Mapping[str, TextData]) -> LabelCheck:
    """Checks the labels of data with a classifier.

    Probabilities are the out-of-fold ones where :func:`pyllmclf.tune` has saved some for the text. Other texts are
    classified; a text that the classifier was trained on may then hide its wrong label.

    Parameters
    ----------
    folder : Path
        Of the classifier; that of a search has out-of-fold probabilities.
    classifier : Classifier
    parts : mapping of str to TextData
        Labelled.

    Raises
    ------
    UsageError
        If texts may have several labels.
    """
    if classifier.state.label_separator is not None:
        raise UsageError("labels are checked only where each text has one; this classifier's texts may have several.")
    saved = _saved_probabilities(folder, classifier)
    issues: list[LabelIssue] = []
    confused, unknown, counts = {}, 0, {OUT_OF_FOLD: 0, CLASSIFIER: 0}
    for name, part in parts.items():
        kept, labels = _known(part, classifier)
        unknown += len(part) - len(kept)
        if not len(kept):
            continue
        probabilities, is_saved = _probabilities(kept, classifier, saved)
        for source, rows in ((OUT_OF_FOLD, np.flatnonzero(is_saved)), (CLASSIFIER, np.flatnonzero(~is_saved))):
            counts[source] += len(rows)
            if len(rows) and is_available():
                issues += _issues(name, kept, rows, labels, probabilities, classifier, source)
        confused[name] = confused_pairs(_result(probabilities, labels, classifier), kept)
    issues.sort(key=lambda issue: issue.score)
    return LabelCheck(issues if is_available() else None, confused, counts, unknown)


def _known(part: TextData, classifier: Classifier) -> tuple[TextData, np.ndarray]:
    """The texts whose label is a class of the classifier, and the indices of their classes."""
    assert part.labels is not None
    find = class_finder(classifier.state.encoder.names)
    found = [find(label) for label in part.labels]
    rows = [row for row, index in enumerate(found) if index is not None]
    return part.select(rows), np.array([found[row] for row in rows], dtype=np.int64)


def _saved_probabilities(folder: Path, classifier: Classifier) -> dict[Text, np.ndarray]:
    """Out-of-fold probabilities by text, in the order of the classes; empty where there are none of these classes."""
    frame = read_out_of_fold(folder) if folder.is_dir() else None
    columns = [f"{PROBABILITY}{name}" for name in classifier.state.encoder.names]
    if frame is None or set(columns) != {name for name in frame.columns if str(name).startswith(PROBABILITY)}:
        return {}
    texts: list[Text] = list(frame["text"])
    if "text_pair" in frame:
        texts = list(map(TextPair, frame["text"], frame["text_pair"]))
    return dict(zip(texts, frame[columns].to_numpy(dtype=np.float64), strict=True))


def _probabilities(
    part: TextData, classifier: Classifier, saved: Mapping[Text, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [texts, classes], and for each text whether they are saved ones."""
    is_saved = np.array([text in saved for text in part.texts])
    probabilities = np.empty((len(part), len(classifier.classes_)))
    for row in np.flatnonzero(is_saved):
        probabilities[row] = saved[part.texts[row]]
    others = np.flatnonzero(~is_saved)
    if len(others):
        probabilities[others] = classifier.predict_proba([part.texts[row] for row in others], progress=False)
    return probabilities, is_saved


def _issues(
    name: str,
    part: TextData,
    rows: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classifier: Classifier,
    source: str,
) -> list[LabelIssue]:
    found, classes = suspicious_labels(labels[rows], probabilities[rows]), classifier.classes_
    return [
        LabelIssue(
            part=name,
            where=part.where(row),
            text=part.texts[row],
            label=classes[labels[row]],
            suggested=classes[suggested],
            score=float(score),
            probabilities=source,
        )
        for row, suggested, score in zip(rows[found.rows].tolist(), found.suggested, found.scores, strict=True)
    ]


def _result(probabilities: np.ndarray, labels: np.ndarray, classifier: Classifier) -> EvaluationResult:
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return evaluate_logits(logits, labels, classifier.classes_)
