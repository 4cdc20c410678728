"""Split conformal prediction: its promise over many splits, its quantile against the definition, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from pyllmclf.evaluation.conformal import (
    class_quantiles,
    conformal_quantile,
    coverage,
    label_scores,
    label_sets,
    least_texts,
)

CLASSES, SPLITS = 4, 200


def drawn(texts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of an overconfident classifier, and labels, of which class 0 is frequent and class 3 hard."""
    random = np.random.default_rng(seed)
    labels = random.choice(CLASSES, texts, p=[0.55, 0.2, 0.15, 0.1])
    logits = random.normal(size=(texts, CLASSES)) * 2.5
    logits[np.arange(texts), labels] += np.array([6.0, 4.0, 3.0, 1.0])[labels]
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("by_class", [False, True], ids=["all", "by class"])
def test_coverage_over_200_splits(error: float, by_class: bool) -> None:
    probabilities, labels = drawn(1200, seed=7)
    random = np.random.default_rng(11)
    reached, with_empty, of_class = [], [], []
    for _ in range(SPLITS):
        order = random.permutation(len(labels))
        held_out, test = order[:600], order[600:]
        scores = label_scores(probabilities[held_out], labels[held_out])
        if by_class:
            quantiles = class_quantiles(scores, labels[held_out], CLASSES, error)
        else:
            quantiles = conformal_quantile(scores, error)
        sets = label_sets(probabilities[test], quantiles)
        assert sets.any(axis=1).all()
        reached.append(coverage(sets, labels[test]))
        with_empty.append(coverage(1 - probabilities[test] <= quantiles, labels[test]))
        of_class.append([coverage(sets[labels[test] == c], labels[test][labels[test] == c]) for c in range(CLASSES)])
    tolerance = 3 * np.std(with_empty) / np.sqrt(SPLITS)
    assert np.mean(with_empty) >= 1 - error - tolerance
    # At most 1 / (n + 1) more, with the n of the rarest class where the promise is by class.
    most = 1 / (60 - 3 * np.sqrt(60) if by_class else 601)
    assert np.mean(with_empty) <= 1 - error + most + tolerance
    assert np.mean(reached) >= np.mean(with_empty)  # an empty set gets a label
    worst = np.mean(of_class, axis=0).min()
    if by_class:
        spread = 3 * np.std(of_class, axis=0).max() / np.sqrt(SPLITS)
        assert worst >= 1 - error - spread
    else:  # the promise over all texts leaves the hard class below it
        assert worst < 1 - error - 0.02


@pytest.mark.parametrize("n", [1, 8, 9, 10, 19, 99, 100])
@pytest.mark.parametrize("error", [0.01, 0.1, 0.5])
def test_quantile_by_its_definition(n: int, error: float) -> None:
    scores = np.random.default_rng(n).permutation(np.arange(1, n + 1)).astype(float)
    # In whole hundredths, without rounding: rank = ceil((n + 1) (1 - error)).
    hundredths = (n + 1) * round(100 * (1 - error))
    rank = -(-hundredths // 100)
    assert conformal_quantile(scores, error) == (rank if rank <= n else np.inf)
    assert (n < least_texts(error)) is (rank > n)


def test_too_few_texts_give_all_classes() -> None:
    probabilities, labels = drawn(8, seed=0)
    quantile = conformal_quantile(label_scores(probabilities, labels), 0.1)
    assert np.isinf(quantile)
    assert label_sets(probabilities, quantile).all()


def test_a_class_without_texts_is_in_every_set() -> None:
    probabilities, labels = drawn(200, seed=0)
    scores = label_scores(probabilities, labels)
    quantiles = class_quantiles(scores[labels != 2], labels[labels != 2], CLASSES, 0.1)
    assert np.isinf(quantiles).tolist() == [False, False, True, False]
    assert label_sets(probabilities, quantiles)[:, 2].all()


def test_an_empty_set_has_the_most_probable_label() -> None:
    sets = label_sets(np.array([[0.4, 0.35, 0.25], [0.9, 0.05, 0.05]]), 0.2)
    assert sets.tolist() == [[True, False, False], [True, False, False]]


@pytest.mark.parametrize("error", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_bad_error_rates(error: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile(np.array([0.5]), error)
