"""The report of an evaluation: figures against scikit-learn and scipy, and a page that escapes its content."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models import Folders
from pages import Page
from scipy.stats import binom
from short_runs import SHORT
from sklearn.metrics import f1_score, precision_recall_fscore_support

from pyllmclf import UsageError, finetune
from pyllmclf.cli.main import app, eval_app, run
from pyllmclf.data.readers import TextData
from pyllmclf.evaluation import statistics
from pyllmclf.evaluation.metrics import EvaluationResult, evaluate_logits
from pyllmclf.evaluation.report import accuracy_by_length, errors_of

HOSTILE = '</td><script>alert(1)</script> & "it\'s" $x^2$ \x07'
TEXTS = [f"{'win cash' if i % 2 else 'see you'} {i}" for i in range(30)] + [HOSTILE, "x" * 2000]
LABELS = ["<b>spam</b>" if "win" in text else "ham & co" for text in TEXTS]


def result_of(texts: int = 200, classes: int = 2, seed: int = 0) -> EvaluationResult:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, texts)
    logits = random.normal(size=(texts, classes)) + 1.5 * np.eye(classes)[labels]
    return evaluate_logits(logits, labels, [f"class {c}" for c in range(classes)])


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_macro_f1(classes: int) -> None:
    result = result_of(40, classes)
    random = np.random.default_rng(1)
    drawn = random.integers(0, 40, (20, 40))
    found = statistics.macro_f1(result.labels[drawn], result.predictions[drawn], classes)
    expected = [f1_score(result.labels[d], result.predictions[d], average="macro", zero_division=0.0) for d in drawn]
    assert np.allclose(found, expected)


def test_intervals() -> None:
    """As wide as theory says: of a share over n texts, 1.96 standard errors to each side."""
    result = result_of(2000)
    found = statistics.intervals(result)
    assert set(found) == {"accuracy", "macro_f1", "log_loss"}
    for name, interval in found.items():
        assert interval.low < interval.value < interval.high
        assert interval.value == getattr(result, name)
    accuracy = found["accuracy"]
    error = 1.96 * np.sqrt(accuracy.value * (1 - accuracy.value) / 2000)
    assert accuracy.high - accuracy.low == pytest.approx(2 * error, rel=0.15)
    assert statistics.intervals(result) == found  # the same each time


def test_calibration() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.95, 0.05], [0.3, 0.7], [0.25, 0.75], [0.0, 1.0]])
    result = evaluate_logits(np.log(np.maximum(probabilities, 1e-30)), labels, ["a", "b"])
    found = statistics.calibration(result)
    assert found.counts.tolist() == [0] * 7 + [2, 0, 2]
    assert found.confidence[7] == pytest.approx(0.725)
    assert found.accuracy[[7, 9]].tolist() == [0.5, 1.0]
    assert found.ece == pytest.approx((2 * 0.225 + 2 * 0.025) / 4)
    assert found.brier == pytest.approx(np.mean([2 * 0.05**2, 2 * 0.7**2, 2 * 0.25**2, 0.0]))


def test_thresholds() -> None:
    result = result_of()
    for row in statistics.thresholds(result):
        predicted = (result.probabilities[:, 1] >= row.threshold).astype(int)
        precision, recall, f1, _ = precision_recall_fscore_support(
            result.labels, predicted, average="binary", zero_division=0.0
        )
        assert (row.precision or 0.0, row.recall, row.f1) == pytest.approx((precision, recall, f1))
        assert row.predicted == predicted.sum()
    never = evaluate_logits(np.array([[9.0, 0.0]] * 3), np.zeros(3, dtype=np.int64), ["a", "b"])
    assert statistics.thresholds(never)[5].precision is None
    assert statistics.thresholds(never)[5].recall is None


def test_mcnemar() -> None:
    labels = np.zeros(20, dtype=np.int64)

    def of(wrong: list[int]) -> EvaluationResult:
        logits = np.tile([1.0, 0.0], (20, 1))
        logits[wrong] = [0.0, 1.0]
        return evaluate_logits(logits, labels, ["a", "b"])

    first, second = of([0, 1]), of([1, 2, 3, 4, 5, 6, 7, 8])
    only_first, only_second, p = statistics.mcnemar(first, second)
    assert (only_first, only_second) == (7, 1)
    assert p == pytest.approx(2 * binom.cdf(1, 8, 0.5))
    assert statistics.mcnemar(first, first) == (0, 0, 1.0)


def test_accuracy_by_length() -> None:
    result = result_of(100)
    tokens = np.arange(100) // 2 + 1
    rows = accuracy_by_length(result, tokens)
    assert sum(row["texts"] for row in rows) == 100
    assert (rows[0]["low"], rows[-1]["high"]) == (1, 50)
    assert all(before["high"] + 1 == row["low"] for before, row in pairwise(rows))
    assert sum(row["texts"] * row["accuracy"] for row in rows) == pytest.approx(100 * result.accuracy)
    low, high = rows[0]["interval"]
    assert 0 <= low <= rows[0]["accuracy"] <= high <= 1
    (single,) = accuracy_by_length(result, np.full(100, 7))
    assert (single["low"], single["high"], single["texts"]) == (7, 7, 100)


def test_errors() -> None:
    result = result_of(100)
    data = TextData(["t" * 1000] * 100, None, "a.csv", list(range(2, 102)))
    rows = errors_of(result, data, np.arange(100))
    assert [row.confidence for row in rows] == sorted((row.confidence for row in rows), reverse=True)
    wrong = np.flatnonzero(result.predictions != result.labels)
    assert {row.number for row in rows} == set(wrong.tolist())
    assert all(row.where == f"line {row.number + 2}" and row.tokens == row.number for row in rows)
    assert all(row.labels != row.predictions for row in rows)
    assert all(row.probabilities[0] == (row.predictions[0], row.confidence) for row in rows)
    (part,) = rows[0].text.parts
    assert len(part.beginning) < 1000 == len(part.rest) == part.length
    assert len(errors_of(result, data, np.arange(100), most=3)) == 3


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("report")
    model = model_folder("gpt2", n_classes=2)
    found = []
    for epochs in (2, 1):
        out = folder / f"out-{epochs}"
        finetune(
            model, (TEXTS, LABELS), validation=(TEXTS, LABELS), epochs=epochs, output_dir=out, progress=False,
            trainable="all", learning_rate=1e-3,
        )  # fmt: skip
        found.append(out)
    return found


@pytest.fixture
def data_file(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "label": n}) for t, n in zip(TEXTS, LABELS, strict=True)))
    return str(path)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: object, command: Any = eval_app) -> SimpleNamespace:
        capfd.readouterr()
        code = run(command, "pyllmclf-eval", [str(a) for a in arguments])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


def test_the_page(checkpoints: list[Path], data_file: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Complete, and with the figures of ``--json``."""
    path = tmp_path / "report.html"
    ran = cli(checkpoints[0], data_file, "--report", path, "--no-progress", "--json")
    assert ran.code == 0, ran.err
    page = Page(path.read_text(encoding="utf-8"))
    page.check()
    printed = json.loads(ran.out)
    figures, cells = page.data["figures"], page.data["confusion_cells"]
    matrix = np.zeros((2, 2), int)
    for true, predicted, texts in cells:
        matrix[true, predicted] = texts
    assert figures | {"confusion_matrix": matrix.tolist()} == {
        name: printed[name] for name in (*figures, "confusion_matrix")
    }
    assert f"{printed['accuracy']:.2%}" in page.text
    assert [row[:5] for row in page.rows("class-table")] == [
        [name, *(f"{each[key]:.4f}" for key in ("precision", "recall", "f1")), ""]
        for name, each in sorted(printed["per_class"].items(), key=lambda item: (item[1]["f1"], -item[1]["support"]))
    ]
    for heading in ("Classes", "Confusion", "Curves", "Thresholds", "Accuracy by length", "Errors", "Training"):
        assert heading in page.text
    assert page.data["baselines"] is None  # given validation texts and epochs: none is measured
    assert re.search(r"[0-9a-f]{64}", page.text)


