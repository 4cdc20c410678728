"""Chooses thresholds and quantiles for the rules that are asked for, on held-out texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UsageError
from ..evaluation.conformal import class_quantiles, conformal_quantile, label_scores, least_texts
from ..evaluation.multi_label import THRESHOLD
from ..evaluation.selective import (
    AnsweredTexts,
    answered_from,
    best_accuracy,
    threshold_of_accuracy,
    threshold_of_share,
)
from ..evaluation.statistics import LEVEL
from ..evaluation.thresholds import f1_threshold, precision_threshold
from ..evaluation.unlike import threshold_of_quantile
from ..progress import warn
from .decision_options import UNLIKE, Asked
from .decisions import ACCURACY, ANSWERED, PROBABILITY, Abstention, Conformal, Decisions, Unlike
from .held_out import HeldOut, TrainingRows

_GIVE = "give labelled texts that it was not trained on: held_out=DATA of load() (--held-out DATA)"
_SHOWN = 12


def choose_decisions(
    asked: Asked, held_out: HeldOut | None, rows: TrainingRows | None, names: Sequence[str]
) -> Decisions:
    """The rules with their thresholds.

    Parameters
    ----------
    asked : Asked
    held_out : HeldOut or None
    rows : TrainingRows or None
    names : sequence of str
        Names of the classes.

    Raises
    ------
    UsageError
        If a rule needs held-out texts and there are none, or they can't show what is asked for; the message has the
        best that can be reached.
    """
    decided = Decisions(costs=asked.costs)
    return Decisions(
        abstention=_abstention(asked, held_out, decided),
        unlike=_unlike(asked, rows),
        conformal=_conformal(asked, held_out, names),
        thresholds=_thresholds(asked, held_out, names),
        thresholds_rule=f"precision={asked.precision:g}"
        if asked.thresholds_rule == "precision"
        else asked.thresholds_rule,
        costs=asked.costs,
    )


def _needed(held_out: HeldOut | None, what: str) -> HeldOut:
    if held_out is None or not len(held_out.labels):
        raise UsageError(f"{what} is chosen on held-out texts, and the classifier has no scores of any; {_GIVE}.")
    return held_out


def _abstention(asked: Asked, held_out: HeldOut | None, decided: Decisions) -> Abstention | None:
    rule = next((name for name in (ACCURACY, ANSWERED, PROBABILITY) if name in (asked.abstain or {})), None)
    if rule is None or asked.abstain is None:
        return None
    value, level = asked.abstain[rule], asked.abstain.get("level", LEVEL)
    if rule == PROBABILITY and held_out is None:
        return Abstention(rule, value, value)
    held_out = _needed(held_out, f"abstain: {rule}")
    probabilities = held_out.probabilities
    confidence = decided.confidence(probabilities)
    right = decided.predictions(probabilities, several=False) == held_out.labels
    if rule == ACCURACY:
        counts = _of_accuracy(confidence, right, value, level)
    else:
        threshold = value if rule == PROBABILITY else threshold_of_share(confidence, value)
        counts = answered_from(confidence, right, threshold)
    numbers = counts.texts, counts.answered, counts.right
    return Abstention(rule, value, counts.threshold, *numbers, level, held_out.classifier)


def _of_accuracy(confidence: np.ndarray, right: np.ndarray, value: float, level: float) -> AnsweredTexts:
    counts = threshold_of_accuracy(confidence, right, value, level)
    if counts is None:
        reached, best = best_accuracy(confidence, right, level)
        raise UsageError(
            f"abstain: accuracy={value:g} can't be shown on {len(right):,} held-out texts; the best is "
            f"accuracy={np.floor(1e4 * reached) / 1e4:g}, where {best.share:.0%} are answered and {best.accuracy:.2%} "
            "of these are right. More held-out texts, or a smaller level, show more; answered=0.9 and probability=0.9 "
            "promise nothing."
        )
    return counts


def _unlike(asked: Asked, rows: TrainingRows | None) -> Unlike | None:
    share = (asked.abstain or {}).get(UNLIKE)
    if share is None:
        return None
    if rows is None:
        raise UsageError(
            "abstain: unlike needs statistics of the training texts, which this checkpoint doesn't have; a training "
            "with this version of pyllmclf writes them at its end, except of very wide models and with FSDP."
        )
    if not len(rows.reference):
        raise UsageError(f"abstain: unlike compares with held-out texts, and there are too few; {_GIVE}.")
    return Unlike(share, threshold_of_quantile(rows.reference, share), len(rows.reference), rows.classifier)


def _conformal(asked: Asked, held_out: HeldOut | None, names: Sequence[str]) -> Conformal | None:
    error = asked.error
    if error is None:
        return None
    held_out = _needed(held_out, "conformal")
    scores, labels, least = label_scores(held_out.probabilities, held_out.labels), held_out.labels, least_texts(error)
    if asked.by_class:
        quantiles = class_quantiles(scores, labels, len(names), error)
        few = [name for name, quantile in zip(names, quantiles, strict=True) if np.isinf(quantile)]
        if few:
            shown = ", ".join(few[:_SHOWN]) + (", ..." if len(few) > _SHOWN else "")
            warn(
                f"conformal: an error of {error:g} by class takes {least:,} held-out texts of each, and "
                f"{len(few):,} of {len(names):,} classes have fewer ({shown}): every set has these labels.",
                progress=False,
            )
    else:
        quantiles = np.array([conformal_quantile(scores, error)])
        if np.isinf(quantiles[0]):
            warn(
                f"conformal: an error of {error:g} takes {least:,} held-out texts, and there are {len(scores):,}: "
                "every set has all labels.",
                progress=False,
            )
    kept = tuple(None if np.isinf(quantile) else float(quantile) for quantile in quantiles)
    return Conformal(error, asked.by_class, kept, len(scores), held_out.classifier)


def _thresholds(asked: Asked, held_out: HeldOut | None, names: Sequence[str]) -> tuple[float, ...] | None:
    if asked.thresholds_rule is None:
        return asked.thresholds
    held_out = _needed(held_out, "thresholds")
    probabilities, has, missing, low = held_out.probabilities, held_out.labels > 0, list[str](), list[str]()
    found = []
    for number, name in enumerate(names):
        own = probabilities[:, number], has[:, number]
        if asked.thresholds_rule == "f1":
            threshold, best = f1_threshold(*own), None
        else:
            threshold, best = precision_threshold(*own, asked.precision)
        if threshold is None and best is not None:
            low.append(f"{name} {best:.2%}")
        elif threshold is None:
            missing.append(name)
        found.append(THRESHOLD if threshold is None else threshold)
    if low:
        raise UsageError(
            f"thresholds: precision={asked.precision:g} isn't reached by {len(low):,} of {len(names):,} classes on "
            f"{len(has):,} held-out texts; the best is {', '.join(low[:_SHOWN])}{', ...' if len(low) > _SHOWN else ''}."
        )
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        warn(f"thresholds: no held-out text has {shown}; the threshold stays {THRESHOLD}.", progress=False)
    return tuple(found)
