"""Classifiers that abstain, give sets of labels and heed costs: what trainings leave, what is chosen and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyllmclf
from pyllmclf import ModelError, UsageError
from pyllmclf.classifier import Classifier
from pyllmclf.classifier import held_out as held_out_module
from pyllmclf.classifier.decision_options import parse_abstain, parse_conformal, parse_costs, parse_thresholds
from pyllmclf.classifier.decisions import Decisions
from pyllmclf.classifier.held_out import BEFORE_REFIT, OUT_OF_FOLD, THIS, TRAINING, HeldOut
from pyllmclf.evaluation.metrics import softmax
from pyllmclf.evaluation.selective import threshold_of_accuracy, threshold_of_share
from pyllmclf.training.run_folder import RunFolder
from pyllmclf.training.trainer import Trainer

WORDS = {"good": "ham", "fine": "ham", "win": "spam", "cash": "spam"}
TEXTS = [f"{word} {'very ' * (n % 3)}{n}" for n in range(15) for word in WORDS]
LABELS = [WORDS[text.split()[0]] for text in TEXTS]
QUICK: dict[str, Any] = {"weights": "random", "progress": False}
ABSTENTION: dict[str, Any] = {"rule": "answered", "value": 0.9, "threshold": 0.5}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A default training, which holds texts out, then trains on all."""
    folder = tmp_path_factory.mktemp("decisions") / "run"
    pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=folder, epochs=2, **QUICK)
    return folder


@pytest.fixture
def classifier(run_folder: Path) -> Classifier:
    """With scores of 600 held-out texts, of which a tenth is wrong where it is unsure."""
    found = pyllmclf.load(run_folder)
    found.state.held_out = scores(600)
    return found


def scores(texts: int, seed: int = 0) -> HeldOut:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, texts)
    margin = random.exponential(3.0, texts)
    right = random.random(texts) < 0.7 + 0.3 * np.tanh(margin)
    logits = np.zeros((texts, 2), dtype=np.float32)
    logits[np.arange(texts), np.where(right, labels, 1 - labels)] = margin
    return HeldOut(logits, labels)


# --- what a training leaves -------------------------------------------------------------------------------------------


def test_a_default_training_leaves_the_scores_of_its_held_out_texts(run_folder: Path) -> None:
    found = pyllmclf.load(run_folder)
    assert found.held_out is not None and found.state.training_rows is not None
    assert found.held_out.record() == {"classifier": BEFORE_REFIT, "texts": 6}
    assert found.state.training_rows.record() == {"classifier": BEFORE_REFIT, "texts": 6}
    files = b"".join(path.read_bytes() for path in (run_folder / "last").glob("*.safetensors"))
    assert b"good" not in files and b"very" not in files
    spec = json.loads((run_folder / "last/pyllmclf.json").read_text())
    assert (spec["format_version"], spec["decisions"]) == (1, None)


@pytest.mark.parametrize("calibrate", [False, True], ids=["plain", "calibrated"])
@pytest.mark.parametrize("early_stopping", [None, 1], ids=["all epochs", "best epoch"])
def test_validation_texts_leave_their_scores(tmp_path: Path, calibrate: bool, early_stopping: int | None) -> None:
    validation = TEXTS[:20], [*LABELS[:18], "ham", "ham"]
    given = QUICK | {"validation": validation, "epochs": 3, "calibrate": calibrate, "early_stopping": early_stopping}
    result = pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=tmp_path / "run", **given)
    for found in (result.classifier, pyllmclf.load(tmp_path / "run" / ("best" if early_stopping else "last"))):
        assert found.held_out is not None and found.held_out.classifier == THIS
        np.testing.assert_allclose(found.held_out.logits, found.logits(validation[0]), atol=1e-5)
        assert found.held_out.labels.tolist() == [found.classes_.index(label) for label in validation[1]]
        rows = found.state.training_rows
        assert rows is not None and rows.classifier == THIS
        np.testing.assert_allclose(rows.reference, found.distance(validation[0])[0], rtol=1e-3, atol=1e-2)


