"""Readers return texts exactly as the file has them, and their errors name the file and the line."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllmclf.data.readers import TextData, read_file, read_object
from pyllmclf.data.sources import read_data
from pyllmclf.errors import DataError, UsageError

HARD_TEXTS = [
    "NA",
    "null",
    "None",
    "nan",
    "007",
    "1e5",
    "TRUE",
    "",
    " ",
    "  leading and trailing  ",
    "\ttabs\t",
    'say "hi"',
    '"',
    '""',
    '"whole"',
    "a,b",
    "a\tb",
    "it's",
    "\\n is no line break",
    "# no comment",
    "\ufefftext that begins with a byte order mark",
    "line\nbreak",
    "line\r\nbreak",
    "line\rbreak",
    "\n",
    "line\u2028and\u2029paragraph\x85next\x0bvertical\x0cform\x1cfile",
    "e\u0301 is not \u00e9",
    "日本語 😀",
    "<|endoftext|>",
]

# The csv module of Python 3.10 refuses NUL.
characters = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from('",\t\r\n\u2028\x85\ufeff \\')
rows = st.lists(st.tuples(st.text(characters, max_size=20), st.text(characters, min_size=1, max_size=5)), min_size=1)
numbered = itertools.count()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def delimited(table: list[tuple[str, ...]], delimiter: str = ",", line_end: str = "\n") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=line_end).writerows(table)
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


# --- texts are never changed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".tsv.gz"])
@settings(max_examples=50, deadline=None)
@given(rows=rows, mark=st.booleans(), line_end=st.sampled_from(["\n", "\r\n"]))
def test_delimited_round_trip(
    folder: Path, ending: str, rows: list[tuple[str, str]], mark: bool, line_end: str
) -> None:
    delimiter = "\t" if "tsv" in ending else ","
    content = delimited([("text", "label"), *rows], delimiter, line_end)
    path = write(folder / f"{next(numbered)}{ending}", content.encode("utf-8-sig" if mark else "utf-8"))
    data = read_file(path)
    assert data.texts == [text for text, _ in rows]
    assert data.labels == [label for _, label in rows]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@settings(max_examples=50, deadline=None)
@given(
    rows=rows,
    labels=st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1),
    mark=st.booleans(),
    ascii_only=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_jsonl_round_trip(
    folder: Path,
    ending: str,
    rows: list[tuple[str, str]],
    labels: list[int],
    mark: bool,
    ascii_only: bool,
    line_end: str,
) -> None:
    mixed = [integer if i % 2 else label for i, ((_, label), integer) in enumerate(zip(rows, labels, strict=False))]
    pairs = [(text, label) for (text, _), label in zip(rows, mixed, strict=False)]
    objects = [{"id": i, "text": text, "label": label} for i, (text, label) in enumerate(pairs)]
    content = line_end.join(json.dumps(o, ensure_ascii=ascii_only) for o in objects)
    path = write(folder / f"{next(numbered)}{ending}", content.encode("utf-8-sig" if mark else "utf-8"))
    data = read_file(path)
    assert list(zip(data.texts, data.labels or [], strict=True)) == pairs
    assert [type(label) for label in data.labels or []] == [type(label) for _, label in pairs]


@settings(max_examples=50, deadline=None)
@given(rows=rows, kind=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]))
def test_parquet_round_trip(folder: Path, rows: list[tuple[str, str]], kind: pa.DataType) -> None:
    columns = {
        "text": pa.array([text for text, _ in rows]).cast(kind),
        "noise": pa.array(range(len(rows))),
        "label": pa.array([label for _, label in rows]),
    }
    path = folder / f"{next(numbered)}.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=3)
    data = read_file(path)
    assert data.texts == [text for text, _ in rows]
    assert data.labels == [label for _, label in rows]


@settings(max_examples=50, deadline=None)
@given(rows=rows)
def test_frame_and_pair_round_trip(rows: list[tuple[str, str]]) -> None:
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    frame = pd.DataFrame({"label": labels, "text": texts}, index=range(7, 7 + len(rows)))
    for data in (frame, frame.astype(object), (texts, labels), (np.array(texts, dtype=object), pd.Series(labels))):
        read = read_object(data, text_column=None, label_column=None)
        assert read.texts == texts
        assert read.labels == labels


def written_csv(path: Path) -> Any:
    return write(path / "hard.csv", delimited([("text", "label"), *((t, "x") for t in HARD_TEXTS)]).encode())


def written_tsv(path: Path) -> Any:
    content = delimited([("label", "text"), *(("x", t) for t in HARD_TEXTS)], "\t", "\r\n")
    return write(path / "hard.tsv.gz", content.encode("utf-8-sig"))


def written_jsonl(path: Path) -> Any:
    lines = (json.dumps({"text": t, "label": "x"}, ensure_ascii=False) for t in HARD_TEXTS)
    return write(path / "hard.jsonl", "\n".join(lines).encode())


def written_parquet(path: Path) -> Any:
    pq.write_table(pa.table({"text": HARD_TEXTS, "label": ["x"] * len(HARD_TEXTS)}), path / "hard.parquet")
    return path / "hard.parquet"


def frame(path: Path) -> Any:
    return pd.DataFrame({"text": HARD_TEXTS, "label": "x"})


def dataset(path: Path) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"text": HARD_TEXTS, "label": ["x"] * len(HARD_TEXTS)})


def pair(path: Path) -> Any:
    return HARD_TEXTS, ["x"] * len(HARD_TEXTS)


@pytest.mark.parametrize(
    "make", [written_csv, written_tsv, written_jsonl, written_parquet, frame, dataset, pair], ids=lambda f: f.__name__
)
def test_hard_texts(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    data = read_data(make(tmp_path))
    assert data.texts == HARD_TEXTS
    assert data.labels == ["x"] * len(HARD_TEXTS)


def test_unquoted_fields_are_literal(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text,label\n 5" long ,007\nNA, NA\nit\'s "so" so,null\n""" """,x\n')
    data = read_file(path)
    assert data.texts == [' 5" long ', "NA", 'it\'s "so" so', '" "']
    assert data.labels == ["007", " NA", "null", "x"]


def test_quoted_line_breaks_keep_their_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text,label\r\n"a\r\nb\nc\rd",x\r\n')
    assert read_file(path).texts == ["a\r\nb\nc\rd"]


def test_only_one_byte_order_mark_is_taken_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\ufefftext,label\n\ufeffa,\ufeffb\n".encode())
    data = read_file(path)
    assert (data.texts, data.labels) == (["\ufeffa"], ["\ufeffb"])


def test_a_header_that_begins_as_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("PK,text,label\n1,good,pos\n2,bad,neg\n")
    assert read_file(path).texts == ["good", "bad"]


def test_one_column_with_a_quoted_text_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\n"first line\nthen, a comma\nlast line"\nplain\n')
    assert read_file(path, labelled=False).texts == ["first line\nthen, a comma\nlast line", "plain"]


def test_field_longer_than_the_csv_modules_default(tmp_path: Path) -> None:
    before, text = csv.field_size_limit(), "long " * 50_000
    path = write(tmp_path / "a.csv", delimited([("text", "label"), (text, "x")]).encode())
    assert read_file(path).texts == [text]
    assert csv.field_size_limit() == before


def test_long_fields_in_several_threads(tmp_path: Path) -> None:
    """The csv module has one limit for all."""
    before, text = csv.field_size_limit(), "long " * 50_000
    path = write(tmp_path / "a.csv", delimited([("text", "label"), *[(text, "x")] * 8]).encode())
    with ThreadPoolExecutor(4) as pool:
        for data in pool.map(lambda _: read_file(path), range(16)):
            assert data.texts == [text] * 8
    assert csv.field_size_limit() == before


def test_an_empty_quoted_text_is_a_row_and_an_empty_line_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'\ntext\n""\n\nb\n\n')
    data = read_file(path, labelled=False)
    assert data.texts == ["", "b"]
    assert data.lines == [3, 5]


def test_lines_are_where_rows_begin(tmp_path: Path) -> None:
    csv_path = write(tmp_path / "a.csv", b'text,label\n"1\n2",x\n\n"4\r\n5\n6",y\r\nseven,z')
    assert read_file(csv_path).lines == [2, 5, 8]
    jsonl_path = write(tmp_path / "a.jsonl", b'\n{"text": "a", "label": 1}\n\n  \n{"text": "b", "label": 2}\n')
    assert read_file(jsonl_path).lines == [2, 5]


def test_endings_are_read_without_regard_to_case(tmp_path: Path) -> None:
    content = b"text,label\na.b,x\n"
    assert read_file(write(tmp_path / "my.data.CSV", content)).texts == ["a.b"]
    (tmp_path / "my.Csv.GZ").write_bytes(gzip.compress(content))
    assert read_file(str(tmp_path / "my.Csv.GZ")).texts == ["a.b"]


def test_parquet_column_names_with_a_dot(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a.text": ["x"], "text": ["y"], "text.b": ["z"], "label": [1]}), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet").texts == ["y"]
    assert read_file(tmp_path / "a.parquet", text_column="a.text").texts == ["x"]


def test_the_users_objects_are_not_modified() -> None:
    texts, labels = ["a", "b"], [1.0, 2.0]
    frame = pd.DataFrame({"text": texts, "label": labels})
    assert read_object((texts, labels), text_column=None, label_column=None).labels == [1, 2]
    assert read_object(frame, text_column=None, label_column=None).labels == [1, 2]
    assert [type(label) for label in labels] == [float, float]
    assert frame["label"].dtype == np.float64


def test_without_labels_a_list_or_generator_of_texts_will_do() -> None:
    for texts in (HARD_TEXTS, tuple(HARD_TEXTS), pd.Series(HARD_TEXTS), (t for t in HARD_TEXTS), ("two", "texts")):
        expected = list(texts) if not hasattr(texts, "send") else HARD_TEXTS
        data = read_object(texts, text_column=None, label_column=None, labelled=False)
        assert data.texts == expected
        assert data.labels is None


def test_labels_are_not_read_where_not_needed(tmp_path: Path) -> None:
    assert read_file(write(tmp_path / "a.csv", b"text,label\na,\n"), labelled=False).labels is None
    assert read_file(write(tmp_path / "a.jsonl", b'{"text": "a", "label": null}'), labelled=False).labels is None
    pq.write_table(pa.table({"text": ["a"], "label": [None]}), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", labelled=False).labels is None
    assert read_object((["a"], [None]), text_column=None, label_column=None, labelled=False).labels is None


def test_select_keeps_texts_labels_and_lines_together() -> None:
    data = TextData(["a", "b", "c"], [1, 2, 3], "here.csv", [2, 4, 9])
    chosen = data.select([2, 0])
    assert (chosen.texts, chosen.labels, chosen.lines) == (["c", "a"], [3, 1], [9, 2])
    assert chosen.where(0) == "here.csv, line 9"
    assert TextData(["a", "b"], None, "texts").select([1]).where(0) == "texts, row 1"


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "arguments", "expected"),
    [
        ("Text,LABEL", {}, ("0", "1")),
        ("sentence,id,category", {}, ("0", "2")),
        ("label,content", {}, ("1", "0")),
        ("text,message,label", {"text_column": "message"}, ("1", "2")),
        ("text,message", {"label_column": "message"}, ("0", "1")),
        ("text,label,class", {"label_column": "label"}, ("0", "1")),
        ("a,b", {"text_column": "b", "label_column": "a"}, ("1", "0")),
        # A text column may have a label's name, and is then no label.
        ("label,class", {"text_column": "class"}, ("1", "0")),
    ],
)
def test_columns_are_found(tmp_path: Path, header: str, arguments: dict[str, str], expected: tuple[str, str]) -> None:
    names = header.split(",")
    values = [str(i) for i in range(len(names))]
    path = write(tmp_path / "a.csv", f"{header}\n{','.join(values)}\n".encode())
    frame = pd.DataFrame([values], columns=names)
    for data in (read_data(path, **arguments), read_data(frame, **arguments)):
        assert (data.texts[0], (data.labels or [])[0]) == expected


@pytest.mark.parametrize(
    ("header", "arguments", "named"),
    [
        ("words,label", {}, ["'words'", "text_column"]),
        ("text,kind", {}, ["'kind'", "label_column"]),
        ("text,label", {"text_column": "body"}, ["'body'", "'text'", "'label'"]),
        ("text,label", {"label_column": "Label"}, ["'Label'", "'label'"]),
        ("text,message,label", {}, ["several", "'message'", "text_column"]),
        ("text,label,class", {}, ["several", "'class'", "label_column"]),
        ("text,text,label", {}, ["'text'", "more than once"]),
        ("text,label,x,x", {"label_column": "x"}, ["'x'", "more than once"]),
    ],
)
def test_columns_missing_ambiguous_or_repeated(
    tmp_path: Path, header: str, arguments: dict[str, str], named: list[str]
) -> None:
    names = header.split(",")
    values = ["v"] * len(names)
    path = write(tmp_path / "a.csv", f"{header}\n{','.join(values)}\n".encode())
    pq.write_table(pa.Table.from_arrays([pa.array([v]) for v in values], names=names), tmp_path / "a.parquet")
    frame = pd.DataFrame([values], columns=names)
    for data, origin in (
        (path, str(path)),
        (tmp_path / "a.parquet", str(tmp_path / "a.parquet")),
        (frame, "DataFrame"),
    ):
        with pytest.raises(DataError) as caught:
            read_data(data, **arguments)
        for part in [origin, *named]:
            assert part in str(caught.value)


def test_a_key_given_twice_in_json_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "label": 1}\n{"text": "a", "text": "b", "label": 1}\n')
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2:")):
        read_file(path)


# --- broken files -----------------------------------------------------------------------------------------------------

BROKEN = {
    "too few fields": (".csv", b'text,label\na,x\n"two\nlines",y\nb\n', 5, "1 fields where the header has 2"),
    "too many fields": (".csv", b"text,label\r\na,x\r\nb,x,z\r\n", 3, "3 fields where the header has 2"),
    "too many fields, tsv": (".tsv", b"text\tlabel\na\tx\tz\n", 2, "3 fields where the header has 2"),
    "unclosed quote": (".csv", b'text,label\na,x\n"open,y\nb,z\n', 3, "quot"),
    "unclosed quote after a closed one": (".csv", b'text,label\n"a\nb",x\n\n"open', 5, "quot"),
    "text after a closing quote": (".csv", b'text,label\na,x\n"a"b,x\n', 3, "quot"),
    "unclosed quote in the header": (".csv", b'text,"label\na,x\n', 1, "quot"),
    "empty label": (".csv", b'text,label\na,x\n"b\nc",\n', 3, "label is ''"),
    "invalid json": (".jsonl", b'{"text": "a", "label": 1}\n\n{"text": "b", "label"\n', 3, "not valid JSON"),
    "two objects in a line": (".jsonl", b'{"text": "a", "label": 1} {"text": "b", "label": 1}\n', 1, "not valid JSON"),
    "no object": (".jsonl", b'{"text": "a", "label": 1}\n["b", 1]\n', 2, "not list"),
    "missing text": (".jsonl", b'{"text": "a", "label": 1}\n\n{"label": 1}\n', 3, "'text'"),
    "missing label": (".jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', 2, "'label'"),
    "missing column in the first object": (".jsonl", b'\n{"text": "a", "x": 1}\n', 2, "'x'"),
    "number as text": (".jsonl", b'{"text": "a", "label": 1}\n{"text": 7, "label": 1}\n', 2, "the text is 7"),
    "null as text": (".jsonl", b'{"text": "a", "label": 1}\n{"text": null, "label": 1}\n', 2, "the text is None"),
    "list as text": (".jsonl", b'{"text": ["a"], "label": 1}\n', 1, "the text is ['a']"),
    "null as label": (".jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": null}\n', 2, "label is None"),
    "NaN as label": (".jsonl", b'{"text": "a", "label": NaN}\n', 1, "label is nan"),
    "infinity as label": (".jsonl", b'{"text": "a", "label": Infinity}\n', 1, "label is inf"),
    "deep nesting": (".jsonl", b'{"text": "a", "label": 1}\n' + b"[" * 200_000, 2, "not valid JSON"),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_row_names_file_and_line(tmp_path: Path, case: str, compressed: bool) -> None:
    ending, content, line, problem = BROKEN[case]
    path = write(tmp_path / f"broken{ending}{'.gz' if compressed else ''}", content)
    with pytest.raises(DataError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz"])
@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xe9t\xe9", b"\xed\xa0\x80", b"\xc3"], ids=["ff", "latin", "surrogate", "cut"]
)
def test_invalid_utf8_names_line_and_byte(tmp_path: Path, ending: str, mark: bytes, bad: bytes) -> None:
    content = mark + "text,label\n\u00e9\u00e9,x\r\n".encode() + b"abc" + bad
    path = write(tmp_path / f"latin{ending}", content)
    offset = content.index(bad, 3 + len(mark) + 14)
    with pytest.raises(DataError, match=re.escape(f"{path}, line 3: byte {offset} (0x{bad[0]:02x})")):
        read_file(path)


@settings(max_examples=50, deadline=None)
@given(before=st.text(max_size=30), mark=st.booleans())
def test_invalid_utf8_offset_counts_bytes_of_the_file(folder: Path, before: str, mark: bool) -> None:
    head = before.encode("utf-8-sig" if mark else "utf-8")
    path = write(folder / f"{next(numbered)}.csv", head + b"\xff")
    line = head.count(b"\n") + 1
    with pytest.raises(DataError, match=re.escape(f"{path}, line {line}: byte {len(head)} (0xff)")):
        read_file(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"text,label\n"], ids=repr)
@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".jsonl"])
def test_file_without_rows(tmp_path: Path, ending: str, content: bytes) -> None:
    if content.startswith(b"text"):
        content = {".csv": content, ".tsv.gz": b"text\tlabel\n", ".jsonl": b" \n"}[ending]
    path = write(tmp_path / f"empty{ending}", content)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*(empty|no row)"):
        read_file(path)


@pytest.mark.parametrize("name", ["a", "a.gz", "a.dat", "a.zip", "csv", "a.pkl"])
def test_unknown_ending(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"text,label\na,x\n")
    with pytest.raises(DataError, match=re.escape(str(path)) + r".*\.csv.*\.parquet"):
        read_file(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "nothing.csv", tmp_path / "folder.csv"):
        for read in (read_file, read_data):
            with pytest.raises(DataError, match=re.escape(str(path))):
                read(path)
    with pytest.raises(DataError, match="neither a file or folder nor the name of a data set"):
        read_data("no_such_data")


def test_gzip_files_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"text,label\na,x\n")
    assert read_file(tmp_path / "a.csv.gz").texts == ["a"]
    (tmp_path / "a.parquet.gz").write_bytes(b"text,label\na,x\n")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "a.parquet.gz")) + ": not a readable Parquet file"):
        read_file(tmp_path / "a.parquet.gz")


def test_gzip_file_cut_short(tmp_path: Path) -> None:
    content = gzip.compress(delimited([("text", "label"), *((str(i), "x") for i in range(500))]).encode())
    (tmp_path / "a.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "a.csv.gz"))):
        read_file(tmp_path / "a.csv.gz")


def test_gzip_file_with_damaged_blocks(tmp_path: Path) -> None:
    # Ten bytes of header, then a block of the reserved type 3, which no decoder accepts.
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\na,x\n")[:10] + b"\x07" * 20)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "a.csv.gz"))):
        read_file(tmp_path / "a.csv.gz")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 100, "label": [1] * 100}), path)
    whole = path.read_bytes()
    for content in (b"", b"text,label\n", whole[:-20], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_file(path)


def test_parquet_with_a_text_that_is_no_utf8(tmp_path: Path) -> None:
    buffers = pa.array([b"ok", b"\xff\xfe"]).buffers()
    texts = pa.Array.from_buffers(pa.string(), 2, buffers)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts, "label": [0, 1]}), path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_file(path)


@pytest.mark.parametrize("texts", [["a", None], [1, 2], [b"a", b"b"], [["a"], ["b"]]], ids=repr)
def test_parquet_with_texts_that_are_no_strings(tmp_path: Path, texts: list[Any]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts, "label": [0, 1]}), path)
    row = 1 if texts[0] == "a" else 0
    with pytest.raises(DataError, match=re.escape(f"{path}, row {row}: the text is ")):
        read_file(path)


# --- objects and labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_label", "expected"),
    [
        ("spam", "spam"),
        (" ", " "),
        ("0", "0"),
        (0, 0),
        (-3, -3),
        (2.0, 2),
        (-0.0, 0),
        (np.int8(5), 5),
        (np.uint64(2**63), 2**63),
        (np.float32(4.0), 4),
        (np.float32(0.1), 0.1),
        (0.5, 0.5),
        (True, True),
        (np.bool_(False), False),
        (np.str_("x"), "x"),
    ],
    ids=repr,
)
def test_labels(given_label: Any, expected: Any) -> None:
    data = read_object((["a", "b"], [given_label, given_label]), text_column=None, label_column=None)
    assert data.labels == [expected, expected]
    assert type((data.labels or [])[0]) is type(expected)


@pytest.mark.parametrize(
    "bad",
    ["", None, math.nan, np.float32("nan"), math.inf, 1j, b"x", ["x"], pd.NA, pd.NaT],
    ids=repr,
)
def test_labels_refused(bad: Any) -> None:
    with pytest.raises(DataError, match=r"\(texts, labels\), row 1: the label is "):
        read_object((["a", "b"], ["x", bad]), text_column=None, label_column=None)


def test_labels_of_frames() -> None:
    def labels(values: Any) -> Any:
        return read_data(pd.DataFrame({"text": ["a", "b", "c"], "label": values})).labels

    assert labels([2, 1, 0]) == [2, 1, 0]
    assert labels([2.0, 1.0, 0.0]) == [2, 1, 0]
    assert labels(pd.Categorical(["x", "y", "x"])) == ["x", "y", "x"]
    assert labels(pd.array([1, 2, 3], dtype="Int64")) == [1, 2, 3]
    for values, row in (
        ([1, None, 2], 1),
        (["x", None, "y"], 1),
        (pd.array([1, 2, None], dtype="Int64"), 2),
    ):
        with pytest.raises(DataError, match=rf"DataFrame, row {row}: the label is "):
            labels(values)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8", "float64"])
def test_labels_of_parquet(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": pa.array(np.array([3, 1], dtype=kind))}), path)
    labels = read_file(path).labels or []
    assert labels == [3, 1]
    assert [type(label) for label in labels] == [int, int]


def test_dataset_with_class_labels() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = read_data(datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features))
    assert (data.texts, data.labels, data.origin) == (["a", "b"], ["yes", "no"], "Dataset")
    with pytest.raises(DataError, match="Dataset, row 1: the text is None"):
        read_data(datasets.Dataset.from_dict({"text": ["a", None], "label": [1, 0]}))


def test_frame_with_a_missing_text() -> None:
    with pytest.raises(DataError, match="DataFrame, row 1: the text is nan"):
        read_data(pd.DataFrame({"text": pd.Series(["a", math.nan], dtype=object), "label": ["x", "y"]}))


def test_frame_with_columns_that_are_no_strings() -> None:
    data = read_data(pd.DataFrame([["a", 1], ["b", 2]]), text_column="0", label_column="1")
    assert (data.texts, data.labels) == (["a", "b"], [1, 2])


def test_pair_of_different_lengths_and_empty_objects() -> None:
    with pytest.raises(DataError, match="2 texts but 1 labels"):
        read_data((["a", "b"], ["x"]))
    with pytest.raises(DataError, match="no row"):
        read_data(([], []))
    with pytest.raises(DataError, match="no row"):
        read_data(pd.DataFrame({"text": [], "label": []}))
    with pytest.raises(DataError, match="texts, row 1: the text is 5"):
        read_data(["a", 5], labelled=False)


@pytest.mark.parametrize("data", [5, None, ["a", "b"], {"text": "a", "label": 1}, ("a", "b"), (["a"],)], ids=repr)
def test_objects_that_are_no_data(data: Any) -> None:
    with pytest.raises(UsageError, match=type(data).__name__):
        read_data(data)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(DataError) as caught:
        read_data((["a"], [["x" * 10_000]]))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("line", "text", "labels"),
    [
        ("a" + " __label__x" * 180_000, "a", 1),
        ("__label__x " * 180_000 + "a", "a", 1),
        ("a " + "__label__" * 220_000, "a", 1),
        ("a" + " " * 2_000_000 + "__label__x", "a", 1),
        ("a" + " __label__x" * 180_000 + " b", None, 0),
        ("a " + "__label__ " * 200_000, None, 0),
    ],
    ids=["at the end", "at the beginning", "one label", "white space", "not at the end", "no names"],
)
def test_long_lines_of_fasttext(tmp_path: Path, line: str, text: str | None, labels: int) -> None:
    """Lines of 2 MB, which a pattern that tries each of their labels would take hours for."""
    path = tmp_path / "a.txt"
    path.write_text(f"{line}\nb __label__y\n" if line[0] == "a" else f"{line}\n__label__y b\n")
    if text is None:
        with pytest.raises(DataError, match="no labels are found"):
            read_file(path, label_separator="|")
        return
    data = read_file(path, label_separator="|")
    assert data.texts == [text, "b"] and data.labels is not None
    assert [len(each) for each in data.labels] == [labels, 1]
