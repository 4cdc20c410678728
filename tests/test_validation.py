"""``pyllmclf validate``: the problems that it reports, and those that it does not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models import Folders

from pyllmclf.cli.main import app, run
from pyllmclf.data.data_report import Overlap
from pyllmclf.data.named import load_named
from pyllmclf.data.readers import TextData, read_file
from pyllmclf.data.validation import validate_splits
from pyllmclf.errors import DataError


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: str) -> SimpleNamespace:
        capfd.readouterr()
        code = run(app, "pyllmclf", arguments)
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


TRAIN = [("a b", "x"), ("c", "y"), ("a b", "x"), ("d", "x"), ("d", "y"), ("  ", "y")]
TEST = [("c", "y"), ("a b", "y"), ("e", "z"), ("c", "y")]


def test_what_is_found() -> None:
    parts = {
        name: TextData([t for t, _ in rows], [label for _, label in rows], name)
        for name, rows in (("train", TRAIN), ("test", TEST))
    }
    report = validate_splits(parts)
    train, test = report.splits["train"], report.splits["test"]
    assert (train.texts, train.classes, train.duplicates) == (6, {"x": 3, "y": 3}, 2)
    assert (len(train.empty), [len(rows) for rows in train.conflicting]) == (1, [2])
    assert (test.texts, test.classes, test.duplicates, test.empty, test.conflicting) == (
        4, {"y": 3, "z": 1}, 1, [], [],
    )  # fmt: skip
    assert report.overlaps == [Overlap("train", "test", texts=2, rows=3, conflicting=1)]
    assert report.unknown_classes == {"test": ["z"]}
    assert len(report.problems) == 4
    json.dumps(report.to_dict())


def test_nothing_is_found() -> None:
    parts = {"train": TextData(["a", "b"], [0, 1], "train"), "test": TextData(["c"], [1], "test")}
    assert validate_splits(parts).problems == []


def test_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    train, test = written(tmp_path / "train.csv", TRAIN), written(tmp_path / "test.csv", TEST)
    found = cli("validate", train, "--test", test)
    assert found.code == 3 and "no training text has the label z" in found.err  # as finetune would refuse it
    assert "train: 6 texts; x 3 (50.0%), y 3 (50.0%); 2 duplicates" in found.out
    assert "2 texts of train are also in" in found.out
    assert "line 7" in found.out  # the empty text
    strict = cli("validate", train, "--test", test, "--strict", "--json")
    assert strict.code == 3
    assert json.loads(strict.out)["overlaps"][0]["texts"] == 2
    assert "4 problems" in strict.err
    clean = cli("validate", "sample", "--strict")
    assert clean.code == 0, clean.err
    assert "no problem found" in clean.out
    assert cli("validate", str(tmp_path / "nowhere.csv")).code == 3


@pytest.mark.parametrize("option", [("--label-column", "x"), ("--text-column", "x"), ("--encoding-errors", "replace")])
def test_options_that_are_of_no_use_are_refused(cli: Callable[..., Any], option: tuple[str, str]) -> None:
    found = cli("validate", "sample", *option)
    assert found.code == 2, found.err
    assert "none is given" in found.err
    assert cli("validate", "sample", "--encoding-errors", "bogus").code == 2


def test_lengths(model_folder: Folders, cli: Callable[..., Any], tmp_path: Path) -> None:
    """Against the model's positions, by its tokenizer."""
    data = written(tmp_path / "train.csv", [("a" * 100, "x"), ("b", "y")])
    model = model_folder("gpt2", n_classes=2)  # bytes, 64 positions
    found = cli("validate", data, "--model", str(model))
    assert "longest 64; 1 texts are truncated at 64" in found.out
    lengths = json.loads(cli("validate", data, "--model", str(model), "--json").out)["parts"]["train"]["lengths"]
    assert (lengths["longest"], lengths["truncated"]) == (64, 1)


@pytest.mark.real_data
def test_texts_in_both_parts_of_imdb(data_dir: Path) -> None:
    report = validate_splits(load_named("imdb"))
    (overlap,) = report.overlaps
    assert (overlap.first, overlap.second, overlap.texts) == ("train", "test", 123)


def test_a_single_class_is_a_problem(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [("a", "x"), ("b", "x")])
    found = cli("validate", data, "--strict")
    assert found.code == 3 and "all texts have the label x" in found.out
    # Of a test part that's no problem.
    other = written(tmp_path / "b.csv", [("c", "x"), ("d", "y")])
    assert cli("validate", other, "--test", written(tmp_path / "c.csv", [("e", "x")]), "--strict").code == 0


