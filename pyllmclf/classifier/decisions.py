"""The rules by which a classifier's probabilities become an answer, which may be that there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ..checks import as_float, is_number
from ..evaluation.conformal import label_sets
from ..evaluation.multi_label import THRESHOLD
from ..evaluation.selective import AnsweredTexts
from ..evaluation.statistics import LEVEL
from ..evaluation.thresholds import least_cost
from .held_out import WHOSE

ACCURACY, ANSWERED, PROBABILITY = "accuracy", "answered", "probability"
RULES = (ACCURACY, ANSWERED, PROBABILITY)
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Abstention:
    """Texts whose predicted class is less probable than a threshold get no answer.

    Attributes
    ----------
    rule : {"accuracy", "answered", "probability"}
        What the threshold was chosen for; see :func:`pyllmclf.load`.
    value : float
        The target of the rule.
    threshold : float
        Least probability of the predicted class.
    texts, answered, right : int
        Held-out texts, those that are answered, and those of them that are right; 0 without held-out texts.
    level : float
        Probability with which the target of ``"accuracy"`` holds.
    classifier : str or None
        Which classifier the held-out scores are of; see :data:`.held_out.WHOSE`.
    """

    rule: str
    value: float
    threshold: float
    texts: int = 0
    answered: int = 0
    right: int = 0
    level: float = LEVEL
    classifier: str | None = None

    @property
    def reason(self) -> str:
        """Why a text is not answered."""
        targets = {ACCURACY: f" for {100 * self.value:g} % accuracy", ANSWERED: f" for {100 * self.value:g} % answered"}
        return f"below the threshold {self.threshold:.4g}{targets.get(self.rule, '')}"

    @property
    def counts(self) -> AnsweredTexts:
        """The held-out texts that are answered."""
        return AnsweredTexts(self.threshold, self.texts, self.answered, self.right)

    def __str__(self) -> str:
        line = f"abstain below the probability {self.threshold:.4g} ({self.rule}={self.value:g})"
        if not self.answered:
            return line
        low, high = self.counts.interval()
        interval = f"95 % interval {low:.2%} to {high:.2%}"
        if self.rule == ACCURACY:  # chosen by the labels: the interval of one threshold would be too good
            interval = (
                f"at least {100 * self.value:g} % of all such texts, with a probability of {100 * self.level:g} %"
            )
        return (
            f"{line}: of {self.texts:,} held-out texts {self.counts.share:.1%} are answered, "
            f"{self.counts.accuracy:.2%} of these right ({interval}), by {by_whom(self)}"
        )


@dataclass(frozen=True)
class Unlike:
    """Texts that are farther from the training texts than a share of the held-out texts get no answer.

    Attributes
    ----------
    share : float
        Of the held-out texts that are answered.
    distance : float
        The largest distance that is answered; see :class:`pyllmclf.evaluation.unlike.RowStatistics`.
    texts : int
        Number of held-out texts.
    classifier : str or None
        Which classifier their distances are of.
    """

    share: float
    distance: float
    texts: int = 0
    classifier: str | None = None

    @property
    def reason(self) -> str:
        """Why a text is not answered."""
        return f"unlike the training texts: beyond the distance {self.distance:.4g} of {100 * self.share:g} % of texts"

    def __str__(self) -> str:
        return (
            f"abstain beyond the distance {self.distance:.4g}, within which {100 * self.share:g} % of {self.texts:,} "
            f"held-out texts are, by {by_whom(self)}"
        )


@dataclass(frozen=True)
class Conformal:
    """Sets of labels that hold the true one with a probability of 1 - error at least.

    Attributes
    ----------
    error : float
    by_class : bool
        Whether the promise holds for the texts of each class.
    quantiles : tuple of float or None
        Of the scores, one or one for each class; ``None`` for infinity: the label is in every set.
    texts : int
        Number of held-out texts.
    classifier : str or None
        Which classifier their scores are of.
    """

    error: float
    by_class: bool
    quantiles: tuple[float | None, ...]
    texts: int
    classifier: str | None = None

    def sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Which labels are in the set of each text, bool, shape [texts, classes]."""
        return label_sets(probabilities, np.array([math.inf if q is None else q for q in self.quantiles]))


