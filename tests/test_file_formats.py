# ruff: noqa: E501 (a row of a table is a line)
"""Files and folders of every format: what is read from them exactly, or the sentence that refuses them."""

from __future__ import annotations

import gzip
import json
import warnings
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workbooks import Day, Error, ods, xlsx, xlsx_of_xml

from pyllmclf import DataError, ResourceError, UsageError
from pyllmclf.data.readers import FILE_TYPES
from pyllmclf.data.sources import read_data
from pyllmclf.data.splits import read_splits
from pyllmclf.file_types import ENDINGS

TEXTS, LABELS = ["good soup", 'cold, "bad" soup', "gruñe\u2028 ok"], ["pos", "neg", "pos"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
COLUMNS = {"text": TEXTS, "label": LABELS}
FRAME = pd.DataFrame(COLUMNS)
TABLE = [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]
FASTTEXT = "__label__{} {}\n"


def jsons(rows: list[Any], **options: Any) -> str:
    return "\n".join(json.dumps(row, **options) for row in rows)


def folder(path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, newline="")


def stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


# What makes the file or folder, by its name; each holds TEXTS and LABELS.
SAME: dict[str, str | Callable[[Path], Any]] = {
    "array.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=2),
    "lines.json": jsons(ROWS),
    "lines.jsonl": jsons(ROWS, ensure_ascii=False),
    "windows_lines.jsonl": jsons(ROWS).replace("\n", "\r\n"),
    "lines.ndjson": jsons(ROWS),
    "lines.NDJSON": jsons(ROWS) + "\n\n",
    "array.jsonl": json.dumps(ROWS),
    "pretty.jsonl": json.dumps(ROWS, indent=1),
    "a_row_per_line.jsonl": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "one_below_the_other.jsonl": jsons(ROWS, indent=4),
    "columns.json": json.dumps(COLUMNS),
    "columns_and_more.json": json.dumps(COLUMNS | {"id": [1, 2, 3]}, indent=1),
    "columns.pandas.json": FRAME.to_json(),
    "index.pandas.json": FRAME.to_json(orient="index"),
    "split.pandas.json": FRAME.to_json(orient="split"),
    "table.pandas.json": FRAME.to_json(orient="table"),
    "wrapped_lines.json": '{"data": [\n' + "\n,".join(map(json.dumps, ROWS)) + "\n]}",
    "wrapped.json": json.dumps({"version": 1, "data": ROWS, "tags": ["a"]}),
    "mark.json": "\ufeff" + json.dumps(ROWS),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "a.xlsx": lambda path: xlsx(path, TABLE),
    "second_sheet.xlsx": lambda path: xlsx(path, [], TABLE),
    "hidden_sheet.xlsx": lambda path: xlsx(path, [["notes"]], TABLE, hidden=[0]),
    "further_down.xlsx": lambda path: xlsx(path, [[], [None], *([None, None, *row] for row in TABLE), [None], [None]]),
    "without_a_name.xlsx": lambda path: xlsx(path, [[None, *row] for row in TABLE]),
    "a.xlsm": lambda path: xlsx(path, TABLE),
    "a.ods": lambda path: ods(path, [*TABLE, [None, None]]),
    "a.parquet": FRAME.to_parquet,
    "a.pq": FRAME.to_parquet,
    "a.feather": FRAME.to_feather,
    "a.arrow": lambda path: pl.DataFrame(COLUMNS).write_ipc(path),
    "stream.arrow": lambda path: stream(path, pa.table(COLUMNS)),
    "dictionary.arrow": lambda path: stream(
        path, pa.table({"label": pa.array(LABELS).dictionary_encode(), "text": TEXTS})
    ),
    "polars.parquet": lambda path: pl.DataFrame(
        COLUMNS, schema={"text": pl.String, "label": pl.Categorical}
    ).write_parquet(path),
    "class_label.parquet": lambda path: with_names().to_parquet(path),
    "table.txt": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    "fasttext.txt": "".join(FASTTEXT.format(row["label"], row["text"]) for row in ROWS),
    "fasttext_at_end.txt": "".join(f"{row['text']} __label__{row['label']}\r\n" for row in ROWS),
    "fasttext.txt.gz": lambda path: path.write_bytes(
        gzip.compress("".join(FASTTEXT.format(row["label"], row["text"]) for row in ROWS).encode())
    ),
    "label_before.txt": "".join(f"{row['label']}\t{row['text']}\n\n" for row in ROWS),
    "label_after.txt": "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    "parquet_folder": lambda path: [
        path.mkdir(),
        (path / "_SUCCESS").touch(),
        (path / ".part-10.parquet.crc").write_bytes(b"crc"),
        (path / "README.md").write_text("a data set"),
        FRAME[:1].to_parquet(path / "part-2.parquet"),
        FRAME[1:].to_parquet(path / "part-10.parquet"),
    ],
    "csv_folder": lambda path: [
        path.mkdir(),
        FRAME[:2].to_csv(path / "part-0.csv", index=False),
        FRAME[2:].to_csv(path / "part-1.csv", index=False),
    ],
    "saved_by_datasets": lambda path: with_names().save_to_disk(str(path), num_shards=2),
}


