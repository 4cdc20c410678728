"""Metrics against figures computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pyllmclf.cli.options import print_json
from pyllmclf.cli.tables import print_evaluation
from pyllmclf.evaluation.metrics import (
    CONFUSIONS,
    MATRIX_CLASSES,
    EvaluationResult,
    cross_entropy,
    evaluate_logits,
    softmax,
)
from pyllmclf.evaluation.tables import SHOWN_MATRIX


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


def of_many_classes(classes: int, texts: int = 60) -> EvaluationResult:
    """One half right; class 1 is taken for class 0 most often."""
    labels = np.array([i % 7 if i % 2 else i for i in range(texts)])
    predictions = np.where(labels % 2 == 1, 0, labels)
    logits = np.zeros((texts, classes), dtype=np.float32)
    logits[np.arange(texts), predictions] = 5.0
    return evaluate_logits(logits, labels, [f"class {i}" for i in range(classes)])


def test_the_most_frequent_wrong_predictions() -> None:
    result = of_many_classes(60)
    matrix = result.confusion_matrix
    assert matrix.dtype == np.int64 and matrix.sum() == 60
    wrong = {(i, j): int(matrix[i, j]) for i, j in np.argwhere(matrix) if i != j}
    found = result.confusions()
    assert [count for *_, count in found] == sorted(wrong.values(), reverse=True)[:CONFUSIONS]
    assert {(result.classes.index(true), result.classes.index(predicted)): n for true, predicted, n in found} == wrong
    assert result.confusions(1) == found[:1]
    perfect = evaluate_logits(np.eye(3, dtype=np.float32), np.arange(3), [False, True, 2])
    assert perfect.confusions() == [] and perfect.to_dict()["confusions"] == []


def test_a_matrix_of_very_many_classes_is_no_json() -> None:
    """With 20,000 classes it has 400 million numbers."""
    content = of_many_classes(20_000).to_dict()
    assert content["confusion_matrix"] is None and content["confusions"][0]["texts"] > 0
    assert MATRIX_CLASSES > 3000


def test_many_classes_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = of_many_classes(60).to_dict()
    print_evaluation(metrics, "here")
    out = capsys.readouterr().out
    assert "most frequent wrong predictions" in out and "predicted →" not in out
    assert "the 20 of 60 classes with the lowest F1:" in out and out.count("\nclass ") == 2 + 20 + len(
        metrics["confusions"]
    )
    assert 6 <= SHOWN_MATRIX < 60
    print_evaluation(of_many_classes(6, 6).to_dict(), "here")
    assert "predicted →" in capsys.readouterr().out


def test_json_has_a_line_for_each_row_of_a_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    content = of_many_classes(60).to_dict()
    print_json({"a": [content, {"confusion_matrix": None}], "b": "x"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [content, {"confusion_matrix": None}], "b": "x"}
    rows = ",\n".join(json.dumps(row) for row in content["confusion_matrix"])
    assert rows in out
