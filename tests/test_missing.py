"""``missing="skip"``: rows without text or label are left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyllmclf
from pyllmclf import DataError, UsageError
from pyllmclf.data.sources import read_data

NANO: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False}
TEXTS = ["a b", None, "c", "d", "", "f"]
LABELS = ["x", "y", None, "y", "x", "x"]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS, "label": LABELS})


def sources(folder: Path) -> dict[str, Any]:
    data = frame()
    data.to_csv(folder / "a.csv", index=False)
    data.to_csv(folder / "a.tsv", index=False, sep="\t")
    data.to_parquet(folder / "a.parquet")
    rows = [{k: v for k, v in row.items() if v is not None} for row in data.to_dict("records")]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: folder / f"a.{name}" for name in ("csv", "tsv", "parquet", "jsonl")}
    numbers = (TEXTS, [{"x": 0.0, "y": 1.0, None: np.nan}[label] for label in LABELS])
    return files | {"frame": data, "pair": (TEXTS, LABELS), "floats": numbers}


@pytest.mark.parametrize("name", ["csv", "tsv", "parquet", "jsonl", "frame", "pair", "floats"])
def test_rows_are_left_out(name: str, tmp_path: Path) -> None:
    source = sources(tmp_path)[name]
    with pytest.raises(DataError, match="missing='skip'"):
        read_data(source)
    data = read_data(source, missing="skip")
    # A file of text has no empty texts but missing ones.
    empty = [] if name in ("csv", "tsv") else [""]
    assert data.texts == ["a b", "d", *empty, "f"] and data.skipped == 3 - len(empty)
    assert data.where(1).endswith("line 5" if name in ("csv", "tsv") else "line 4" if name == "jsonl" else "row 3")
    assert read_data(source, missing="skip", empty_texts="skip").texts == ["a b", "d", "f"]
    assert read_data(source, missing="skip", empty_texts="skip").skipped == 3


def test_training_and_evaluation_count_them() -> None:
    result = pyllmclf.finetune("gpt2-nano", frame(), validation=frame(), missing="skip", **NANO)
    assert (result.lengths.texts, result.lengths.skipped) == (4, 2)
    assert result.metrics["validation"]["lengths"]["skipped"] == 2
    assert result.classifier.evaluate(frame(), missing="skip").lengths["skipped"] == 2
    assert pyllmclf.evaluate(result.classifier, frame(), missing="skip").lengths["texts"] == 4
    assert result.classifier.state.settings["missing"] == "skip"


def test_what_is_not_missing_raises() -> None:
    with pytest.raises(DataError, match="row 1: the text is 5, not a string"):
        read_data((["a", 5], ["x", "y"]), missing="skip")
    with pytest.raises(DataError, match="row 1: the label is inf"):
        read_data((["a", "b"], ["x", np.inf]), missing="skip")
    with pytest.raises(DataError, match="every row lacks its text or its label"):
        read_data((["a", None], [None, "y"]), missing="skip")
    with pytest.raises(UsageError, match="missing='drop' is unknown"):
        pyllmclf.finetune("gpt2-nano", frame(), missing="drop")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="missing='collect' is unknown"):
        pyllmclf.finetune("gpt2-nano", frame(), missing="collect")  # type: ignore[arg-type]


def test_texts_without_labels_need_none() -> None:
    data = read_data(["a", None, "b"], labelled=False, missing="skip")
    assert (data.texts, data.skipped) == (["a", "b"], 1)
