"""Texts with several labels, or none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from models import TEXTS, Folders, make_trainer
from pages import Page
from sklearn import metrics
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pyllmclf
from pyllmclf import DataError, UsageError, ops
from pyllmclf.cli.main import app, run
from pyllmclf.data.labels import MultiLabelEncoder
from pyllmclf.data.readers import read_file, read_object
from pyllmclf.data.sources import read_data
from pyllmclf.evaluation.multi_label import binary_cross_entropy, evaluate_multi_label

LABELS: list[list[str]] = [["short"], ["short", "two words"], ["long", "animal"], [], ["long"], ["question"]]
CLASSES = ["animal", "long", "question", "short", "two words"]
INDICATOR = np.array([[name in own for name in CLASSES] for own in LABELS], dtype=np.float32)
SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 3, "learning_rate": 1e-2, "progress": False, "multi_label": True}


@pytest.fixture(scope="module")
def gpt2(model_folder: Folders) -> Path:
    return model_folder("gpt2")


@pytest.fixture(scope="module")
def bert(model_folder: Folders) -> Path:
    return model_folder("bert")


# --- reading ----------------------------------------------------------------------------------------------------------


def write_csv(path: Path, separator: str = "|") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(TEXTS, (f" {separator} ".join(own) for own in LABELS), strict=True))
    return path


def test_every_kind_of_data_gives_the_same_labels(tmp_path: Path) -> None:
    expected = [tuple(own) for own in LABELS]
    rows = [{"text": text, "label": own} for text, own in zip(TEXTS, LABELS, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_file(write_csv(tmp_path / "a.csv"), label_separator="|").labels == expected
    assert read_file(write_csv(tmp_path / "b.csv", ";"), label_separator=";").labels == expected
    assert read_file(tmp_path / "a.jsonl", label_separator="|").labels == expected
    assert read_file(tmp_path / "a.parquet", label_separator="|").labels == expected
    for data in (frame, (TEXTS, LABELS), (TEXTS, [np.array(own) for own in LABELS])):
        assert read_object(data, text_column=None, label_column=None, label_separator="|").labels == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("a|b|a", ("a", "b")),
        ("", ()),
        ("  ", ()),
        (None, ()),
        (float("nan"), ()),
        (3, (3,)),
        ([1, 2], (1, 2)),
        ((), ()),
    ],
)
def test_labels_of_a_text(label: Any, expected: tuple[Any, ...]) -> None:
    assert read_object((["a"], [label]), text_column=None, label_column=None, label_separator="|").labels == [expected]


@pytest.mark.parametrize("label", ["a||b", [float("inf")], [["a"]], [""], {"a": 1}])
def test_labels_that_are_none(label: Any) -> None:
    with pytest.raises(DataError, match=r"\(texts, labels\), row 0: the label is"):
        read_object((["a"], [label]), text_column=None, label_column=None, label_separator="|")


def test_several_labels_where_one_is_meant(gpt2: Path) -> None:
    with pytest.raises(DataError, match="say multi_label=True"):
        pyllmclf.finetune(gpt2, (TEXTS, LABELS), **SHORT | {"multi_label": False})


ROWS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    "kind", [np.asarray, lambda rows: rows.astype(bool), lambda rows: torch.tensor(rows), scipy.sparse.csr_matrix]
)
def test_an_indicator_of_several_labels(kind: Any) -> None:
    data = read_data((TEXTS[:4], kind(ROWS)), label_separator="|")
    assert data.labels == [(0, 2), (1,), (), (2,)]
    result = pyllmclf.finetune("gpt2-nano", (TEXTS[:4], kind(ROWS)), weights="random", **SHORT)
    assert result.classifier.classes_ == [0, 1, 2]


def test_an_indicator_with_names() -> None:
    frame = pd.DataFrame(ROWS, columns=["red", "green", "blue"])
    assert read_data((TEXTS[:4], frame), label_separator="|").labels == [("red", "blue"), ("green",), (), ("blue",)]


def test_what_is_no_indicator() -> None:
    with pytest.raises(DataError, match="must be 0 and 1"):
        read_data((TEXTS[:4], 2 * ROWS), label_separator="|")
    for rows in (ROWS.tolist(), ROWS.astype(bool).tolist(), [[1, 0], [0, 1], [1, 0], [0, 1]]):
        with pytest.raises(DataError, match="must be a NumPy array"):
            read_data((TEXTS[:4], rows), label_separator="|")
    names = np.array([["x", "y"], ["y", "z"], ["x", "z"], ["x", "y"]])
    assert read_data((TEXTS[:4], names), label_separator="|").labels[:2] == [("x", "y"), ("y", "z")]
    assert read_data((TEXTS[:4], [[0, 1], [1], [], [0]]), label_separator="|").labels == [(0, 1), (1,), (), (0,)]
    assert read_data((TEXTS[:4], [["x", "x"], [], ["y"], []]), label_separator="|").labels == [("x",), (), ("y",), ()]


def test_encoder() -> None:
    data = read_object((TEXTS, LABELS), text_column=None, label_column=None, label_separator="|")
    encoder = MultiLabelEncoder.fit(data, "|")
    assert encoder.names == CLASSES
    np.testing.assert_array_equal(encoder.encode(data), INDICATOR)
    assert encoder.decode(INDICATOR > 0) == [sorted(own) for own in LABELS]
    other = read_object((["x"], [["short", "odd"]]), text_column=None, label_column=None, label_separator="|")
    with pytest.raises(DataError, match=r"row 0: the label 'odd' is unknown; the classes are 'animal'"):
        encoder.encode(other)
    numbers = read_object((["x", "y"], [[10, 2], []]), text_column=None, label_column=None, label_separator="|")
    assert MultiLabelEncoder.fit(numbers, "|").classes == (2, 10)
    for labels in ([[], []], [["a"], ["a"]]):
        one = read_object((["x", "y"], labels), text_column=None, label_column=None, label_separator="|")
        with pytest.raises(DataError, match="at least two classes"):
            MultiLabelEncoder.fit(one, "|")


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_scikit_learn_and_torch() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 4)).astype(np.float32) * 2
    labels = (generator.uniform(size=(200, 4)) < 0.3).astype(np.float32)
    labels[:, 3] = 0  # a class without a text
    found = evaluate_multi_label(logits, labels, list("abcd"))
    predicted = logits >= 0
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.hamming_loss == pytest.approx(metrics.hamming_loss(labels, predicted))
    for average in ("micro", "macro"):
        expected = metrics.f1_score(labels, predicted, average=average, zero_division=0.0)
        assert getattr(found, f"{average}_f1") == pytest.approx(expected)
    expected_loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found.log_loss == pytest.approx(float(expected_loss), rel=1e-6)
    assert found.per_class["d"].support == 0
    np.testing.assert_array_equal(found.right, (predicted == labels).all(axis=1))
    assert json.loads(json.dumps(found.to_dict()))["texts"] == 200


def test_log_loss_of_large_logits() -> None:
    assert binary_cross_entropy(np.array([[1000.0, -1000.0]]), np.array([[0.0, 0.0]])) == pytest.approx(500.0)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"label_smoothing": 0.2}, {"class_weights": [1.0, 2.0, 3.0, 0.5, 1.0]}, {"class_weights": "balanced"}],
    ids=str,
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_loss_and_gradients(gpt2: Path, settings: dict[str, Any], accumulate: int) -> None:
    """As torch's BCEWithLogitsLoss over all texts and classes of a step."""
    arguments: dict[str, Any] = settings | {"multi_label": True, "max_grad_norm": 1e9}
    trainer, plain = (
        make_trainer(gpt2, TEXTS, LABELS, "all", **arguments, gradient_accumulation_steps=accumulate)  # type: ignore[arg-type]
        for _ in range(2)
    )
    ops.drop_gradient_buffers(plain.model.parameters())
    logits = plain.model(plain.packer.batch(range(len(TEXTS))))
    smoothing = settings.get("label_smoothing", 0.0)
    target = torch.from_numpy(INDICATOR) * (1 - smoothing) + smoothing / 2
    weights = settings.get("class_weights")
    if weights == "balanced":
        having = INDICATOR.sum(axis=0)
        weights = (len(TEXTS) - having) / having
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    gradients = torch.autograd.grad(expected, list(plain.model.parameters()))
    parts = [np.arange(6)] if accumulate == 1 else [np.arange(4), np.arange(4, 6)]
    loss, correct = trainer.train_step(parts)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert correct == int(((logits > 0) == (torch.from_numpy(INDICATOR) > 0)).all(dim=1).sum())
    scale = max(float(g.abs().max()) for g in gradients)
    for parameter, gradient in zip(trainer.model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - gradient).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("trainable", ["last_block", "lora"])
