"""What callers say of decisions, in Python and on the command line, checked and in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..checks import is_number, plain
from ..data.readers import Label
from ..errors import UsageError
from ..evaluation.statistics import LEVEL
from .decisions import ACCURACY, RULES, Decisions

UNLIKE = "unlike"
_ABSTAIN = (*RULES, UNLIKE, "level")
_EXAMPLE = "{'accuracy': 0.98}, {'answered': 0.9}, {'probability': 0.8} or {'unlike': 0.99} (--abstain accuracy=0.98)"


@dataclass(frozen=True)
class DecisionOptions:
    """Rules that are asked for: ``None`` leaves a rule as it is, ``False`` removes it.

    Attributes
    ----------
    abstain : mapping, str, False or None
    conformal : float, mapping, str, False or None
    thresholds : float, str, mapping, False or None
    costs : mapping, sequence of str, False or None
        As for :func:`pyllmclf.load`.
    """

    abstain: Any = None
    conformal: Any = None
    thresholds: Any = None
    costs: Any = None

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))


@dataclass(frozen=True)
class Asked:
    """The same, checked, with what was there before.

    Attributes
    ----------
    abstain : dict or None
        One of ``accuracy``, ``answered``, ``probability`` at most, ``unlike`` and ``level``.
    error : float or None
        Of conformal sets.
    by_class : bool
    thresholds : tuple of float, or None
        As given, one for each class.
    thresholds_rule : str or None
        ``"f1"`` or ``"precision"``.
    precision : float
    costs : tuple of tuples, or None
    """

    abstain: dict[str, float] | None = None
    error: float | None = None
    by_class: bool = False
    thresholds: tuple[float, ...] | None = None
    thresholds_rule: str | None = None
    precision: float = 0.0
    costs: tuple[tuple[float, ...], ...] | None = None


def asked_decisions(options: DecisionOptions, before: Decisions, classes: Sequence[Label], *, several: bool) -> Asked:
    """The rules after these options, where there were others before.

    Raises
    ------
    UsageError
        If an option is malformed, or is for classifiers of the other kind.
    """
    abstain = _abstain_before(before) if options.abstain is None else parse_abstain(options.abstain)
    error, by_class = _conformal_before(before) if options.conformal is None else parse_conformal(options.conformal)
    if options.thresholds is None and before.thresholds_rule is None:
        thresholds: tuple[tuple[float, ...] | None, str | None, float] = (before.thresholds, None, 0.0)
    elif options.thresholds is None:
        thresholds = parse_thresholds(before.thresholds_rule, classes)
    else:
        thresholds = parse_thresholds(options.thresholds, classes)
    costs = before.costs if options.costs is None else parse_costs(options.costs, classes)
    if several:
        if abstain is not None and set(abstain) - {UNLIKE}:
            raise UsageError(
                "abstain by accuracy, answered or probability is for classifiers with one label for each text; where "
                "texts may have several, only abstain={'unlike': 0.99} is."
            )
        for name, value in (("conformal", error), ("costs", costs)):
            if value is not None:
                raise UsageError(f"{name} is for classifiers with one label for each text; leave it out.")
    elif thresholds != (None, None, 0.0):
        raise UsageError(
            "thresholds are for classifiers of texts that may have several labels; with one label, costs "
            "(--cost TRUE:PREDICTED=5) shift the decision."
        )
    return Asked(abstain, error, by_class, *thresholds, costs)


def parse_abstain(value: Any) -> dict[str, float] | None:
    """Checks ``abstain``: a mapping, or text such as ``"accuracy=0.98,unlike=0.99"``; ``None`` for ``False``.

    Raises
    ------
    UsageError
        If it is malformed.
    """
    value = plain(value)
    if value is False or (isinstance(value, str) and value.strip() == "off"):
        return None
    found = _pairs(value, "abstain") if isinstance(value, str) else value
    if not isinstance(found, Mapping):
        raise UsageError(f"abstain={value!r} doesn't say what it is; say {_EXAMPLE}.")
    for name in found:
        if name not in _ABSTAIN:
            raise UsageError(f"abstain has no {name!r}; there are {', '.join(_ABSTAIN)}.")
    chosen = {name: float(_rate(found[name], f"abstain: {name}")) for name in found if found[name] is not None}
    rules = [name for name in RULES if name in chosen]
    if len(rules) > 1:
        raise UsageError(f"abstain: {' and '.join(rules)} choose one threshold each; leave one out.")
    if not rules and UNLIKE not in chosen:
        raise UsageError(f"abstain={value!r} names no rule; say {_EXAMPLE}.")
    for name in (ACCURACY, "level"):
        if chosen.get(name) == 1.0:
            raise UsageError(f"abstain: {name}=1 can't be shown by any number of texts; it must be below 1.")
    if "level" in chosen and ACCURACY not in chosen:
        raise UsageError("abstain: level is the probability with which accuracy is reached; give accuracy, too.")
    return chosen


def parse_conformal(value: Any) -> tuple[float | None, bool]:
    """Checks ``conformal``: an error rate, ``{"error": 0.1, "by_class": True}``, or text ``"0.1"``, ``"0.1,by_class"``.

    Returns
    -------
    (error, by_class) : (float or None, bool)

    Raises
    ------
    UsageError
        If it is malformed.
    """
    value, by_class = plain(value), False
    error = value
    if isinstance(value, str):
        if value.strip() == "off":
            return None, False
        number, comma, rest = value.partition(",")
        if comma and rest.strip() != "by_class":
            raise UsageError(f"conformal={value!r}: behind the error rate there is only by_class.")
        error, by_class = _number(number, "conformal"), bool(comma)
    elif isinstance(value, Mapping):
        if "error" not in value or set(value) - {"error", "by_class"} or type(value.get("by_class", False)) is not bool:
            raise UsageError(f"conformal={value!r} must be an error rate, or {{'error': 0.1, 'by_class': True}}.")
        error, by_class = value["error"], value.get("by_class", False)
    if error is False:
        return None, False
    if not is_number(error) or not 0.0 < error < 1.0:
        raise UsageError(f"conformal={value!r} must be an error rate between 0 and 1, such as 0.1.")
    return float(error), by_class


def parse_thresholds(value: Any, classes: Sequence[Label]) -> tuple[tuple[float, ...] | None, str | None, float]:
    """Checks ``thresholds``: ``"f1"``, ``"precision=0.9"``, a number, or numbers by class.

    Returns
    -------
    (thresholds, rule, precision) : (tuple of float or None, str or None, float)

    Raises
    ------
    UsageError
        If it is malformed.
    """
    value = plain(value)
    if value is None or value is False or (isinstance(value, str) and value.strip() == "off"):
        return None, None, 0.0
    if isinstance(value, str):
        name, equals, number = value.partition("=")
        if name.strip() == "f1" and not equals:
            return None, "f1", 0.0
        if name.strip() == "precision" and equals:
            return None, "precision", float(_rate(_number(number, "thresholds"), "thresholds: precision"))
        value = _pairs(value, "thresholds") if equals else _number(value, "thresholds")
    if is_number(value):
        return (float(_rate(value, "thresholds")),) * len(classes), None, 0.0
    if not isinstance(value, Mapping):
        raise UsageError(f"thresholds={value!r} must be 'f1', 'precision=0.9', a number, or numbers by class.")
    places = {name: index for index, each in enumerate(classes) for name in (each, str(each))}
    found = [0.5] * len(classes)
    for name, number in value.items():
        if name not in places:
            raise UsageError(f"thresholds: {name!r} is none of the classes.")
        found[places[name]] = float(_rate(number, f"thresholds: {name}"))
    return tuple(found), None, 0.0


def parse_costs(value: Any, classes: Sequence[Label]) -> tuple[tuple[float, ...], ...] | None:
    """Checks ``costs``: costs by ``(true, predicted)``, or texts such as ``"ham:spam=5"``.

    Returns
    -------
    tuple of tuples of float, or None
        By true class and predicted class: 0 where they are equal, 1 for other errors that are not named.

    Raises
    ------
    UsageError
        If they are malformed, or name something that is no class.
    """
    texts = [value] if isinstance(value, str) else value
    if value is False or (isinstance(texts, (list, tuple)) and len(texts) == 1 and str(texts[0]).strip() == "off"):
        return None
    if isinstance(texts, (list, tuple)):
        value = dict(_cost_of(each, classes) for each in texts)
    if not isinstance(value, Mapping) or not value:
        raise UsageError(f"costs={value!r} must map (true class, predicted class) to a number: {{('ham', 'spam'): 5}}.")
    places = {name: index for index, each in enumerate(classes) for name in (each, str(each))}
    costs = 1.0 - np.eye(len(classes))
    for pair, cost in value.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UsageError(f"costs: {pair!r} must be a pair (true class, predicted class).")
        for name in pair:
            if name not in places:
                raise UsageError(f"costs: {name!r} is none of the classes.")
        if not is_number(plain(cost)) or not 0.0 <= cost < float("inf"):
            raise UsageError(f"costs: {pair!r} costs {cost!r}, which is no number of at least 0.")
        costs[places[pair[0]], places[pair[1]]] = float(cost)
    return tuple(map(tuple, costs.tolist()))


def _cost_of(text: Any, classes: Sequence[Label]) -> tuple[tuple[str, str], float]:
    """A cost of the command line; names of classes may hold colons."""
    pair, equals, number = str(text).rpartition("=")
    names = set(map(str, classes))
    parts = pair.split(":")
    for place in range(1, len(parts)):
        found = ":".join(parts[:place]), ":".join(parts[place:])
        if equals and set(found) <= names:
            return found, _number(number, "costs")
    raise UsageError(f"costs: {text!r} must be TRUE:PREDICTED=COST with two of the classes, such as ham:spam=5.")


def _pairs(text: str, argument: str) -> dict[str, float]:
    """Numbers by name of text such as ``a=0.5,b=0.7``."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        if not equals or not name.strip():
            example = f"; say {_EXAMPLE}" if argument == "abstain" else ""
            raise UsageError(f"{argument}={text!r}: {part.strip()!r} is no NAME=NUMBER{example}.")
        found[name.strip()] = _number(number, argument)
    return found


def _number(text: str, argument: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{argument}: {text.strip()!r} is no number.") from error


def _rate(value: Any, name: str) -> float:
    value = plain(value)
    if not is_number(value) or not 0.0 < value <= 1.0:
        raise UsageError(f"{name}={value!r} must be a number above 0, and at most 1.")
    return float(value)


def _abstain_before(before: Decisions) -> dict[str, float] | None:
    found: dict[str, float] = {}
    if (abstention := before.abstention) is not None:
        found[abstention.rule] = abstention.value
        if abstention.rule == ACCURACY and abstention.level != LEVEL:
            found["level"] = abstention.level
    if before.unlike is not None:
        found[UNLIKE] = before.unlike.share
    return found or None


def _conformal_before(before: Decisions) -> tuple[float | None, bool]:
    return (None, False) if before.conformal is None else (before.conformal.error, before.conformal.by_class)
