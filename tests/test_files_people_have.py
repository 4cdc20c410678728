"""Files as people have them: every delimiter, encoding, quoting, header, packing and name is read to the exact rows.

Each line of ``FILES`` is a file that the test makes, with the rows that must be read from it and the line that says how
it was read; each line of ``REFUSED`` is one with the sentence that refuses it. ``{path}`` stands for the file.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pyllmclf
from pyllmclf.data.readers import FILE_TYPES, compression, decode, read_file
from pyllmclf.data.readers.columns import joined
from pyllmclf.data.sources import read_data
from pyllmclf.errors import DataError, PyllmclfError, ResourceError, UsageError

ROWS = [
    ("cold food; rude waiter", "neg"),
    ("friendly staff, would return", "pos"),
    ('the "zip" broke at once', "neg"),
    ("works like a charm", "pos"),
    ("screen flickers | again", "neg"),
    ("so, so; fine", "pos"),
]
WESTERN = [("le café – “très” bon, 5 €", "pos"), ("Spaß für 20 °C; naïve", "neg"), ("don’t go", "neg")]
WORLD = [("日本語 😀, yes", "pos"), ("Привет, мир", "neg"), ("l'été", "pos")]
# Without the characters that need quotes in any of the formats.
PLAIN = [("works like a charm", "pos"), ("screen flickers", "neg"), ("arrived early", "pos"), ("it broke", "neg")]
MANY = [(f"{text} {i}", label) for i in range(5) for text, label in PLAIN]
# Texts of an unquoted file, two of which begin or end with a quote.
OPEN = [*MANY[:3], ('"arrived a day early', "pos"), ('the zip broke at once"', "neg"), *MANY[3:]]
ALONE = [*MANY[:3], ('"arrived a day early', "pos"), *MANY[3:]]
BEGINS = [*MANY[:3], ('"never again" she said', "neg"), *MANY[3:]]

Rows = Sequence[tuple[Any, ...]]


def table(
    rows: Rows = ROWS,
    delimiter: str = ",",
    header: Sequence[str] | None = ("text", "label"),
    *,
    line_end: str = "\n",
    quote: int = csv.QUOTE_MINIMAL,
) -> str:
    """The rows as the csv module writes them."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=quote)  # type: ignore[arg-type]
    writer.writerows([*([] if header is None else [header]), *rows])
    return out.getvalue()


def bare(rows: Rows, delimiter: str, header: Sequence[str] | None = ("text", "label"), line_end: str = "\n") -> str:
    """The rows as programs write them that know no quoting."""
    return "".join(delimiter.join(row) + line_end for row in [*([] if header is None else [header]), *rows])


def swapped(rows: Rows) -> Rows:
    return [(label, text) for text, label in rows]


