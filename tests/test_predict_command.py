"""``pyllmclf predict``: sources, outputs, and predictions of texts that arrive one by one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pty
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from workbooks import ods, xlsx

import pyllmclf
from pyllmclf.cli.main import app, run
from pyllmclf.data.readers.line_stream import LineStream
from pyllmclf.data.sources import read_data

TEXTS = ["The parcel is late.", "Charged twice!", "I can't log in."]
CLASSES = ["account", "billing", "delivery", "product"]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Predict = Callable[..., Ran]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that is saved."""
    path = tmp_path_factory.mktemp("predict") / "classifier"
    options: dict[str, Any] = {"weights": "random", "pooling": "mean", "epochs": 1, "progress": False}
    pyllmclf.finetune("gpt2-nano", "sample", trainable="all", **options).classifier.save(path)
    return path


@pytest.fixture(scope="module")
def classifier(folder: Path) -> pyllmclf.Classifier:
    return pyllmclf.load(folder)


@pytest.fixture
def predict(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Runs ``pyllmclf predict`` on the classifier, with ``stdin`` as standard input."""

    def call(*arguments: object, stdin: bytes | None = None) -> Ran:
        capfd.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(app, "pyllmclf", ["predict", str(folder), *map(str, arguments)])
        return Ran(code, *capfd.readouterr())

    return call


def objects(ran: Ran) -> list[dict[str, Any]]:
    assert (ran.code, ran.err) == (0, "")
    return [json.loads(line) for line in ran.out.splitlines()]


def table(ran: Ran, **options: Any) -> list[dict[str, str]]:
    assert (ran.code, ran.err) == (0, "")
    return list(csv.DictReader(io.StringIO(ran.out), **options))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"id": [7, 8, 9], "body": TEXTS, "note": ["a", 'quoted "b"', "c,\nd"]})


# --- sources ----------------------------------------------------------------------------------------------------------


def test_columns_are_kept_in_their_order(predict: Predict, frame: pd.DataFrame, tmp_path: Path) -> None:
    """From every format, and JSON always has the text under ``text``."""
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    frame.to_parquet(tmp_path / "a.pq", index=False)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    frame.to_feather(tmp_path / "a.feather")
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, arrow.schema) as writer:
        writer.write_table(arrow)
    frame.to_json(tmp_path / "array.json", orient="records")
    frame.to_json(tmp_path / "columns.json", orient="columns")
    (tmp_path / "lists.json").write_text(json.dumps(frame.to_dict("list")))
    xlsx(tmp_path / "a.xlsx", [list(frame), *frame.to_numpy().tolist()])
    ods(tmp_path / "a.ods", [list(frame), *frame.to_numpy().tolist()])
    for name in sorted(os.listdir(tmp_path)):
        rows = objects(predict(tmp_path / name, "--text-column", "body"))
        assert [list(row) for row in rows] == [["id", "body", "note", "text", "label", "probabilities"]] * 3
        assert [row["text"] for row in rows] == [row["body"] for row in rows] == TEXTS
        assert [row["note"] for row in rows] == list(frame["note"])
        numbers = ["7", "8", "9"] if name.startswith(("a.csv", "a.tsv")) else [7, 8, 9]
        assert [row["id"] for row in rows] == numbers
    rows = objects(predict(tmp_path / "a.csv", "--text-column", "body", "--no-keep-columns"))
    assert [list(row) for row in rows] == [["text", "label", "probabilities"]] * 3


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_columns_that_python_cannot_represent(predict: Predict, tmp_path: Path, kind: str) -> None:
    """They become text, and keep their type in Parquet; a text column is one sentence."""
    times = pa.array([2**50, None, 0], pa.timestamp("ms"))
    table = pa.table({"when": times, "text": TEXTS, "day": pa.array([3 * 10**6] * 3, pa.date32())})
    source, out = tmp_path / f"a.{kind}", tmp_path / "out.parquet"
    if kind == "parquet":
        pq.write_table(table, source)
    else:
        pa.feather.write_feather(table, source)
    rows = objects(predict(source))
    assert [row["day"] for row in rows] == ["10183-09-21"] * 3
    assert rows[0]["when"] == "<value out of range: 1125899906842624>" and rows[1]["when"] is None
    assert predict(source, "--output", out, "--no-progress") == (0, "", "")
    assert pq.read_table(out, columns=table.schema.names).equals(table)
    ran = predict(source, "--text-column", "when")
    assert ran.code == 3 and "'when' holds timestamp[ms] that Python can't represent" in ran.err
    nested = pa.table({"text": TEXTS, "when": pa.array([[2**50]] * 3, pa.list_(pa.timestamp("ms")))})
    pq.write_table(nested, tmp_path / "nested.parquet")
    ran = predict(tmp_path / "nested.parquet")
    assert ran.code == 3 and "'when' holds list" in ran.err and len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "xlsx", "feather"])
def test_several_text_columns_are_joined(predict: Predict, tmp_path: Path, kind: str) -> None:
    """From every format, of a file and of a pipe."""
    frame = pd.DataFrame({"title": ["a", "b"], "body": TEXTS[:2], "n": [1, 2]})
    path = tmp_path / f"a.{kind}"
    if kind == "xlsx":
        xlsx(path, [list(frame), *frame.to_numpy().tolist()])
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        (frame.to_parquet if kind == "parquet" else frame.to_feather)(path)
    expected = [f"a {TEXTS[0]}", f"b {TEXTS[1]}"]
    rows = objects(predict(path, "--text-column", "title,body"))
    assert [row["text"] for row in rows] == expected and [row["title"] for row in rows] == ["a", "b"]
    if kind not in ("xlsx", "feather"):
        options = ("--input-format", kind, "--text-column", "title,body")
        assert [row["text"] for row in objects(predict(*options, stdin=path.read_bytes()))] == expected


def test_workbooks_and_arrow_files(predict: Predict, tmp_path: Path) -> None:
    """Cells of any type, columns without a usual name, options without an effect, and files of many batches."""
    book = xlsx(
        tmp_path / "a.xlsx", [["Remark", "x", "x"], ["a late parcel", 1.5, None], ["It broke again", True, "z"]]
    )
    ran = predict(book)
    assert ran.code == 0 and "read with texts from the column 'Remark'" in ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["text"] for row in rows] == ["a late parcel", "It broke again"]
    assert [(row["x"], row["x.1"]) for row in rows] == [(1.5, None), (True, "z")]
    lines = predict(book, "--format", "csv").out.splitlines()
    assert lines[0] == "Remark,x,x.1,label,probability" and lines[2].startswith("It broke again,True,z,")
    rows = objects(predict(book, "--no-header", "--text-column", "0"))
    assert [row["0"] for row in rows] == ["Remark", "a late parcel", "It broke again"]
    for path, option in ((book, "--delimiter=;"), (book, "--encoding=cp1252"), (tmp_path / "a.arrow", "--no-header")):
        ran = predict(path, option)
        assert ran.code == 2 and option[2:].partition("=")[0].removeprefix("no-") in ran.err
    for name in ("missing.xlsx", "missing.feather"):
        assert predict(tmp_path / name).code == 3
    (tmp_path / "broken.arrow").write_bytes(b"ARROW1 nothing")
    ran = predict(tmp_path / "broken.arrow")
    assert ran.code == 3 and "not a readable Arrow file" in ran.err
    xlsx(tmp_path / "empty.xlsx", [["id", "text"]])
    assert predict(tmp_path / "empty.xlsx", "--format", "csv").out == "id,text,label,probability\n"


def test_batches_of_an_arrow_file(tmp_path: Path) -> None:
    from pyllmclf.data.readers import ReadOptions
    from pyllmclf.data.readers.file_rows import file_rows
    from pyllmclf.data.readers.row_batches import BATCH_ROWS

    table = pa.table({"text": ["a"] * (BATCH_ROWS + 7), "n": range(BATCH_ROWS + 7)})
    pa.feather.write_feather(table, tmp_path / "a.feather")
    batches = list(file_rows(tmp_path / "a.feather", None, ReadOptions(labelled=False)).batches)
    assert [len(batch.texts) for batch in batches] == [BATCH_ROWS, 7]
    assert batches[1].records is not None and batches[1].records[6]["n"] == BATCH_ROWS + 6


def test_names_that_the_input_has_already(predict: Predict, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame({"text": TEXTS, "label": ["x", "y", "z"], "probability": 1}).to_csv(path, index=False)
    rows = objects(predict(path))
    assert [list(row) for row in rows] == [["text", "label", "probability", "predicted_label", "probabilities"]] * 3
    assert [row["label"] for row in rows] == ["x", "y", "z"]
    assert all(row["predicted_label"] in CLASSES for row in rows)
    header = list(table(predict(path, "--format", "csv"))[0])
    assert header == ["text", "label", "probability", "predicted_label", "predicted_probability"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_standard_input_of_another_format(predict: Predict, frame: pd.DataFrame, kind: str) -> None:
    frame = frame.rename(columns={"body": "text"})
    content = {
        "csv": lambda: frame.to_csv(index=False).encode(),
        "tsv": lambda: frame.to_csv(index=False, sep="\t").encode(),
        "jsonl": lambda: frame.to_json(orient="records", lines=True).encode(),
        "parquet": lambda: frame.to_parquet(index=False),
    }[kind]()
    rows = objects(predict("--input-format", kind, stdin=content))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["note"] for row in rows] == list(frame["note"])


def test_input_format_of_a_file_with_another_name(predict: Predict, tmp_path: Path) -> None:
    path = tmp_path / "export.dat"
    path.write_text("text,id\nhello,1\n")
    assert predict(path).code == 3
    assert objects(predict(path, "--input-format", "csv"))[0]["id"] == "1"
    assert predict(path, "--input-format", "word").code == 2


def test_lines_that_look_like_a_table_get_a_hint(predict: Predict) -> None:
    for content, kind in ((b"id,text\n1,hello\n", "csv"), (b'{"text": "hello"}\n', "jsonl")):
        ran = predict(stdin=content)
        assert ran.code == 0 and f"--input-format {kind}" in ran.err and len(ran.err.splitlines()) == 1
        assert json.loads(ran.out.splitlines()[0])["text"] == content.decode().splitlines()[0]
        assert predict("--no-progress", stdin=content).err == ""


def test_texts_as_arguments(predict: Predict, classifier: pyllmclf.Classifier) -> None:
    (row,) = objects(predict("Where is my parcel, please?"))
    assert row["text"] == "Where is my parcel, please?"
    assert row["label"] == classifier.predict("Where is my parcel, please?")
    rows = objects(predict("--text", "hello", "--text", "a.csv"))
    assert [row["text"] for row in rows] == ["hello", "a.csv"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_standard_input_and_of_lines(predict: Predict, tmp_path: Path, encoding: str) -> None:
    """Found by their marks or their zero bytes, from a pipe as from a file."""
    content = "".join(f"{text} – naïve\n" for text in TEXTS).encode(encoding)
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    expected = [f"{text} – naïve" for text in TEXTS]
    assert [row["text"] for row in objects(predict(stdin=content))] == expected
    ran = predict(path)
    assert ran.code == 0 and [json.loads(line)["text"] for line in ran.out.splitlines()] == expected


def test_invalid_utf_16_from_a_pipe(predict: Predict) -> None:
    content = b"\xff\xfe" + "one\n".encode("utf-16-le") + b"\x00\xd8\x00\xd8" + "two\n".encode("utf-16-le")
    ran = predict(stdin=content)
    assert ran.code == 3 and "after line 1, bytes are not valid utf-16-le" in ran.err
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == ["one"]


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("cp1252", b"\x81"), ("shift_jis", b"\x82\xff"), ("utf-16-le", b"\x00\xdc"), ("ascii", b"\xe9")],
)
def test_lines_before_bytes_that_the_encoding_lacks(predict: Predict, encoding: str, bad: bytes) -> None:
    content = "one\ntwo\n".encode(encoding) + bad + "\nthree\n".encode(encoding)
    ran = predict("--encoding", encoding, stdin=content)
    assert ran.code == 3 and f"after line 2, bytes are not valid {encoding};" in ran.err
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == ["one", "two"]
    with pytest.warns(RuntimeWarning, match="[12] places are not valid .* and were replaced"):
        texts = list(LineStream(io.BytesIO(content), "a.txt", "replace", encoding))
    assert texts[:2] == ["one\n", "two\n"] and texts[2].startswith("\ufffd") and texts[-1] == "three\n"


def test_files_are_read_as_in_training(predict: Predict, tmp_path: Path) -> None:
    """Delimiter, encoding and packing are found, and all columns stay."""
    rows = [(str(i), f"{text}; naïve", "x") for i, text in enumerate(TEXTS)]
    content = "id;text;label\n" + "".join(f'{a};"{b}";{c}\n' for a, b, c in rows)
    path = tmp_path / "rows.csv"
    path.write_bytes(gzip.compress(content.encode("cp1252")))
    ran = predict(path)
    assert ran.code == 0 and "semicolons" in ran.err and "cp1252" in ran.err
    assert [(row["id"], row["text"], row["label"]) for row in map(json.loads, ran.out.splitlines())] == rows
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([{"text": text, "n": i} for i, text in enumerate(TEXTS)], indent=2))
    assert [(row["text"], row["n"]) for row in objects(predict(array))] == [(text, i) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("name", ["nowhere.csv", "my reviews.csv", "my file.txt", "hello", "{tmp}/my reviews"])
def test_a_mistyped_name_is_no_text(predict: Predict, tmp_path: Path, name: str) -> None:
    ran = predict(name.format(tmp=tmp_path))
    assert ran.code == 3 and ran.out == "" and len(ran.err.splitlines()) == 1
    if name == "hello":
        assert "--text" in ran.err
    assert predict("a.csv", "--text", "b").code == 2


def test_a_folder_is_no_file(predict: Predict, tmp_path: Path) -> None:
    assert predict(tmp_path).code == 3


def test_repeated_columns_that_are_not_texts(predict: Predict, tmp_path: Path) -> None:
    from pyllmclf.data.readers.row_batches import distinct_names

    assert distinct_names(["a", "b", "a", "a.1", "a"]) == ["a", "b", "a.1", "a.1.1", "a.2"]


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_csv(predict: Predict, classifier: pyllmclf.Classifier, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "a.csv", index=False)
    probabilities = classifier.predict_proba(TEXTS)
    rows = table(predict(tmp_path / "a.csv", "--text-column", "body", "--format", "csv"))
    assert list(rows[0]) == ["id", "body", "note", "label", "probability"]
    assert [row["note"] for row in rows] == list(frame["note"])
    assert [row["label"] for row in rows] == classifier.predict(TEXTS)
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities.max(axis=1))
    rows = table(predict(tmp_path / "a.csv", "--text-column", "body", "--format", "tsv", "--proba"), delimiter="\t")
    assert list(rows[0]) == ["id", "body", "note", "label", *(f"probability_{name}" for name in CLASSES)]
    assert [float(rows[1][f"probability_{name}"]) for name in CLASSES] == pytest.approx(probabilities[1])
    rows = table(predict("--format", "csv", "--top-k", "2", stdin="\n".join(TEXTS).encode()))
    assert list(rows[0]) == ["text", "label", "label_1", "probability_1", "label_2", "probability_2"]
    best = classifier.predict(TEXTS, top_k=2)
    assert [(row["label_2"], pytest.approx(float(row["probability_2"]))) for row in rows] == [row[1] for row in best]


def test_top_k_and_labels_alone(predict: Predict, classifier: pyllmclf.Classifier) -> None:
    lines = "\n".join(TEXTS).encode()
    rows = objects(predict("--top-k", "2", stdin=lines))
    for row, best in zip(rows, classifier.predict(TEXTS, top_k=2), strict=True):
        assert list(row["probabilities"]) == [label for label, _ in best]
        assert list(row["probabilities"].values()) == pytest.approx([p for _, p in best])
    assert len(objects(predict("--top-k", "9", stdin=lines))[0]["probabilities"]) == 4
    assert len(objects(predict("--proba", stdin=lines))[0]["probabilities"]) == 4
    ran = predict("--label-only", stdin=lines)
    assert ran == (0, "".join(f"{label}\n" for label in classifier.predict(TEXTS)), "")


def test_the_ending_of_the_output_is_its_format(predict: Predict, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame = frame.rename(columns={"body": "text"})
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    for name in ("b.csv", "b.tsv", "b.jsonl", "b.ndjson", "b.json", "b.parquet"):
        ran = predict(tmp_path / "a.parquet", "--output", tmp_path / name, "--no-progress")
        assert ran == (0, "", "")
    found = pd.read_parquet(tmp_path / "b.parquet")
    assert list(found) == ["id", "text", "note", "label", "probability"]
    pd.testing.assert_frame_equal(found[list(frame)], frame)
    assert list(pd.read_csv(tmp_path / "b.csv")["label"]) == list(found["label"])
    assert list(pd.read_csv(tmp_path / "b.tsv", sep="\t")["note"]) == list(frame["note"])
    lines = (tmp_path / "b.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "b.ndjson").read_text().splitlines()
    assert json.loads((tmp_path / "b.json").read_text()) == [json.loads(line) for line in lines]


def test_parquet_of_other_sources(predict: Predict, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    lines = b'{"text": "a", "stars": 5, "tags": ["x"]}\n{"text": "b", "stars": null, "extra": true}\n'
    assert predict("--input-format", "jsonl", "--output", out, stdin=lines).code == 0
    rows = pq.read_table(out).to_pylist()
    assert [(row["stars"], row["tags"], row["extra"]) for row in rows] == [(5, ["x"], None), (None, None, True)]
    assert predict("--input-format", "csv", "--output", out, "--top-k", 1, stdin=b"text,n\na,1\n").code == 0
    (row,) = pq.read_table(out).to_pylist()
    assert list(row) == ["text", "n", "label", "label_1", "probability_1"] and row["n"] == "1"
    mixed = b'{"text": "a", "n": 5}\n{"text": "b", "n": "five"}\n'
    ran = predict("--input-format", "jsonl", "--output", tmp_path / "new.parquet", stdin=mixed)
    assert ran.code == 3 and "jsonl" in ran.err and not (tmp_path / "new.parquet").exists()


def test_parquet_of_ones_own_parquet(predict: Predict, tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path)
    for number in range(1, 4):
        out = tmp_path / f"{number}.parquet"
        assert predict(path, "--output", out, "--no-progress") == (0, "", "")
        path = out
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types["predicted_predicted_label"] == "string"
    assert types["predicted_predicted_probability"] == "double"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_later_row_with_a_name_of_the_predictions(predict: Predict, tmp_path: Path, ending: str) -> None:
    lines = b'{"text": "a"}\n{"text": "b", "label": "mine"}\n'
    ran = predict("--input-format", "jsonl", "--output", tmp_path / f"out.{ending}", stdin=lines)
    assert ran.code == 3 and "line 2" in ran.err and "'label'" in ran.err and os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_lone_surrogates_of_other_columns(predict: Predict, tmp_path: Path, ending: str) -> None:
    lines = '{"text": "a", "id": ["é"]}\n{"text": "b", "id": ["x\\ud800"]}\n'.encode()
    out = tmp_path / f"out.{ending}"
    ran = predict("--input-format", "jsonl", "--output", out, "--no-progress", stdin=lines)
    if ending.startswith("json"):
        assert ran == (0, "", "")
        content = out.read_text()
        rows = json.loads(content) if ending == "json" else [json.loads(line) for line in content.splitlines()]
        assert [row["id"] for row in rows] == [["é"], ["x\ud800"]] and '"é"' in content
    else:
        assert ran.code == 3 and "line 2" in ran.err and "surrogate" in ran.err and not out.exists()
    name = b'{"text": "a", "\\ud800": 1}\n'
    ran = predict("--input-format", "jsonl", "--output", tmp_path / f"name.{ending}", "--no-progress", stdin=name)
    assert ran.code == (0 if ending.startswith("json") else 3) and "bug" not in ran.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "a", "n": 1}\n"b"\n{"text": "c", "n": 3}\n', "line 2: a row must be a JSON object, not str"),
        ('"a"\n{"text": "b", "n": 1}\n', "line 2: a row must be a string, not dict"),
        ('["a"]\n{"0": "b"}\n', "line 2: a row must be an array, not dict"),
    ],
)
def test_json_of_several_kinds(predict: Predict, tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    ran = predict(path, "--format", "csv")
    assert ran.code == 3 and problem in ran.err
    with pytest.raises(pyllmclf.DataError, match=problem):
        read_data(path, labelled=False)


def test_no_rows_give_an_empty_output(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n")
    assert predict(tmp_path / "a.csv") == (0, "", "")
    assert predict(tmp_path / "a.csv", "--json") == (0, "[]\n", "")
    assert predict(tmp_path / "a.csv", "--format", "csv", "--top-k", "1") == (
        0, "id,text,label,label_1,probability_1\n", "",
    )  # fmt: skip
    assert predict(tmp_path / "a.csv", "--output", tmp_path / "b.parquet").code == 0
    schema = pq.read_schema(tmp_path / "b.parquet")
    assert schema.names == ["id", "text", "label", "probability"] and str(schema.field("probability").type) == "double"
    assert predict("--label-only", stdin=b"") == (0, "", "")


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_carriage_returns_in_fields(predict: Predict, tmp_path: Path, delimiter: str) -> None:
    texts = ["a\rb", "a\r", "\r", "a\r\nb\n", "plain"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = tmp_path / ("out.csv" if delimiter == "," else "out.tsv")
    assert predict(path, "--output", out, "--no-progress") == (0, "", "")
    with out.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    assert [row[0] for row in rows] == ["text", *texts] and {len(row) for row in rows} == {3}
    assert out.read_bytes().endswith(b"\n") and not out.read_bytes().endswith(b"\r\n")


def test_formulas_are_escaped(predict: Predict) -> None:
    content = b"text,n\n=1+1,+2\nhello,3\n"
    rows = table(predict("--input-format", "csv", "--format", "csv", "--escape-formulas", stdin=content))
    assert [(row["text"], row["n"]) for row in rows] == [("'=1+1", "'+2"), ("hello", "3")]
    assert table(predict("--input-format", "csv", "--format", "csv", stdin=content))[0]["text"] == "=1+1"


def test_json_is_valid_where_standard_output_has_another_encoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert run(app, "pyllmclf", ["predict", str(folder), "--text", "Straße 😀"]) == 0
    assert json.loads(printed.getvalue())["text"] == "Straße 😀"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--format", "excel"), "excel"),
        (("--format", "parquet"), "--output"),
        (("--format", "csv", "--json"), "--json"),
        (("--json", "--label-only"), "--label-only"),
        (("--output", "predictions"), "--format"),
        (("--output", "predictions.doc"), ".doc"),
        (("--top-k", "0"), "--top-k"),
        (("--top-k", "2", "--proba"), "--proba"),
        (("--label-only", "--proba"), "--label-only"),
        (("--escape-formulas",), "--format csv"),
        (("--text-column", "text"), "--text-column"),
    ],
)
def test_options_that_do_not_fit(predict: Predict, options: tuple[str, ...], word: str) -> None:
    ran = predict(*options, stdin=b"a\n")
    assert ran.code == 2 and ran.out == "" and word in ran.err and len(ran.err.splitlines()) == 1


def test_outputs_that_would_destroy_something(predict: Predict, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nhello\n")
    for output in (path, folder / "predictions.csv"):
        ran = predict(path, "--output", output)
        assert ran.code == 2 and str(output) in ran.err
    assert path.read_text() == "text\nhello\n"
    path.write_text("text\n" + "hello\n" * 10 + '"a ""quoted"" text"\n"broken')
    kept = tmp_path / "kept.csv"
    kept.write_text("older")
    assert predict(path, "--output", kept).code == 3
    assert kept.read_text() == "older" and sorted(os.listdir(tmp_path)) == ["a.csv", "kept.csv"]
    assert predict(path, "--output", tmp_path / "no/such/folder.csv", stdin=b"").code in (3, 5)


def test_an_output_is_no_input(predict: Predict, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text\nhello\n")
    before = os.dup(0)
    try:
        with path.open("rb") as file:
            os.dup2(file.fileno(), 0)
        for data in ((), ("-",)):
            ran = predict(*data, "--input-format", "csv", "--output", path, stdin=path.read_bytes())
            assert ran.code == 2 and "would be written over the data" in ran.err
        other = ("--text", "a", "--output", tmp_path / "other.csv")
        assert predict(*other, "--no-progress", stdin=b"") == (0, "", "")
    finally:
        os.dup2(before, 0)
        os.close(before)
    (tmp_path / "other.csv").unlink()
    ran = predict(tmp_path, "--output", path)
    assert ran.code == 2 and "would be written over the data" in ran.err
    assert path.read_text() == "text\nhello\n"
    assert predict(tmp_path, "--output", tmp_path / "new.csv", "--no-progress") == (0, "", "")


# --- streams ----------------------------------------------------------------------------------------------------------


class Stream:
    """``pyllmclf predict`` in a thread, between two pipes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
        stdin, self._in = os.pipe()
        self._out, stdout = os.pipe()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(stdin, "rb")))
        self._stdout = os.fdopen(stdout, "w", encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", self._stdout)
        self.code: int | None = None
        arguments = ["predict", str(folder), "--no-progress", *options]
        self._thread = threading.Thread(target=self._run, args=(arguments,), daemon=True)
        self._thread.start()
        self.lines = os.fdopen(self._out, encoding="utf-8")

    def _run(self, arguments: list[str]) -> None:
        self.code = run(app, "pyllmclf", arguments)
        self._stdout.close()

    def send(self, content: bytes) -> None:
        os.write(self._in, content)

    def end(self) -> int | None:
        os.close(self._in)
        self._thread.join(60)
        return self.code


@pytest.fixture
def stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stream]]:
    yield lambda *options: Stream(folder, monkeypatch, *options)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_lines_are_answered_as_they_arrive(stream: Callable[..., Stream], kind: str) -> None:
    ours = stream("--input-format", kind, "--format", "jsonl")
    if kind == "csv":
        ours.send(b"id,text\n")
    lines = {"txt": b"first\n", "csv": b'1,"first"\n', "jsonl": b'{"text": "first"}\n'}
    for _ in range(3):
        ours.send(lines[kind])
        assert json.loads(ours.lines.readline())["text"] == "first"
    ours.send(lines[kind] * 2 + lines[kind][:-1])  # the last without its line break
    assert ours.end() == 0
    assert [json.loads(line)["text"] for line in ours.lines] == ["first"] * 3