def test_texts_with_several_labels(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [("a", "x|y"), ("b", ""), ("c", "y"), ("a", "x")])
    found = json.loads(cli("validate", data, "--multi-label", "--json").out)
    assert found["parts"]["train"]["classes"] == {"x": 2, "y": 2}
    assert len(found["parts"]["train"]["conflicting"]) == 1
    spaced = written(tmp_path / "b.csv", [("a", "x;y"), ("b", "x")])
    found = json.loads(cli("validate", spaced, "--multi-label", "--label-separator", ";", "--json").out)
    assert found["parts"]["train"]["classes"] == {"x": 2, "y": 1}


def test_the_test_part_of_a_named_data_set(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [("a", "x"), ("b", "y")])
    found = json.loads(cli("validate", data, "--test", "sample", "--json").out)
    assert found["parts"]["sample"]["texts"] == len(load_named("sample")["test"])


@pytest.mark.parametrize("options", [("--label-separator", ";"), ("--multi-label", "--label-separator", "")])
def test_separators_that_make_no_sense(cli: Callable[..., Any], tmp_path: Path, options: tuple[str, ...]) -> None:
    found = cli("validate", written(tmp_path / "a.csv", [("a", "x"), ("b", "y")]), *options)
    assert found.code == 2 and "label_separator" in found.err


# --- everything is counted --------------------------------------------------------------------------------------------

BAD_JSON = [
    {"text": "fine one", "label": "a"},
    {"text": None, "label": "b"},
    {"text": "no label", "label": None},
    {"text": 7, "label": "a"},
    {"text": "wrong label", "label": {"x": 1}},
    {"label": "b"},
    {"text": "fine two", "label": "b"},
]


def test_rows_of_every_kind_are_counted(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in BAD_JSON) + "{broken\n[1]\n")
    found = cli("validate", str(path), "--json")
    content = json.loads(found.out)
    rows = {kind: each["count"] for kind, each in content["parts"]["train"]["rows"].items()}
    assert rows == {"broken_rows": 2, "missing_texts": 2, "missing_labels": 1, "invalid_texts": 1, "invalid_labels": 1}
    assert content["parts"]["train"]["texts"] == 2
    assert content["parts"]["train"]["rows"]["missing_labels"]["first"] == [f"{path}, line 3"]
    assert found.code == 3 and "line 8: not valid JSON" in found.err  # as finetune would refuse it
    assert content["finetune"]["refuses"] is not None


def test_missing_values_may_be_left_out(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [("a", "x"), ("", "y"), ("b", ""), ("c", "y"), ("d", "x")])
    found = cli("validate", data)
    assert found.code == 3 and "1 labels are missing" in found.out and "line 4: the label is ''" in found.err
    assert f"finetune would refuse: {data}, line 4" in found.out and "--missing skip" in found.err
    found = cli("validate", data, "--missing", "skip")
    assert found.code == 0 and "2 rows are left out" in found.out
    columns = "the texts of the column 'text' and the labels of 'label': 3 texts, 2 classes (text)"
    assert f"finetune would take {columns}" in found.out
    assert cli("validate", data, "--missing", "drop").code == 2


