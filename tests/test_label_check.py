"""``pyllmclf validate CHECKPOINT DATA``: labels to look at, confused classes, and the file of rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyllmclf
from pyllmclf.cli import label_section
from pyllmclf.cli.main import app, run
from pyllmclf.data.readers import TextData
from pyllmclf.errors import ModelError, UsageError
from pyllmclf.evaluation.confused_pairs import confused_pairs
from pyllmclf.evaluation.metrics import evaluate_logits

WORDS = {"cat": ("purrs", "mews", "scratches"), "dog": ("barks", "fetches", "growls")}
TEXTS = [f"number {i}, the animal {verb}" for i in range(12) for verbs in WORDS.values() for verb in verbs]
LABELS = [name for _ in range(12) for name, verbs in WORDS.items() for _ in verbs]
WRONG = (4, 40, 63)
GIVEN = [{"cat": "dog", "dog": "cat"}[label] if i in WRONG else label for i, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search's folder, with the training data beside it."""
    pytest.importorskip("cleanlab")
    folder = tmp_path_factory.mktemp("tuned")
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(TEXTS, GIVEN, strict=True)])
    pyllmclf.tune(
        "gpt2-nano", folder / "train.csv", candidates=[{"trainable": "all", "epochs": 12, "learning_rate": 3e-3}],
        weights="random", folds=3, progress=False, output_dir=folder / "run",
    )  # fmt: skip
    return folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> SimpleNamespace:
        capfd.readouterr()
        code = run(app, "pyllmclf", list(map(str, arguments)))
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


