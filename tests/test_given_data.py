"""What users of NumPy, pandas and datasets pass, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from models import TEXTS

import pyllmclf
from pyllmclf import DataError, ModelError, UsageError
from pyllmclf.data.label_types import settle_types
from pyllmclf.data.sources import read_data

NANO: dict[str, Any] = {"model": "gpt2-nano", "weights": "random", "epochs": 1, "batch_size": 4, "progress": False}
LABELS = [("a", "b", "c")[i % 3] for i in range(len(TEXTS))]
FOUR = TEXTS[:4]


# --- labels -----------------------------------------------------------------------------------------------------------


def test_booleans_are_the_same_from_everywhere(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": FOUR, "label": [True, False, True, True]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    given = [
        frame,
        (FOUR, frame["label"].to_numpy()),
        (FOUR, frame["label"].tolist()),
        datasets.Dataset.from_pandas(frame),
    ]
    for data in (*given, *(str(tmp_path / f"a.{kind}") for kind in ("csv", "jsonl", "parquet"))):
        (settled,) = settle_types([read_data(data)])
        assert settled is not None and settled.labels == [True, False, True, True]
        assert all(type(label) is bool for label in settled.labels)


def test_names_of_a_class_label() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_dict({"text": FOUR, "label": [0, 1, 1, 0]}, features=features)
    assert read_data(data).labels == ["neg", "pos", "pos", "neg"]
    unknown = datasets.Dataset.from_dict({"text": FOUR, "label": [0, 1, -1, 0]}, features=features)
    with pytest.raises(DataError, match="row 2: the label is -1, which stands for none of 2 names"):
        read_data(unknown)
    features["label"] = datasets.Sequence(features["label"])
    several = datasets.Dataset.from_dict({"text": FOUR, "label": [[0, 1], [], [1], [0]]}, features=features)
    assert read_data(several, label_separator="|").labels == [("neg", "pos"), (), ("pos",), ("neg",)]


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA])
def test_missing_texts_are_empty_ones(missing: Any) -> None:
    data = ([FOUR[0], missing, FOUR[1]], ["a", "b", "b"])
    with pytest.raises(DataError, match=r"row 1: the text is .*empty_texts='skip'"):
        read_data(data)
    kept = read_data(data, empty_texts="skip")
    assert (kept.texts, kept.labels, kept.skipped) == (FOUR[:2], ["a", "b"], 1)
    with pytest.raises(DataError, match="row 1: the text is empty"):
        read_data(data, empty_texts="error")


def test_missing_texts_of_files(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [FOUR[0], None, FOUR[1]], "label": ["a", "b", "b"]})
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    for kind in ("jsonl", "parquet"):
        assert read_data(str(tmp_path / f"a.{kind}"), empty_texts="skip").skipped == 1


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_of_numpy(tmp_path: Path) -> None:
    """Settings from an array of a grid are what Python's own numbers are, and a checkpoint holds them."""
    plain = {"epochs": 2, "batch_size": 4, "seed": 3, "max_length": 20, "causal": False, "learning_rate": 0.5}
    plain |= {"max_grad_norm": 0.5, "warmup_ratio": 0.5, "layerwise_lr_decay": 0.5, "validation": 0.5}
    given = {
        name: np.float32(value) if isinstance(value, float) else np.array(value)[()] for name, value in plain.items()
    }
    assert all(isinstance(value, np.generic) for value in given.values())
    found = []
    for arguments in (plain, given):
        folder = tmp_path / str(len(found))
        result = pyllmclf.finetune(train=(TEXTS, LABELS), output_dir=folder, **NANO | arguments)
        found.append(json.loads(json.dumps(result.to_dict()["history"])))
        settings = json.loads((folder / "last/pyllmclf.json").read_text())["settings"]
        assert {name: settings[name] for name in plain} == plain
    losses = [[record["train_loss"] for record in history] for history in found]
    assert losses[0] == losses[1]


# --- what is none of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": None}, "model=None"),
        ({"callbacks": print}, "callbacks"),
        ({"callbacks": pyllmclf.Callback}, "callbacks"),
        ({"lora": {"layers": 1}, "trainable": "lora"}, "layers=1"),
        ({"lora": {"layers": [1.0]}, "trainable": "lora"}, "numbers of blocks"),
        ({"lora": {"layers": "01"}, "trainable": "lora"}, "layers='01'"),
        ({"lora": {"target_modules": None}, "trainable": "lora"}, "target_modules=None"),
        ({"label_separator": ";"}, "label_separator"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pyllmclf.finetune(train=(TEXTS, LABELS), **NANO | arguments)


def test_folders_that_are_not_those_of_a_model(tmp_path: Path) -> None:
    pyllmclf.finetune(train=(TEXTS, LABELS), output_dir=tmp_path / "run", **NANO)
    with pytest.raises(ModelError, match=r"the folder of a run; name one of its checkpoints, as .*last"):
        pyllmclf.finetune(tmp_path / "run", (TEXTS, LABELS))
    with pytest.raises(UsageError, match="path=None"):
        pyllmclf.load(None)  # type: ignore[arg-type]
