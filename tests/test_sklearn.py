"""The scikit-learn estimator, used by scikit-learn's own tools."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from models import gpt2_folder
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import check_estimator

import pyllmclf
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
    elsewhere |= {"train", "validation", "test", "text_column", "text_pair_column", "label_column", "multi_label"}
    elsewhere |= {"label_separator"}
    elsewhere |= {"empty_texts", "encoding_errors", "missing", "encoding", "delimiter", "header"}  # of files
    elsewhere |= {"sample_weight"}  # of fit
    elsewhere |= {"baselines", "refit"}  # of a training with a report of its own
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


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_pickles_name_no_temporary_folder(
    folder: str, trainable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is gone by the time that another process opens the pickle."""
    model = made(folder, trainable=trainable, epochs=1).fit(TEXTS, LABELS)
    temporary = tmp_path / "temporary-files"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    content = pickle.dumps(model)
    assert not list(temporary.iterdir()) and b"temporary-files" not in content
    temporary.rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    again = pickle.loads(content)
    assert np.array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert pickle.dumps(again).count(b"base_model_name_or_path") == content.count(b"base_model_name_or_path")
    again.classifier_.save(tmp_path / "saved")
    assert np.array_equal(pyllmclf.load(tmp_path / "saved").predict_proba(TEXTS), model.predict_proba(TEXTS))


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_skops(folder: str, trainable: str, tmp_path: Path) -> None:
    """As docs/other_tools.md shows it: the estimator is the one type to trust."""
    model = made(folder, trainable=trainable, epochs=1).fit(TEXTS, LABELS)
    skops.io.dump(model, tmp_path / "classifier.skops")
    trusted = skops.io.get_untrusted_types(file=tmp_path / "classifier.skops")
    assert trusted == ["pyllmclf.sklearn.LLMClassifier"]
    again = skops.io.load(tmp_path / "classifier.skops", trusted=trusted)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert again.get_params() == model.get_params() and again.classes_.tolist() == ["ham", "spam"]


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


def test_fits_of_a_grid_share_frozen_layers(folder: str, filled: list[int]) -> None:
    """Once for each fold and for all texts, with the same results as without."""
    texts, grid = [f"{text} {i}" for i, text in enumerate(TEXTS)], {"learning_rate": [1e-4, 5e-3, 1e-2]}
    arguments: dict[str, Any] = {"trainable": "last_block", "epochs": 3}
    search = GridSearchCV(made(folder, **arguments), grid, cv=2).fit(texts, LABELS)
    assert len(filled) == 3
    best = made(folder, cache="off", **arguments | search.best_params_).fit(texts, LABELS)
    assert len(filled) == 3
    np.testing.assert_allclose(search.predict_proba(texts), best.predict_proba(texts), atol=1e-6)


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
        (["a", "b"], None, "requires y to be passed, but the target y is None"),
        (np.zeros((1, 4)), ["a"], "n_samples=1, n_features=4"),
        (np.zeros((2, 4)), ["a", "b"], "n_samples=2, n_features=4"),
        (csr_matrix(np.ones((3, 2))), ["a", "b", "a"], "sparse input is not supported"),
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
    # The classifier has the same labels; floats that are whole numbers are integers.
    assert model.classifier_.evaluate((TEXTS, np.asarray(y).ravel())).classes == classes


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


# --- weights --------------------------------------------------------------------------------------------------------

# Each text with both labels; the weights say which one counts.
ORDER = np.random.RandomState(0).permutation(48)
BOTH_TEXTS = np.array(TEXTS * 2)[ORDER].tolist()
BOTH_LABELS = np.array(LABELS + ["ham" if label == "spam" else "spam" for label in LABELS])[ORDER].tolist()
BOTH_WEIGHTS = np.repeat([1.0, 0.01], 24)[ORDER]
NANO: dict[str, Any] = {"weights": "random", "epochs": 1, "trainable": "head", "learning_rate": 1e-2}