def with_names() -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    return datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]}, features=features)


def make(path: Path, content: Any) -> Path:
    if isinstance(content, str):
        path.write_text(content, newline="")
    elif isinstance(content, dict):
        folder(path, content)
    else:
        content(path)
    return path


@pytest.fixture(autouse=True)
def no_bars() -> None:
    datasets.disable_progress_bars()


@pytest.mark.filterwarnings("ignore:.*read (as|with):UserWarning")
@pytest.mark.parametrize("name", SAME)
def test_same_rows_from_every_format(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, SAME[name])
    data = read_data(path)
    assert (data.texts, data.labels) == (TEXTS, LABELS)
    if not name.endswith(".txt"):  # of which the next test has those without labels
        assert read_data(str(path), labelled=False).texts == TEXTS


def test_every_ending_is_tested() -> None:
    tested = {Path(name.removesuffix(".gz")).suffix for name in SAME}
    assert {ending for endings in ENDINGS.values() for ending in endings} - tested <= {
        ".csv",
        ".tsv",
        ".tab",
        ".psv",
        ".xlsb",
        ".xls",
        ".ipc",
    }
    assert len(FILE_TYPES) == len(set(FILE_TYPES))


# --- labels of other types, and text files ----------------------------------------------------------------------------

SPAM = "".join(f"{'spam' if i % 3 else 'ham'} message {i}\n" for i in range(12))
NUMBERS = "".join(f"{i % 2} message {i}\n" for i in range(8))
TREC = "".join(f"{('DESC:manner', 'ENTY:animal')[i % 2]} How is it {i} ?\n" for i in range(12))

