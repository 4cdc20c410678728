"""The scikit-learn estimator, used by scikit-learn's own tools."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from models import gpt2_folder
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

from pyllmclf import DataError, UsageError, finetune
from pyllmclf.sklearn import LLMClassifier

TEXTS = [f"{'win cash' if i % 2 else 'see you'} {i % 5}" for i in range(24)]
LABELS = ["spam" if i % 2 else "ham" for i in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(gpt2_folder(tmp_path_factory.mktemp("model"), n_classes=2))


def made(folder: str, **changes: Any) -> LLMClassifier:
    arguments: dict[str, Any] = {"epochs": 3, "learning_rate": 5e-3, "trainable": "all"}
    return LLMClassifier(folder, **(arguments | changes))


def test_parameters_are_those_of_finetune() -> None:
    """With their defaults; so that each of them can be set, searched and cloned."""
    own = inspect.signature(LLMClassifier).parameters
    theirs = inspect.signature(finetune).parameters
    renamed = {"seed": "random_state"}
    # The shape of y says whether texts have several labels.
    elsewhere = {"resume", "save_every_steps", "keep_last"}  # a fit is one call
    elsewhere |= {"train", "validation", "test", "text_column", "label_column", "multi_label", "label_separator"}
    elsewhere |= {"empty_texts", "encoding_errors", "encoding", "delimiter", "header"}  # of files
    expected = {renamed.get(name, name): p.default for name, p in theirs.items() if name not in elsewhere}
    found = {name: p.default for name, p in own.items()}
    assert found == expected | {"validation_fraction": None, "progress": False}


def test_fit_predict(folder: str) -> None:
    model = made(folder).fit(TEXTS, LABELS)
    assert model.classes_.tolist() == ["ham", "spam"]
    assert model.score(TEXTS, LABELS) == 1.0
    probabilities = model.predict_proba(TEXTS)
    assert probabilities.shape == (24, 2)
    assert np.allclose(probabilities.sum(axis=1), 1.0)
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(TEXTS)).all()
    decisions = model.decision_function(TEXTS)
    assert np.allclose(1 / (1 + np.exp(-decisions)), probabilities[:, 1])
    assert len(model.history_) == 3
    # The same as finetune's.
    same = finetune(folder, (TEXTS, LABELS), epochs=3, learning_rate=5e-3, trainable="all", progress=False)
    assert np.array_equal(same.classifier.predict_proba(TEXTS), probabilities)


@pytest.mark.parametrize(
    "labels",
    [[i % 3 for i in range(24)], np.array([7, -2] * 12), np.array([True, False] * 12), pd.Series(["b", "a"] * 12)],
    ids=["integers", "int array", "booleans", "series"],
)
def test_kinds_of_labels(folder: str, labels: Any) -> None:
    model = made(folder, epochs=1).fit(TEXTS, labels)
    assert np.array_equal(model.classes_, np.unique(np.asarray(labels)))
    predicted = model.predict(TEXTS)
    assert predicted.dtype == model.classes_.dtype
    assert set(predicted) <= set(np.asarray(labels).tolist())
    assert model.predict_proba(TEXTS[:5]).shape == (5, len(model.classes_))


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pd.Series(TEXTS),
        pd.DataFrame({"t": TEXTS}),
    ],
    ids=["tuple", "array", "column", "series", "frame"],
)
def test_kinds_of_texts(folder: str, texts: Any) -> None:
    model = made(folder, epochs=1).fit(texts, LABELS)
    assert np.array_equal(model.predict_proba(texts), model.predict_proba(TEXTS))


def test_clone_and_set_params(folder: str) -> None:
    model = made(folder, lora={"rank": 2}, trainable="lora").fit(TEXTS, LABELS)
    copy = clone(model)
    assert not hasattr(copy, "classifier_")
    assert copy.get_params() == model.get_params()
    assert copy.set_params(epochs=1, trainable="head", lora=None).fit(TEXTS, LABELS).history_[-1].epoch == 1
    with pytest.raises(NotFittedError):
        clone(model).predict(TEXTS)


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_pickle(folder: str, trainable: str) -> None:
    """Through a checkpoint's files: the same bits, and nothing in it but plain data."""
    model = made(folder, trainable=trainable, epochs=1).fit(TEXTS, LABELS)
    content = pickle.dumps(model)
    assert b"torch" not in content
    again = pickle.loads(content)
    assert np.array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert again.classes_.tolist() == model.classes_.tolist()
    assert again.get_params() == model.get_params()
    unfitted = pickle.loads(pickle.dumps(clone(model)))
    assert not hasattr(unfitted, "classifier_")
    state = model.__getstate__()
    state["_checkpoint"]["../outside"] = b""
    with pytest.raises(UsageError, match="outside"):
        LLMClassifier.__new__(LLMClassifier).__setstate__(state)


def test_fitting_again_begins_anew(folder: str) -> None:
    once = made(folder).fit(TEXTS, LABELS)
    twice = made(folder).fit(TEXTS[:8], LABELS[:8]).fit(TEXTS, LABELS)
    assert np.array_equal(once.predict_proba(TEXTS), twice.predict_proba(TEXTS))


def test_pipeline_and_cross_validation(folder: str) -> None:
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(lower, made(folder))
    assert cross_val_score(pipeline, TEXTS, LABELS, cv=2).tolist() == [1.0, 1.0]