def test_sample_weight(folder: str) -> None:
    for weights in (BOTH_WEIGHTS, 1.01 - BOTH_WEIGHTS):
        model = made(folder).fit(BOTH_TEXTS, BOTH_LABELS, sample_weight=weights)
        assert model.score(BOTH_TEXTS, BOTH_LABELS) == 0.5
        assert model.score(BOTH_TEXTS, BOTH_LABELS, sample_weight=weights) == pytest.approx(1 / 1.01)
    same = finetune(
        folder, (BOTH_TEXTS, BOTH_LABELS), sample_weight=weights, epochs=3, learning_rate=5e-3, trainable="all",
        progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(same.classifier.predict_proba(TEXTS), model.predict_proba(TEXTS))


@pytest.mark.parametrize("weights", [2.5, [2.5] * 24, pd.Series([1] * 24), None], ids=str)
def test_equal_weights(folder: str, weights: Any) -> None:
    found = made(folder, epochs=1).fit(TEXTS, LABELS, sample_weight=weights).predict_proba(TEXTS)
    np.testing.assert_array_equal(found, made(folder, epochs=1).fit(TEXTS, LABELS).predict_proba(TEXTS))


@pytest.mark.parametrize("weights", [[1.0] * 23, np.ones((24, 2)), [-1.0] * 24, [0.0] * 24, "trust", 0.0])
def test_weights_that_are_refused(folder: str, weights: Any) -> None:
    with pytest.raises(ValueError, match=r"sample_weight|inconsistent numbers of samples"):
        made(folder).fit(TEXTS, LABELS, sample_weight=weights)


def test_weights_and_several_labels(folder: str) -> None:
    y = np.array([[label == "spam", label == "ham"] for label in BOTH_LABELS]).astype(int)
    model = made(folder, epochs=8).fit(BOTH_TEXTS, y, sample_weight=BOTH_WEIGHTS)
    found = model.score(BOTH_TEXTS, y, sample_weight=BOTH_WEIGHTS)
    assert found == accuracy_score(y, model.predict(BOTH_TEXTS), sample_weight=BOTH_WEIGHTS) > 0.9


def test_metadata_routing(folder: str) -> None:
    with config_context(enable_metadata_routing=True):
        model = made(folder).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = make_pipeline(FunctionTransformer(list), model)
        pipeline.fit(BOTH_TEXTS, BOTH_LABELS, sample_weight=BOTH_WEIGHTS)
        assert pipeline.score(BOTH_TEXTS, BOTH_LABELS, sample_weight=BOTH_WEIGHTS) > 0.9
        grid = GridSearchCV(model, {"learning_rate": [5e-3]}, cv=2, error_score="raise")
        grid.fit(BOTH_TEXTS, BOTH_LABELS, sample_weight=BOTH_WEIGHTS)
        assert (grid.predict(TEXTS) == LABELS).all() and grid.best_score_ > 0.9
        params = {"sample_weight": BOTH_WEIGHTS}
        scores = cross_validate(pipeline, BOTH_TEXTS, BOTH_LABELS, cv=2, params=params, error_score="raise")
        assert (scores["test_score"] > 0.9).all()


def test_voting(folder: str) -> None:
    voters = [("words", make_pipeline(TfidfVectorizer(), LogisticRegression())), ("model", made(folder))]
    assert VotingClassifier(voters, voting="soft").fit(TEXTS, LABELS).score(TEXTS, LABELS) == 1.0
    with config_context(enable_metadata_routing=True):
        requested = [
            (name, made(folder, random_state=i).set_fit_request(sample_weight=True)) for i, name in enumerate("ab")
        ]
        model = VotingClassifier(requested, voting="soft")
        model.fit(BOTH_TEXTS, BOTH_LABELS, sample_weight=BOTH_WEIGHTS)
        assert (model.predict(TEXTS) == LABELS).all()


@pytest.mark.parametrize("ensemble", [AdaBoostClassifier, BaggingClassifier])
def test_ensembles(folder: str, ensemble: Any) -> None:
    """They take arrays alone: of one column with the texts."""
    column = np.array(BOTH_TEXTS, dtype=object)[:, None]
    model = ensemble(made(folder), n_estimators=2, random_state=0).fit(column, BOTH_LABELS, sample_weight=BOTH_WEIGHTS)
    assert model.score(np.array(TEXTS, dtype=object)[:, None], LABELS) > 0.8


# --- scikit-learn's own checks --------------------------------------------------------------------------------------


class ChecksOfArrays(LLMClassifier):
    """Claims to take arrays of numbers, without which scikit-learn makes no more than one check."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


# The other checks fit arrays of numbers, and a text classifier refuses these.
PASSED = {
    "do_not_raise_errors_in_init_or_set_params", "estimator_cloneable",
    "estimator_repr", "estimator_sparse_array", "estimator_sparse_matrix", "estimator_sparse_tag",
    "estimator_tags_renamed", "estimators_partial_fit_n_features", "estimators_unfitted", "fit1d", "fit2d_1sample",
    "get_params_invariance", "mixin_order", "no_attributes_set_in_init", "parameters_default_constructible",
    "requires_y_none", "set_params", "valid_tag_types",
}  # fmt: skip


def test_scikit_learn_s_checks() -> None:
    results = check_estimator(ChecksOfArrays("gpt2-nano", **NANO), on_fail=None, on_skip=None)
    passed = {each["check_name"].removeprefix("check_") for each in results if each["status"] == "passed"}
    assert passed - {"array_api_input"} >= PASSED, PASSED - passed


class OfNumbers(ChecksOfArrays):
    """Reads a row of numbers as a text."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LLMClassifier:
        return super().fit([" ".join(map(str, row)) for row in np.asarray(X)], y, sample_weight)


@pytest.mark.parametrize(
    "check", ["pandas_series", "not_an_array", "list", "shape", "not_overwritten", "all_zero_sample_weights_error"]
)
def test_scikit_learn_s_checks_of_weights(check: str) -> None:
    name = check if check.endswith("error") else f"sample_weights_{check}"
    getattr(estimator_checks, f"check_{name}")("OfNumbers", OfNumbers("gpt2-nano", **NANO))
