"""Thresholds and least costs against brute force, and the distance of unlike texts against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from pyllmclf.evaluation.thresholds import f1_threshold, least_cost, precision_threshold
from pyllmclf.evaluation.unlike import RowStatistics, left_out_distances, quantile_of, threshold_of_quantile


@pytest.fixture
def of_a_class() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and labels that they tell something of."""
    random = np.random.default_rng(0)
    probabilities = random.integers(0, 60, 300) / 60
    return probabilities, random.random(300) < probabilities**2


def test_f1_threshold_against_brute_force(of_a_class: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = of_a_class
    threshold = f1_threshold(probabilities, labels)
    assert threshold is not None
    best = max(f1_score(labels, probabilities >= each) for each in np.unique(probabilities))
    assert f1_score(labels, probabilities >= threshold) == pytest.approx(best)
    assert threshold not in probabilities  # halfway between two


@pytest.mark.parametrize("floor", [0.3, 0.6, 0.75])
def test_precision_threshold_against_brute_force(of_a_class: tuple[np.ndarray, np.ndarray], floor: float) -> None:
    probabilities, labels = of_a_class
    threshold, _ = precision_threshold(probabilities, labels, floor)
    assert threshold is not None
    reaching = [t for t in np.unique(probabilities) if precision_score(labels, probabilities >= t) >= floor]
    most = max(recall_score(labels, probabilities >= t) for t in reaching)
    assert precision_score(labels, probabilities >= threshold) >= floor
    assert recall_score(labels, probabilities >= threshold) == most


def test_precision_that_no_threshold_reaches() -> None:
    probabilities, labels = np.array([0.9, 0.8, 0.1]), np.array([False, True, False])
    assert precision_threshold(probabilities, labels, 0.9) == (None, 0.5)
    assert precision_threshold(probabilities, ~np.ones(3, dtype=bool), 0.9) == (None, None)
    assert f1_threshold(probabilities, ~np.ones(3, dtype=bool)) is None


def test_thresholds_of_equal_probabilities() -> None:
    """All texts or none: the threshold is the probability itself where nothing is below it."""
    threshold = f1_threshold(np.zeros(4), np.array([True, False, True, False]))
    assert threshold == 0.0


def test_least_cost_against_brute_force() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(4), 200)
    costs = random.random((4, 4)) * 5
    np.fill_diagonal(costs, 0.0)
    expected = [[sum(row[true] * costs[true, made] for true in range(4)) for made in range(4)] for row in probabilities]
    assert least_cost(probabilities, costs).tolist() == np.argmin(expected, axis=1).tolist()


def test_costs_of_two_classes_move_the_threshold() -> None:
    """Predicting b for an a costs 5, a for a b 1: b from a probability of 5/6 on."""
    costs = np.array([[0.0, 5.0], [1.0, 0.0]])
    p = np.array([0.5, 0.8, 0.83, 0.84, 0.99])
    assert least_cost(np.stack([1 - p, p], axis=1), costs).tolist() == [0, 0, 0, 1, 1]


def test_equal_costs_are_the_most_probable_class() -> None:
    probabilities = np.random.default_rng(2).dirichlet(np.ones(5), 100)
    assert least_cost(probabilities, 1 - np.eye(5)).tolist() == probabilities.argmax(axis=1).tolist()
    assert least_cost(probabilities, np.zeros((5, 5))).tolist() == probabilities.argmax(axis=1).tolist()


def clusters(texts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(3, 8)) * 4
    labels = random.integers(0, 3, texts)
    return means[labels] + random.normal(size=(texts, 8)), labels


def test_distance_against_its_formula() -> None:
    rows, labels = clusters(200)
    found = RowStatistics.fit(rows, labels).distances(3 * rows[:20])  # lengths don't count
    scaled = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([scaled[labels == c].mean(axis=0) for c in range(3)])
    covariance = ledoit_wolf(scaled - means[labels], assume_centered=True)[0] * 200 / 197
    for x, distance in zip(scaled[:20], found, strict=True):
        squares = [(x - mean) @ np.linalg.inv(covariance) @ (x - mean) for mean in means]
        assert distance == pytest.approx(np.sqrt(min(squares)), rel=1e-4)


def test_distance_tells_a_class_that_training_lacks() -> None:
    rows, labels = clusters(300)
    known = labels != 2
    statistics = RowStatistics.fit(rows[known], labels[known])
    fresh, of = clusters(300, seed=1)
    assert roc_auc_score(of == 2, statistics.distances(fresh)) > 0.95


def test_statistics_of_few_texts_and_of_several_labels() -> None:
    rows, labels = clusters(4)
    assert np.isfinite(RowStatistics.fit(rows, labels).distances(rows)).all()
    assert np.isfinite(RowStatistics.fit(np.ones((3, 8)), np.array([0, 0, 1])).distances(rows)).all()
    assert np.isfinite(RowStatistics.fit(np.zeros((3, 8)), np.array([0, 0, 1])).distances(np.zeros((2, 8)))).all()
    rows, labels = clusters(100)
    several = np.eye(3)[labels]
    np.testing.assert_allclose(
        RowStatistics.fit(rows, several).distances(rows), RowStatistics.fit(rows, labels).distances(rows)
    )
    with pytest.raises(ValueError, match="no text has a class"):
        RowStatistics.fit(rows, np.zeros((100, 3)))
    with pytest.raises(ValueError, match="not finite"):
        RowStatistics.fit(np.full((3, 2), np.nan), np.zeros(3, dtype=int))


def test_texts_left_out_are_as_far_as_fresh_ones() -> None:
    rows, labels = clusters(400)
    left_out, fresh = left_out_distances(rows, labels, seed=0), clusters(4000, seed=2)[0]
    statistics = RowStatistics.fit(rows, labels)
    assert np.median(left_out) == pytest.approx(np.median(statistics.distances(fresh)), rel=0.1)
    assert len(left_out_distances(rows[:5], labels[:5], seed=0)) == 0


def test_quantiles_of_distances() -> None:
    reference = np.array([3.0, 1.0, 2.0, 4.0])
    assert quantile_of(np.array([0.0, 1.0, 2.5, 9.0]), reference).tolist() == [0.0, 0.25, 0.5, 1.0]
    assert [threshold_of_quantile(reference, share) for share in (0.25, 0.5, 0.51, 1.0)] == [1.0, 2.0, 3.0, 4.0]
    assert np.isnan(quantile_of(np.zeros(2), np.zeros(0))).all()