def test_from_end_to_end(family: str, trainable: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(family)
    result = pyllmclf.finetune(
        folder,
        (TEXTS, LABELS),
        validation=(TEXTS, LABELS),
        trainable=trainable,
        calibrate=True,
        output_dir=tmp_path / "run",
        **SHORT | {"epochs": 40, "scheduler": "constant"},
    )
    classifier = result.classifier
    assert result.calibration is not None
    probabilities = classifier.predict_proba(TEXTS)
    expected = torch.from_numpy(classifier.logits(TEXTS)).double().sigmoid().numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-300)
    predicted = [[name for name, p in zip(CLASSES, row, strict=True) if p >= 0.5] for row in probabilities]
    assert classifier.predict(TEXTS) == predicted and any(len(own) > 1 for own in predicted) and [] in predicted
    right = sum(found == sorted(own) for found, own in zip(predicted, LABELS, strict=True))
    assert result.metrics["validation"]["accuracy"] == pytest.approx(right / len(TEXTS)) and right >= 4
    opened = pyllmclf.load(tmp_path / "run")
    assert opened.predict(TEXTS) == classifier.predict(TEXTS)
    assert opened.evaluate((TEXTS, LABELS)).log_loss == pytest.approx(result.metrics["validation"]["log_loss"])
    classifier.export(tmp_path / "export")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    assert model.config.problem_type == "multi_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    with torch.inference_mode():
        theirs = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()
    assert np.abs(theirs - classifier.logits(TEXTS)).max() < 1e-5 * np.abs(theirs).max()
    assert pyllmclf.load(tmp_path / "export").predict(TEXTS) == classifier.predict(TEXTS)
    onward = pyllmclf.finetune(tmp_path / "export", (TEXTS, LABELS), **SHORT | {"learning_rate": 1e-12}).classifier
    assert onward.predict(TEXTS) == classifier.predict(TEXTS)