def test_grid_search(folder: str) -> None:
    grid = {"trainable": ["head", "all"], "learning_rate": [1e-6, 5e-3]}
    search = GridSearchCV(made(folder), grid, cv=2).fit(TEXTS, LABELS)
    assert len(search.cv_results_["params"]) == 4
    for parameters, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        assert score == cross_val_score(made(folder, **parameters), TEXTS, LABELS, cv=2).mean()
    assert (
        search.predict(TEXTS).tolist() == made(folder, **search.best_params_).fit(TEXTS, LABELS).predict(TEXTS).tolist()
    )


def test_calibration(folder: str) -> None:
    calibrated = CalibratedClassifierCV(made(folder), cv=2).fit(TEXTS, LABELS)
    probabilities = calibrated.predict_proba(TEXTS)
    assert np.allclose(probabilities.sum(axis=1), 1.0)
    assert calibrated.score(TEXTS, LABELS) == 1.0


def test_validation_fraction_and_early_stopping(folder: str) -> None:
    model = made(folder, validation_fraction=0.25, early_stopping=1, epochs=20, learning_rate=3e-2).fit(TEXTS, LABELS)
    assert all(record.validation_accuracy is not None for record in model.history_)
    assert len(model.history_) < 20


def test_tags(folder: str) -> None:
    tags = get_tags(made(folder))
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.estimator_type == "classifier"


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        ("one text", ["a"], "put the single text"),
        ([], [], "no text"),
        ([1, 2], ["a", "b"], "text 0 is a int"),
        (np.zeros((3, 2)), ["a", "b", "a"], "shape"),
        (["a", None], ["a", "b"], "text 1 is a NoneType"),
        (["a", "b"], None, "y is missing"),
        (["a", "b"], [["a", "b"], ["b", "a"]], "shape"),
    ],
)
def test_what_is_refused(folder: str, texts: Any, labels: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        made(folder).fit(texts, labels)


def test_other_refusals(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inconsistent"):
        made(folder).fit(TEXTS, LABELS[:-1])
    with pytest.raises(ValueError, match="Unknown label type"):
        made(folder).fit(TEXTS, np.linspace(0, 1, 24))
    with pytest.raises(DataError, match="at least two classes"):
        made(folder).fit(TEXTS, ["a"] * 24)
    with pytest.raises(UsageError, match="early_stopping needs"):
        made(folder, early_stopping=1).fit(TEXTS, LABELS)


def test_several_labels(folder: str) -> None:
    y = np.array([[i % 2, i % 5 == 0, i % 5 > 1] for i in range(24)], dtype=np.int64)
    model = made(folder, epochs=8).fit(TEXTS, y)
    predicted = model.predict(TEXTS)
    assert predicted.shape == y.shape and set(np.unique(predicted)) == {0, 1}
    np.testing.assert_array_equal(predicted, model.predict_proba(TEXTS) >= 0.5)
    np.testing.assert_array_equal(predicted, model.decision_function(TEXTS) >= 0)
    assert model.score(TEXTS, y) == (predicted == y).all(axis=1).mean() > 0.5
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(TEXTS), predicted)
    assert cross_val_score(made(folder), TEXTS, y, cv=2).shape == (2,)
    two = made(folder, epochs=1).fit(TEXTS, y[:, :2])
    assert two.decision_function(TEXTS).shape == (24, 2) and two.classes_.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("column", "said"), [(np.full(24, 2), "only 0 and 1"), (np.zeros(24), "no text has the class 1")]
)
def test_several_labels_that_are_none(folder: str, column: np.ndarray, said: str) -> None:
    y = np.stack([np.arange(24) % 2, column], axis=1)
    with pytest.raises(DataError, match=said):
        made(folder).fit(TEXTS, y)


@pytest.mark.filterwarnings("ignore:A column-vector y")
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([True, False]), [False, True]),
        (np.array([2.0, 1.0]), [1.0, 2.0]),
        (np.array([["x"], ["y"]]), ["x", "y"]),
        (pd.DataFrame({"y": ["x", "y"]}), ["x", "y"]),
        (np.array([[3], [1]]), [1, 3]),
    ],
    ids=["booleans", "floats", "column", "frame", "column of numbers"],
)
def test_labels_of_scikit_learn(folder: str, labels: Any, classes: list[Any]) -> None:
    y = pd.concat([labels] * 12) if isinstance(labels, pd.DataFrame) else np.concatenate([labels] * 12)
    model = made(folder, class_weights=dict(zip(classes, (1.0, 2.0), strict=True))).fit(TEXTS, y)
    assert model.classes_.tolist() == classes and set(model.predict(TEXTS).tolist()) <= set(classes)
    # The classifier knows the labels by name, too.
    assert model.classifier_.evaluate((TEXTS, np.asarray(y).ravel())).classes == [
        str(int(c)) if isinstance(c, float) else str(c) for c in classes
    ]


def test_several_labels_in_a_sparse_matrix(folder: str) -> None:
    y = np.array([[1, 0], [1, 1], [0, 1]] * 8)
    dense, sparse = made(folder).fit(TEXTS, y), made(folder).fit(TEXTS, csr_matrix(y))
    np.testing.assert_array_equal(sparse.predict_proba(TEXTS), dense.predict_proba(TEXTS))


def test_random_states(folder: str) -> None:
    def probabilities(state: Any) -> np.ndarray:
        return made(folder, random_state=state).fit(TEXTS, LABELS).predict_proba(TEXTS)

    first, again, other = (probabilities(np.random.RandomState(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(probabilities(None), probabilities(None))


def test_a_grid_of_arrays(folder: str) -> None:
    grid = {"epochs": np.arange(1, 3), "learning_rate": np.array([1e-3], dtype=np.float32)}
    search = GridSearchCV(made(folder), grid, cv=2, error_score="raise").fit(TEXTS, LABELS)
    assert search.best_params_["epochs"] in (1, 2)
