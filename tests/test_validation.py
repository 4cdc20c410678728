"""``pyllmclf validate``: the problems that it reports, and those that it does not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models import Folders

from pyllmclf.cli.main import app, run
from pyllmclf.data.named import load_named
from pyllmclf.data.readers import TextData
from pyllmclf.data.validation import Overlap, validate_splits


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
    assert found.code == 0, found.err
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