def test_fraction_early_stopping_and_windows(gpt2: Path) -> None:
    result = pyllmclf.finetune(
        gpt2, (TEXTS, LABELS), validation=0.34, early_stopping=1, long_texts="windows", max_length=8, **SHORT
    )
    assert result.metrics["validation"]["texts"] == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": "sms_spam"}, "one label each"),
        ({"test": "sms_spam"}, "one label each"),
        ({"label_separator": " "}, "not blank"),
        ({"class_weights": {"animal": 1.0}}, "class_weights names animal"),
    ],
)
def test_what_is_refused(gpt2: Path, tmp_path: Path, changes: dict[str, Any], said: str, data_dir: Path) -> None:
    changes = {name: tmp_path / "run" if value == "OUT" else value for name, value in changes.items()}
    with pytest.raises(UsageError, match=said):
        pyllmclf.finetune(gpt2, **{"train": (TEXTS, LABELS)} | SHORT | changes)


def test_command_line(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write_csv(tmp_path / "data.csv", ";"))
    out = str(tmp_path / "run")

    def call(*arguments: str) -> str:
        code = run(app, "pyllmclf", [*arguments, "--no-progress"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    train = [
        "finetune",
        "--model",
        str(gpt2),
        "--train",
        data,
        "--test",
        data,
        "--multi-label",
        "--label-separator",
        ";",
    ]
    assert "micro-F1" in call(*train, "--epochs", "20", "--learning-rate", "0.02", "--output-dir", out)
    predictions = tmp_path / "predictions.csv"
    printed = json.loads(call("eval", out, data, "--json", "--predictions", str(predictions), "--compare", out))
    jsonschema.validate(
        printed, json.loads((Path(__file__).parent.parent / "docs/schemas/eval.schema.json").read_text())
    )
    with predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [";".join(sorted(own)) for own in LABELS]
    assert "all classes of a text right" in call("eval", out, data)
    lines = [json.loads(line) for line in call("predict", out, data).splitlines()]
    assert [line["labels"] for line in lines] == pyllmclf.load(out).predict(TEXTS)
    printed = json.loads(call("eval", out, data, "--json", "--report", str(tmp_path / "r.html")))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    page.check()
    assert page.data["figures"] == {name: printed[name] for name in page.data["figures"]}
