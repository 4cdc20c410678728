"""Pairs of texts in data, in commands, in the estimator and in the server."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from models import Folders

import pyllmclf
from pyllmclf.classifier.checkpoint import kind_of
from pyllmclf.classifier.classifier import Classifier
from pyllmclf.cli.main import app, eval_app, run
from pyllmclf.data.packing import Packer
from pyllmclf.data.readers import ReadOptions, TextData, read_object, read_path
from pyllmclf.data.readers.column_choice import Wanted, pick_columns
from pyllmclf.data.sources import read_data
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.validation import validate_splits
from pyllmclf.errors import DataError, UsageError
from pyllmclf.sklearn import LLMClassifier
from pyllmclf.text_pair import TextPair

ROWS = [
    ("a cat sleeps", "an animal rests", "yes"),
    ("a cat sleeps", "nobody is here", "no"),
    ("it rains, again", "the street is wet", "yes"),
    ("it rains, again", "the sun burns", "no"),
    ("he sings", "there is music", "yes"),
    ("he sings", "all is silent", "no"),
]
PAIRS = [TextPair(first, second) for first, second, _ in ROWS]
LABELS = [label for *_, label in ROWS]
NAMES = ("premise", "hypothesis", "label")
QUICK: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False, "validation": False}


def frame(*names: str) -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=list(names))


def written(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    """The rows as a file of the format that the name tells."""
    table = frame(*names)
    writers: dict[str, Callable[[], Any]] = {
        ".csv": lambda: table.to_csv(path, index=False),
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True),
        ".json": lambda: path.write_text(json.dumps({"data": table.to_dict(orient="records")})),
        ".parquet": lambda: table.to_parquet(path),
        ".feather": lambda: table.to_feather(path),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t"),
    }
    writers[path.suffix]()
    return path


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return pyllmclf.finetune("gpt2-nano", (PAIRS, LABELS), trainable="all", **QUICK).classifier


@pytest.fixture(scope="module")
def saved(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "classifier"
    classifier.save(path)
    return path


# --- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.feather", "a.tsv"])
def test_files(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, ("one", "two", "label"))
    data = read_path(path, ReadOptions(text_column="one", text_pair_column="two"))
    assert (data.texts, data.labels, data.has_pairs) == (PAIRS, LABELS, True)
    by_number = read_path(path, ReadOptions(text_column=0, text_pair_column=1, label_column=2))
    assert by_number.texts == PAIRS


def objects() -> dict[str, Any]:
    import datasets
    import polars
    import pyarrow

    table = frame(*NAMES)
    return {
        "pandas": table,
        "polars": polars.from_pandas(table),
        "pyarrow": pyarrow.Table.from_pandas(table),
        "datasets": datasets.Dataset.from_pandas(table),
        "columns": table.to_dict(orient="list"),
        "records": table.to_dict(orient="records"),
        "three": tuple(map(list, zip(*ROWS, strict=True))),
        "two": ([tuple(pair) for pair in PAIRS], LABELS),
        "rows": [tuple(row) for row in ROWS],
    }


@pytest.mark.parametrize("kind", objects())
def test_objects(kind: str) -> None:
    data = objects()[kind]
    named = kind not in ("three", "two", "rows")
    options = {"text_column": "premise", "text_pair_column": "hypothesis"} if named else {}
    found = read_data(data, **options)
    assert (found.texts, found.labels) == (PAIRS, LABELS)
    if named:  # the names of its columns are those of a pair, and none is that of a text
        with pytest.warns(UserWarning, match=r"pairs of texts from the columns 'premise' and 'hypothesis'; if that"):
            assert read_data(data).texts == PAIRS
        assert read_data(data, text_column="premise").texts == [pair.text for pair in PAIRS]


def test_three_rows_of_text_and_label_are_rows() -> None:
    data = read_object((("a", "x"), ("b", "y"), ("c", "x")))
    assert (data.texts, data.labels) == (["a", "b", "c"], ["x", "y", "x"])
    assert read_object((["a", "b"], ["c", "d"], ["x", "y"])).texts == [TextPair("a", "c"), TextPair("b", "d")]
    with pytest.raises(DataError, match="holds 2 texts, 1 pairs and 2 labels"):
        read_object((["a", "b"], ["c"], ["x", "y"]))


def test_three_tuples_are_three_rows_of_text_pair_and_label() -> None:
    for labels in (["yes", "no", "yes"], [1, 0, 1]):
        rows = [("p", "h", labels[0]), ("q", "i", labels[1]), ("r", "j", labels[2])]
        columns = tuple(map(list, zip(*rows, strict=True)))
        for data in (tuple(rows), columns):
            found = read_object(data)
            assert found.texts == [TextPair("p", "h"), TextPair("q", "i"), TextPair("r", "j")]
            assert found.labels == labels
    numbered = read_object((("p", "q", "r"), ("h", "i", "j"), (1, 0, 1)))
    assert (numbered.texts[0], numbered.labels) == (TextPair("p", "h"), [1, 0, 1])


def test_rows_of_three_are_said_and_with_several_labels_must_be_plain() -> None:
    rows = [("p", "h", "yes"), ("q", "i", "no")]
    with pytest.warns(UserWarning, match=r"read rows of three as \(text, pair, label\)\."):
        assert read_object(rows).texts == [TextPair("p", "h"), TextPair("q", "i")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_object(rows, pairs=True)
        read_object([("p", "yes")])
    with pytest.raises(UsageError, match=r"row 0 holds three strings, .* give \(text, \[label, \.\.\.\]\)"):
        read_object(rows, label_separator="|")
    assert read_object(rows, label_separator="|", pairs=True).labels == [("yes",), ("no",)]
    found = read_object([("p", "h", ["yes", "no"])], label_separator="|")
    assert (found.texts, found.labels) == ([TextPair("p", "h")], [("yes", "no")])


def test_parts_of_data_are_alike() -> None:
    parts = {"train": frame(*NAMES), "test": pd.DataFrame({"text": ["a", "b"], "label": ["yes", "no"]})}
    with (
        pytest.warns(UserWarning, match="pairs of texts"),
        pytest.raises(DataError, match="row 0: some texts are pairs"),
    ):
        read_data(parts)
    parts["test"] = frame(*NAMES)
    with pytest.warns(UserWarning, match="pairs of texts"):
        assert read_data(parts).texts == PAIRS * 2


def picked(names: str, **wanted: Any) -> tuple[tuple[str, ...], str | None]:
    columns = pick_columns(names.split(), Wanted(**wanted), "here")
    return columns.text_names, columns.pair_name


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        ("text text_pair label", {}, (("text",), None)),
        ("sentence1 sentence2 label", {}, (("sentence1",), "sentence2")),
        ("idx question passage label", {}, (("question",), "passage")),
        ("Sentence1 SENTENCE_2 label", {}, (("Sentence1",), "SENTENCE_2")),
        ("question answer label", {}, (("question",), None)),
        ("question answer label", {"pairs": True}, (("question",), "answer")),
        ("premise hypothesis label", {"text": "premise"}, (("premise",), None)),
        ("premise hypothesis label", {"text": "hypothesis", "pair": "premise"}, (("hypothesis",), "premise")),
        ("premise hypothesis label", {"pair": "hypothesis"}, (("premise",), "hypothesis")),
        ("title body reply label", {"text": "title,body", "pair": "reply"}, (("title", "body"), "reply")),
        ("text text_pair label", {"pairs": True}, (("text",), "text_pair")),
        ("text text_pair label", {"pairs": False}, (("text",), None)),
        ("text reply label", {"pair": "reply"}, (("text",), "reply")),
        ("left right", {"pairs": True, "labelled": False}, (("left",), "right")),
    ],
)
def test_columns_are_found(names: str, wanted: dict[str, Any], expected: Any) -> None:
    assert picked(names, **wanted) == expected


@pytest.mark.parametrize(
    ("names", "wanted", "said"),
    [
        ("left right label", {"pairs": True}, "the texts are pairs, and the names 'left', 'right', 'label' don't tell"),
        ("question passage context label", {"pairs": True}, "don't tell both columns"),
        ("premise hypothesis label", {"pairs": True, "text": "premise,hypothesis"}, "don't tell both columns"),
        ("premise hypothesis label", {"pairs": False}, "no column is named like a text"),
        ("text label", {"text": "text", "pair": "text"}, "'text' can't be both texts of a pair"),
        ("text label", {"pair": "label", "label": "label"}, "'label' can't be both the text and the label column"),
        ("text reply label", {"pair": "other"}, "there is no column 'other'"),
    ],
)
def test_columns_that_cannot_be_told(names: str, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        picked(names, **wanted)


@pytest.mark.parametrize(
    "names", ["text label", "id premise", "left label_id", "idx right", "pairID right", "left row_id", "Category right"]
)
def test_a_column_of_labels_or_numbers_is_no_second_text(names: str) -> None:
    with pytest.raises(DataError, match="don't tell both columns"):
        picked(names, pairs=True, labelled=False)


def test_columns_that_are_taken_in_their_order_are_said(tmp_path: Path) -> None:
    table = frame("left", "right", "label")[["left", "right"]]
    table.to_csv(tmp_path / "a.csv", index=False)
    for data in (table, tmp_path / "a.csv"):
        with pytest.warns(
            UserWarning, match="pairs of texts from the columns 'left' and 'right'; if that is wrong, say"
        ):
            assert read_data(data, pairs=True, labelled=False).texts == PAIRS
    (tmp_path / "b.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="don't tell both columns"):
        read_data(tmp_path / "b.csv", pairs=True, labelled=False)


def test_a_pair_by_its_names_comes_last(tmp_path: Path) -> None:
    """Where one column alone holds texts, it is read as before."""
    table = pd.DataFrame({"ticket": range(6), "reply": [pair.pair for pair in PAIRS], "label": LABELS})
    with pytest.warns(UserWarning, match="with texts from the column 'reply'"):
        assert read_data(table).texts == [pair.pair for pair in PAIRS]
    table["ticket"] = [pair.text for pair in PAIRS]
    with pytest.warns(UserWarning, match="pairs of texts from the columns 'ticket' and 'reply'"):
        assert read_data(table).texts == PAIRS


def test_a_second_column_is_named_where_one_text_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", ("text", "text_pair", "label"))
    with pytest.warns(UserWarning, match="the texts of 'text' alone, of which 'text_pair' may be the second of a pair"):
        assert not read_data(path).has_pairs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not read_data(path, text_column="text").has_pairs
        assert not read_data(path, pairs=False).has_pairs
        assert read_data(path, text_pair_column="text_pair").texts == PAIRS


def test_missing_and_empty_texts() -> None:
    table = pd.DataFrame({"text": ["a", "b", None, "d"], "pair": ["x", None, "y", " "], "label": [0, 1, 0, 1]})
    options: dict[str, Any] = {"text_pair_column": "pair"}
    with pytest.raises(DataError, match=r"row 1: the second text is (None|nan)"):
        read_data(table, **options)
    kept = read_data(table, missing="skip", **options)
    assert (kept.texts, kept.skipped) == ([TextPair("a", "x"), TextPair("d", " ")], 2)
    assert read_data(table, missing="skip", empty_texts="skip", **options).texts == [TextPair("a", "x")]
    with pytest.raises(UsageError, match="no columns to choose from; leave text_column, text_pair_column"):
        read_data((["a"], ["b"]), text_pair_column="pair")


def test_validation_texts_are_pairs_too(tmp_path: Path) -> None:
    options: dict[str, Any] = QUICK | {"trainable": "head"}
    with pytest.raises(DataError, match="reads pairs of texts, and this is a single text"):
        pyllmclf.finetune("gpt2-nano", (PAIRS, LABELS), **options | {"validation": (["a"], ["yes"])})
    with pytest.raises(DataError, match="reads single texts, and this is a pair"):
        pyllmclf.finetune("gpt2-nano", (list("abcdef"), LABELS), **options | {"validation": (PAIRS, LABELS)})
    path = written(tmp_path / "a.csv")
    result = pyllmclf.finetune(
        "gpt2-nano", path, text_column="premise", text_pair_column="hypothesis", **options | {"validation": path}
    )
    assert result.metrics["validation"]["texts"] == len(ROWS) and result.classifier.state.has_pairs


# --- checks, baselines, folds ---------------------------------------------------------------------------------------


def test_data_checks_look_at_both_texts() -> None:
    data = TextData([*PAIRS, PAIRS[0], PAIRS[1]], [*LABELS, "no", "no"], "here")
    other = TextData([PAIRS[2], TextPair(PAIRS[2].text, "else")], ["yes", "no"], "there")
    report = validate_splits({"train": data, "test": other})
    assert report.splits["train"].duplicates == 2 and len(report.splits["train"].conflicting) == 1
    assert [(each.texts, each.rows) for each in report.overlaps] == [(1, 1)]
    damaged = TextData([TextPair("a", "\ufffd"), TextPair("a", " ")], ["x", "y"], "here")
    report = validate_splits({"train": damaged})
    assert report.splits["train"].rows["replaced"].count == 1 and len(report.splits["train"].empty) == 1


def test_automatic_settings_hold_out_pairs_and_compare_with_words() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    texts = [(f"the word is {a}", f"it is {b}") for a in words for b in words[:4]]
    labels = ["same" if a.split()[-1] == b.split()[-1] else "other" for a, b in texts]
    result = pyllmclf.finetune("gpt2-nano", (texts, labels), weights="random", epochs=1, progress=False)
    assert "bag of words" in result.baselines and result.metrics["validation"]["texts"] >= 4
    assert result.classifier.state.has_pairs


def test_label_issues_of_pairs() -> None:
    pytest.importorskip("cleanlab")
    data = (PAIRS * 4, [*LABELS * 3, "no", *LABELS[1:]])
    options: dict[str, Any] = {"weights": "random", "progress": False, "validation": False, "folds": 2}
    result = pyllmclf.tune("gpt2-nano", data, candidates=[{"trainable": "head"}], **options)
    assert list(result.out_of_fold.columns[:4]) == ["where", "text", "text_pair", "label"]
    assert list(pyllmclf.label_issues(result).columns) == ["where", "text", "text_pair", "label", "suggested", "score"]


# --- commands -------------------------------------------------------------------------------------------------------


def test_finetune_eval_and_predict(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out, table = written(tmp_path / "a.csv", ("one", "two", "label")), tmp_path / "out", tmp_path / "found.csv"
    columns = ["--text-column", "one", "--text-pair-column", "two"]
    options = ["--weights", "random", "--trainable", "head", "--validation", "none", "--output-dir", str(out)]
    arguments = ["finetune", str(path), "--model", "gpt2-nano", *columns, *options, "--no-progress"]
    assert run(app, "pyllmclf", arguments) == 0
    capfd.readouterr()
    report = tmp_path / "report.html"
    arguments = [str(out), str(path), *columns, "--predictions", str(table), "--report", str(report), "--json"]
    assert run(eval_app, "pyllmclf-eval", [*arguments, "--no-progress"]) == 0
    figures = json.loads(capfd.readouterr().out)
    loaded = pyllmclf.load(out)
    assert figures["accuracy"] == loaded.evaluate((PAIRS, LABELS)).accuracy
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["text_pair"]) for row in rows] == [tuple(pair) for pair in PAIRS]
    assert [row["prediction"] for row in rows] == loaded.predict(PAIRS)
    assert run(app, "pyllmclf", ["predict", str(out), str(path), *columns, "--no-progress"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["predicted_label"] for line in lines] == loaded.predict(PAIRS)
    assert [(line["text"], line["text_pair"], line["one"]) for line in lines] == [(*pair, pair.text) for pair in PAIRS]
    assert run(app, "pyllmclf", ["eval", str(out), str(path), "--no-progress"]) == 3
    assert "don't tell both columns" in capfd.readouterr().err


def test_predict_takes_pairs_from_the_command_line(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [part for pair in PAIRS[:2] for part in ("--text", pair.text, "--text-pair", pair.pair)]
    assert run(app, "pyllmclf", ["predict", str(saved), *texts, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capfd.readouterr().out.splitlines()))
    assert [(row["text"], row["text_pair"]) for row in rows] == [tuple(pair) for pair in PAIRS[:2]]
    assert [row["label"] for row in rows] == pyllmclf.load(saved).predict(PAIRS[:2])
    assert run(app, "pyllmclf", ["predict", str(saved), "--text", "a"]) == 3
    assert "reads pairs of texts, and this is a single text" in capfd.readouterr().err
    assert run(app, "pyllmclf", ["predict", str(saved), "--text", "a", "--text-pair", "b", "--text-pair", "c"]) == 2
    assert "--text-pair is there 2 times, and --text 1 times" in capfd.readouterr().err
    assert run(app, "pyllmclf", ["predict", str(saved), "--text", "a", "--text-pair-column", "b"]) == 2


def test_validate_says_what_finetune_would_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.csv", ("one", "two", "label"))
    columns = ["--text-column", "one", "--text-pair-column", "two"]
    arguments = ["validate", str(path), *columns, "--test", str(path)]
    assert run(app, "pyllmclf", arguments) == 0
    out = capfd.readouterr().out
    assert "the pairs of texts of the columns 'one' and 'two' and the labels of 'label': 6 texts" in out
    assert "6 texts of train are also in" in out
    assert run(app, "pyllmclf", [*arguments, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["finetune"]["text_pair_column"] == "two"


def test_kind_of_a_run_that_still_measures(saved: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(saved, run_folder / "held_out" / "checkpoint-3")
    assert kind_of(run_folder).has_pairs
    later = run_folder / "checkpoint-1"
    later.mkdir()
    spec = json.loads((saved / "pyllmclf.json").read_text())
    (later / "pyllmclf.json").write_text(json.dumps(spec | {"label_separator": "|"}))
    assert kind_of(run_folder).label_separator == "|"


# --- estimator ------------------------------------------------------------------------------------------------------


def test_estimator(classifier: Classifier) -> None:
    estimator = LLMClassifier("gpt2-nano", weights="random", trainable="all", epochs=1)
    expected = None
    plain = [tuple(pair) for pair in PAIRS]
    for X in (plain, [list(pair) for pair in plain], np.array(plain, dtype=object)):
        probabilities = estimator.fit(X, LABELS).predict_proba(X)
        expected = probabilities if expected is None else expected
        np.testing.assert_array_equal(probabilities, expected)
    np.testing.assert_allclose(classifier.predict_proba(PAIRS), expected, rtol=1e-5)
    with pytest.raises(DataError, match="text 1 is a int, not a string"):
        estimator.fit([("a", "b"), ("c", 3)], ["x", "y"])
    with pytest.raises(DataError, match="text 0 is a NoneType, not a string"):
        estimator.fit([("a", None), ("c", "d")], ["x", "y"])
    with pytest.raises(DataError, match="this is a single text"):
        estimator.predict(["a"])


def test_columns_of_the_estimator() -> None:
    estimator = LLMClassifier("gpt2-nano", weights="random", trainable="head", epochs=1)
    X = frame(*NAMES)[["premise", "hypothesis"]]
    with pytest.warns(UserWarning, match="pairs of texts from the columns 'premise' and 'hypothesis', in this order"):
        estimator.fit(X, LABELS)
    assert estimator.feature_names_in_.tolist() == ["premise", "hypothesis"]
    expected = estimator.predict_proba(PAIRS)
    np.testing.assert_array_equal(estimator.predict_proba(X), expected)
    for other in (X[["hypothesis", "premise"]], X.rename(columns={"premise": "text"})):
        for method in (estimator.predict, estimator.predict_proba, estimator.decision_function):
            with pytest.raises(DataError, match="feature names should match those that were passed during fit"):
                method(other)
    estimator.fit(PAIRS, LABELS)
    assert not hasattr(estimator, "feature_names_in_")
    np.testing.assert_array_equal(estimator.predict_proba(X), expected)


# --- server ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Any:
    from starlette.testclient import TestClient

    import pyllmclf.server

    single = pyllmclf.finetune("gpt2-nano", (["a", "b"], ["x", "y"]), trainable="head", **QUICK).classifier
    with TestClient(pyllmclf.server.app({"pairs": classifier, "single": single})) as client:
        yield client


def error_of(response: Any) -> str:
    error = response.json()["error"]
    return error if isinstance(error, str) else error["message"]


def test_server_classifies_pairs(client: Any, classifier: Classifier) -> None:
    pairs = [list(pair) for pair in PAIRS]
    expected = classifier.predict_proba(PAIRS)
    data = client.post("/classify", json={"model": "pairs", "input": pairs}).json()["data"]
    np.testing.assert_allclose([each["probs"] for each in data], expected, atol=1e-6)
    found = client.post("/predict", json={"model": "pairs", "inputs": pairs}).json()
    best = [max(each, key=lambda score: score["score"])["label"] for each in found]
    assert best == classifier.predict(PAIRS)
    alone = client.post("/predict", json={"model": "pairs", "inputs": pairs[0]}).json()
    assert alone[0]["label"] == best[0]
    flat = [text for pair in PAIRS for text in pair]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(PAIRS), 2], "data": flat}
    outputs = client.post("/v2/models/pairs/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert next(each["data"] for each in outputs if each["name"] == "label") == classifier.predict(PAIRS)
    cards = {card["id"]: card["reads_pairs"] for card in client.get("/v1/models").json()["data"]}
    assert cards == {"pairs": True, "single": False}
    assert client.get("/v2/models/pairs").json()["inputs"][0]["shape"] == [-1, 2]


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("/classify", {"model": "pairs", "input": "a"}, "input must be a pair of texts, [text, pair]: the classifier"),
        ("/classify", {"model": "pairs", "input": ["a", "b"]}, "input[0] must be a pair of texts"),
        ("/classify", {"model": "pairs"}, "the field 'input' is missing; it is a list of pairs of texts"),
        ("/classify", {"model": "single", "input": [["a", "b"]]}, "input[0] must be a text, not a list"),
        ("/predict", {"model": "pairs", "inputs": [["a"]]}, "inputs[0] must be a pair of texts"),
        ("/predict", {"model": "pairs", "inputs": "a"}, "inputs must be a pair of texts"),
        ("/predict", {"model": "single", "inputs": ["a", "b"]}, "a pair, and this model reads single texts"),
        ("/predict", {"model": "single", "inputs": [["a", "b"]]}, "inputs[0] must be a list of one text"),
    ],
)
def test_server_refuses_what_the_classifier_does_not_read(
    client: Any, path: str, content: dict[str, Any], said: str
) -> None:
    answer = client.post(path, json=content)
    assert answer.status_code == 400 and said in error_of(answer)


def test_the_page_refuses_pairs(client: Any, tmp_path: Path) -> None:
    content = written(tmp_path / "a.csv").read_bytes()
    answer = client.post("/files?model=pairs&name=a.csv", content=content)
    assert answer.status_code == 422 and "the page doesn't take" in error_of(answer)
    page = client.post("/", data={"model": "pairs", "text": "a"})
    assert page.status_code == 422 and "reads pairs of texts" in page.text


def test_texts_in_flight_differ_by_their_first_text(model_folder: Folders) -> None:
    """Two pairs with the same tokens and other types are two texts for the batcher."""
    from pyllmclf.server.batching import Batcher
    from pyllmclf.server.catalog import Catalog

    data = (["a b", "c", "a b", "c"], ["x", "y", "y", "x"], ["1", "2", "1", "2"])
    options: dict[str, Any] = {"trainable": "all", "epochs": 1, "progress": False, "validation": False}
    ours = pyllmclf.finetune(model_folder("bert"), data, **options).classifier
    tokenizer, layout = ours.state.tokenizer, ours.state.layout
    assert tokenizer.pairs is not None
    (a,), (b,), (c,) = tokenizer.encode_batch(["a", "b", "c"])
    (separator,) = tokenizer.pairs.between
    tokens = np.array([a, separator, b, separator, c], dtype=np.int32)

    def packed(*firsts: int) -> Packer:
        """Pairs of these tokens, whose first texts have so many of them."""
        count = len(firsts)
        store = TokenStore(np.tile(tokens, count), np.arange(count + 1) * len(tokens), np.array(firsts))
        return Packer(store, tokenizer, layout)

    group = Catalog({"pairs": ours}, share_memory=False).served["pairs"].group
    batcher, ended = Batcher(max_wait=0.0, budget=256, max_queue=9), threading.Event()
    errors: list[BaseException | None] = []

    def done(error: BaseException | None) -> None:
        errors.append(error)
        ended.set()

    request = batcher.submit(group, 0, packed(3, 1), done)
    assert ended.wait(30) and errors == [None]
    batcher.stop()
    assert batcher.shared_texts == 0
    expected = np.concatenate([ours.packed_logits(packed(first)) for first in (3, 1)])
    assert np.abs(expected[0] - expected[1]).max() > 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(request.logits, expected, rtol=1e-5, atol=1e-6)