def test_planted_labels_are_found(tuned: Path, cli: Callable[..., Any]) -> None:
    found = cli("validate", tuned / "run", tuned / "train.csv", "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert content["checked"] == {"out_of_fold": len(TEXTS), "classifier": 0, "unknown_label": 0}
    first = [int(issue["where"].rpartition("line ")[2]) - 2 for issue in content["label_issues"][: len(WRONG)]]
    assert sorted(first) == list(WRONG)
    assert content["label_issues"][0]["suggested"] == LABELS[first[0]]
    issues = pyllmclf.label_issues(tuned / "run")
    assert [each["text"] for each in content["label_issues"]] == issues["text"].tolist()
    assert content["finetune"]["classes"] == 2 and content["parts"]["train"]["texts"] == len(TEXTS)


def test_the_saved_probabilities_are_those_of_the_result(tmp_path: Path) -> None:
    several = [[label] if i % 3 else [] for i, label in enumerate(LABELS)]
    for labels, more in (
        (LABELS, {}),
        ([int(label == "cat") for label in LABELS], {}),
        (several, {"multi_label": True}),
    ):
        result = pyllmclf.tune(
            "gpt2-nano", (TEXTS, labels), candidates=[{"trainable": "head", "epochs": 1}], weights="random", folds=2,
            progress=False, output_dir=tmp_path, overwrite=True, **more,
        )  # fmt: skip
        saved = pyllmclf.tuning.out_of_fold.read_out_of_fold(tmp_path)
        pd.testing.assert_frame_equal(saved, result.out_of_fold)


def test_texts_without_saved_probabilities(tuned: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    data = tmp_path / "new.csv"
    data.write_text("text,label\nthe animal barks at me,cat\nthe animal purrs at me,cat\na bird sings,bird\n")
    found = cli("validate", tuned / "run", tuned / "train.csv", "--test", data, "--json")
    assert found.code == 3 and "no training text has the label bird" in found.err
    checked = json.loads(found.out)["checked"]
    assert checked == {"out_of_fold": len(TEXTS), "classifier": 2, "unknown_label": 1}
    shown = cli("validate", tuned / "run", tuned / "train.csv", "--test", data)
    assert "2 texts are checked with the classifier's own probabilities" in shown.out
    assert "labels to look at" in shown.out
    assert "1 texts are not checked: the classifier lacks their label" in shown.out


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_the_rows_to_look_at(tuned: Path, cli: Callable[..., Any], tmp_path: Path, ending: str) -> None:
    test = tmp_path / "test.csv"
    test.write_text(f'text,label\n"{TEXTS[3]}",{GIVEN[3]}\n"{TEXTS[9].upper()}!",{GIVEN[9]}\n')
    path = tmp_path / f"rows{ending}"
    found = cli("validate", tuned / "run", tuned / "train.csv", "--test", test, "--output", path)
    assert found.code == 0, found.err
    if ending == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_reason = {reason: [row for row in rows if row["reason"] == reason] for reason in {row["reason"] for row in rows}}
    assert {row["where"] for row in by_reason["label"]} >= {f"{tuned / 'train.csv'}, line {i + 2}" for i in WRONG}
    (equal,) = by_reason["duplicate"]
    assert (equal["where"], equal["similar_to"]) == (f"{test}, line 2", f"{tuned / 'train.csv'}, line 5")
    (near,) = by_reason["near_duplicate"]
    assert (near["where"], near["similar_to"]) == (f"{test}, line 3", f"{tuned / 'train.csv'}, line 11")
    assert by_reason["confused"]


def test_wrong_use(tuned: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    data, folder, test = tuned / "train.csv", tuned / "run", tmp_path / "test.csv"
    test.write_text(data.read_text())
    for arguments, sentence in [
        ((folder,), "name the data behind it"),
        ((data, folder), "swapped"),
        ((data, data), f"pyllmclf validate {data} --test {data}"),
        ((folder, data, data), "not 3 names"),
        ((folder, data, "--multi-label"), "leave --multi-label out"),
        ((folder, data, "--output", tmp_path / "rows.txt"), "must end in .csv or .jsonl"),
        ((folder, data, "--output", data), "written over the data"),
        ((folder, data, "--test", test, "--output", test), "written over the data"),
    ]:
        found = cli("validate", *arguments)
        assert found.code == 2 and sentence in found.err and not found.out, (arguments, found.err)
    with pytest.raises(UsageError, match="not a folder"):
        pyllmclf.label_issues(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="out-of-fold"):
        pyllmclf.label_issues(tmp_path)


def test_damaged_probabilities(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "out_of_fold.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ModelError, match="damaged"):
        pyllmclf.label_issues(tmp_path)
    pd.DataFrame({"text": ["a"]}).to_parquet(path)
    with pytest.raises(ModelError, match="no column label, where"):
        pyllmclf.label_issues(tmp_path)


def test_without_the_extra(tuned: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyllmclf.tuning.label_check.is_available", lambda: False)
    monkeypatch.setattr("pyllmclf.data.near_duplicates.is_available", lambda: False)
    found = cli("validate", tuned / "run", tuned / "train.csv", "--test", tuned / "train.csv")
    assert "need cleanlab: pip install 'pyllmclf[labels]'" in found.out and "most confused classes" in found.out
    assert "near-duplicates need datasketch" in found.err
    assert "72 texts of train are also in" in found.out


def test_confused_pairs() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    predictions = np.array([1, 1, 0, 2, 1, 0, 2])
    logits = np.zeros((7, 3), dtype=np.float32)
    logits[np.arange(7), predictions] = [1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    data = TextData([f"text {i}" for i in range(7)], list("aaaabbc"), "here")
    found = confused_pairs(evaluate_logits(logits, labels, ["a", "b", "c"]), data, examples=1)
    assert [(each["true"], each["predicted"], each["texts"], each["share"]) for each in found] == [
        ("a", "b", 2, 0.5), ("a", "c", 1, 0.25), ("b", "a", 1, 0.5),
    ]  # fmt: skip
    (example,) = found[0]["examples"]
    assert (example["row"], example["where"], example["text"]) == (1, "here, row 1", "text 1")
    assert example["probability"] == pytest.approx(np.exp(3) / (np.exp(3) + 2))
    right = evaluate_logits(np.eye(3, dtype=np.float32), np.arange(3), ["a", "b", "c"])
    assert confused_pairs(right, data.select([0, 4, 6])) == []


def test_long_texts_are_cut_in_the_table() -> None:
    assert len(label_section._short("word " * 50)) == label_section.CHARACTERS