def test_broken_rows_are_counted(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\nb,y,z\nc\nd,y\n")
    found = cli("validate", str(path))
    assert found.code == 3 and "train: 2 rows can't be read" in found.out and "line 3; " in found.out
    assert "line 3: 3 fields where the header has 2" in found.err


OPEN = '"open and, never closed,y\n'


@pytest.mark.parametrize(
    ("lines", "places", "texts"),
    [
        ("a b,x\n" * 3 + OPEN + "c d,y\n" * 4, [5], 7),  # the quote is open up to the end
        ("a b,x\n" + OPEN + '"c, d",y\n' * 4, [3], 5),  # the next row's quote closes it
        (OPEN + "a b,x\n" + OPEN + "c d,y\n" + OPEN, [2, 4, 6], 2),
        ('a b,x\n"bad "quote", here",y\n"c\nd",x\n\n"say ""e""",y\n' + OPEN, [3, 8], 3),
    ],
)
def test_broken_quotes_are_counted(
    cli: Callable[..., Any], tmp_path: Path, lines: str, places: list[int], texts: int
) -> None:
    """By the line of the opening quote, and the lines after it are read."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + lines)
    ran = cli("validate", str(path), "--json")
    found = json.loads(ran.out)
    assert found["parts"]["train"]["rows"]["broken_rows"]["first"] == [f"{path}, line {place}" for place in places]
    assert found["parts"]["train"]["texts"] == texts
    sentence = f"{path}, line {places[0]}: the quoting of the row that begins here is broken"
    assert ran.code == 3 and sentence in found["finetune"]["refuses"] and sentence in ran.err
    with pytest.raises(DataError, match=re.escape(sentence)):
        read_file(path)


def test_broken_quotes_of_the_header(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"text,label\na b,x\nc d,y\n')
    ran = cli("validate", str(path), "--text-column", "text", "--label-column", "label")
    assert ran.code == 3 and "line 1" in ran.err and len(ran.err.splitlines()) == 1


def test_lines_are_read_again_a_bounded_number_of_times(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these lines opens a quote that the next one closes, and opens another."""
    monkeypatch.setattr("pyllmclf.data.readers.reread_lines.MOST", 1000)
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + 'q","\n' * 500)
    ran = cli("validate", str(path), "--delimiter", ",")
    assert ran.code == 3 and "line 4: the quoting of the row that begins here is broken" in ran.err


def test_the_first_ten_rows_are_named() -> None:
    data = TextData([f"{i}\ufffd" for i in range(15)], [0, 1, 1] * 5, "here")
    report = validate_splits({"train": data})
    assert report.splits["train"].rows["replaced"].count == 15
    (line,) = report.problems
    assert "row 9; ..." in line and "row 10" not in line


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("caf\ufffd", "replaced"),
        ("cafÃ© au lait", "mojibake"),
        ("donâ€™t go", "mojibake"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "mojibake"),
        ("Â£5 off", "mojibake"),
        ("a\x1b[31mb", "control_characters"),
        ("12345 67890 !!", "few_letters"),
        ("café — “don’t” É— Ünïcode", None),
        ("CAFÉ’S MENÜ“ ÂGE ÃO", None),
        ("Привет, мир! 你好，世界 שלום", None),
        ("ok :)", None),
        ("a\tb\nc\r\n", None),
    ],
)
def test_damaged_texts(text: str, kind: str | None) -> None:
    data = TextData([text, "whole text"], ["a", "b"], "here")
    assert list(validate_splits({"train": data}).splits["train"].rows) == ([] if kind is None else [kind])


def test_classes_that_look_alike_are_a_problem(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [("a", "neg"), ("b", "neg "), ("c", "Neg"), ("d", "pos")])
    found = cli("validate", data, "--strict")
    assert found.code == 3 and "'Neg' and 'neg' and 'neg '" in found.out
    assert json.loads(cli("validate", data, "--json").out)["near_duplicates"] == [["Neg", "neg", "neg "]]


def test_white_space_around_names_is_a_problem(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [("a", " neg"), ("b", " pos")])
    found = cli("validate", data, "--strict")
    assert found.code == 3 and "begin or end with white space: ' neg', ' pos'" in found.out


def test_rare_classes_are_noted(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [(f"text {i}", "common" if i else "rare") for i in range(12)])
    found = cli("validate", data, "--strict")
    assert found.code == 0 and "note: train: 1 classes have fewer than 5 texts (rare: 1)" in found.out


@pytest.mark.parametrize(
    ("labels", "kind"),
    [(("1", "10"), "integers"), (("0.5", "1.0"), "numbers with fractions"), (("true", "false"), "booleans")],
)
def test_the_kind_of_labels(cli: Callable[..., Any], tmp_path: Path, labels: tuple[str, str], kind: str) -> None:
    data = written(tmp_path / "a.csv", [("a", labels[0]), ("b", labels[1])])
    assert f"2 classes ({kind}); no row is left out" in cli("validate", data).out
    other = written(tmp_path / "b.csv", [("c", "none")])
    found = cli("validate", data, "--test", other)
    assert "finetune would refuse: " in found.out and "no training text has the label none" in found.out


def test_very_many_classes(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = written(tmp_path / "a.csv", [(f"text {i}", f"class {i % 3000}") for i in range(6000)])
    found = cli("validate", data)
    assert "and 2,980 more classes; 0 duplicates" in found.out and len(found.out) < 3000
    assert len(json.loads(cli("validate", data, "--json").out)["parts"]["train"]["classes"]) == 3000