@dataclass(frozen=True)
class Decisions:
    """How a classifier answers: without any rule the most probable class, or those with a probability of 0.5.

    Attributes
    ----------
    abstention : Abstention or None
    unlike : Unlike or None
    conformal : Conformal or None
    thresholds : tuple of float or None
        Where texts may have several labels: least probability of each class.
    thresholds_rule : str or None
        What they were chosen for: ``"f1"`` or ``"precision=FLOOR"``.
    costs : tuple of tuples or None
        Cost by true class (row) and predicted class (column).
    """

    abstention: Abstention | None = None
    unlike: Unlike | None = None
    conformal: Conformal | None = None
    thresholds: tuple[float, ...] | None = None
    thresholds_rule: str | None = None
    costs: tuple[tuple[float, ...], ...] | None = None

    def __bool__(self) -> bool:
        return self != Decisions()

    @property
    def abstains(self) -> bool:
        """Whether a text may get no answer."""
        return self.abstention is not None or self.unlike is not None

    def predictions(self, probabilities: np.ndarray, *, several: bool) -> np.ndarray:
        """Class indices [texts], or whether a text has each of several labels, bool, shape [texts, classes].

        All texts have a prediction, also those that get no answer.
        """
        if several:
            return probabilities >= (THRESHOLD if self.thresholds is None else np.array(self.thresholds))
        if self.costs is not None:
            return least_cost(probabilities, np.array(self.costs))
        return probabilities.argmax(axis=1)

    def confidence(self, probabilities: np.ndarray) -> np.ndarray:
        """Probability of the predicted class of each text, where texts have one label; float64, shape [texts]."""
        predicted = self.predictions(probabilities, several=False)
        return probabilities[np.arange(len(probabilities)), predicted]

    def reasons(self, probabilities: np.ndarray, distances: np.ndarray | None) -> list[str | None]:
        """Why each text gets no answer; ``None`` where it gets one. The distance comes first.

        Parameters
        ----------
        probabilities : ndarray of float64, shape [texts, classes]
        distances : ndarray, shape [texts], or None
            Needed with :attr:`unlike`.
        """
        reasons: list[str | None] = [None] * len(probabilities)
        if self.abstention is not None:
            for text in np.flatnonzero(self.confidence(probabilities) < self.abstention.threshold):
                reasons[text] = self.abstention.reason
        if self.unlike is not None:
            assert distances is not None
            for text in np.flatnonzero(distances > self.unlike.distance):
                reasons[text] = self.unlike.reason
        return reasons

    def lines(self, names: Sequence[str]) -> list[str]:
        """Sentences on the rules, for people."""
        lines = [str(rule) for rule in (self.abstention, self.unlike) if rule is not None]
        if self.conformal is not None:
            by = " of each class" if self.conformal.by_class else ""
            lines.append(
                f"label sets hold the true label of {1 - self.conformal.error:.4g} of the texts{by}, from "
                f"{self.conformal.texts:,} held-out texts, by {by_whom(self.conformal)}"
            )
        if self.thresholds is not None:
            shown = ", ".join(f"{name} {t:.4g}" for name, t in zip(names[:12], self.thresholds, strict=False))
            more = ", ..." if len(names) > 12 else ""
            lines.append(f"thresholds ({self.thresholds_rule or 'as given'}): {shown}{more}")
        if self.costs is not None:
            lines.append("the class of least expected cost is predicted")
        return lines

    def to_record(self) -> dict[str, Any] | None:
        """The rules as types that JSON has; ``None`` without any."""
        return asdict(self) if self else None

    @classmethod
    def from_record(cls, record: Any, classes: int, *, several: bool) -> Decisions:
        """Reads what :meth:`to_record` makes.

        Raises
        ------
        ValueError
            If it is malformed, or doesn't fit the classes; the message names the field.
        """
        if record is None:
            return cls()
        if not isinstance(record, Mapping):
            raise ValueError("not an object")
        parts: dict[str, Any] = {
            "abstention": _read(Abstention, record, "abstention"),
            "unlike": _read(Unlike, record, "unlike"),
            "conformal": _read(Conformal, record, "conformal"),
            "thresholds": _numbers(record.get("thresholds"), "thresholds", classes),
            "costs": _matrix(record.get("costs"), classes),
        }
        rule = record.get("thresholds_rule")
        if rule is not None and not isinstance(rule, str):
            raise ValueError("thresholds_rule is no string")
        if conformal := parts["conformal"]:
            quantiles = conformal.quantiles
            wanted = classes if conformal.by_class else 1
            if not isinstance(quantiles, (list, tuple)) or len(quantiles) != wanted:
                raise ValueError(f"conformal.quantiles has no {wanted} numbers")
            if not all(q is None or _is_finite(q) for q in quantiles):
                raise ValueError("conformal.quantiles holds something else than numbers")
            parts["conformal"] = replace(conformal, quantiles=tuple(quantiles))
        misplaced = [name for name in ("abstention", "conformal", "costs") if parts[name] is not None and several]
        misplaced += ["thresholds"] if parts["thresholds"] is not None and not several else []
        if misplaced:
            raise ValueError(f"{misplaced[0]} is for classifiers with {'one label' if several else 'several labels'}")
        return cls(**parts, thresholds_rule=rule)