@pytest.mark.parametrize(
    ("kind", "good", "bad", "word"),
    [
        ("txt", b"fine\n", b"\xfcber\n", "line 3"),
        ("csv", b"text,n\nfine,1\n", b"one,2,3\n", "line 3"),
        ("csv", b"text,n\nfine,1\n", b'"one\n', "line 3"),
        ("jsonl", b'{"text": "fine"}\n', b"{no\n", "line 3"),
        ("jsonl", b'{"text": "fine"}\n', b'{"text": 3}\n', "line 3"),
    ],
)
def test_lines_before_an_invalid_one_are_answered(
    predict: Predict, kind: str, good: bytes, bad: bytes, word: str
) -> None:
    content = good + good.splitlines(keepends=True)[-1] + bad if kind != "csv" else good + bad
    ran = predict("--input-format", kind, stdin=content)
    assert ran.code == 3 and word in ran.err and len(ran.err.splitlines()) == 1
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == ["fine"] * (1 if kind == "csv" else 2)
    ran = predict("--input-format", kind, "--json", stdin=content)
    assert ran.code == 3 and {row["text"] for row in json.loads(ran.out)} == {"fine"}


def test_batches_are_bounded() -> None:
    from pyllmclf.data.readers import ReadOptions
    from pyllmclf.data.readers.row_batches import BATCH_CHARACTERS, BATCH_ROWS
    from pyllmclf.data.readers.row_stream import read_rows

    options = ReadOptions(labelled=False)
    for text, count in (("x", 3 * BATCH_ROWS + 1), ("y" * 100_000, 100)):
        file = io.BytesIO(f"{text}\n".encode() * count)
        batches = [batch.texts for batch in read_rows(file, "here", "txt", options, live=False).batches]
        assert sum(map(len, batches)) == count and len(batches) > 1
        assert all(len(batch) <= BATCH_ROWS for batch in batches)
        assert all(sum(map(len, batch)) <= BATCH_CHARACTERS + len(text) for batch in batches)


