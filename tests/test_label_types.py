"""Labels keep their type: the same classes from a file, a frame, Parquet and JSON, and in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyllmclf
from pyllmclf import DataError, UsageError
from pyllmclf.classifier.checkpoint import SPEC_FILE
from pyllmclf.data.label_types import near_duplicates, parsed, quoted, settle_types
from pyllmclf.data.labels import LabelEncoder, MultiLabelEncoder, checked_classes, class_finder, with_classes
from pyllmclf.data.readers import TextData
from pyllmclf.data.splits import read_splits

NANO: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False}


def texts(count: int) -> list[str]:
    return [f"{('the soup was warm', 'it broke at once')[i % 2]} {i}" for i in range(count)]


def frame(labels: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"text": texts(len(labels)), "label": labels})


def written(labels: Any, folder: Path, ending: str) -> Path:
    """A file of the labels; text is written as it is, into the formats that have no types."""
    data, path = frame(list(labels)), folder / f"data{ending}"
    if ending == ".jsonl":
        data.to_json(path, orient="records", lines=True)
    elif ending == ".parquet":
        data.to_parquet(path)
    else:
        data.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    return path


def classes_of(train: Any, validation: Any = False, test: Any = False) -> tuple[Any, ...]:
    return LabelEncoder.fit(read_splits(train, validation, test, seed=1)[0]).classes


# --- one rule for all sources -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("10", 10), ("-3", -3), ("1.0", 1), ("-2.00", -2), ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)), ("0.5", 0.5), ("-1.25", -1.25),
        ("True", True), ("false", False), ("TRUE", True),
        # Spelled otherwise than a number is written: text.
        *((text, text) for text in ("007", "+1", "1_000", "-0", " 1", "1 ", "1e3", "0.50", "1.10", ".5", "1.", "")),
        *((text, text) for text in ("18446744073709551616", "-9223372036854775809", "9" * 5000, "nan", "inf")),
        *((text, text) for text in ("tRUE", "yes", "true ", "a", "1,5", "٣")),
    ],
    ids=lambda value: repr(value)[:24],
)  # fmt: skip
def test_what_a_label_of_text_spells(text: str, expected: Any) -> None:
    value = parsed(text)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", "frame", "pair"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (list(range(1, 12)), tuple(range(1, 12))),
        ([2.0, 10.0, -1.0, 2.0], (-1, 2, 10)),
        ([True, False, True], (False, True)),
        ([0.5, 10.0, 9.5, 1.0], ("0.5", "1", "9.5", "10")),
        (["b", "10", "9"], ("10", "9", "b")),
    ],
    ids=["integers", "whole floats", "booleans", "fractions", "text"],
)
def test_every_source_gives_the_same_classes(
    ending: str, labels: list[Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    sources: dict[str, Callable[[], Any]] = {
        "frame": lambda: frame(labels),
        "pair": lambda: (texts(len(labels)), labels),
    }
    data = sources[ending]() if ending in sources else written(labels, tmp_path, ending)
    classes = classes_of(data)
    assert classes == expected
    assert [type(one) for one in classes] == [type(one) for one in expected]


def test_labels_of_all_splits_decide(tmp_path: Path) -> None:
    numbers = written(["1", "2", "10"], tmp_path, ".csv")
    assert classes_of(numbers) == (1, 2, 10)
    other = tmp_path / "other"
    other.mkdir()
    assert classes_of(numbers, test=written(["1", "02"], other, ".tsv")) == ("1", "10", "2")
    assert classes_of(numbers, validation=written(["1", "none"], other, ".tsv")) == ("1", "10", "2")
    assert classes_of(numbers, test=frame([1, 2])) == (1, 2, 10)
    assert classes_of(numbers, test=frame([1.0, 2.0])) == (1, 2, 10)
    assert classes_of(frame([10, 1]), test=numbers) == (1, 10)
    # Text that a source with types calls text stays text.
    assert classes_of(frame(["10", "1", "9"])) == ("1", "10", "9")
    assert classes_of(numbers, test=frame(["1", "2"])) == ("1", "10", "2")
    assert classes_of(written([True, False], other, ".csv"), test=frame([True])) == (False, True)


def test_a_mixture_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,True\nc,2.0\n")
    assert classes_of(tmp_path / "a.csv") == ("1", "2.0", "True")
    assert classes_of((["a", "b", "c"], [1, True, "1"])) == ("1", "True")
    assert classes_of((["a", "b"], [1, "1.0"])) == ("1", "1.0")


def test_labels_of_several_parts_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,10|9\nb,\nc,9\n")
    train = read_splits(tmp_path / "a.csv", False, False, seed=1, label_separator="|")[0]
    assert train.labels == [(10, 9), (), (9,)]
    encoder = MultiLabelEncoder.fit(train, "|")
    assert encoder.classes == (9, 10)
    assert with_classes(train, MultiLabelEncoder(("9", "10"))).labels == [("10", "9"), (), ("9",)]


def test_members_of_enumerations_are_their_values() -> None:
    class Word(str, Enum):
        HAM = "ham"

    class Number(IntEnum):
        ONE = 1

    labels = read_splits((texts(2), [Word.HAM, Number.ONE]), False, False, seed=1)[0].labels
    assert labels == ["ham", 1] and [type(label) for label in labels] == [str, int]


def test_kinds_of_numbers() -> None:
    values = [np.float32(0.1), Decimal("2.0"), Decimal("0.25"), np.int8(3), np.bool_(True)]
    read = read_splits((texts(5), values), False, False, seed=1)[0]
    assert read.labels == [0.1, 2, 0.25, 3, True]
    assert [type(label) for label in read.labels] == [float, int, float, int, bool]


@pytest.mark.parametrize(
    "huge",
    [10**5000, -(10**5000), Decimal(10) ** 4999, Decimal("1e999999999")],
    ids=["integer", "negative", "decimal", "more"],
)
def test_an_integer_of_very_many_digits_is_refused(huge: Any) -> None:
    with pytest.raises(DataError, match=r"\(texts, labels\), row 1: the label is .*4,300 digits") as caught:
        pyllmclf.finetune("gpt2-nano", (["a", "b"], [1, huge]), **NANO)
    assert len(str(caught.value)) < 200
    with pytest.raises(UsageError, match="class_weights names"):
        pyllmclf.finetune("gpt2-nano", (["a", "b"], [1, 2]), class_weights={1: 1.0, huge: 2.0}, **NANO)


def test_integers_of_more_than_64_bits_are_text(tmp_path: Path) -> None:
    assert classes_of((["a", "b"], [2**64, 5])) == ("18446744073709551616", "5")
    assert classes_of((["a", "b"], [2**64 - 1, 5])) == (5, 2**64 - 1)
    (tmp_path / "a.csv").write_text(f"text,label\na,{2**64}\nb,5\n")
    assert classes_of(tmp_path / "a.csv") == ("18446744073709551616", "5")


# --- any spelling of a class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (["0", "1"], "1.0", 1), (["0", "1"], 1, 1), (["0.0", "1.0"], 1, 1), (["0.0", "1.0"], "1", 1),
        (["0", "1"], "01", None), (["0", "1"], "+1", None), (["0", "1"], " 1", None), (["0", "1"], True, None),
        (["False", "True"], "true", 1), (["false", "true"], True, 1), (["False", "True"], "TRUE", 1),
        (["1", "1.0"], "1.0", 1), (["1", "1.0"], "1.00", None), (["0.5", "1"], 0.5, 0), (["0.5", "1"], "1.0", 1),
        (["1.1", "1.2"], "1.10", None), (["a", "b"], "A", None),
    ],
)  # fmt: skip
def test_a_label_finds_its_class(names: list[str], label: Any, index: int | None) -> None:
    assert class_finder(names)(label) == index


def test_a_classifier_of_one_source_is_evaluated_on_the_others(tmp_path: Path) -> None:
    floats = [0.0, 1.0] * 6
    path = written(floats, tmp_path, ".csv")
    strings = (texts(12), ["0", "1"] * 6)
    sources = [frame(floats), path, (texts(12), [0, 1] * 6), strings]
    trained = [pyllmclf.finetune("gpt2-nano", data, seed=1, **NANO).classifier for data in sources]
    assert [one.classes_ for one in trained] == [[0, 1], [0, 1], [0, 1], ["0", "1"]]
    accuracies = {one.evaluate(data).accuracy for one in trained for data in sources}
    assert len(accuracies) == 1
    assert {type(label) for label in trained[1].predict(["a", "b"])} == {int}


def test_figures_are_by_label() -> None:
    result = pyllmclf.finetune("gpt2-nano", (texts(12), [True, False] * 6), **NANO, class_weights={"True": 2, False: 1})
    measured = result.classifier.evaluate((texts(4), ["true", "false"] * 2))
    assert list(measured.per_class) == measured.classes == result.classifier.classes_ == [False, True]
    assert measured.per_class[True].support == 2
    content = json.loads(json.dumps(measured.to_dict()))
    assert list(content["per_class"]) == content["classes"] == ["False", "True"]
    assert result.to_dict()["classes"] == [False, True]


def test_an_unknown_label_names_the_class_that_it_resembles() -> None:
    data = TextData(["a"], ["Ham "], "here")
    with pytest.raises(DataError, match=r"'Ham ' is unknown.*tell it from 'ham'"):
        LabelEncoder(("ham", "spam")).encode(data)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([True, False], [False, True]), ([10, 9], [9, 10]), (["10", "9"], ["10", "9"]), ([1.5, 10.0], ["1.5", "10"])],
    ids=str,
)
def test_a_checkpoint_records_the_type(labels: list[Any], classes: list[Any], tmp_path: Path) -> None:
    pyllmclf.finetune("gpt2-nano", (texts(12), labels * 6), **NANO).classifier.save(tmp_path / "saved")
    recorded = json.loads((tmp_path / "saved" / SPEC_FILE).read_text())["classes"]
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert recorded == classes and [type(one) for one in recorded] == [type(one) for one in classes]
    assert list(config["id2label"].values()) == list(map(str, classes))
    opened = pyllmclf.load(tmp_path / "saved")
    assert opened.classes_ == classes
    assert {type(label) for label in opened.predict(texts(4))} == {type(classes[0])}


@pytest.mark.parametrize(
    "classes",
    ["ab", None, {}, [], ["a"], ["a", "a"], ["a", 1], [1, True], [0.5, 1.5], [["a"], ["b"]], ["a", None], ["a", ""]],
    ids=str,
)
def test_classes_that_no_checkpoint_has(classes: Any) -> None:
    with pytest.raises(TypeError, match="classes must be"):
        checked_classes(classes)


def test_a_run_begun_with_text_is_resumed_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As checkpoints of a version that read the numbers of a CSV file as text."""
    labels = ["1.0", "10.0", "2.0"] * 4
    run = {"output_dir": tmp_path / "run", "validation": 0.25, **NANO, "epochs": 2}
    whole = pyllmclf.finetune("gpt2-nano", (texts(12), labels), **NANO | {"epochs": 2, "validation": 0.25})

    def fail(*arguments: Any, **options: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("pyllmclf.classifier.classifier.evaluate_logits", fail)
        with pytest.raises(MemoryError):
            pyllmclf.finetune("gpt2-nano", (texts(12), labels), **run)
    resumed = pyllmclf.finetune("gpt2-nano", written(labels, tmp_path, ".csv"), **run, resume=True)
    assert resumed.classifier.classes_ == ["1.0", "10.0", "2.0"]
    np.testing.assert_array_equal(resumed.classifier.logits(texts(3)), whole.classifier.logits(texts(3)))
    assert resumed.classifier.evaluate(frame([1.0, 2.0])).labels.tolist() == [0, 2]
    assert resumed.classifier.evaluate((texts(2), [10, 1])).labels.tolist() == [1, 0]


def test_recorded_text_stays_text() -> None:
    data = TextData(["a", "b"], ["1", "1.0"], "here", untyped=True)
    (settled,) = settle_types([data], ["1", "1.0"])
    assert settled is not None and settled.labels == ["1", "1.0"]
    (settled,) = settle_types([data], [1, 2])
    assert settled is not None and settled.labels == [1, 1] and not settled.untyped


# --- classes that look alike ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["neg", "pos", "neg ", "Neg"], [["neg", "neg ", "Neg"]]),
        (["New York", "new  york", "NewYork", "Newark"], [["New York", "new  york", "NewYork"]]),
        (["café", "cafe\u0301", "cafe"], [["café", "cafe\u0301"]]),
        (["ﬁt", "fit"], [["ﬁt", "fit"]]),
        (["a\u200b", "\ufeffa", "a\u00a0", "b"], [["a\u200b", "\ufeffa", "a\u00a0"]]),
        (["Straße", "STRASSE"], [["Straße", "STRASSE"]]),
        (["1", "2", "a-b", "a_b", "ab"], []),
    ],
    ids=str,
)
def test_near_duplicates(names: list[str], groups: list[list[str]]) -> None:
    assert near_duplicates(names) == groups


def test_quoted_names_tell_themselves_apart() -> None:
    assert quoted("neg ") == "'neg '"
    assert quoted("cafe\u0301") != quoted("café") == "'café'"
    assert quoted("a\u200b\x1b") == r"'a\u200b\x1b'"
    assert len(quoted("x" * 500)) < 70


def test_finetune_names_them_once() -> None:
    with pytest.warns(RuntimeWarning, match="white space, case.*: 'Neg' and 'neg' and 'neg '; write") as warned:
        pyllmclf.finetune("gpt2-nano", (texts(12), ["neg", "neg ", "Neg", "pos"] * 3), **NANO)
    assert len([one for one in warned if "white space" in str(one.message)]) == 1
