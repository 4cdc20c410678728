"""Baselines of a training on its validation texts: majority class, bag of words, and the frozen model's solved head."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.packing import Packer
from ..data.readers import TextData
from ..errors import NonFiniteError
from ..evaluation.statistics import compare_right
from ..models.architectures.registry import architecture_of
from ..random_state import keeps_random_state
from .solve import pooled_rows, solve_rows
from .trainer import Trainer

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MAJORITY, BAG_OF_WORDS, SOLVED_HEAD = "majority class", "bag of words", "solved head"
MOST_TEXTS, MOST_TEXTS_OF_WORDS = 2_000, 20_000
"""Training texts that the frozen model reads for its head, and of the bag of words; drawn where there are more."""
MOST_WORDS = 20_000
"""The most frequent ones, of the bag of words. Its texts are fewer from 20 classes on."""
MOST_CLASSES = 200
"""Above, only the majority class is measured: a logistic regression takes minutes."""
BY_CHANCE = 0.05
"""A difference is more than chance where McNemar's p-value is lower."""
REMEDIES = {
    MAJORITY: "the training has learnt nothing; another learning_rate or more epochs may help",
    BAG_OF_WORDS: "more trained layers (trainable='all') or more epochs may help, or another model",
    SOLVED_HEAD: "trainable='head' (--trainable head), without loss, epochs, learning_rate and other arguments of "
    "steps, solves it on all training texts",
}


@dataclass(frozen=True)
class Baseline:
    """A simple classifier, measured on the validation texts.

    Attributes
    ----------
    name : str
    right : bool array, shape [validation texts]
        Whether each text's predicted class is right.
    texts : int
        Training texts that it is made from.
    """

    name: str
    right: np.ndarray
    texts: int

    @property
    def accuracy(self) -> float:
        """Share of the validation texts that it gets right."""
        return float(self.right.mean())

    def to_dict(self) -> dict[str, Any]:
        """The figures, as types that JSON has."""
        return {"accuracy": self.accuracy, "training_texts": self.texts}

    def record(self) -> dict[str, Any]:
        """Everything, as types that JSON has, for :meth:`from_record`."""
        return {"name": self.name, "right": "".join("01"[int(each)] for each in self.right), "texts": self.texts}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Baseline:
        """Restores what :meth:`record` has given.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is malformed.
        """
        name, right = record["name"], record["right"]
        if name not in REMEDIES or set(right) - {"0", "1"}:
            raise ValueError(f"{name!r} is no baseline, or its right texts are not of 0 and 1")
        return cls(name, np.array([each == "1" for each in right]), int(record["texts"]))


def measure_baselines(trainer: Trainer, texts: Mapping[str, TextData], packers: Mapping[str, Packer]) -> list[Baseline]:
    """Fits the baselines on the training texts, before the first step, and measures them on the validation texts.

    Logistic regressions are left out where there are more than :data:`MOST_CLASSES` classes, and the solved head where
    it is what is trained, where a layer before the head belongs to the classifier, where texts are read in windows, and
    where the model lies in parts in several processes.

    Parameters
    ----------
    trainer : Trainer
    texts, packers : mapping
        By split, with ``"train"`` and ``"validation"``; each text has one label.
    """
    train, validation = (packers[split].text_labels for split in ("train", "validation"))
    assert train is not None and validation is not None
    most = int(np.bincount(train).argmax())
    found = [Baseline(MAJORITY, validation == most, len(train))]
    if trainer.model.head.weight.shape[0] > MOST_CLASSES:
        return found
    if (bag := _bag_of_words(texts, train, validation, trainer.settings.seed)) is not None:
        found.append(bag)
    in_windows = any(packers[split].window_bounds is not None for split in ("train", "validation"))
    prediction_head = architecture_of(trainer.model.config).prediction_head
    if not (trainer.settings.solved or in_windows or prediction_head is not None or trainer.sharded):
        with suppress(NonFiniteError):  # the training itself says what is wrong
            found.append(_solved_head(trainer, packers))
    return found


def bag_of_words(seed: int = 0) -> Pipeline:
    """Logistic regression on counts of words."""
    with keeps_random_state():
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

    return make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000, random_state=seed))


def _drawn(count: int, most: int, seed: int) -> np.ndarray:
    """Numbers of all rows, or of ``most`` of them, at random; int64, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _bag_of_words(
    texts: Mapping[str, TextData], train: np.ndarray, validation: np.ndarray, seed: int
) -> Baseline | None:
    """``None`` where the training texts have no words, or one class alone."""
    rows = _drawn(len(train), MOST_TEXTS_OF_WORDS // max(1, int(train.max()) // 10), seed)
    model = bag_of_words().set_params(countvectorizer__max_features=MOST_WORDS, logisticregression__max_iter=200)
    try:
        with warnings.catch_warnings():  # of a solver that is not at its optimum after 200 iterations
            warnings.simplefilter("ignore")
            model.fit([str(texts["train"].texts[row]) for row in rows], train[rows])
    except ValueError:
        return None
    return Baseline(BAG_OF_WORDS, model.predict(list(map(str, texts["validation"].texts))) == validation, len(rows))


@torch.no_grad()
def _solved_head(trainer: Trainer, packers: Mapping[str, Packer]) -> Baseline:
    packer = packers["train"]
    ids = _drawn(len(packer), MOST_TEXTS, trainer.settings.seed)
    solution = solve_rows(trainer, pooled_rows(trainer, packer, ids), ids)
    validation = packers["validation"]
    rows = pooled_rows(trainer, validation, np.arange(len(validation)))
    predictions = F.linear(rows, solution.weight, solution.bias).argmax(dim=1).cpu().numpy()
    assert validation.text_labels is not None
    return Baseline(SOLVED_HEAD, predictions == validation.text_labels, len(ids))


def accuracies(baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """Names and accuracies, as a line lists them, of ``FinetuneResult.baselines``."""
    return ", ".join(f"{name} {figures['accuracy']:.2%}" for name, figures in baselines.items())


def complaints(baselines: list[Baseline], right: np.ndarray) -> dict[str, str]:
    """A line for each baseline that is better than the classifier by more than chance, by its name.

    Parameters
    ----------
    baselines : list of Baseline
    right : bool array, shape [validation texts]
        Whether the classifier gets each text right.
    """
    lines = {}
    for each in baselines:
        better, worse, p = compare_right(each.right, right)
        if better > worse and p < BY_CHANCE:
            lines[each.name] = (
                f"on the validation texts the {each.name} is better than this classifier: {each.accuracy:.2%} and "
                f"{right.mean():.2%} (p = {p:.2g})"
            )
    return lines