# Name, content, arguments, texts and labels.
CASES: list[tuple[str, Any, dict[str, Any], list[str], list[Any]]] = [
    ("numbers.json", '[{"text": "a", "label": 1}, {"text": "b", "label": 0}]', {}, ["a", "b"], [1, 0]),
    ("several.json", '{"text": ["a", "b"], "labels": [["x", "y"], []]}', {"label_separator": "|"}, ["a", "b"], [("x", "y"), ()]),
    ("one.json", '{"text": "a", "label": "x", "spans": [{"at": 1}]}', {}, ["a"], ["x"]),
    ("arrays.json", '[["a", "x"], ["b", "y"]]', {"text_column": "0", "label_column": "1"}, ["a", "b"], ["x", "y"]),
    ("arrays.jsonl", '["x", "a"]\n["y", "b"]\n', {"text_column": "1", "label_column": "0"}, ["a", "b"], ["x", "y"]),
    ("index.json", '{"7": {"q": "a", "s": 1}, "9": {"q": "b", "s": 2}}', {"text_column": "q", "label_column": "s"}, ["a", "b"], [1, 2]),
    ("texts.json", '["a", "b"]', {"labelled": False}, ["a", "b"], []),
    ("texts.jsonl", '"a"\n"b"\n', {"labelled": False}, ["a", "b"], []),
    ("integers.xlsx", lambda path: xlsx(path, [["text", "label"], ["a", 1.0], ["b", 0]]), {}, ["a", "b"], [1, 0]),
    ("booleans.xlsx", lambda path: xlsx(path, [["text", "label"], ["a", True], ["b", False]]), {}, ["a", "b"], [True, False]),
    ("dates.xlsx", lambda path: xlsx(path, [["text", "label"], ["a", Day(43832)], [2020, Day(43833)]]), {}, ["a", "2020"], ["2020-01-02", "2020-01-03"]),
    ("empty.xlsx", lambda path: xlsx(path, [["text", "label"], [None, 1], ["b", 2], [Error("#N/A"), 3]]), {"empty_texts": "skip"}, ["b"], [2]),
    ("fasttext.txt", "__label__x __label__y a b\n__label__y c\n", {"label_separator": "|"}, ["a b", "c"], [("x", "y"), ("y",)]),
    ("fasttext.txt", "__label__x a b\n__label__y , c\n", {"labelled": False}, ["a b", ", c"], []),
    ("lines.txt", "a\n\nb\tc\r\n", {"labelled": False}, ["a", "", "b\tc"], []),
    ("header.txt", "text,label\na,x\nb,y\n", {}, ["a", "b"], ["x", "y"]),
    ("chosen.txt", "q,s\na,x\nb,y\n", {"text_column": "q", "labelled": False}, ["a", "b"], []),
    ("words.txt", SPAM, {}, [f"message {i}" for i in range(12)], ["spam" if i % 3 else "ham" for i in range(12)]),
    ("numbers.txt", NUMBERS, {}, [f"message {i}" for i in range(8)], [str(i % 2) for i in range(8)]),
    ("trec.txt", TREC, {}, [f"How is it {i} ?" for i in range(12)], ["DESC:manner", "ENTY:animal"] * 6),
    ("tabs.txt", "ham\ta\tb\nspam\tc\nham\td\n", {}, ["a\tb", "c", "d"], ["ham", "spam", "ham"]),
    (
        "classes",
        {
            "pos/10.txt": "ten\n", "pos/9.txt": "nine", "neg/1.txt": "one", "neg/README": "no text", "neg/.DS_Store": "x",
            "README.md": "no text", "neg/page.html": "no text", "__MACOSX/a.txt": "x", "neg/deeper/2.txt": "two",
        },
        {}, ["one", "two", "nine", "ten\n"], ["neg", "neg", "pos", "pos"],
    ),
    ("groups", {"sci.space/49960": "a", "rec.autos/101551": "b"}, {}, ["b", "a"], ["rec.autos", "sci.space"]),
    ("unlabelled", {"1.txt": "a", "2.txt": "b"}, {"labelled": False}, ["a", "b"], []),
    ("hive", lambda path: pq.write_to_dataset(pa.table(COLUMNS), path, partition_cols=["label"]), {}, [TEXTS[1], TEXTS[0], TEXTS[2]], ["neg", "pos", "pos"]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*read (as|with):UserWarning")
@pytest.mark.parametrize(("name", "content", "arguments", "texts", "labels"), CASES, ids=[case[0] for case in CASES])
def test_rows(
    tmp_path: Path, name: str, content: Any, arguments: dict[str, Any], texts: list[str], labels: Any
) -> None:
    data = read_data(make(tmp_path / name, content), **arguments)
    assert (data.texts, data.labels or []) == (texts, labels)


def test_what_a_text_file_is_read_as(tmp_path: Path) -> None:
    for content, said in (
        (SPAM, "read as 'label text' with 2 labels (ham, spam)"),
        (FASTTEXT.format("x", "a"), "fastText"),
    ):
        with pytest.warns(UserWarning, match=said.replace("(", r"\(").replace(")", r"\)")):
            read_data(make(tmp_path / "a.txt", content))


# --- refused ----------------------------------------------------------------------------------------------------------

TIMES = {"text": pa.array(["a"]), "when": pa.array([2**50], pa.timestamp("s")), "label": pa.array(["x"])}
FAR = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'

# Name, content, arguments, error, and its sentence (without the path).
REFUSED: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    ("broken.json", '[{"text": "a", "label": 1},\n {"text": "b" "label": 1}]', {}, DataError, ", line 2: not valid JSON (Expecting ',' delimiter, column 15)."),
    ("first.jsonl", '{"text": "a" "label": 1}\n{"text": "b", "label": 1}\n{"text": "c", "label": 1}', {}, DataError, ", line 1: not valid JSON (Expecting ',' delimiter, column 14)."),
    ("ends.json", '[{"text": "a",\n "label": 1}', {}, DataError, ", line 2: not valid JSON (a comma or the end of the array is missing)."),
    ("more.json", '[{"text": "a", "label": 1}]\n[]', {}, DataError, ", line 2: not valid JSON (something follows the end of the array)."),
    ("row.json", '[{"text": "a", "label": 1},\n\n{"text": 7, "label": 1}]', {}, DataError, ", line 3: the text is 7, not a string."),
    ("twice.json", '[\n{"text": "a", "text": "b", "label": 1}]', {}, DataError, ", line 2: not valid JSON (a name appears more than once)."),
    ("number.json", "7", {}, DataError, ", line 1: a row must be a JSON object, not int."),
    ("empty.json", "[]", {}, DataError, ": there is no row."),
    ("digits.json", '[{"text": "a",\n"label": 1' + "0" * 5000 + "}]", {}, DataError, "not valid JSON (Exceeds the limit"),
    ("deep.json", "[" * 200_000, {}, DataError, ", line 1: not valid JSON (nested too deeply)."),
    ("lengths.json", '{"text": ["a", "b"], "label": [1]}', {}, DataError, ": the columns have different numbers of values: 'text' has 2, 'label' has 1."),
    ("splits.json", '{"train": [{"text": "a"}], "test": [{"text": "b"}]}', {}, DataError, ": the object holds several lists of rows ('train', 'test'); write each into a file of its own."),
    ("csv.json", "text,label\na,x\n", {}, DataError, ", line 1: not valid JSON (Expecting value, column 1)."),
    ("far.xlsx", lambda path: xlsx_of_xml(path, FAR), {}, ResourceError, ": the sheet needs more memory than is free; delete cells that lie far away from the others, or save it as CSV."),
    ("empty.xlsx", lambda path: xlsx(path, []), {}, DataError, ": the file has no cells."),
    ("header.xlsx", lambda path: xlsx(path, [["text", "label"]]), {}, DataError, ": there is no row."),
    ("names.xlsx", lambda path: xlsx(path, [], [["a", None]]), {}, DataError, ", sheet 'S2', line 1: no column is named like a text among 'a'"),
    ("csv.xlsx", "text,label\na,x\n", {}, DataError, ": not a workbook; it holds text: give it the ending of its format, .csv or .tsv."),
    ("zip.xlsx", lambda path: zipfile.ZipFile(path, "w").close(), {}, DataError, ": the archive holds no file."),
    ("missing.xlsx", lambda path: xlsx(path, [["text", "label"], ["a", 1], [], ["b", Error("#DIV/0!")]]), {}, DataError, ", line 4: the label is None"),
    ("times.parquet", lambda path: pq.write_table(pa.table(TIMES), path), {"label_column": "when"}, DataError, ": the column 'when' holds timestamp[ms] that Python can't represent"),
    ("times.arrow", lambda path: stream(path, pa.table(TIMES)), {"text_column": "when"}, DataError, ": the column 'when' holds timestamp[s] that Python can't represent"),
    ("broken.arrow", "no table", {}, DataError, ": not a readable Arrow file"),
    ("sentences.txt", "What is it?\nHow is it?\n" * 8, {}, DataError, ": no labels are found; a .txt file holds a table with a header"),
    ("lines.txt", "good soup\nbad soup\nwarm soup\n", {}, DataError, ": no labels are found"),
    ("empty.txt", "\n\n", {}, DataError, ": there is no row."),
    ("fasttext.txt", "__label__x a\nb\n", {}, DataError, ", line 2: the line has no label, which other lines have."),
    ("several.txt", "__label__x __label__y a\n", {}, DataError, ", line 1: the label is ['x', 'y']; where texts have several labels, say multi_label=True"),
    ("a.cvs", "text,label\n", {}, DataError, ", .txt (perhaps .csv)."),
    ("a.jsn", "[]", {}, DataError, ", .txt (perhaps .json)."),
    ("a.docx", "", {}, DataError, "the name must end in one of .csv, .tsv, .tab, .psv, .json, "),
    ("nothing", {"a.html": "x"}, {}, DataError, ": the folder holds neither a table (of CSV, TSV, JSON,"),
    ("texts", {"1.txt": "x"}, {}, DataError, "nor a subfolder of .txt files for each class, with the class's name."),
    ("class_folders", {"pos/1.txt": "x"}, {"text_column": "text"}, UsageError, "has no columns to choose from; leave text_column and label_column out."),
    ("blank", {"pos/1.txt": "x", "neg/2.txt": " "}, {"empty_texts": "error"}, DataError, "2.txt: the text is empty or white space"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "arguments", "error", "said"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused(
    tmp_path: Path, name: str, content: Any, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    path = make(tmp_path / name, content)
    with warnings.catch_warnings(), pytest.raises(error) as raised:
        warnings.simplefilter("ignore")
        read_data(path, **arguments)
    message = str(raised.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message


def test_times_of_other_columns_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "times.parquet"
    pq.write_table(pa.table(TIMES), path)
    assert read_data(path).labels == ["x"]


def test_workbook_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = xlsx(tmp_path / "a.xlsx", [["text", "label"], ["a" * 30_000, 1]])
    monkeypatch.setattr("pyllmclf.data.readers.spreadsheet.available_memory", lambda: 20_000)
    with pytest.raises(ResourceError, match=r"a\.xlsx: takes .* GB unpacked"):
        read_data(path)


# --- folders and dictionaries with splits -----------------------------------------------------------------------------

IMDB = {
    "train/pos/0_9.txt": "a", "train/neg/0_1.txt": "b", "train/unsup/0_0.txt": "c", "test/pos/0_10.txt": "d",
    "test/neg/0_2.txt": "e", "imdb.vocab": "the\n", "README": "x", "train/labeledBow.feat": "1:2",
}  # fmt: skip


def test_folder_with_splits(tmp_path: Path) -> None:
    folder(tmp_path, IMDB)
    with pytest.warns(UserWarning, match="read without the 1 texts of unsup, which have no label"):
        train, validation, test = read_splits(tmp_path, None, None, seed=1)
    assert (train.texts, train.labels, validation) == (["b", "a"], ["neg", "pos"], None)
    assert test is not None and (test.texts, test.labels) == (["e", "d"], ["neg", "pos"])
    assert test.where(1) == str(tmp_path / "test/pos/0_10.txt") and test.select([1]).where(0) == test.where(1)
    assert read_data(str(tmp_path), split="test").texts == ["e", "d"]
    assert read_splits(str(tmp_path / "test"), None, None, seed=1)[2] is None
    assert read_splits(tmp_path / "test", None, tmp_path, seed=1)[2].texts == ["e", "d"]  # type: ignore[union-attr]
    assert read_splits(tmp_path, None, False, seed=1)[2] is None
    with pytest.raises(UsageError, match="has no split 'validation'; it has train, test"):
        read_data(tmp_path, split="validation")


@pytest.mark.parametrize("inside", ["", "data"])
def test_files_named_after_splits(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / "README.md").write_text("x")
    for name, rows in (
        ("train-00000-of-00002", slice(1)),
        ("train-00001-of-00002", slice(1, 3)),
        ("test-00000-of-00001", slice(2, 3)),
    ):
        FRAME[rows].to_parquet(tmp_path / inside / f"{name}.parquet")
    train, validation, test = read_splits(tmp_path, None, None, seed=1)
    assert (train.texts, validation) == (TEXTS, None) and test is not None and test.texts == TEXTS[2:]


def test_csv_files_named_after_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        FRAME.to_csv(tmp_path / f"{name}.csv", index=False)
    assert [split.texts for split in read_splits(tmp_path, None, None, seed=1) if split] == [TEXTS] * 3
    FRAME.to_csv(tmp_path / "further.csv", index=False)  # then the names tell nothing, and all are one table
    with pytest.warns(RuntimeWarning, match=r"dev\.csv, further\.csv, test\.csv and train\.csv are read one below"):
        data = read_data(tmp_path)
    assert data.texts == TEXTS * 4 and data.where(4) == f"{tmp_path / 'further.csv'}, line 3"
    (tmp_path / "dev.csv").rename(tmp_path / "more.csv")
    (tmp_path / "test.csv").unlink()
    (tmp_path / "train.csv").rename(tmp_path / "most.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_data(tmp_path).texts == TEXTS * 3


def test_two_sources_of_one_split_are_refused(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "train.csv", index=False)
    FRAME.to_json(tmp_path / "train.jsonl", orient="records", lines=True)
    with pytest.raises(DataError, match=r"train\.csv and train\.jsonl are both named after the train split"):
        read_data(tmp_path)
    folder(tmp_path / "classes", {f"{split}/{label}/1.txt": "a" for split in ("dev", "val", "test") for label in "xy"})
    with pytest.raises(DataError, match="dev and val are both named after the validation split"):
        read_data(tmp_path / "classes")


def test_tables_with_other_columns_are_no_part_of_one(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME.rename(columns={"text": "Text", "label": "LABEL "}).to_csv(tmp_path / "b.csv", index=False)
    assert read_data(tmp_path).texts == TEXTS * 2
    FRAME.rename(columns={"label": "topic"}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(DataError, match=r"a\.csv and c\.csv .* are 'text', 'label' in the first and 'text', 'topic'"):
        read_data(tmp_path)
    (tmp_path / "b.csv").unlink()
    assert read_data(tmp_path, label_column="1").labels == LABELS * 2


def test_data_without_a_test_split(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "train.csv", index=False)
    given = {"train": FRAME}
    for data in (tmp_path, given):
        with pytest.warns(RuntimeWarning, match="has no test split: all of its texts .* those for training among them"):
            assert read_data(data, default_split="test").texts == TEXTS
        assert read_data(data, split="all").texts == TEXTS
    FRAME[1:].to_csv(tmp_path / "dev.csv", index=False)
    for data in (tmp_path, given | {"dev": FRAME[1:]}):
        assert read_data(data, default_split="test").texts == TEXTS[1:]
        assert read_data(data).texts == [*TEXTS, *TEXTS[1:]]


def test_dictionary_of_splits() -> None:
    data = with_names()
    unlabelled = data.map(lambda row: {"label": -1})
    given = datasets.DatasetDict(
        {"train": data, "validation": data.select([0]), "test": data.select([1]), "unsupervised": unlabelled}
    )
    for splits in (given, {"train": FRAME, "valid": FRAME[:1], "test": FRAME[1:2]}):
        train, validation, test = read_splits(splits, None, None, seed=1)
        assert train.texts == TEXTS and validation is not None and validation.texts == TEXTS[:1]
        assert test is not None and test.texts == TEXTS[1:2]
        assert read_data(splits, split="test").labels == ["neg"]
    with pytest.raises(DataError, match=r"-1, which stands for none of 2 names \(-1 marks texts without a label\)"):
        read_data(unlabelled)


# --- objects ----------------------------------------------------------------------------------------------------------

SCHEMA = {"text": pl.String, "label": pl.Enum(["neg", "pos"])}


def objects() -> dict[str, Any]:
    """Objects that hold TEXTS and LABELS."""
    return {
        "pandas": FRAME,
        "pandas categorical": FRAME.astype({"label": "category"}),
        "pandas nullable": FRAME.convert_dtypes(),
        "pandas of Arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
        "polars": pl.DataFrame(COLUMNS),
        "polars enum": pl.DataFrame(COLUMNS, schema=SCHEMA),
        "polars categorical": pl.DataFrame(COLUMNS, schema={"text": pl.String, "label": pl.Categorical}),
        "polars lazy": pl.LazyFrame(COLUMNS).with_columns(other=pl.col("text").str.to_datetime()),
        "Table": pa.table(COLUMNS),
        "Table of dictionaries": pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode()}),
        "RecordBatch": pa.RecordBatch.from_pydict(COLUMNS),
        "RecordBatchReader": pa.table(COLUMNS).to_reader(),
        "Arrow stream": Stream(),
        "pyarrow dataset": __import__("pyarrow.dataset").dataset.dataset(pa.table(COLUMNS)),
        "Dataset": with_names(),
        "Dataset of NumPy": with_names().with_format("numpy"),
        "IterableDataset": with_names().to_iterable_dataset(),
        "dictionaries": ROWS,
        "generator of dictionaries": (row for row in ROWS),
        "columns": COLUMNS,
        "columns of Series": {"text": FRAME["text"], "label": pl.Series(LABELS)},
        "pairs": list(zip(TEXTS, LABELS, strict=True)),
        "zip": zip(TEXTS, LABELS, strict=True),
        "lists": (TEXTS, LABELS),
        "Series": (FRAME["text"], pl.Series(LABELS)),
        "arrays of Arrow": (pa.array(TEXTS), pa.chunked_array([LABELS])),
    }


class Stream:
    """Another library's table, which has Arrow's stream interface alone."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.table(COLUMNS).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("name", objects())
def test_same_rows_from_every_object(name: str) -> None:
    data = read_data(objects()[name])
    assert (data.texts, data.labels) == (TEXTS, LABELS)
    assert {type(value) for value in (*data.texts, *(data.labels or ()))} == {str}


@pytest.mark.parametrize("texts", [FRAME["text"], pl.Series(TEXTS), pa.array(TEXTS), pa.chunked_array([TEXTS]), FRAME["text"].to_numpy(), iter(TEXTS), pl.DataFrame(COLUMNS), ROWS], ids=lambda texts: type(texts).__name__)  # fmt: skip
def test_unlabelled_objects(texts: Any) -> None:
    assert read_data(texts, labelled=False).texts == TEXTS


def test_integers_and_missing_values_of_frames() -> None:
    for frame in (
        pd.DataFrame({"text": TEXTS, "label": pd.array([1, 0, 1], "Int64")}),
        pl.DataFrame({"text": TEXTS, "label": pl.Series([1, 0, 1], dtype=pl.UInt8)}),
        pa.table({"text": TEXTS, "label": pa.array([1, 0, 1], pa.int8())}),
    ):
        labels = read_data(frame).labels
        assert labels == [1, 0, 1] and {type(label) for label in labels} == {int}
    for frame in (
        pd.DataFrame({"text": TEXTS, "label": pd.array([1, None, 1], "Int64")}),
        pl.DataFrame({"text": TEXTS, "label": [1, None, 1]}),
        pa.table({"text": TEXTS, "label": [1, None, 1]}),
    ):
        with pytest.raises(DataError, match=r", row 1: the label is (None|<NA>)"):
            read_data(frame)


# Object, and the error.
NO_DATA: dict[str, tuple[Any, type[Exception], str]] = {
    "Series of pandas": (FRAME["text"], UsageError, "a Series holds texts or labels alone"),
    "Series of polars": (pl.Series(TEXTS), UsageError, "a Series holds texts or labels alone"),
    "array of Arrow": (pa.array(TEXTS), UsageError, "holds texts or labels alone"),
    "texts": (TEXTS, UsageError, "can't read data of type list: give the name of a data set, the path of a file or folder"),
    "text for a column": ({"text": "a", "label": "b"}, UsageError, "the column 'text' must be a list of values"),
    "lengths": ({"text": ["a"], "label": []}, DataError, "'text' holds 1 texts but 'label' 0 labels"),
    "missing key": ([{"text": "a", "label": 1}, {"text": "b"}], DataError, "list, row 1: the object has no 'label'"),
    "mixed rows": ([("a", 1), {"text": "b", "label": 1}], UsageError, "row 1 is of type dict; all rows must be"),
    "times": (pl.DataFrame({"text": ["a"], "label": [2**62]}, schema={"text": pl.String, "label": pl.Datetime("ms")}), DataError, "DataFrame: the column 'label' holds timestamp[ms] that Python can't represent"),
    "lazy": (pl.LazyFrame({"text": ["x"], "label": ["y"]}).with_columns(pl.col("label").str.to_integer()), DataError, "LazyFrame: can't be computed"),
    "columns": (pl.DataFrame({"a": ["x"]}), DataError, "DataFrame: no column is named like a text among 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_DATA)
def test_objects_that_are_refused(name: str) -> None:
    data, error, said = NO_DATA[name]
    with pytest.raises(error) as raised:
        read_data(data)
    assert said in str(raised.value)


def test_times_that_python_lacks_are_no_label(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a"], "label": [datetime(2020, 1, 1)]})
    with pytest.raises(DataError, match="row 0: the label is "):
        read_data(frame)
