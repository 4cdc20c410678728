"""``predict``, ``predict_proba`` and ``logits``: the forms of texts, and of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

import pyllmclf
from pyllmclf import DataError, UsageError
from pyllmclf.sklearn import LLMClassifier

TEXTS = ["The parcel is late.", "Charged twice!", "I can't log in."]


@pytest.fixture(scope="module")
def classifier() -> pyllmclf.Classifier:
    options: dict[str, Any] = {"weights": "random", "pooling": "mean", "epochs": 1, "progress": False}
    return pyllmclf.finetune("gpt2-nano", "sample", trainable="all", test=False, **options).classifier


@pytest.fixture
def series() -> pd.Series:
    return pd.Series(TEXTS, index=["x", "y", "z"], name="body")


@pytest.mark.parametrize("one", [TEXTS[0], np.str_(TEXTS[0]), np.array(TEXTS[0])])
def test_a_single_text(classifier: pyllmclf.Classifier, one: Any) -> None:
    assert classifier.predict(one) == classifier.predict(TEXTS[:1])[0]
    for call in (classifier.predict_proba, classifier.logits):
        np.testing.assert_array_equal(call(one), call(TEXTS[:1])[0])
    assert classifier.predict(one, top_k=1) == classifier.predict(TEXTS[:1], top_k=1)[0]
    assert classifier.predict(one, as_frame=True).shape == (1, 5)


def test_a_series_keeps_its_index(classifier: pyllmclf.Classifier, series: pd.Series) -> None:
    labels = classifier.predict(series)
    pd.testing.assert_series_equal(labels, pd.Series(classifier.predict(TEXTS), index=series.index, name="label"))
    for call in (classifier.predict_proba, classifier.logits):
        expected = pd.DataFrame(call(TEXTS), index=series.index, columns=classifier.classes_)
        pd.testing.assert_frame_equal(call(series), expected)
        np.testing.assert_array_equal(call(series, as_frame=False), call(TEXTS))
    frame = pd.DataFrame({"id": [1, 2, 3], "text": TEXTS}, index=series.index)
    pd.testing.assert_series_equal(classifier.predict(frame), labels)
    assert classifier.predict(series, as_frame=False) == list(labels)
    assert list(classifier.predict(series, top_k=2)) == classifier.predict(TEXTS, top_k=2)
    joined = frame.join(classifier.predict(frame["text"], as_frame=True))
    assert list(joined) == ["id", "text", "label", *(f"probability_{name}" for name in classifier.classes_)]


def test_frames(classifier: pyllmclf.Classifier, series: pd.Series) -> None:
    probabilities = classifier.predict_proba(TEXTS)
    found = classifier.predict(TEXTS, as_frame=True)
    assert list(found.index) == [0, 1, 2] and list(found["label"]) == classifier.predict(TEXTS)
    np.testing.assert_array_equal(found.iloc[:, 1:].to_numpy(), probabilities)
    found = classifier.predict(series, as_frame=True, top_k=2)
    assert list(found) == ["label", "label_1", "probability_1", "label_2", "probability_2"]
    assert list(found.index) == list(series.index) and list(found["label"]) == list(found["label_1"])
    np.testing.assert_array_equal(found["probability_1"], probabilities.max(axis=1))
    assert list(classifier.predict_proba(TEXTS, as_frame=True)) == classifier.classes_


def test_the_most_probable_classes(classifier: pyllmclf.Classifier) -> None:
    probabilities = classifier.predict_proba(TEXTS)
    for row, best in zip(probabilities, classifier.predict(TEXTS, top_k=3), strict=True):
        assert [p for _, p in best] == sorted(row, reverse=True)[:3]
        assert all(row[classifier.classes_.index(label)] == p for label, p in best)
    assert [len(best) for best in classifier.predict(TEXTS, top_k=99)] == [4, 4, 4]
    for wrong in (0, -1, 1.5, "2", True):
        with pytest.raises(UsageError, match="top_k"):
            classifier.predict(TEXTS, top_k=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="as_frame"):
        classifier.predict_proba(TEXTS, as_frame="yes")  # type: ignore[arg-type]


def test_no_text_gives_an_empty_result(classifier: pyllmclf.Classifier) -> None:
    for empty in ([], (), np.array([], dtype=object), iter([]), datasets.Dataset.from_dict({"text": []})):
        assert classifier.predict(empty) == []
    probabilities, logits = classifier.predict_proba([]), classifier.logits([])
    assert (probabilities.shape, probabilities.dtype) == ((0, 4), np.float64)
    assert (logits.shape, logits.dtype) == ((0, 4), np.float32)
    series = pd.Series([], dtype=object, index=pd.Index([], name="key"))
    assert list(classifier.predict(series)) == [] and classifier.predict(series).index.name == "key"
    assert classifier.predict_proba(series).shape == (0, 4)
    assert classifier.predict([], top_k=2) == []
    frame = classifier.predict([], as_frame=True, top_k=2)
    assert list(frame) == ["label", "label_1", "probability_1", "label_2", "probability_2"] and len(frame) == 0
    with pytest.raises(DataError, match="no row"):
        classifier.evaluate(([], []))


def test_other_forms(classifier: pyllmclf.Classifier) -> None:
    expected = classifier.predict(TEXTS)
    for texts in (tuple(TEXTS), np.array(TEXTS), iter(TEXTS), (t for t in TEXTS), pd.array(TEXTS, dtype="string")):
        assert classifier.predict(texts) == expected
    assert classifier.predict(datasets.Dataset.from_dict({"text": TEXTS})) == expected
    assert classifier.predict({"text": TEXTS}) == expected  # a dictionary of columns
    for wrong in (b"bytes", 5, None):
        with pytest.raises(UsageError):
            classifier.predict(wrong)
    for texts in ([5], [None], ["a", b"b"], {}):
        with pytest.raises(DataError, match="text"):
            classifier.predict(texts)


def test_the_estimator_returns_arrays(series: pd.Series) -> None:
    estimator = LLMClassifier("gpt2-nano", weights="random", epochs=1).fit(series, ["a", "b", "a"])
    assert isinstance(estimator.predict(series), np.ndarray)
    assert isinstance(estimator.predict_proba(series), np.ndarray) and estimator.decision_function(series).shape == (3,)


def test_integer_classes(tmp_path: Path) -> None:
    data = (TEXTS * 4, [3, 10, 3] * 4)
    classifier = pyllmclf.finetune("gpt2-nano", data, weights="random", epochs=1, progress=False).classifier
    assert classifier.predict(pd.Series(TEXTS)).dtype == np.int64
    assert list(classifier.predict_proba(TEXTS, as_frame=True)) == [3, 10]
    assert type(classifier.predict(TEXTS[0])) is int
