"""Rules of deciding on the command line and in the server's protocols."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

import pyllmclf
import pyllmclf.server
from pyllmclf.classifier import Classifier
from pyllmclf.classifier.held_out import HeldOut
from pyllmclf.cli.main import app, run
from pyllmclf.server import openapi

TEXTS = [f"{word} number {n}" for n in range(6) for word in ("good", "win", "cash", "fine")]
LABELS = ["spam" if text.startswith(("win", "cash")) else "ham" for text in TEXTS]
ABSTAIN = {"answered": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with the scores of its own training texts as held-out ones, half of which are answered."""
    path = tmp_path_factory.mktemp("served") / "classifier"
    result = pyllmclf.finetune(
        "gpt2-nano", (TEXTS, LABELS), weights="random", epochs=2, validation=(TEXTS, LABELS), progress=False
    )
    result.classifier.save(path)
    return path


@pytest.fixture
def classifier(folder: Path) -> Classifier:
    return pyllmclf.load(folder, abstain=ABSTAIN, conformal=0.2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f"{t},{n}\n" for t, n in zip(TEXTS, LABELS, strict=True)))
    return path


def printed(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    capfd.readouterr()
    assert run(app, "pyllmclf", [*map(str, arguments)]) == 0
    return capfd.readouterr().out


RULES = ("--abstain", "answered=0.5", "--conformal", "0.2")


def test_json_lines_have_reasons_and_sets(
    folder: Path, classifier: Classifier, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in printed(capfd, "predict", folder, data, *RULES).splitlines()]
    expected = classifier.predict_with_reasons(TEXTS)
    # The columns of the data have the names, too.
    assert [(row["predicted_label"], row["abstained"]) for row in rows] == expected
    assert [row["labels"] for row in rows] == classifier.predict_sets(TEXTS)
    assert any(label is None for label, _ in expected) and any(label for label, _ in expected)
    plain = [json.loads(line) for line in printed(capfd, "predict", folder, data).splitlines()]
    assert "abstained" not in plain[0] and None not in [row["predicted_label"] for row in plain]


def test_tables_have_reasons_and_sets(
    folder: Path, classifier: Classifier, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = printed(capfd, "predict", folder, data, *RULES, "--format", "csv", "--no-keep-columns")
    rows = list(csv.DictReader(io.StringIO(found)))
    expected = classifier.predict_with_reasons(TEXTS)
    assert [(row["label"] or None, row["abstained"] or None) for row in rows] == expected
    assert [json.loads(row["labels"]) for row in rows] == classifier.predict_sets(TEXTS)
    printed(capfd, "predict", folder, data, *RULES, "--output", tmp_path / "found.parquet", "--no-keep-columns")
    table = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert list(zip(table["label"], table["abstained"], strict=True)) == expected
    assert table["labels"] == classifier.predict_sets(TEXTS)
    lines = printed(capfd, "predict", folder, data, "--abstain", "answered=0.5", "--label-only").split("\n")
    assert [line or None for line in lines[:-1]] == [label for label, _ in expected]


def test_costs_and_distances_on_the_command_line(folder: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--cost", "ham:spam=9", "--abstain", "unlike=0.5", "--no-keep-columns")
    rows = [json.loads(line) for line in printed(capfd, "predict", folder, data, *options).splitlines()]
    classifier = pyllmclf.load(folder, costs={("ham", "spam"): 9}, abstain={"unlike": 0.5})
    assert [(row["label"], row["abstained"]) for row in rows] == classifier.predict_with_reasons(TEXTS)
    assert {row["label"] for row in rows} >= {None}


def test_eval_reports_the_rules(
    folder: Path, classifier: Classifier, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(printed(capfd, "eval", folder, data, *RULES, "--json"))
    assert found["decisions"] == json.loads(json.dumps(classifier.evaluate((TEXTS, LABELS)).decisions))
    schema = json.loads((Path(__file__).parent.parent / "docs/schemas/eval.schema.json").read_text())
    jsonschema.validate(found, schema)
    shown = printed(capfd, "eval", folder, data, *RULES, "--held-out", data)
    assert "answered: " in shown and "label sets: " in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--abstain", "0.98"), "is no NAME=NUMBER"),
        (("--abstain", "accuracy=0.999"), "can't be shown on 24 held-out texts"),
        (("--conformal", "2"), "conformal"),
        (("--cost", "ham:eggs=2"), "two of the classes"),
        (("--thresholds", "f1"), "several labels"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, data: Path, options: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ("predict", "eval"):
        capfd.readouterr()
        assert run(app, "pyllmclf", [command, str(folder), str(data), *options]) == 2
        found = capfd.readouterr()
        assert message in found.err and found.out == ""


def test_held_out_texts_are_not_overwritten(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(data.parent))
    before, texts = data.read_text(), data.with_name("texts.csv")
    texts.write_text(before)
    arguments = ["predict", str(folder), str(texts), "--held-out=~/data.csv", "--output", str(data)]
    assert run(app, "pyllmclf", arguments) == 2
    assert "written over the data" in capfd.readouterr().err and data.read_text() == before


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(classifier: Classifier) -> Iterator[TestClient]:
    with TestClient(pyllmclf.server.app({"mail": classifier}), raise_server_exceptions=False) as found:
        yield found


def test_vllm_has_null_labels_and_reasons(client: TestClient, classifier: Classifier) -> None:
    content = client.post("/classify", json={"input": TEXTS}).json()
    found = [(entry["label"], entry["abstained"]) for entry in content["data"]]
    assert found == classifier.predict_with_reasons(TEXTS)
    assert [entry["label_set"] for entry in content["data"]] == classifier.predict_sets(TEXTS)
    jsonschema.validate(content, openapi.CLASSIFIED)
    cards = client.get("/v1/models").json()
    jsonschema.validate(cards, openapi.MODELS)
    assert cards["data"][0]["decisions"] == classifier.decisions.lines(["ham", "spam"])


def test_text_embeddings_inference_names_the_reason_beside_the_first_score(
    client: TestClient, classifier: Classifier
) -> None:
    found = client.post("/predict", json={"inputs": [[text] for text in TEXTS]}).json()
    jsonschema.validate(found[0], openapi.SCORES)
    assert [row[0].get("abstained") for row in found] == [
        reason for _, reason in classifier.predict_with_reasons(TEXTS)
    ]
    assert all(len(row) == 2 for row in found)


def test_open_inference_has_empty_labels(client: TestClient, classifier: Classifier) -> None:
    body: dict[str, Any] = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}]}
    outputs = {each["name"]: each["data"] for each in client.post("/v2/models/mail/infer", json=body).json()["outputs"]}
    expected = classifier.predict_with_reasons(TEXTS)
    assert outputs["label"] == [label or "" for label, _ in expected]
    assert outputs["abstained"] == [reason or "" for _, reason in expected]
    assert client.get("/v2/models/mail").json()["outputs"][-1]["name"] == "abstained"
    body["outputs"] = [{"name": "label"}]
    assert [each["name"] for each in client.post("/v2/models/mail/infer", json=body).json()["outputs"]] == ["label"]


def test_metrics_count_texts_without_an_answer(client: TestClient, classifier: Classifier) -> None:
    client.post("/classify", json={"input": TEXTS})
    count = sum(label is None for label in classifier.predict(TEXTS))
    page = client.get("/metrics").text
    assert f'pyllmclf_abstained_texts_total{{model="mail"}} {count:.1f}' in page
    assert f'pyllmclf_texts_total{{model="mail"}} {len(TEXTS):.1f}' in page


def test_the_page_says_why_there_is_no_answer(client: TestClient, classifier: Classifier) -> None:
    text, reason = next((t, r) for t, (_, r) in zip(TEXTS, classifier.predict_with_reasons(TEXTS), strict=True) if r)
    assert f"no answer: {reason}" in client.post("/", data={"model": "mail", "text": text}).text


def test_figures_of_a_file_are_those_of_an_evaluation(client: TestClient, classifier: Classifier, data: Path) -> None:
    """Also of texts that get no answer, whose rows say why."""
    labels = ["ham" if n % 3 else label for n, label in enumerate(LABELS)]
    content = "text,label\n" + "".join(f"{t},{n}\n" for t, n in zip(TEXTS, labels, strict=True))
    answer = client.post("/files", params={"name": "a.csv", "model": "mail"}, content=content.encode())
    about, *rows, end = (json.loads(line) for line in answer.text.splitlines())
    result = classifier.evaluate((TEXTS, labels))
    assert (end["labelled"], end["accuracy"]) == (len(TEXTS), pytest.approx(result.accuracy))
    assert end["macro_f1"] == pytest.approx(result.macro_f1)
    assert [row["right"] for row in rows] == result.right.tolist()
    assert about["abstains"] is True
    assert [(row["label"], row.get("abstained")) for row in rows] == classifier.predict_with_reasons(TEXTS)


def test_distances_in_batches_with_a_classifier_that_reads_none(folder: Path) -> None:
    plain, careful = pyllmclf.load(folder), pyllmclf.load(folder, abstain={"unlike": 0.5})
    with TestClient(pyllmclf.server.app({"plain": plain, "careful": careful})) as client:
        for name, expected in (("careful", careful), ("plain", plain)):
            content = client.post("/classify", json={"model": name, "input": TEXTS}).json()
            assert [entry["label"] for entry in content["data"]] == expected.predict(TEXTS)
            np.testing.assert_allclose([e["probs"] for e in content["data"]], plain.predict_proba(TEXTS), atol=1e-6)
    assert None in careful.predict(TEXTS) and None not in plain.predict(TEXTS)


def test_several_labels_without_an_answer() -> None:
    labels = [["a"] if n % 2 else ["a", "b"] for n in range(len(TEXTS))]
    options: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False, "validation": (TEXTS, labels)}
    several = pyllmclf.finetune("gpt2-nano", (TEXTS, labels), multi_label=True, **options).classifier
    several.set_decisions(abstain={"unlike": 0.5})
    expected = several.predict(TEXTS)
    assert None in expected and isinstance(several.held_out, HeldOut)
    with TestClient(pyllmclf.server.app({"topics": several})) as client:
        content = client.post("/classify", json={"input": TEXTS}).json()
    assert [entry["labels"] for entry in content["data"]] == expected
    jsonschema.validate(content, openapi.CLASSIFIED)