def test_no_checkpoint_has_statistics_of_another_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an epoch that is neither the best nor the last nothing is measured, nor kept of the best one before."""
    scores, saved, fit, save = iter([0.5, 0.7, 0.6, 0.65]), list[Any](), Trainer.fit, RunFolder.save

    def scored(self: Trainer, validate: Any, *rest: Any) -> Any:
        return fit(self, lambda: (validate()[0], next(scores)), *rest)

    def recorded(self: RunFolder, state: Any, *rest: Any, **options: Any) -> None:
        saved.append(state.training_rows)
        save(self, state, *rest, **options)

    monkeypatch.setattr(Trainer, "fit", scored)
    monkeypatch.setattr(RunFolder, "save", recorded)
    given = QUICK | {"validation": (TEXTS, LABELS), "epochs": 4, "early_stopping": 9, "output_dir": tmp_path / "run"}
    result = pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), **given)
    assert [rows is None for rows in saved] == [False, False, True, False]
    assert result.classifier.state.training_rows is saved[1]


def test_a_training_without_held_out_texts_compares_distances_within_its_texts() -> None:
    found = pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), validation=False, epochs=1, **QUICK).classifier
    assert found.held_out is None and found.state.training_rows is not None
    assert found.state.training_rows.record() == {"classifier": TRAINING, "texts": len(TEXTS)}
    found.set_decisions(abstain={"unlike": 0.9})
    reasons = [reason for _, reason in found.predict_with_reasons(TEXTS)]
    assert 0 < sum(reason is None for reason in reasons) <= len(TEXTS)
    for rule in ({"abstain": "answered=0.9"}, {"conformal": 0.1}):
        with pytest.raises(UsageError, match="has no scores of any; give labelled texts"):
            found.set_decisions(**rule)
    found.set_decisions(abstain={"probability": 0.9})  # needs none


def test_the_winner_of_a_search_has_out_of_fold_scores() -> None:
    result = pyllmclf.tune(
        "gpt2-nano", (TEXTS, LABELS), candidates=[{"trainable": "head"}], folds=2, validation=None, **QUICK
    )
    found = result.classifier
    assert found.held_out is not None and found.held_out.record() == {"classifier": OUT_OF_FOLD, "texts": len(TEXTS)}
    assert result.out_of_fold is not None
    expected = result.out_of_fold[["probability_ham", "probability_spam"]].to_numpy()
    np.testing.assert_allclose(found.held_out.probabilities, expected, atol=1e-6)


def test_windows_and_several_labels_leave_scores_of_texts(tmp_path: Path) -> None:
    labels = [["a"] if n % 3 else ["a", "b"] for n in range(len(TEXTS))]
    long = [f"{text} " * 8 for text in TEXTS]
    given: dict[str, Any] = QUICK | {"multi_label": True, "long_texts": "windows", "max_length": 16, "epochs": 1}
    pyllmclf.finetune("gpt2-nano", (long, labels), validation=(long, labels), output_dir=tmp_path / "run", **given)
    found = pyllmclf.load(tmp_path / "run")
    assert found.held_out is not None and found.state.training_rows is not None
    np.testing.assert_allclose(found.held_out.logits, found.logits(long), atol=1e-4)
    np.testing.assert_allclose(found.state.training_rows.reference, found.distance(long)[0], rtol=1e-3, atol=1e-2)
    found.set_decisions(thresholds="f1", abstain={"unlike": 0.8})
    labels_found = found.predict(long)
    assert any(label is None for label in labels_found) and any(isinstance(label, list) for label in labels_found)
    for rule in ({"abstain": {"answered": 0.9}}, {"conformal": 0.1}, {"costs": {("a", "b"): 2}}):
        with pytest.raises(UsageError, match="one label for each text"):
            found.set_decisions(**rule)


def test_many_texts_and_classes_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_module, "MOST_TEXTS", 50)
    found = HeldOut.sampled(np.arange(400, dtype=np.float32).reshape(200, 2), np.arange(200), THIS, seed=1)
    assert len(found.labels) == 50 and (found.logits[:, 0] == 2 * found.labels).all()
    again = HeldOut.sampled(np.arange(400, dtype=np.float32).reshape(200, 2), np.arange(200), THIS, seed=1)
    assert found.labels.tolist() == again.labels.tolist()
    monkeypatch.setattr(held_out_module, "MOST_BYTES", 100)
    found = HeldOut.sampled(np.ones((200, 2), dtype=np.float32), np.zeros(200, dtype=np.int64), THIS, seed=1)
    assert len(found.labels) == 25 and found.tensors()["logits"].nbytes == 100


# --- abstaining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"accuracy": 0.9}, "accuracy=0.9"])
def test_abstain_at_an_accuracy(classifier: Classifier, value: Any) -> None:
    classifier.set_decisions(abstain=value)
    held_out, rule = classifier.held_out, classifier.decisions.abstention
    assert held_out is not None and rule is not None
    confidence = softmax(held_out.logits).max(axis=1)
    chosen = threshold_of_accuracy(confidence, held_out.logits.argmax(axis=1) == held_out.labels, 0.9)
    assert chosen is not None and rule.threshold == chosen.threshold
    assert (rule.texts, rule.answered, rule.right) == (600, chosen.answered, chosen.right)
    # The interval of a single threshold isn't that of one which the labels have chosen.
    assert "95 % interval" not in str(rule)
    assert "(at least 90 % of all such texts, with a probability of 95 %)" in str(rule)
    check_answers(classifier, rule.threshold, f"below the threshold {rule.threshold:.4g} for 90 % accuracy")


def test_abstain_at_a_share_and_at_a_probability(classifier: Classifier) -> None:
    assert classifier.held_out is not None
    confidence = softmax(classifier.held_out.logits).max(axis=1)
    classifier.set_decisions(abstain={"answered": 0.5})
    threshold = threshold_of_share(confidence, 0.5)
    assert classifier.decisions.abstention is not None and classifier.decisions.abstention.answered == 300
    assert "95 % interval" in str(classifier.decisions.abstention)
    check_answers(classifier, threshold, f"below the threshold {threshold:.4g} for 50 % answered")
    classifier.set_decisions(abstain={"probability": 0.7})
    check_answers(classifier, 0.7, "below the threshold 0.7")
    classifier.set_decisions(abstain=False)
    assert not classifier.decisions and None not in classifier.predict(TEXTS)


def check_answers(classifier: Classifier, threshold: float, reason: str) -> None:
    """All forms of predictions agree with the threshold."""
    probabilities = classifier.predict_proba(TEXTS)
    answered = probabilities.max(axis=1) >= threshold
    expected = [
        classifier.classes_[row.argmax()] if has else None for row, has in zip(probabilities, answered, strict=True)
    ]
    assert classifier.predict(TEXTS) == expected
    reasons = [None if has else reason for has in answered]
    assert classifier.predict_with_reasons(TEXTS) == list(zip(expected, reasons, strict=True))
    assert classifier.predict_with_reasons(TEXTS[0]) == (expected[0], reasons[0])
    frame = classifier.predict(TEXTS, as_frame=True)
    assert frame["label"].tolist() == expected and frame["abstained"].tolist() == reasons
    assert classifier.predict(pd.Series(TEXTS)).tolist() == expected
    assert [row is None for row in classifier.predict(TEXTS, top_k=1)] == [not has for has in answered]
    figures = classifier.evaluate((TEXTS, LABELS)).decisions
    assert figures is not None and figures["abstain"]["answered_texts"] == answered.sum()
    right = np.array([a == b for a, b in zip(expected, LABELS, strict=True)])[answered]
    assert figures["abstain"]["accuracy"] == (pytest.approx(right.mean()) if len(right) else None)


def test_abstain_for_one_call(classifier: Classifier) -> None:
    assert set(classifier.predict(TEXTS, abstain={"probability": 1.0})) == {None}
    assert None not in classifier.predict(TEXTS)
    result = classifier.evaluate((TEXTS, LABELS), abstain="probability=1")
    assert result.decisions is not None and result.decisions["abstain"]["answered"] == 0.0
    assert result.decisions["abstain"]["interval"] == [0.0, 1.0]
    assert "not answered: 60 texts" in str(result)
    assert classifier.evaluate((TEXTS, LABELS)).decisions is None


def test_an_accuracy_that_the_texts_cannot_show(classifier: Classifier) -> None:
    classifier.state.held_out = scores(30)
    with pytest.raises(
        UsageError, match=r"accuracy=0.99 can't be shown on 30 held-out texts; the best is accuracy=0\."
    ):
        classifier.set_decisions(abstain={"accuracy": 0.99})
    assert not classifier.decisions


def test_integer_labels_stay_integers(classifier: Classifier) -> None:
    numbered = pyllmclf.finetune("gpt2-nano", (TEXTS, [int(label == "spam") for label in LABELS]), epochs=1, **QUICK)
    half = float(np.median(numbered.classifier.predict_proba(TEXTS).max(axis=1)))
    frame = numbered.classifier.predict(pd.Series(TEXTS), abstain={"probability": half}, as_frame=True)
    assert {type(value) for value in frame["label"]} == {int, type(None)}


def test_unlike_texts_get_no_answer(classifier: Classifier) -> None:
    rows = classifier.state.training_rows
    assert rows is not None
    distances, quantiles = classifier.distance(TEXTS)
    expected = [(np.sort(rows.reference) <= distance).mean() for distance in distances]
    np.testing.assert_allclose(quantiles, expected)
    single = classifier.distance(TEXTS[0])
    assert single[0] == pytest.approx(distances[0], rel=1e-3, abs=1e-3) and single[1] == quantiles[0]
    classifier.set_decisions(abstain={"unlike": 0.5})
    limit = np.sort(rows.reference)[2]
    found = classifier.predict_with_reasons(TEXTS)
    assert [label is None for label, _ in found] == (distances > limit).tolist()
    assert {reason for _, reason in found if reason} == {
        f"unlike the training texts: beyond the distance {limit:.4g} of 50 % of texts"
    }


# --- label sets and costs ---------------------------------------------------------------------------------------------


def test_label_sets(classifier: Classifier) -> None:
    classifier.set_decisions(conformal=0.05)
    assert classifier.held_out is not None and classifier.decisions.conformal is not None
    held_out = classifier.held_out
    scores_of = 1 - held_out.probabilities[np.arange(600), held_out.labels]
    assert classifier.decisions.conformal.quantiles == (np.sort(scores_of)[int(np.ceil(601 * 0.95)) - 1],)
    sets = classifier.predict_sets(TEXTS)
    probabilities = classifier.predict_proba(TEXTS)
    for labels, row in zip(sets, probabilities, strict=True):
        assert labels and labels[0] == classifier.classes_[row.argmax()]
        assert len(labels) == max(1, (1 - row <= classifier.decisions.conformal.quantiles[0]).sum())
    assert classifier.predict_sets(TEXTS[0]) == sets[0]
    assert classifier.predict_sets(pd.Series(TEXTS, index=range(5, 65))).loc[5] == sets[0]
    assert classifier.predict_sets([]) == []
    figures = classifier.evaluate((TEXTS, LABELS)).decisions
    assert figures is not None
    assert figures["conformal"]["coverage"] == np.mean([label in one for label, one in zip(LABELS, sets, strict=True)])
    assert figures["conformal"]["mean_labels"] == np.mean([len(one) for one in sets])


def test_label_sets_by_class_and_of_too_few_texts(classifier: Classifier) -> None:
    classifier.set_decisions(conformal={"error": 0.1, "by_class": True})
    assert classifier.decisions.conformal is not None and len(classifier.decisions.conformal.quantiles) == 2
    classifier.state.held_out = scores(8)
    with pytest.warns(RuntimeWarning, match="takes 9 held-out texts, and there are 8: every set has all labels"):
        sets = classifier.predict_sets(TEXTS, conformal=0.1)
    assert {len(one) for one in sets} == {2}
    with pytest.warns(
        RuntimeWarning, match=r"takes 9 held-out texts of each, and 2 of 2 classes have fewer \(ham, spam\)"
    ):
        classifier.set_decisions(conformal="0.1,by_class")
    classifier.set_decisions(conformal=False)
    with pytest.raises(UsageError, match="predict_sets needs an error rate"):
        classifier.predict_sets(TEXTS)


def test_costs(classifier: Classifier) -> None:
    classifier.set_decisions(costs={("ham", "spam"): 4})
    spam = classifier.predict_proba(TEXTS)[:, 1]
    assert classifier.predict(TEXTS) == ["spam" if p > 0.8 else "ham" for p in spam]
    result = classifier.evaluate((TEXTS, LABELS))
    expected = [classifier.classes_[i] for i in result.predictions]
    assert expected == classifier.predict(TEXTS)
    wrong = {("ham", "spam"): 4.0, ("spam", "ham"): 1.0}
    costs = [wrong.get(pair, 0.0) for pair in zip(LABELS, expected, strict=True)]
    assert result.decisions is not None and result.decisions["costs"]["mean_cost"] == pytest.approx(np.mean(costs))
    # The threshold of abstaining is that of the class which costs choose.
    classifier.set_decisions(abstain={"answered": 0.5})
    held_out = classifier.held_out
    assert held_out is not None and classifier.decisions.abstention is not None
    p = held_out.probabilities[:, 1]
    expected_confidence = np.where(p > 0.8, p, 1 - p)
    assert classifier.decisions.abstention.threshold == threshold_of_share(expected_confidence, 0.5)


# --- files ------------------------------------------------------------------------------------------------------------


def test_rules_are_saved_and_removed(classifier: Classifier, tmp_path: Path) -> None:
    classifier.set_decisions(
        abstain={"answered": 0.5, "unlike": 0.9}, conformal="0.05,by_class", costs={("ham", "spam"): 2}
    )
    classifier.save(tmp_path / "saved")
    again = pyllmclf.load(tmp_path / "saved")
    assert again.decisions == classifier.decisions
    assert again.predict_with_reasons(TEXTS) == classifier.predict_with_reasons(TEXTS)
    assert again.predict_sets(TEXTS) == classifier.predict_sets(TEXTS)
    # Versions without rules would answer every text.
    assert json.loads((tmp_path / "saved/pyllmclf.json").read_text())["format_version"] == 5
    less = pyllmclf.load(tmp_path / "saved", abstain=False, conformal=False, costs=False)
    assert not less.decisions
    less.save(tmp_path / "less")
    assert json.loads((tmp_path / "less/pyllmclf.json").read_text())["format_version"] == 1
    more = pyllmclf.load(tmp_path / "saved", abstain={"probability": 0.6})
    assert more.decisions.abstention is not None and more.decisions.abstention.threshold == 0.6
    assert more.decisions.unlike is None and more.decisions.conformal == classifier.decisions.conformal


def test_thresholds_of_several_labels_are_saved(tmp_path: Path) -> None:
    labels = [["a", "b"] if n % 4 == 0 else ["a"] if n % 2 else [] for n in range(len(TEXTS))]
    given = QUICK | {"multi_label": True, "epochs": 1, "validation": (TEXTS, labels)}
    found = pyllmclf.finetune("gpt2-nano", (TEXTS, labels), **given).classifier
    found.set_decisions(thresholds={"b": 0.2})
    assert found.decisions.thresholds == (0.5, 0.2)
    probabilities = found.predict_proba(TEXTS)
    expected = [[name for name, p, t in zip("ab", row, (0.5, 0.2), strict=True) if p >= t] for row in probabilities]
    assert found.predict(TEXTS) == expected
    result = found.evaluate((TEXTS, labels))
    assert (result.predictions == (probabilities >= (0.5, 0.2))).all()
    assert result.decisions == {"thresholds": {"a": 0.5, "b": 0.2}}
    found.set_decisions(thresholds="f1")
    tuned = found.evaluate((TEXTS, labels))
    assert tuned.macro_f1 >= result.macro_f1
    found.save(tmp_path / "saved")
    assert pyllmclf.load(tmp_path / "saved").decisions == found.decisions
    assert found.held_out is not None
    found.state.held_out = HeldOut(np.zeros((60, 2), dtype=np.float32), found.held_out.labels)
    with pytest.raises(
        UsageError,
        match=r"precision=1 isn't reached by 2 of 2 classes on 60 held-out texts; the best is a 75.00%, b 25",
    ):
        found.set_decisions(thresholds="precision=1")
    found.set_decisions(thresholds="precision=0.2")
    assert found.decisions.thresholds == (0.25, 0.25) and found.decisions.thresholds_rule == "precision=0.2"


def test_held_out_texts_of_the_caller(classifier: Classifier, run_folder: Path) -> None:
    found = pyllmclf.load(run_folder, held_out=(TEXTS, LABELS), abstain={"answered": 0.5})
    assert found.held_out is not None and found.held_out.record() == {"classifier": THIS, "texts": 60}
    assert found.decisions.abstention is not None and found.decisions.abstention.texts == 60
    before = found.decisions
    found.set_held_out((TEXTS[:20], LABELS[:20]))
    assert found.decisions != before and found.decisions.abstention.texts == 20
    found.set_decisions(abstain={"accuracy": 0.5})
    kept = found.held_out
    with pytest.raises(UsageError, match="can't be shown on 1 held-out texts"):
        found.set_held_out((TEXTS[:1], LABELS[:1]))
    assert found.held_out is kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": {"classifier": "mine", "texts": 6}}, "held_out"),
        ({"held_out": {"classifier": "this", "texts": 7}}, "holds no scores"),
        ({"training_rows": {"classifier": "this", "texts": -1}}, "training_rows"),
        ({"decisions": {"abstention": {"rule": "x", "value": 1, "threshold": 1}}}, "abstention.rule"),
        ({"decisions": {"abstention": {"rule": "answered"}}}, "abstention is malformed"),
        (
            {"decisions": {"abstention": ABSTENTION | {"texts": 10, "answered": 5, "right": 7}}},
            "abstention: 7 right of 5 answered of 10 texts",
        ),
        ({"decisions": {"abstention": ABSTENTION | {"texts": -1}}}, "abstention.texts"),
        ({"decisions": {"abstention": ABSTENTION | {"threshold": 10**400}}}, "abstention.threshold"),
        ({"decisions": {"abstention": ABSTENTION | {"value": 0}}}, "abstention.value"),
        ({"decisions": {"conformal": {"error": 0, "by_class": False, "quantiles": [1], "texts": 1}}}, "error"),
        ({"decisions": {"costs": [[0, 10**400], [1, 0]]}}, "costs has no 2 numbers"),
        ({"decisions": {"conformal": {"error": 0.1, "by_class": True, "quantiles": [1], "texts": 1}}}, "quantiles"),
        ({"decisions": {"costs": [[0, 1]]}}, "costs has no 2 rows"),
        ({"decisions": {"thresholds": [0.5, 0.5]}}, "thresholds is for classifiers with several labels"),
        ({"decisions": {"unlike": {"share": 0.9, "distance": "far"}}}, "unlike.distance"),
        ({"decisions": {"unlike": {"share": 0.9, "distance": 1.0}}, "training_rows": None}, "needs training_rows"),
    ],
)
def test_forged_rules_are_refused(run_folder: Path, changes: dict[str, Any], message: str) -> None:
    from pyllmclf.classifier.checkpoint import _read_state
    from pyllmclf.classifier.schema import read_spec

    file = (run_folder / "last").resolve() / "pyllmclf.json"
    with pytest.raises(ModelError, match=message):
        _read_state(file.parent, read_spec(json.loads(file.read_text()) | changes, file))


def test_a_checkpoint_without_scores_opens(run_folder: Path) -> None:
    from pyllmclf.classifier.checkpoint import _read_state
    from pyllmclf.classifier.schema import read_spec

    file = (run_folder / "last").resolve() / "pyllmclf.json"
    raw = json.loads(file.read_text())
    for name in ("held_out", "training_rows", "decisions"):
        del raw[name]
    found = Classifier(_read_state(file.parent, read_spec(raw, file)))
    assert found.held_out is None and not found.decisions
    with pytest.raises(UsageError, match="distance needs statistics"):
        found.distance(TEXTS)
    with pytest.raises(UsageError, match="unlike needs statistics"):
        found.set_decisions(abstain={"unlike": 0.9})


def test_record_of_no_rules() -> None:
    assert Decisions().to_record() is None and Decisions.from_record(None, 2, several=False) == Decisions()
    with pytest.raises(ValueError, match="not an object"):
        Decisions.from_record([], 2, several=False)


# --- what callers say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.98, "doesn't say what it is"),
        (True, "doesn't say what it is"),
        ({}, "names no rule"),
        ("accuracy", "is no NAME=NUMBER"),
        ("accuracy=high", "is no number"),
        ({"accuracy": 1.0}, "can't be shown by any number"),
        ({"accuracy": 0.0}, "above 0"),
        ({"answered": 1.5}, "at most 1"),
        ({"probability": float("nan")}, "at most 1"),
        ({"confidence": 0.9}, "has no 'confidence'"),
        ({"accuracy": 0.9, "answered": 0.9}, "choose one threshold each"),
        ({"answered": 0.9, "level": 0.9}, "give accuracy, too"),
    ],
)
def test_bad_abstain(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_abstain(value)


@pytest.mark.parametrize("value", [0.0, 1.0, "x", True, {"by_class": True}, {"error": 0.1, "by_class": 1}, "0.1,all"])
def test_bad_conformal(value: Any) -> None:
    with pytest.raises(UsageError, match="conformal"):
        parse_conformal(value)


@pytest.mark.parametrize("value", [2.0, "best", "precision", {"c": 0.5}, {"a": 0.0}, [0.5, 0.5], "c=0.5", np.ones(2)])
def test_bad_thresholds(value: Any) -> None:
    with pytest.raises(UsageError, match="thresholds"):
        parse_thresholds(value, ["a", "b"])


@pytest.mark.parametrize(
    "value",
    [
        5,
        {},
        {"ham": 5},
        {("ham", "eggs"): 5},
        {("ham", "spam"): -1},
        ["ham:spam"],
        ["ham:eggs=2"],
        ["ham:spam=x"],
        np.ones((2, 2)),
        [],
    ],
)
def test_bad_costs(value: Any) -> None:
    with pytest.raises(UsageError, match="costs"):
        parse_costs(value, ["ham", "spam"])


def test_texts_of_the_command_line() -> None:
    assert parse_abstain("accuracy=0.98, unlike=0.99") == {"accuracy": 0.98, "unlike": 0.99}
    assert parse_abstain("off") is None and parse_conformal("off") == (None, False)
    assert parse_conformal("0.1, by_class") == (0.1, True)
    assert parse_thresholds("precision=0.9", ["a"]) == (None, "precision", 0.9)
    assert parse_thresholds("a=0.2", ["a", "b"])[0] == (0.2, 0.5)
    assert parse_costs(["a:b:c=2", "c:a:b=3"], ["a:b", "c"]) == ((0.0, 2.0), (3.0, 0.0))
    assert parse_costs({(1, 0): 2}, [0, 1]) == ((0.0, 1.0), (2.0, 0.0))


def test_rules_for_classifiers_of_the_other_kind(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match="thresholds are for classifiers of texts that may have several labels"):
        classifier.set_decisions(thresholds="f1")
