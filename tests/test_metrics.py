"""Metrics against figures computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pyllmclf.evaluation.metrics import cross_entropy, evaluate_logits, softmax


def test_figures() -> None:
    # true:      a  a  a  b  b  c(no prediction)
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = [0, 0, 1, 1, 0, 1]
    logits = np.full((6, 4), 0.0, dtype=np.float32)
    logits[np.arange(6), predicted] = math.log(7.0)  # probability 0.7, the others 0.1
    result = evaluate_logits(logits, labels, ["a", "b", "c", "d"])
    assert result.accuracy == pytest.approx(3 / 6)
    assert result.confusion_matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    a, b, c, d = (result.per_class[name] for name in "abcd")
    assert (a.precision, a.recall, a.f1, a.support) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert (b.precision, b.recall, b.f1, b.support) == pytest.approx((1 / 3, 1 / 2, 0.4, 2))
    assert (c.precision, c.recall, c.f1, c.support) == (0.0, 0.0, 0.0, 1)
    assert (d.precision, d.recall, d.f1, d.support) == (0.0, 0.0, 0.0, 0)
    # d neither occurs nor is predicted.
    assert result.macro_f1 == pytest.approx((2 / 3 + 0.4 + 0) / 3)
    assert result.log_loss == pytest.approx(-(3 * math.log(0.7) + 3 * math.log(0.1)) / 6)
    assert np.allclose(result.probabilities.sum(axis=1), 1.0)
    assert json.loads(json.dumps(result.to_dict()))["texts"] == 6


def test_large_logits_neither_overflow_nor_underflow() -> None:
    logits = np.array([[1000.0, 0.0], [-1000.0, 1000.0]], dtype=np.float32)
    assert softmax(logits).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert cross_entropy(logits, np.array([1, 1])) == pytest.approx(500.0)