def test_two_checkpoints(checkpoints: list[Path], data_file: str, cli: Callable[..., Any]) -> None:
    ran = cli(checkpoints[0], data_file, "--compare", checkpoints[1], "--no-progress")
    assert ran.code == 0, ran.err
    assert "McNemar's test: p = " in ran.out
    found = json.loads(cli(checkpoints[0], data_file, "--compare", checkpoints[1], "--no-progress", "--json").out)
    (compared,) = found["compared"].values()
    assert 0.0 <= compared["p"] <= 1.0
    assert compared["texts"] == len(TEXTS)


def test_a_path_that_can_t_be_written(
    checkpoints: list[Path], data_file: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    """Said before the work."""
    ran = cli("eval", checkpoints[0], data_file, "--report", tmp_path / "no" / "r.html", command=app)
    assert ran.code == 5
    assert "can't be written" in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--predictions", "DATA"), "would be written over"),
        (("--report", "DATA"), "would be written over"),
        (("--report", "CHECKPOINT/config.json"), "would be written into"),
        (("--report", "CHECKPOINT/last/new.html"), "would be written into"),
        (("--predictions", "FOLDER/x", "--report", "FOLDER/x"), "name the same file"),
        (("--predictions", "OTHER/last/x", "--compare", "OTHER"), "would be written into"),
    ],
)
def test_nothing_of_the_call_is_written_over(
    checkpoints: list[Path], tmp_path: Path, cli: Callable[..., Any], options: tuple[str, ...], said: str
) -> None:
    data = tmp_path / "mine.csv"
    data.write_text("text,label\nwin cash,<b>spam</b>\n")
    places = {"DATA": data, "CHECKPOINT": checkpoints[0], "OTHER": checkpoints[1], "FOLDER": tmp_path}
    given = [
        next((o.replace(name, str(path)) for name, path in places.items() if o.startswith(name)), o) for o in options
    ]
    before = {
        path: path.read_bytes() for folder in (*checkpoints, tmp_path) for path in folder.rglob("*") if path.is_file()
    }
    ran = cli("eval", checkpoints[0], data, *given, "--no-progress", command=app)
    assert ran.code == 2 and said in ran.err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_words_of_errors_are_marked(checkpoints: list[Path], cli: Callable[..., Any], tmp_path: Path) -> None:
    report, data_file = tmp_path / "r.html", tmp_path / "wrong.csv"
    turned = dict(zip(sorted(set(LABELS)), sorted(set(LABELS), reverse=True), strict=True))
    rows = [f'"{text}",{turned[label]}' for text, label in zip(TEXTS, LABELS, strict=True)]
    data_file.write_text("\n".join(["text,label", *rows[:5]]), encoding="utf-8")
    ran = cli("eval", checkpoints[0], data_file, "--report", report, "--explain-errors", "2", command=app)
    assert ran.code == 0, ran.err
    page = report.read_text(encoding="utf-8")
    assert page.count('<span class="why">') == 2 and ".why mark{" in page
    for wrong in (("--explain-errors", "2"), ("--report", report, "--explain-errors", "-1")):
        ran = cli("eval", checkpoints[0], data_file, *wrong, command=app)
        assert ran.code == 2 and "--explain-errors" in ran.err