def test_a_terminal_gets_a_hint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keyboard, terminal = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(terminal, encoding="utf-8"))
    os.write(keyboard, b"Where is it?\n\x04")
    assert run(app, "pyllmclf", ["predict", str(folder), "--label-only"]) == 0
    out, err = capfd.readouterr()
    assert out.strip() in CLASSES and "Ctrl-D" in err
    os.close(keyboard)


def test_several_labels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    labels = [["a"], ["a", "b"], [], ["b"]] * 4
    options: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False}
    result = pyllmclf.finetune("gpt2-nano", (TEXTS[:1] * 16, labels), multi_label=True, **options)
    result.classifier.save(tmp_path / "classifier")
    capfd.readouterr()
    for arguments in (["--format", "csv", "--proba"], ["--label-only"], ["--output", str(tmp_path / "a.parquet")]):
        texts = [word for text in TEXTS for word in ("--text", text)]
        assert run(app, "pyllmclf", ["predict", str(tmp_path / "classifier"), *texts, *arguments]) == 0
    out = capfd.readouterr().out.splitlines()
    found = result.classifier.predict(TEXTS)
    joined = ["|".join(labels) for labels in found]
    assert out[0] == "text,labels,probability_a,probability_b"
    assert [row["labels"] for row in csv.DictReader(out[:4])] == joined and out[4:] == joined
    assert pq.read_table(tmp_path / "a.parquet")["labels"].to_pylist() == found
    assert result.classifier.predict(TEXTS[0]) == found[0]
    assert list(result.classifier.predict(pd.Series(TEXTS))) == found
    assert [len(best) for best in result.classifier.predict(TEXTS, top_k=1)] == [1] * 3
    assert result.classifier.predict([]) == [] and result.classifier.predict_proba([]).shape == (0, 2)


