"""Risk and coverage, exact intervals, and thresholds that keep a promised accuracy, against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pyllmclf.evaluation.selective import (
    answered_from,
    area_under_risk_coverage,
    best_accuracy,
    clopper_pearson,
    risk_coverage,
    threshold_of_accuracy,
    threshold_of_share,
)


def test_curve_with_equal_confidences_counted_by_hand() -> None:
    confidence = np.array([0.9, 0.5, 0.9, 0.7, 0.5])
    right = np.array([True, False, False, True, False])
    curve = risk_coverage(confidence, right)
    assert curve.threshold.tolist() == [0.9, 0.7, 0.5]
    assert curve.answered.tolist() == [2, 3, 5]
    assert curve.coverage == pytest.approx([0.4, 0.6, 1.0])
    assert curve.accuracy == pytest.approx([1 / 2, 2 / 3, 2 / 5])
    # The error rate at each text's own confidence: twice 1/2, once 1/3, twice 3/5.
    assert area_under_risk_coverage(confidence, right) == pytest.approx((2 / 2 + 1 / 3 + 2 * 3 / 5) / 5)


def test_curve_against_brute_force() -> None:
    random = np.random.default_rng(0)
    confidence, right = random.integers(0, 40, 200) / 40, random.random(200) < 0.7
    curve = risk_coverage(confidence, right)
    for threshold, coverage, accuracy in zip(curve.threshold, curve.coverage, curve.accuracy, strict=True):
        answered = confidence >= threshold
        assert coverage == answered.mean()
        assert accuracy == right[answered].mean()
    risks = [1 - right[confidence >= each].mean() for each in confidence]
    assert curve.area == pytest.approx(np.mean(risks))


def test_curve_of_no_texts_and_bad_values() -> None:
    empty = risk_coverage(np.array([]), np.array([], dtype=bool))
    assert len(empty.threshold) == len(empty.coverage) == 0 and empty.area == 0.0
    with pytest.raises(ValueError, match="one shape"):
        risk_coverage(np.zeros(3), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="NaN"):
        risk_coverage(np.array([0.5, np.nan]), np.array([True, False]))


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 17), (980, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_clopper_pearson_against_scipy(successes: int, n: int, level: float) -> None:
    interval = binomtest(successes, n).proportion_ci(confidence_level=level, method="exact")
    assert clopper_pearson(successes, n, level) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_clopper_pearson_of_nothing_and_of_bad_values() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    for arguments in [(-1, 2), (3, 2), (1, 2, 0.0), (1, 2, 1.0)]:
        with pytest.raises(ValueError, match="must be between"):
            clopper_pearson(*arguments)


@pytest.mark.parametrize("share", [0.001, 0.07, 0.5, 0.999, 1.0])
def test_threshold_of_a_share_against_brute_force(share: float) -> None:
    confidence = np.random.default_rng(1).integers(0, 30, 100) / 30
    threshold = threshold_of_share(confidence, share)
    reaching = [each for each in np.unique(confidence) if (confidence >= each).mean() >= share]
    assert threshold == max(reaching)


def test_threshold_of_accuracy_keeps_its_promise() -> None:
    """The true accuracy above the chosen threshold, known for these draws, is below the target in 5 % at most."""
    random, target, draws = np.random.default_rng(2), 0.8, 400
    broken, found = 0, 0
    for _ in range(draws):
        confidence = random.random(600)
        right = random.random(600) < 0.5 + 0.5 * confidence
        chosen = threshold_of_accuracy(confidence, right, target)
        if chosen is not None:
            found += 1
            # Mean of 0.5 + 0.5 c over c uniform from the threshold to 1.
            broken += 0.5 + 0.25 * (1 + chosen.threshold) < target
    assert found > draws / 2
    assert broken / draws <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


def test_threshold_of_accuracy_answers_all_texts_where_it_can() -> None:
    confidence = np.linspace(0.5, 1, 500)
    everything = threshold_of_accuracy(confidence, np.ones(500, dtype=bool), 0.98)
    assert everything is not None and (everything.answered, everything.share, everything.accuracy) == (500, 1.0, 1.0)


def test_threshold_of_accuracy_that_few_texts_cannot_show() -> None:
    confidence, right = np.linspace(0.5, 1, 50), np.ones(50, dtype=bool)
    assert threshold_of_accuracy(confidence, right, 0.98) is None
    reached, counts = best_accuracy(confidence, right)
    assert counts.answered == 50 and 0.9 < reached < 0.98
    assert threshold_of_accuracy(confidence, right, reached - 1e-9) is not None
    assert threshold_of_accuracy(confidence, right, reached + 1e-9) is None
    assert counts.interval() == clopper_pearson(50, 50)
    assert answered_from(confidence, right, 2.0).accuracy is None