def by_whom(rule: Abstention | Unlike | Conformal) -> str:
    """Which classifier the held-out texts were measured by."""
    names = {str(name): words for name, words in WHOSE.items()}
    return names.get(rule.classifier or "", "an unknown classifier")


def _read(kind: type[Kind], record: Mapping[str, Any], name: str) -> Kind | None:
    """A rule of a record; the types of its numbers are checked."""
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is no object")
    try:
        rule = kind(**value)
    except TypeError as error:
        raise ValueError(f"{name} is malformed ({error})") from error
    for field, entry in vars(rule).items():
        if not _fits(field, entry):
            raise ValueError(f"{name}.{field} is {entry!r}")
    if isinstance(rule, Abstention) and not rule.right <= rule.answered <= rule.texts:
        raise ValueError(f"{name}: {rule.right} right of {rule.answered} answered of {rule.texts} texts")
    return rule


def _fits(field: str, entry: Any) -> bool:
    """Whether a rule may have this value in a field; quantiles are checked with the classes."""
    if field in ("rule", "classifier"):
        return entry in RULES if field == "rule" else isinstance(entry, (str, type(None)))
    if field in ("texts", "answered", "right"):
        return type(entry) is int and entry >= 0
    if field in ("by_class", "quantiles"):
        return field == "quantiles" or isinstance(entry, bool)
    if field in ("level", "error"):
        return is_number(entry) and 0.0 < entry < 1.0
    return _is_finite(entry) and (field not in ("value", "share") or 0.0 < entry <= 1.0)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(as_float(value))


def _numbers(value: Any, name: str, count: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    right = isinstance(value, (list, tuple)) and len(value) == count
    if not right or not all(map(_is_finite, value)):
        raise ValueError(f"{name} has no {count} numbers")
    return tuple(map(float, value))


def _matrix(value: Any, classes: int) -> tuple[tuple[float, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != classes:
        raise ValueError(f"costs has no {classes} rows")
    rows = [_numbers(row, "costs", classes) for row in value]
    if any(row is None for row in rows):
        raise ValueError(f"costs has no {classes} rows")
    return tuple(row for row in rows if row is not None)
