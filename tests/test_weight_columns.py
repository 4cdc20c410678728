"""Weights of the training texts in every kind of source: a column of it, or an array for all its rows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from pyarrow import feather
from workbooks import xlsx

from pyllmclf import DataError, UsageError
from pyllmclf.data.readers import ReadOptions, read_data_object
from pyllmclf.data.sources import read_source
from pyllmclf.data.splits import read_splits

TEXTS = [f"the {i} words of a text" for i in range(16)]
LABELS = [i % 3 for i in range(16)]
WEIGHTS = [0.25, 3.0, 1.0, 0.5, 2.0, 7.5, 1e-3, 1.0, 0.75, 4.0, 0.1, 1.0, 2.5, 0.3, 6.0, 1.5]
COLUMNS: dict[str, list[Any]] = {"text": TEXTS, "label": LABELS, "trust": WEIGHTS}
FRAME = pd.DataFrame(COLUMNS)
ROWS = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]


def write(path: Path) -> Path:
    """Writes the rows in the format that the name says; a folder holds three files."""
    kind = path.name.removeprefix("a")
    if kind == "-records.json":
        FRAME.to_json(path, orient="records")
    elif kind == "-columns.json":
        path.write_text(json.dumps(COLUMNS))
    elif kind == "-split.json":
        FRAME.to_json(path, orient="split")
    elif kind == ".arrow":
        feather.write_feather(pa.table(COLUMNS), path)
    elif kind == ".xlsx":
        xlsx(path, [list(COLUMNS), *zip(*COLUMNS.values(), strict=True)])
    elif kind == ".txt":
        FRAME.to_csv(path, index=False, sep=";")
    else:
        path.mkdir()
        for name, part in (("1", FRAME[:5]), ("2", FRAME[5:6]), ("3", FRAME[6:])):
            if kind == "-parquet":
                part.to_parquet(path / f"{name}.parquet")
            else:
                part.to_csv(path / f"{name}.csv", index=False)
    return path


@pytest.mark.filterwarnings("ignore:.* read ")
@pytest.mark.parametrize(
    "name",
    ["a-records.json", "a-columns.json", "a-split.json", "a.arrow", "a.xlsx", "a.txt", "a-parquet", "a-csv"],
)
def test_files(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert read_source(path, ReadOptions(sample_weight="trust")).weights == WEIGHTS
    assert read_source(path, ReadOptions(sample_weight=np.array(WEIGHTS))).weights == WEIGHTS
    with pytest.raises(DataError, match=r"no column 'nothing'; the columns are 'text'"):
        read_source(path, ReadOptions(sample_weight="nothing"))
    for count in (15, 17):
        with pytest.raises(DataError, match=rf"sample_weight has {count} weights for the 16 texts of .*{name}"):
            read_source(path, ReadOptions(sample_weight=[1.0] * count))


def test_columns_of_objects() -> None:
    sources: list[Any] = [COLUMNS, ROWS, pa.table(COLUMNS), pa.table(COLUMNS).to_batches()[0], FRAME.astype("string")]
    sources += [polars.DataFrame(COLUMNS), polars.LazyFrame(COLUMNS)]
    for source in sources:
        assert read_data_object(source, ReadOptions(sample_weight="trust")).weights == WEIGHTS
        with pytest.raises(DataError, match="no column 'nothing'"):
            read_data_object(source, ReadOptions(sample_weight="nothing"))
    with pytest.raises(DataError, match=r"sample_weight has 1 weights for the 16 texts of dictionary"):
        read_data_object({**COLUMNS, "trust": [1]}, ReadOptions(sample_weight="trust"))
    with pytest.raises(DataError, match="row 3: the object has no 'trust'"):
        read_data_object([*ROWS[:3], {"text": "a", "label": 1}], ReadOptions(sample_weight="trust"))


def test_sources_without_columns(tmp_path: Path) -> None:
    """They take an array alone; lines of fastText, and folders with a file for each text."""
    lines = tmp_path / "lines.txt"
    lines.write_text("__label__x a b\n__label__y c d\n")
    for label, text in (("x", "a b"), ("y", "c d")):
        folder = tmp_path / "folder" / label
        folder.mkdir(parents=True)
        (folder / "1.txt").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in (lines, lines.parent / "folder"):
            assert read_source(source, ReadOptions(sample_weight=[1, 3])).weights == [1.0, 3.0]
            with pytest.raises(UsageError, match=r"'trust' names a column, and .* has no columns to choose from"):
                read_source(source, ReadOptions(sample_weight="trust"))


def test_weights_of_files_read_as_one_table(tmp_path: Path) -> None:
    """They stay with their texts where some are left out, and a file may have none above 0."""
    folder = tmp_path / "a"
    folder.mkdir()
    FRAME[:5].assign(trust=0, text=["", *TEXTS[1:5]]).to_csv(folder / "1.csv", index=False)
    FRAME[5:].assign(text=[*TEXTS[5:15], " "]).to_csv(folder / "2.csv", index=False)
    options: dict[str, Any] = {"empty_texts": "skip", "seed": 1}
    train, _, _ = read_splits(folder, None, False, sample_weight="trust", **options)
    assert train.texts == TEXTS[1:15] and train.weights == [0.0] * 4 + WEIGHTS[5:15]
    train, _, _ = read_splits(folder, None, False, sample_weight=list(range(16)), **options)
    assert train.weights == list(range(1, 15))


def test_splits_of_a_folder(tmp_path: Path) -> None:
    """Weights are those of the training split, or of all splits where there is none for training."""
    FRAME.to_csv(tmp_path / "train.csv", index=False)
    FRAME[:4].drop(columns="trust").to_csv(tmp_path / "test.csv", index=False)
    for weights in ("trust", WEIGHTS):
        train, _, test = read_splits(tmp_path, None, None, seed=1, sample_weight=weights)
        assert train.weights == WEIGHTS and test is not None and test.weights is None
    (tmp_path / "train.csv").rename(tmp_path / "validation.csv")
    both, _, _ = read_splits(tmp_path, False, False, seed=1, sample_weight=list(range(20)))
    assert len(both) == 20 and both.weights == list(range(20))


@pytest.mark.parametrize(
    ("names", "weight", "expected"),
    [
        ("text,score,type", "score", (0, 2)),
        ("text,rating,tag", "rating", (0, 2)),
        ("text,class,label", "label", (0, 1)),
        ("title,summary,label", "title", (1, 2)),
        ("text,label,rating", "2", (0, 1)),
    ],
)
def test_the_column_of_weights_is_no_candidate(names: str, weight: str, expected: tuple[int, int]) -> None:
    found = ReadOptions(sample_weight=weight).pick(names.split(","), "here")
    assert (found.texts[0], found.label) == expected and found.weight not in expected


def test_the_column_of_weights_is_not_found_by_its_values() -> None:
    frame = pd.DataFrame({"words": TEXTS, "kind": ["a", "b"] * 8, "trust": [1, 2] * 8})
    with pytest.warns(UserWarning, match="with texts from the column 'words' and with labels from the column 'kind'"):
        data = read_data_object(frame, ReadOptions(sample_weight="trust"))
    assert data.labels == ["a", "b"] * 8 and data.weights == [1.0, 2.0] * 8


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": "label"},
        {"sample_weight": "text"},
        {"sample_weight": "trust", "label_column": "trust"},
        {"sample_weight": "trust", "text_column": ["text", "trust"]},
        {"sample_weight": "label", "label_column": 1},
    ],
    ids=str,
)
def test_a_column_that_holds_something_else(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="can't be the column of the weights and of the texts or labels"):
        read_data_object(FRAME.assign(score=1), ReadOptions(**options))