def test_quotes_that_join_lines_of_a_pipe(predict: Predict) -> None:
    content = b'id\ttext\n1\t"never again\n2\tat once"\n3\tfine\n4\t"a\n5\tb"\n'
    ran = predict("--input-format", "tsv", stdin=content)
    assert ran.code == 0 and len(ran.out.splitlines()) == 3
    assert len(ran.err.splitlines()) == 1 and "quotes join lines 2 to 3, each of which has 2 fields" in ran.err
    quoted = b'id,text\n1,"first\nthen, a second"\n'
    assert predict("--input-format", "csv", stdin=quoted).err == ""


def test_delimiter_and_header_of_a_pipe(predict: Predict) -> None:
    content = "".join(f"{i};{text}\n" for i, text in enumerate(TEXTS)).encode()
    options = ("--input-format", "csv", "--delimiter", ";", "--no-header", "--text-column", "1")
    assert [row["text"] for row in objects(predict(*options, stdin=content))] == TEXTS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--delimiter", ";"), "about delimited files"),
        (("--no-header",), "about delimited files"),
        (("--input-format", "jsonl", "--no-header"), "about delimited files"),
        (("--input-format", "parquet", "--encoding", "cp1252"), "about files of text"),
        (("--text", "hello", "--encoding", "cp1252"), "a text is none"),
    ],
    ids=str,
)
def test_options_without_an_effect_are_refused(predict: Predict, arguments: tuple[str, ...], said: str) -> None:
    ran = predict(*arguments, stdin=b"hello\n")
    assert ran.code == 2 and said in ran.err