def zipped(*members: tuple[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def zstandard(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def json_lines(rows: Rows, names: tuple[str, str] = ("text", "label")) -> str:
    return "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), out)
    return out.getvalue()


def encrypted(content: bytes) -> bytes:
    """An archive whose members claim to be encrypted."""
    raw = bytearray(content)
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


@dataclass(frozen=True)
class File:
    """A file that is read.

    Attributes
    ----------
    name : str
    content : str or bytes
        A string is written as UTF-8.
    rows : sequence of (text, label)
        What is read.
    read : str, optional
        How the file was read, as the one line says it; without it, there is no line.
    options : dict
    """

    name: str
    content: str | bytes
    rows: Rows = field(default_factory=lambda: ROWS)
    read: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


SEMICOLONS = "with semicolons between fields; if that is wrong, say delimiter (--delimiter)."
TABS = "with tabs between fields; if that is wrong, say delimiter (--delimiter)."
BARS = "with pipes between fields; if that is wrong, say delimiter (--delimiter)."
COMMAS = "with commas between fields; if that is wrong, say delimiter (--delimiter)."
CP1252 = "as cp1252; if that is wrong, say encoding (--encoding)."
JOINED = "without quoting, since quotes would join lines 5 and 6 and every line has 2 fields of its own."
STAYS_OPEN = "without quoting, since the quote in line 5 stays open and every line has 2 fields of its own."
BOTH = "if that is wrong, say encoding and delimiter (--encoding, --delimiter)."
COLUMNS = "if that is wrong, say text_column and label_column (--text-column, --label-column)."


def as_wide(name: str) -> str:
    return f"as {name}; if that is wrong, say encoding (--encoding)."


FILES = {
    # --- delimiters
    "commas": File("a.csv", table()),
    "semicolons in .csv": File("a.csv", table(delimiter=";"), read=SEMICOLONS),
    "semicolons, texts full of commas, no quotes": File(
        "a.csv",
        bare([("a, b, c, and d, so", "x"), ("e, f, g, h", "y")], ";"),
        [("a, b, c, and d, so", "x"), ("e, f, g, h", "y")],
        SEMICOLONS,
    ),
    "semicolons with a comma in the header": File(
        "a.csv",
        table(delimiter=";", header=("text, full", "label")),
        read=SEMICOLONS,
        options={"text_column": "text, full"},
    ),
    "semicolons and decimal commas": File(
        "a.csv",
        "id;text;price;label\n1;good, cheap;0,5;pos\n2;bad;1,75;neg\n",
        [("good, cheap", "pos"), ("bad", "neg")],
        SEMICOLONS,
    ),
    "semicolons, all quoted, with Windows' line ends": File(
        "a.csv", table(delimiter=";", line_end="\r\n", quote=csv.QUOTE_ALL), read=SEMICOLONS
    ),
    "Excel's sep=; line": File("a.csv", "sep=;\r\n" + table(delimiter=";", line_end="\r\n"), read=SEMICOLONS),
    "Excel's sep=, line": File("a.csv", "SEP=,\n" + table()),
    "Excel's sep line with a tab": File("a.csv", "sep=\t\n" + table(delimiter="\t"), read=TABS),
    "tabs in .csv": File("a.csv", table(delimiter="\t"), read=TABS),
    "bars in .csv": File("a.csv", table(delimiter="|"), read=BARS),
    "commas in .tsv": File("a.tsv", table(), read=COMMAS),
    "tabs in .tsv": File("a.tsv", table(delimiter="\t")),
    "tabs in .tab": File("a.tab", table(delimiter="\t")),
    "bars in .psv": File("a.psv", table(delimiter="|")),
    "commas in .txt": File("a.txt", table(), read=COMMAS),
    "labels with bars, commas": File("a.csv", "text,label\na,x|y\nb,y\n", [("a", "x|y"), ("b", "y")]),
    "one column, texts with commas": File(
        "a.csv",
        "text\nHello, world\nno comma\n",
        [("Hello, world", None), ("no comma", None)],
        "as one column, since the first line has no delimiter; if that is wrong, say delimiter (--delimiter).",
        {"labelled": False},
    ),
    "one column, quoted": File(
        "a.csv",
        'text\n"Hello, world"\n"two\nlines"\n',
        [("Hello, world", None), ("two\nlines", None)],
        options={"labelled": False},
    ),
    "one column whose name has a semicolon": File(
        "a.csv",
        "text; in full\nHello\nworld\nagain\n",
        [("Hello", None), ("world", None), ("again", None)],
        options={"labelled": False, "text_column": 0},
    ),
    "a chosen character": File("a.csv", bare(PLAIN, "^"), PLAIN, options={"delimiter": "^"}),
    "a chosen name": File("a.txt", table(delimiter="\t"), options={"delimiter": "tab"}),
    "a chosen delimiter against the likelier": File(
        "a.csv", "text,label;x\na,b;x\n", [("a", "b;x")], options={"delimiter": ",", "label_column": 1}
    ),
    # --- encodings
    "UTF-8 with a mark": File("a.csv", table(WORLD).encode("utf-8-sig"), WORLD),
    "UTF-8 with a mark and semicolons": File("a.csv", table(WORLD, ";").encode("utf-8-sig"), WORLD, SEMICOLONS),
    "UTF-16, little-endian, mark": File(
        "a.csv", b"\xff\xfe" + table(WORLD).encode("utf-16-le"), WORLD, as_wide("UTF-16-LE")
    ),
    "UTF-16, big-endian, mark": File(
        "a.csv", b"\xfe\xff" + table(WORLD).encode("utf-16-be"), WORLD, as_wide("UTF-16-BE")
    ),
    "UTF-16, little-endian, no mark": File("a.csv", table().encode("utf-16-le"), read=as_wide("UTF-16-LE")),
    "UTF-16, big-endian, no mark": File("a.csv", table(WESTERN).encode("utf-16-be"), WESTERN, as_wide("UTF-16-BE")),
    "UTF-16, no mark, hardly a Latin letter": File(
        "a.csv",
        table([("日本語の文章です" * 9, "肯定"), ("悪い製品でした" * 9, "否定")]).encode("utf-16-le"),
        [("日本語の文章です" * 9, "肯定"), ("悪い製品でした" * 9, "否定")],
        as_wide("UTF-16-LE"),
    ),
    "Excel's Unicode text": File(
        "a.txt",
        b"\xff\xfe" + table(WORLD, "\t", line_end="\r\n").encode("utf-16-le"),
        WORLD,
        f"as UTF-16-LE, with tabs between fields; {BOTH}",
    ),
    "UTF-32 with a mark": File("a.csv", table(WORLD).encode("utf-32"), WORLD, as_wide("UTF-32-LE")),
    "UTF-32, big-endian, no mark": File("a.csv", table(WORLD).encode("utf-32-be"), WORLD, as_wide("UTF-32-BE")),
    "UTF-16 said, with a mark": File("a.csv", table(WORLD).encode("utf-16"), WORLD, options={"encoding": "utf-16"}),
    "UTF-16 said, without a mark": File(
        "a.csv", table(WORLD).encode("utf-16-le"), WORLD, options={"encoding": "UTF-16"}
    ),
    "cp1252": File("a.csv", table(WESTERN, line_end="\r\n").encode("cp1252"), WESTERN, CP1252),
    "cp1252 said": File("a.csv", table(WESTERN).encode("cp1252"), WESTERN, options={"encoding": "cp1252"}),
    "cp1252 and semicolons": File(
        "a.csv",
        table(WESTERN, ";").encode("cp1252"),
        WESTERN,
        f"as cp1252, with semicolons between fields; {BOTH}",
    ),
    "Latin-1": File("a.csv", "text,label\ncafé señor,x\n".encode("latin-1"), [("café señor", "x")], CP1252),
    "cp1251 said": File("a.csv", table(WORLD[1:2]).encode("cp1251"), WORLD[1:2], options={"encoding": "windows-1251"}),
    "Shift-JIS said": File(
        "a.csv", "text,label\n日本語,x\n".encode("cp932"), [("日本語", "x")], options={"encoding": "cp932"}
    ),
    "GB 18030 said": File(
        "a.csv", "text,label\n很好,x\n".encode("gb18030"), [("很好", "x")], options={"encoding": "gb18030"}
    ),
    "a mark and the encoding said": File("a.csv", table().encode("utf-8-sig"), options={"encoding": "utf-8"}),
    "JSON lines in UTF-16": File("a.jsonl", json_lines(WORLD).encode("utf-16"), WORLD, as_wide("UTF-16-LE")),
    "JSON lines in cp1252": File("a.jsonl", json_lines(WESTERN).encode("cp1252"), WESTERN, CP1252),
    # --- quoting
    "unquoted tabs, quotes that would join": File("a.tsv", bare(OPEN, "\t"), OPEN, JOINED),
    "unquoted tabs, one opening quote": File("a.tsv", bare(ALONE, "\t"), ALONE, STAYS_OPEN),
    "unquoted tabs, a text that begins with quoted words": File("a.tsv", bare(BEGINS, "\t"), BEGINS, STAYS_OPEN),
    "unquoted tabs in few rows": File(
        "a.tsv",
        bare([('"a', "x"), ('b"', "y")], "\t"),
        [('"a', "x"), ('b"', "y")],
        "without quoting, since quotes would join lines 2 and 3 and every line has 2 fields of its own.",
    ),
    "unquoted bars": File("a.psv", bare(OPEN, "|"), OPEN, JOINED),
    "unquoted semicolons": File(
        "a.csv",
        bare(OPEN, ";"),
        OPEN,
        "with semicolons between fields, without quoting, since quotes would join lines 5 and 6 and every line has 2 "
        "fields of its own; if that is wrong, say delimiter (--delimiter).",
    ),
    "unquoted commas": File("a.csv", bare(OPEN, ","), OPEN, JOINED),
    "unquoted commas, one opening quote, label first": File(
        "a.csv",
        bare(swapped(ALONE), ",", ("label", "text")),
        ALONE,
        STAYS_OPEN,
    ),
    "quoted line breaks": File("a.csv", table([("a\nb", "x"), ('c\r\n"d"', "y")]), [("a\nb", "x"), ('c\r\n"d"', "y")]),
    "quoted line breaks, tabs": File("a.tsv", table([("a\nb", "x"), ("c", "y")], "\t"), [("a\nb", "x"), ("c", "y")]),
    "a quoted line break whose lines look like rows": File(
        "a.csv", table([*MANY, ("Hello, dear\nfriend", "pos")]), [*MANY, ("Hello, dear\nfriend", "pos")]
    ),
    "all fields quoted, one with a line break": File(
        "a.tsv",
        table([*PLAIN, ("a\tb\nc", "pos")], "\t", quote=csv.QUOTE_ALL),
        [*PLAIN, ("a\tb\nc", "pos")],
        None,
    ),
    "quotes inside": File("a.tsv", bare([('5" long', "x"), ("it's", "y")], "\t"), [('5" long', "x"), ("it's", "y")]),
    "texts in quotes": File("a.tsv", 'text\tlabel\n"so good"\tx\nbad\ty\n', [("so good", "x"), ("bad", "y")]),
    # --- headers and columns
    "no header, label last": File(
        "a.csv",
        table(MANY, header=None),
        MANY,
        f"with texts from the column '0' and with labels from the column '1'; {COLUMNS}",
        {"header": False},
    ),
    "no header, label first, tabs": File(
        "a.tsv",
        bare(swapped(MANY), "\t", None),
        MANY,
        f"with texts from the column '1' and with labels from the column '0'; {COLUMNS}",
        {"header": False},
    ),
    "no header, columns chosen by number": File(
        "a.csv", table(ROWS, header=None), options={"header": False, "text_column": 0, "label_column": "1"}
    ),
    "no header, an identifier first": File(
        "a.csv",
        table([(i, *row) for i, row in enumerate(MANY)], header=None),
        MANY,
        f"with texts from the column '1' and with labels from the column '2'; {COLUMNS}",
        {"header": False},
    ),
    "unusual names": File(
        "a.csv",
        table(swapped(MANY), header=("v1", "v2")),
        MANY,
        f"with texts from the column 'v2' and with labels from the column 'v1'; {COLUMNS}",
    ),
    "columns by number with a header": File(
        "a.csv", table(header=("x", "y")), options={"text_column": 0, "label_column": 1}
    ),
    "a column that is named by another's number": File(
        "a.csv", "1,0\na,x\nb,y\n", [("a", "x"), ("b", "y")], options={"text_column": "1", "label_column": "0"}
    ),
    "pandas' index": File("a.csv", ",text,label\n0,a,x\n1,b,y\n", [("a", "x"), ("b", "y")]),
    "empty columns at the end": File(
        "a.csv",
        "v1,v2,,,\nx,a,,,\ny,b,,,\n",
        [("a", "x"), ("b", "y")],
        options={"text_column": "v2", "label_column": "v1"},
    ),
    "rows with and without empty fields at the end": File(
        "a.csv", "text,label,,\na,x\nb,y,,\nc,x,,,,\n", [("a", "x"), ("b", "y"), ("c", "x")]
    ),
    "a repeated column that nobody reads": File("a.csv", "text,score,label,score\na,1,x,2\n", [("a", "x")]),
    "a repeated column, by number": File("a.csv", "text,text,label\na,b,x\n", [("b", "x")], options={"text_column": 1}),
    "names with white space and capitals": File("a.csv", "ID, Review Text , LABEL \n1,a,x\n", [("a", "x")]),
    "Text": File("a.csv", "Text,Sentiment\na,x\n", [("a", "x")]),
    "tweet and intent": File("a.csv", "tweet,intent\na,x\n", [("a", "x")]),
    "comment and rating": File("a.csv", "comment,rating\na,x\n", [("a", "x")]),
    "body and y": File("a.csv", "y,body\nx,a\n", [("a", "x")]),
    "description and topic": File("a.csv", "description,topic\na,x\n", [("a", "x")]),
    "headline and tag": File("a.csv", "headline,tag\na,x\n", [("a", "x")]),
    "a likelier name goes first": File("a.csv", "title,text,score,label\nt,a,1,x\n", [("a", "x")]),
    "title and body joined": File(
        "a.csv",
        "title,body,label\nGood,a b,x\n,c,y\nBad, ,x\n",
        [("Good a b", "x"), ("c", "y"), ("Bad", "x")],
        options={"text_column": "title,body"},
    ),
    "title and body joined, as a list": File(
        "a.jsonl",
        '{"title": "Good", "body": "a", "label": "x"}\n{"title": null, "body": "b", "label": "y"}\n',
        [("Good a", "x"), ("b", "y")],
        options={"text_column": ["title", "body"]},
    ),
    "a name with a comma": File("a.csv", '"a,b",label\nt,x\n', [("t", "x")], options={"text_column": "a,b"}),
    # --- packings
    "gzip": File("a.csv.gz", gzip.compress(table().encode())),
    "gzip named .csv": File("a.csv", gzip.compress(table().encode())),
    "plain named .csv.gz": File("a.csv.gz", table()),
    "bzip2": File("a.tsv.bz2", bz2.compress(table(delimiter="\t").encode())),
    "xz": File("a.jsonl.xz", lzma.compress(json_lines(WORLD).encode()), WORLD),
    "Zstandard": File("a.csv.zst", zstandard(table(WORLD).encode()), WORLD),
    "zip": File("a.csv.zip", zipped(("a.csv", table()))),
    "zip whose member tells the format": File("a.zip", zipped(("data/reviews.tsv", table(delimiter="\t")))),
    "zip with a Mac's additions and a readme": File(
        "a.zip",
        zipped(("README.txt", "hello"), ("a.csv", table()), ("__MACOSX/._a.csv", b"\0\1"), (".DS_Store", b"\0")),
    ),
    "zip named .csv": File("a.csv", zipped(("a.csv", table()))),
    "gzip in zip": File("a.zip", zipped(("a.csv.gz", gzip.compress(table().encode())))),
    "gzip, cp1252, semicolons": File(
        "a.csv.gz",
        gzip.compress(table(WESTERN, ";").encode("cp1252")),
        WESTERN,
        f"as cp1252, with semicolons between fields; {BOTH}",
    ),
    "Parquet named .csv": File("a.csv", parquet(ROWS)),
    "Parquet in zip": File("a.zip", zipped(("a.parquet", parquet(ROWS)))),
}


@pytest.mark.parametrize("case", FILES)
def test_file_is_read(tmp_path: Path, case: str) -> None:
    file = FILES[case]
    path = tmp_path / file.name
    path.write_bytes(file.content if isinstance(file.content, bytes) else file.content.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_data(path, **file.options)
    assert list(zip(data.texts, data.labels or [None] * len(data), strict=True)) == list(file.rows)
    expected = [] if file.read is None else [f"{path}: read {file.read}"]
    assert [str(warning.message) for warning in caught] == expected


@dataclass(frozen=True)
class Refused:
    """A file that is refused.

    Attributes
    ----------
    name : str
    content : str or bytes
    sentence : str
        The whole message; ``{path}`` stands for the file.
    options : dict
    """

    name: str
    content: str | bytes
    sentence: str
    options: dict[str, Any] = field(default_factory=dict)


OTHERWISE = (
    "; if the file has another encoding, say encoding=... (--encoding), such as cp1251, gb18030 or shift_jis; "
    'encoding_errors="replace" (--encoding-errors replace) replaces such bytes.'
)
REFUSED = {
    "UTF-8 with a byte of another encoding": Refused(
        "a.csv",
        "text,label\né,x\n".encode() + b"caf\xe9,y\n",
        "{path}, line 3: byte 19 (0xe9) is not valid UTF-8" + OTHERWISE,
    ),
    "cp1251": Refused(
        "a.csv",
        "text,label\nПривет мир,x\n".encode("cp1251"),
        "{path}, line 2: byte 11 (0xcf) is not valid UTF-8" + OTHERWISE,
    ),
    "GB 18030": Refused(
        "a.csv",
        "text,label\n很好的产品,x\n".encode("gb18030"),
        "{path}, line 2: byte 11 (0xba) is not valid UTF-8" + OTHERWISE,
    ),
    "Polish in cp1250": Refused(
        "a.csv",
        "text,label\nbyło żółte całkiem miło,x\n".encode("cp1250"),
        "{path}, line 2: byte 13 (0xb3) is not valid UTF-8" + OTHERWISE,
    ),
    "another encoding said": Refused(
        "a.csv",
        table(WESTERN).encode("cp1252"),
        "{path}, line 2: byte 18 (0xe9) is not valid UTF-8; if the file has another encoding, say that one; "
        'encoding_errors="replace" (--encoding-errors replace) replaces such bytes.',
        {"encoding": "utf-8"},
    ),
    "an image": Refused("a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "{path}: not a file of text but an image."),
    "a pickle": Refused(
        "a.csv",
        pickle.dumps(ROWS * 9, protocol=4),
        "{path}: not a file of text but a pickle, which is never opened, since that could run its code.",
    ),
    "an old spreadsheet": Refused(
        "a.csv",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
        "{path}: not a readable workbook (CalamineError: Cannot detect file format).",
    ),
    "an archive of several files": Refused(
        "a.zip",
        zipped(("a.csv", table()), ("b.csv", table())),
        "{path}: the archive holds 2 files (a.csv, b.csv); unpack it, and name one of them.",
    ),
    "an empty archive": Refused("a.zip", zipped(), "{path}: the archive holds no file."),
    "an encrypted archive": Refused(
        "a.zip", encrypted(zipped(("a.csv", "x"))), "{path}: is encrypted; unpack it first."
    ),
    "half a gzip file": Refused(
        "a.csv.gz",
        gzip.compress(os.urandom(999))[:500],
        "{path}: can't be unpacked (Compressed file ended before the end-of-stream marker was reached); the file is "
        "damaged or incomplete.",
    ),
    "a row with too many fields": Refused(
        "a.csv",
        "text;label\na;x\nb;y;z\n",
        "{path}, line 3: 3 fields where the header has 2; quote fields that hold the delimiter or a line break.",
    ),
    "a quote that stays open": Refused(
        "a.csv",
        'text,label\na,x\n"b,y\n',
        "{path}, line 3: the quoting of the row that begins here is broken (unexpected end of data); write a quote "
        'inside a quoted field as "".',
    ),
    "no header, not said": Refused(
        "a.csv",
        table(MANY, header=None),
        "{path}, line 1: no column is named like a text among 'works like a charm 0', 'pos'; say which one with "
        "text_column (--text-column); line 1 looks like a row of data; if it is one, say header=False (--no-header).",
    ),
    "several usual names": Refused(
        "a.csv",
        "title,description,label\na,b,x\n",
        "{path}, line 1: several columns could be the text among 'title', 'description', 'label'; say which one with "
        "text_column (--text-column), or several to join them (--text-column title,description).",
    ),
    "no usual name": Refused(
        "a.csv",
        "u,v\na,x\nb,y\n",
        "{path}, line 1: no column is named like a text among 'u', 'v'; say which one with "
        "text_column (--text-column).",
    ),
    "a repeated column that is read": Refused(
        "a.csv",
        "text,text,label\na,b,x\n",
        "{path}, line 1: the column 'text' appears more than once; rename one of them, or choose by number, the first "
        "being 0.",
    ),
    "a row that is too short, while columns are looked for": Refused(
        "a.csv",
        "u,v\n" + table(MANY, header=None) + "short\n",
        "{path}, line 22: 1 fields where the header has 2; quote fields that hold the delimiter or a line break.",
    ),
    "no such number": Refused(
        "a.csv",
        "text,label\na,x\n",
        "{path}, line 1: there is no column 2; the columns are 'text', 'label'.",
        {"label_column": 2},
    ),
    "an unknown ending": Refused(
        "a.dat",
        table(),
        f"{{path}}: can't tell the format; the name must end in one of {', '.join(FILE_TYPES)}.",
    ),
    "an empty file": Refused("a.csv", "", "{path}: the file is empty."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_file_is_refused(tmp_path: Path, case: str) -> None:
    file = REFUSED[case]
    path = tmp_path / file.name
    path.write_bytes(file.content if isinstance(file.content, bytes) else file.content.encode())
    with pytest.raises(DataError) as caught:
        read_data(path, **file.options)
    assert str(caught.value) == file.sentence.format(path=path)


# --- no files ---------------------------------------------------------------------------------------------------------


def refused(data: Any, **options: Any) -> str:
    with pytest.raises(PyllmclfError) as caught:
        read_data(data, **options)
    return str(caught.value)


def test_addresses_folders_and_links(tmp_path: Path) -> None:
    address = "http://example.org/y.csv"
    sentence = "data are read from files, not from the web; download it, and name the file."
    assert refused(address) == f"{address}: {sentence}"
    assert refused(Path(address)) == f"http:/example.org/y.csv: {sentence}"
    assert refused("hf://datasets/x/y.parquet") == f"hf://datasets/x/y.parquet: {sentence}"
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert refused(tmp_path / "loop.csv") == (
        f"{tmp_path}/loop.csv: is a symbolic link that leads back to itself; name the file itself."
    )
    (tmp_path / "gone.csv").symlink_to("nowhere.csv")
    for name in ("gone.csv", "missing.csv", "missing"):
        assert refused(str(tmp_path / name)) == f"{tmp_path}/{name}: there is no such file."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoding": "utf-9"}, "encoding='utf-9' is unknown; did you mean 'utf-8'?"),
        (
            {"encoding": "base64"},
            "encoding='base64' is unknown; it is 'auto' or a codec of Python, such as 'cp1252' or 'utf-16'.",
        ),
        ({"delimiter": "||"}, r"delimiter='||' must be one character, or one of comma, semicolon, tab, pipe, \t."),
        ({"header": "no"}, "header='no' must be True or False."),
        ({"text_column": []}, "text_column=[] must name a column."),
        ({"text_column": ["a", None]}, "text_column='' must be the name or the number of a column."),
        ({"label_column": 1.5}, "label_column=1.5 must be the name or the number of a column."),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    (tmp_path / "a.csv").write_text(table())
    with pytest.raises(UsageError) as caught:
        read_data(tmp_path / "a.csv", **options)
    assert str(caught.value) == sentence


def test_options_apply_to_some_files_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json_lines(ROWS))
    (tmp_path / "a.csv").write_text(table(delimiter=";"))
    sentence = f"delimiter is about delimited files, such as CSV, which {tmp_path}/a.jsonl is not; leave delimiter out."
    assert refused(tmp_path / "a.jsonl", delimiter=";") == sentence
    assert "encoding is about files of text" in refused((["a"], ["x"]), encoding="cp1252")
    with pytest.raises(UsageError, match="delimiter is about delimited files, such as CSV, and none is given"):
        pyllmclf.finetune("gpt2-nano", tmp_path / "a.jsonl", delimiter=";")
    from pyllmclf.data.splits import read_splits

    train, _, test = read_splits(tmp_path / "a.csv", False, tmp_path / "a.jsonl", seed=1, delimiter=";")
    assert test is not None and train.texts == test.texts


# --- objects ----------------------------------------------------------------------------------------------------------


def test_missing_parts_of_a_joined_text() -> None:
    parts = ["a", None, pd.NA, pd.NaT, float("nan"), np.float32("nan"), Decimal("nan"), " ", "b"]
    assert joined(parts) == "a b"
    assert joined([pd.NaT, Decimal("nan")]) is None


def test_text_columns_of_objects_are_joined(tmp_path: Path) -> None:
    columns = {"title": ["Good", None, "Bad"], "body": ["a", "b", " "], "label": ["x", "y", "x"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    import datasets

    for data in (pd.DataFrame(columns), datasets.Dataset.from_dict(columns), tmp_path / "a.parquet"):
        for chosen in ("title,body", ["title", "body"], [0, 1]):
            assert read_data(data, text_column=chosen).texts == ["Good a", "b", "Bad"]
    frame = pd.DataFrame({"title": ["Good", 1984], "body": ["a", "b"], "label": ["x", "y"]})
    assert refused(frame, text_column="title,body") == "DataFrame, row 1: the text is 1984, not a string."


def test_columns_of_objects_are_found_by_what_they_hold(tmp_path: Path) -> None:
    frame = pd.DataFrame(MANY, columns=["a", "b"])
    frame.to_parquet(tmp_path / "a.parquet")
    numbered = pd.DataFrame([(i, *row) for i, row in enumerate(MANY)])
    for data, names in ((frame, ("a", "b")), (tmp_path / "a.parquet", ("a", "b")), (numbered, ("1", "2"))):
        with pytest.warns(
            UserWarning, match=f"from the column '{names[0]}' and with labels from the column '{names[1]}'"
        ):
            read = read_data(data)
        assert list(zip(read.texts, read.labels or (), strict=True)) == MANY


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "x"), ("b", "y")],  # too few to tell
        [(f"word{i}", f"other{i}") for i in range(20)],  # no column with few values
        [("good", "pos"), ("bad", "neg")] * 9,  # no longer texts
        [(f"some longer text {i}", f"{i / 7:.3f}") for i in range(20)],  # fractions
        [(f"some longer text {i}", i) for i in range(20)],  # identifiers
        [(f"some longer text {i}", "a", "b") for i in range(20)],  # one value each
        [(f"some longer text {i}", "ab"[i % 2], "cd"[i % 2]) for i in range(20)],  # two columns of labels
        [(f"some longer text {i}", f"and another one {i}", "ab"[i % 2]) for i in range(20)],  # two of texts
        [(f"some longer text {i}", "ab"[i % 2] if i else "") for i in range(20)],  # a missing label
    ],
)
def test_columns_that_can_not_be_told_are_refused(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "a.csv").write_text(table(rows, header=None))
    with pytest.raises(DataError, match="no column is named like a text"):
        read_data(tmp_path / "a.csv", header=False)


# --- pipes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (table().encode(), COMMAS),
        (table(delimiter=";").encode("utf-8-sig"), SEMICOLONS),
        (gzip.compress(table(delimiter="\t").encode()), TABS),
        (json_lines(ROWS).encode(), None),
        (parquet(ROWS), None),
    ],
    ids=["commas", "semicolons", "gzip, tabs", "JSON lines", "Parquet"],
)
def test_named_pipe(tmp_path: Path, content: bytes, read: str | None) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[content], daemon=True)
    writer.start()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_data(str(path))
    writer.join(10)
    assert list(zip(data.texts, data.labels or (), strict=True)) == ROWS
    assert [str(warning.message) for warning in caught] == ([] if read is None else [f"{path}: read {read}"])


def test_process_substitution() -> None:
    """``<(...)`` is such a path."""
    readable, writable = os.pipe()
    with os.fdopen(writable, "wb") as file:
        file.write(table().encode("utf-16"))
    with pytest.warns(UserWarning, match=f"^/dev/fd/{readable}: read as UTF-16-LE, with commas between fields; "):
        data = read_data(f"/dev/fd/{readable}")
    os.close(readable)
    assert list(zip(data.texts, data.labels or (), strict=True)) == ROWS


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_standard_input(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.csv").write_text(table())
    code = "from pyllmclf.data.readers import read_file; data = read_file('/dev/stdin'); print(data.texts, data.labels)"
    environment = os.environ | {"PYTHONPATH": str(Path(pyllmclf.__file__).parent.parent)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    with (tmp_path / "a.csv").open() as file:
        content: dict[str, Any] = {"stdin": file} if source == "file" else {"input": table()}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, **content)
    assert (done.stdout, done.stderr) == (f"{[text for text, _ in ROWS]} {[label for _, label in ROWS]}\n", "")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyllmclf.cli.main import app, run

    path = tmp_path / "a.csv"
    path.write_bytes(bare(swapped(MANY), "^", None).encode("utf-16-le"))
    options = ["--encoding", "utf-16", "--delimiter", "^", "--no-header", "--label-column", "0", "--text-column", "1"]
    assert run(app, "pyllmclf", ["validate", str(path), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("train: 20 texts; neg 10 (50.0%), pos 10 (50.0%)")
    assert printed.err == ""
    path.write_bytes(table(MANY, ";").encode())
    assert run(app, "pyllmclf", ["validate", str(path)]) == 0
    assert capsys.readouterr().err == f"pyllmclf: warning: {path}: read {SEMICOLONS}\n"


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "cp1252"])
def test_lines_of_text_are_decoded_alike(codec: str) -> None:
    """Those of a file or of standard input, to be classified."""
    lines = "where is my parcel\nle café – “très” bon\nrefund\n"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(lines.encode(codec), "standard input") == lines
    found = {"utf-16": "UTF-16-LE", "utf-8-sig": None, "cp1252": "cp1252"}.get(codec, codec.upper())
    expected = [] if found is None else [f"standard input: read {as_wide(found)}"]
    assert [str(warning.message) for warning in caught] == expected
    assert decode(lines.encode(codec), "x", encoding=codec) == lines


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", compression.PACKED_ENDINGS)
def test_packed_content_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstandard,
        ".zip": lambda content: zipped(("a.csv", content)),
    }
    path = tmp_path / f"a.csv{ending}"
    path.write_bytes(pack[ending](b"text,label\n" + b"a " * 4_000_000 + b",x\n"))
    monkeypatch.setattr(compression, "available_memory", lambda: 9_000_000)
    with pytest.raises(ResourceError) as caught:
        read_data(path)
    assert str(caught.value) == (
        f"{path}: unpacks to more than 3,000,000 bytes, a third of the memory that is free; free some, or read a part "
        "of the data."
    )
    monkeypatch.setattr(compression, "available_memory", lambda: 90_000_000)
    assert len(read_data(path).texts[0]) == 8_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere")
def test_memory_of_a_table(tmp_path: Path) -> None:
    """A file of Latin texts, some of them with signs beyond Latin-1, takes at most four times its size."""
    path = tmp_path / "a.csv"
    text = "Le café était très bon, et le service aussi; “nous reviendrons” – c’est sûr. " * 3
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        file.writelines(f'"{text}{i}",{"pos" if i % 2 else "neg"}\n' for i in range(60_000))
    code = (
        "import resource, sys; from pyllmclf.data.readers import read_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = read_file(sys.argv[1]); assert len(data) == 60_000\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(pyllmclf.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    )
    assert int(done.stdout) < 4 * path.stat().st_size


def test_rows_are_read_where_pieces_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters, line ends and quotes may lie across the pieces in which files are checked."""
    from pyllmclf.data.readers import encoding

    rows = [(f'é{"x" * (i % 7)} "日本" 😀\r\n{i}', "ab"[i % 2]) for i in range(300)]
    for codec in ("utf-8", "utf-16", "utf-32", "gb18030"):
        (tmp_path / "a.csv").write_bytes(table(rows, line_end="\r\n").encode(codec))
        for size in (1, 3, 7, 64):
            monkeypatch.setattr(encoding, "_PIECE", size)
            data = read_file(tmp_path / "a.csv", encoding="gb18030" if codec == "gb18030" else "auto")
            assert list(zip(data.texts, data.labels or (), strict=True)) == rows