def test_a_report_beside_the_checkpoints(checkpoints: list[Path], data_file: str, cli: Callable[..., Any]) -> None:
    report = checkpoints[0] / "mine.html"
    assert cli("eval", checkpoints[0], data_file, "--report", report, "--no-progress", command=app).code == 0
    assert report.is_file()


def test_predictions_into_a_pipe(checkpoints: list[Path], data_file: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pyllmclf",
        "eval",
        str(checkpoints[0]),
        data_file,
        "--no-progress",
        "--predictions",
    ]
    done = subprocess.run([*command, "/dev/stdout"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("text,label,prediction,probability_")


# --- of a training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "validation"])
def test_report_of_a_training(model_folder: Folders, tmp_path: Path, split: str) -> None:
    model = model_folder("gpt2", n_classes=2)
    finetune(model, (TEXTS, LABELS), report=True, output_dir=tmp_path / "run", **SHORT | {split: (TEXTS, LABELS)})
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    Page(page).check()
    assert ">Training</h2>" in page and f"{len(TEXTS)} texts, 2 classes" in page


def test_a_training_without_a_folder_or_texts_has_no_report(model_folder: Folders, tmp_path: Path) -> None:
    for changes, said in (({}, "report needs a folder"), ({"output_dir": tmp_path / "run"}, "report needs texts")):
        with pytest.raises(UsageError, match=said):
            finetune(model_folder("gpt2", n_classes=2), (TEXTS, LABELS), report=True, **SHORT, **changes)
