"""The page of a report: what it has without its script, how large it is, and that texts and names stay texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from pages import Page
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score, roc_curve

from pyllmclf.data.readers import TextData
from pyllmclf.evaluation.confused_pairs import confused_pairs
from pyllmclf.evaluation.metrics import EvaluationResult, evaluate_logits, softmax
from pyllmclf.evaluation.multi_label import MultiLabelResult, evaluate_multi_label
from pyllmclf.evaluation.multi_label_statistics import best_thresholds, decision_calibration, multi_label_intervals
from pyllmclf.evaluation.report import Baselines, find_near_duplicates, write_report
from pyllmclf.evaluation.report.confidence import coverage_rows, slider_rows
from pyllmclf.evaluation.report.confusion import matrix_image
from pyllmclf.evaluation.report.curves import class_curves, curves_of, mean_curves
from pyllmclf.evaluation.report.lengths import length_chart
from pyllmclf.evaluation.report.training_curve import training_charts
from pyllmclf.evaluation.selective import risk_coverage
from pyllmclf.evaluation.statistics import calibration
from pyllmclf.pages.charts import numbers, thinned
from pyllmclf.text_pair import TextPair
from pyllmclf.tuning.report import search_section

HOSTILE = '</script></td><script>alert(1)</script><img src=x onerror=alert(2)> & "it\'s" {{ 7 * 7 }} \x07\u202e'
NAMES = ["مرحبا", "包裹 📦", "</script><b>x</b>", "a" * 300, "$\\alpha$"]
ABOUT = {"checkpoint": "out", "data": "data.csv"}
LENGTHS: dict[str, Any] = {
    "texts": 9, "tokens": 90, "mean": 9.5, "longest": 30, "padding_avoided": 0.5, "truncated": 1, "empty": 0,
    "skipped": 0,
}  # fmt: skip


def one_label(texts: int, classes: int, names: list[str] | None = None, noise: float = 1.0) -> EvaluationResult:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, texts)
    logits = noise * random.normal(size=(texts, classes)) + 2.0 * np.eye(classes)[labels]
    names = names or [f"class {c}" for c in range(classes)]
    return evaluate_logits(logits, labels, names, seconds=0.5, lengths=LENGTHS)


def several_labels(texts: int = 300, classes: int = 4) -> MultiLabelResult:
    random = np.random.default_rng(classes)
    labels = random.random((texts, classes)) < 0.3
    logits = random.normal(size=(texts, classes)) + 3.0 * labels - 1.5
    names = [f"label {c}" for c in range(classes)]
    return evaluate_multi_label(
        logits.astype(np.float32), labels.astype(np.float32), names, seconds=0.5, lengths=LENGTHS
    )


def written(tmp_path: Path, result: EvaluationResult | MultiLabelResult, text: Any = "a text", **more: Any) -> Page:
    count = len(result.labels)
    data = TextData([text] * count, None, "data.csv", list(range(2, count + 2)))
    write_report(tmp_path / "r.html", result, data, np.arange(count) % 40 + 1, ABOUT, more.pop("history", []), **more)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    page.check()
    return page


# --- the page ---------------------------------------------------------------------------------------------------------


def test_hostile_texts_and_names_stay_texts(tmp_path: Path) -> None:
    page = written(tmp_path, one_label(60, 5, NAMES), HOSTILE, history=[{"epoch": 1, "train_loss": 0.5}])
    assert page.text.count("<script>alert(1)</script>") >= 3 and "{{ 7 * 7 }} \\x07\\u202e" in page.text
    assert "img" not in {tag for tag, _ in page.tags}
    assert page.data["figures"]["classes"] == NAMES
    assert {row[0] for row in page.rows("class-table")} == set(NAMES)
    assert all(attributes.get("dir") == "auto" for _, attributes in page.tags if attributes.get("class") == "text")


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    pages = [written(tmp_path, one_label(50, 3)).content for _ in range(2)]
    assert pages[0] == pages[1]
    assert written(tmp_path, one_label(51, 3)).content != pages[0]


def test_few_classes(tmp_path: Path) -> None:
    """Everything is there without the script: tables, the matrix, the figures behind the curves."""
    result = one_label(400, 6, noise=1.5)
    page = written(tmp_path, result, baselines=Baselines("the validation texts", 0.9, {"majority class": 0.25}))
    assert "this classifier" in page.text and "25.0%" in page.text
    (matrix,) = (name for name, rows in page._tables.items() if rows[0][:1] == ["class ↓ predicted →"])
    assert [[int(cell) for cell in row[1:]] for row in page.rows(matrix)] == result.confusion_matrix.tolist()
    f1 = [row[3] for row in page.rows("class-table")]
    assert f1 == sorted(f1)
    errors = [attributes for tag, attributes in page.tags if "data-error" in attributes]
    wrong = int((~result.right).sum())
    assert len(errors) == len(page.data["errors"]) == wrong < 300
    assert [error["id"] for error in errors] == [f"text-{error['number']}" for error in page.data["errors"]]
    assert f"{wrong} of 400 texts are wrong. All are here" in page.text


@pytest.mark.parametrize("classes", [2, 21])
def test_matrix_and_image(tmp_path: Path, classes: int) -> None:
    page = written(tmp_path, one_label(300, classes))
    assert ("image" in {tag for tag, _ in page.tags}) == (classes > 20)
    assert ("Thresholds for" in page.text) == (classes == 2)


def test_a_thousand_classes_are_a_small_page(tmp_path: Path) -> None:
    page = written(tmp_path, one_label(6_000, 1_000))
    assert len(page.content.encode()) < 5_000_000
    assert len(page.rows("class-table")) == 1_000 and sorted(page.data["order"]) == list(range(1_000))
    assert len(page.data["curves"]) > 900


def test_nothing_wrong_and_nothing_right(tmp_path: Path) -> None:
    right = evaluate_logits(9.0 * np.eye(3), np.arange(3), ["a", "b", "c"], lengths=LENGTHS)
    assert "None." in written(tmp_path, right).text
    # One class alone, which no curve can be drawn of.
    wrong = evaluate_logits(np.array([[0.0, 9.0]] * 3), np.zeros(3, dtype=np.int64), ["a", "b"], lengths=LENGTHS)
    assert "chart-roc" not in written(tmp_path, wrong).content


def test_several_labels(tmp_path: Path) -> None:
    result = several_labels()
    page = written(tmp_path, result)
    for words in ("all labels right", "micro-F1", "Hamming loss", "best threshold", "missing label", "wrong label"):
        assert words in page.text
    assert page.data["figures"] == json.loads(json.dumps(result.to_dict()))
    assert [error["confidence"] for error in page.data["errors"]] == sorted(
        (error["confidence"] for error in page.data["errors"]), reverse=True
    )


def test_with_costs_the_confidence_is_that_of_the_predicted_class(tmp_path: Path) -> None:
    """Which is not the most probable one of each text."""
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 2, 200), random.normal(size=(200, 2))
    predicted = (softmax(logits)[:, 1] >= 0.8).astype(np.int64)
    result = evaluate_logits(
        logits, labels, ["ham", "spam"], lengths=LENGTHS, predictions=predicted, decisions={"costs": {"mean_cost": 1.0}}
    )
    confidence = result.probabilities[np.arange(200), predicted]
    assert confidence.min() < 0.5
    page = written(tmp_path, result)
    assert [error["confidence"] for error in page.data["errors"]] == sorted(confidence[~result.right], reverse=True)
    assert page.data["coverage"][-1]["threshold"] == confidence.min()
    bins, counts = np.unique(np.minimum((10 * confidence).astype(int), 9), return_counts=True)
    found = calibration(result)
    assert found.counts[bins].tolist() == counts.tolist() and found.counts.sum() == 200
    assert found.confidence[bins[0]] == pytest.approx(confidence[(10 * confidence).astype(int) == bins[0]].mean())
    assert "instead of by least expected cost" in page.text


def test_with_thresholds_decisions_are_as_sure_as_they_are(tmp_path: Path) -> None:
    """A label that is predicted from 0.1 on, at 0.2, and wrongly: 0.2, not 0.8."""
    logits = np.log(np.array([[0.2, 0.9], [0.05, 0.7]]) / np.array([[0.8, 0.1], [0.95, 0.3]]))
    labels, predicted = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[True, True], [False, True]])
    decisions = {"thresholds": {"a": 0.1, "b": 0.5}}
    result = evaluate_multi_label(
        logits, labels, ["a", "b"], lengths=LENGTHS, predictions=predicted, decisions=decisions
    )
    page = written(tmp_path, result)
    assert [error["confidence"] for error in page.data["errors"]] == pytest.approx([0.7, 0.2])
    assert "predicted from its own threshold on" in page.text and "F1 as predicted" in page.text


def test_a_search_says_what_it_measures_on(tmp_path: Path) -> None:
    rows = [
        {"rank": n, "trainable": name, "accuracy": 0.9, "std": None, "log_loss": 0.1, "seconds": 1.0, "folds": 1}
        for n, name in ((1, "head"), (2, "all"))
    ]
    for folds in (True, False):
        page = written(tmp_path, one_label(40, 2), search=search_section(rows, folds=folds))
        assert ("cross-validation" in page.text) is folds
        assert ("Accuracy on the validation texts." in page.text) is not folds
        assert ("standard deviations" in page.content) is folds


def test_the_chart_of_a_training_names_both_splits() -> None:
    history = [{"epoch": e, "train_loss": 1 / e, "validation_loss": 2 / e} for e in (1, 2)]
    (chart,) = training_charts(history)
    assert chart.description == "train texts from 1.0000 to 0.5000; validation texts from 2.0000 to 1.0000."


def test_pairs_and_highlights(tmp_path: Path) -> None:
    result = one_label(40, 2, noise=2.0)
    number = int(np.flatnonzero(~result.right)[0])
    marked = Markup('a <mark class="w3">marked</mark> word')
    page = written(tmp_path, result, TextPair("the premise", "the <hypothesis>"), highlights={number: marked})
    assert marked in page.content and "mark" in {tag for tag, _ in page.tags}
    assert "the premise" in page.text and "the <hypothesis>" in page.text


# --- its figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 9])
def test_curves(digits: int) -> None:
    """Those of scikit-learn, with equal scores too."""
    result = one_label(300, 4)
    rounded = result.probabilities.round(digits)
    result.probabilities[:] = rounded
    curves = curves_of(result)
    for c, each in curves.items():
        has_class = result.labels == c
        assert each.roc_area == pytest.approx(roc_auc_score(has_class, rounded[:, c]))
        assert each.average_precision == pytest.approx(average_precision_score(has_class, rounded[:, c]))
        x, y, _ = roc_curve(has_class, rounded[:, c], drop_intermediate=False)
        # Points that are left out lie on the lines between the others.
        along = each.roc[0] + each.roc[1]
        assert np.allclose([np.interp(x + y, along, values) for values in each.roc], (x, y))
        recall, precision = each.precision_recall
        assert float((np.diff(recall) * precision[1:]).sum()) == pytest.approx(each.average_precision)
    mean = mean_curves(list(curves.values()))
    assert mean.roc_area == pytest.approx(np.mean([each.roc_area for each in curves.values()]))
    x, y = mean.roc
    assert y[-1] == 1.0 and (np.diff(y) >= -1e-12).all()


def test_texts_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasketch")
    long = "the parcel has not arrived although it was promised for Monday"
    train = TextData([long, "an equal text", "another text of the training"], ["a", "b", "a"], "train.csv")
    data = TextData(["an equal text", long.upper() + "!", "nothing like it"], ["b", "a", "b"], "test.csv")
    near = find_near_duplicates(train, data)
    assert (near.equal, near.why_not) == (1, "")
    assert [(row["where"], row["of_where"], row["similarity"]) for row in near.rows] == [("row 1", "row 0", 1.0)]
    page = written(tmp_path, one_label(3, 2), near=near)
    section = (tmp_path / "r.html").read_text().partition('id="near-duplicates"')[2].partition("</section>")[0]
    assert "1 are equal to a training text. 1 more share" in section and long in section and long.upper() in section
    assert page is not None
    monkeypatch.setattr("pyllmclf.evaluation.report.near_duplicates.MOST_CHARACTERS", 20)
    assert "not searched in more than" in find_near_duplicates(train, data).why_not
    monkeypatch.setattr("pyllmclf.evaluation.report.near_duplicates.is_available", lambda: False)
    assert "need datasketch" in find_near_duplicates(train, data).why_not


def test_curves_have_points_by_the_texts_of_their_class() -> None:
    """So that those of many classes and texts fit into memory."""
    result = one_label(3_000, 100)
    for c, each in curves_of(result).items():
        most = 2 * int((result.labels == c).sum()) + 3
        assert max(len(each.roc[0]), len(each.precision_recall[0])) <= most
    one_text_each = class_curves("a", np.array([True, False]), np.array([0.5, 0.5]))
    assert one_text_each is not None and one_text_each.roc_area == 0.5
    assert [values.tolist() for values in one_text_each.precision_recall] == [[0.0, 1.0], [0.5, 0.5]]


def test_confused_pairs() -> None:
    result = one_label(500, 5, noise=2.0)
    data = TextData([f"text {i}" for i in range(500)], None, "data.csv")
    pairs = confused_pairs(result, data, limit=4, examples=2)
    assert [(pair["true"], pair["predicted"], pair["texts"]) for pair in pairs] == result.confusions(4)
    for pair in pairs:
        assert pair["of"] == result.per_class[pair["true"]].support and len(pair["examples"]) == 2
        for each in pair["examples"]:
            number = each["row"]
            assert each["where"] == f"data.csv, row {number}"
            assert result.classes[result.labels[number]] == pair["true"]
            assert result.classes[result.predictions[number]] == pair["predicted"]


def test_confused_pairs_of_several_labels() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=np.float32)
    given = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]], dtype=np.float32)
    result = evaluate_multi_label(8 * given - 4, labels, ["a", "b", "c"])
    pairs = confused_pairs(result, TextData(["x"] * 4, None, "data.csv"))
    found = [(pair["true"], pair["predicted"], pair["texts"], pair["of"]) for pair in pairs]
    assert found == [("a", "b", 2, 2), ("b", "a", 1, 1)]


def test_confused_classes_are_neighbours_in_the_image() -> None:
    """Classes c and c + 15 of thirty are confused with each other only."""
    labels = np.arange(600) % 30
    logits = np.random.default_rng(0).normal(size=(600, 30)) + 6.0 * np.eye(30)[labels]
    logits += 5.5 * np.eye(30)[(labels + 15) % 30]
    image = matrix_image(evaluate_logits(logits, labels, [str(c) for c in range(30)]))
    place = {c: i for i, c in enumerate(image.order)}
    assert sorted(place) == list(range(30))
    assert all(abs(place[c] - place[c + 15]) == 1 for c in range(15))
    assert image.uri.startswith("data:image/png;base64,")


def test_risk_and_coverage() -> None:
    result = one_label(333, 3)
    confidence = result.probabilities.max(axis=1)
    curve = risk_coverage(confidence, result.right)
    for row in [*coverage_rows(curve), *slider_rows(curve)]:
        answered = confidence >= row["threshold"]
        assert answered.sum() == row["answered"] and answered.mean() == pytest.approx(row["coverage"])
        assert result.right[answered].mean() == pytest.approx(row["accuracy"])
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    assert coverage_rows(curve)[0]["accuracy"] == pytest.approx(result.accuracy)


def test_lengths_have_bars_of_whole_tokens() -> None:
    tokens = np.array([3, 3, 4, 250, 251])
    chart = length_chart(np.array([True, False, True, True, True]), tokens)
    assert sum(bar.high - bar.low for bar in chart.bars) == 5
    assert all((bar.right - bar.left) == 10 and (bar.left + 0.5) % 10 == 0 for bar in chart.bars)
    assert {bar.right - bar.left for bar in length_chart(np.ones(3, bool), np.array([5, 6, 9])).bars} == {1.0}


def test_axes_and_thinned_curves() -> None:
    for low, high in ((0.0, 1.0), (3.2, 3.9), (-5.0, 1e6), (7.0, 7.0)):
        axis = numbers("x", low, high)
        values = [value for value, _ in axis.ticks]
        assert 2 <= len(values) <= 6 and axis.low <= values[0] and values[-1] <= axis.high + 1e-9
    assert [text for _, text in numbers("n", 0, 3, integers=True).ticks] == ["0", "1", "2", "3"]
    x = np.linspace(0, 1, 5000)
    thin = thinned(x, x**2, 50)
    assert len(thin[0]) <= 50 and (thin[0][0], thin[0][-1]) == (0.0, 1.0)
    assert np.abs(np.interp(x, *thin) - x**2).max() < 1e-3


# --- of several labels ------------------------------------------------------------------------------------------------


def test_intervals_of_several_labels() -> None:
    result = several_labels(1_000)
    found = multi_label_intervals(result)
    assert list(found) == ["micro_f1", "macro_f1", "accuracy", "hamming_loss", "log_loss"]
    for name, interval in found.items():
        assert interval.value == getattr(result, name) and interval.low < interval.value < interval.high
    error = 1.96 * np.sqrt(result.accuracy * (1 - result.accuracy) / 1_000)
    accuracy = found["accuracy"]
    assert accuracy.high - accuracy.low == pytest.approx(2 * error, rel=0.15)


def test_calibration_of_decisions() -> None:
    result = several_labels()
    found = decision_calibration(result)
    expected = brier_score_loss(result.labels.ravel(), result.probabilities.ravel())
    assert found.brier == pytest.approx(expected)
    assert found.counts.sum() == result.labels.size
    assert found.ece == pytest.approx(
        np.sum(found.counts * np.abs(found.accuracy - found.confidence)) / found.counts.sum()
    )


def test_best_thresholds() -> None:
    """By trying all of them."""
    result = several_labels()
    for c, best in enumerate(best_thresholds(result)):
        assert best is not None
        scores, has = result.probabilities[:, c], result.labels[:, c]
        assert best.f1 == pytest.approx(max(f1_score(has, scores >= t) for t in np.unique(scores)))
        assert best.f1 == pytest.approx(f1_score(has, scores >= best.threshold))
