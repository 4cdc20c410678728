"""Input data as users of NumPy, pandas, datasets and transformers pass it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from models import TEXTS, Folders
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

import pyllmclf
from pyllmclf import DataError, ModelError, UsageError
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.sources import read_data
from pyllmclf.training.objective import resolve_class_weights

NANO: dict[str, Any] = {"model": "gpt2-nano", "weights": "random", "epochs": 1, "batch_size": 4, "progress": False}
LABELS = [("a", "b", "c")[i % 3] for i in range(len(TEXTS))]
ROWS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]])
FOUR = TEXTS[:4]


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [np.asarray, lambda rows: rows.astype(bool), lambda rows: torch.tensor(rows), scipy.sparse.csr_matrix]
)
def test_an_indicator_of_several_labels(kind: Any) -> None:
    data = read_data((FOUR, kind(ROWS)), label_separator="|")
    assert data.labels == [(0, 2), (1,), (), (2,)]
    result = pyllmclf.finetune(train=(FOUR, kind(ROWS)), multi_label=True, **NANO)
    assert result.classifier.classes_ == [0, 1, 2]


def test_an_indicator_with_names() -> None:
    frame = pd.DataFrame(ROWS, columns=["red", "green", "blue"])
    assert read_data((FOUR, frame), label_separator="|").labels == [("red", "blue"), ("green",), (), ("blue",)]


def test_what_is_no_indicator() -> None:
    with pytest.raises(DataError, match="must be 0 and 1"):
        read_data((FOUR, 2 * ROWS), label_separator="|")
    for rows in (ROWS.tolist(), ROWS.astype(bool).tolist(), [[1, 0], [0, 1], [1, 0], [0, 1]]):
        with pytest.raises(DataError, match="must be a NumPy array"):
            read_data((FOUR, rows), label_separator="|")
    names = np.array([["x", "y"], ["y", "z"], ["x", "z"], ["x", "y"]])
    assert read_data((FOUR, names), label_separator="|").labels[:2] == [("x", "y"), ("y", "z")]
    assert read_data((FOUR, [[0, 1], [1], [], [0]]), label_separator="|").labels == [(0, 1), (1,), (), (0,)]
    assert read_data((FOUR, [["x", "x"], [], ["y"], []]), label_separator="|").labels == [("x",), (), ("y",), ()]


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
        assert read_data(data).labels == ["True", "False", "True", "True"]


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


def test_seeds_of_numpy_and_data_that_are_read_once() -> None:
    found = pyllmclf.finetune_seeds(
        train=(iter(TEXTS), iter(LABELS)), test=(iter(TEXTS), iter(LABELS)), seeds=np.arange(2, 4), **NANO
    )
    assert found.seeds == [2, 3] and all(type(seed) is int for seed in found.seeds)
    assert len(found.results) == 2 and found.summary["test"]


# --- classifiers of transformers --------------------------------------------------------------------------------------


def saved_classifier(folder: Path, base: Path, **changes: Any) -> Any:
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(base, **changes)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), pad_token_id=256).save_pretrained(folder)
    return model


def test_default_names_of_two_classes(model_folder: Folders, tmp_path: Path) -> None:
    """transformers leaves them out of the configuration."""
    base = model_folder.copy(tmp_path / "base", "gpt2", n_classes=2)
    config = json.loads((base / "config.json").read_text())
    for name in ("id2label", "label2id", "num_labels"):
        config.pop(name, None)
    (base / "config.json").write_text(json.dumps(config))
    classifier = pyllmclf.load(base)
    assert classifier.classes_ == ["LABEL_0", "LABEL_1"]
    assert classifier.logits(FOUR).shape == (4, 2)


def test_a_head_whose_classes_stand_in_another_order(model_folder: Folders, tmp_path: Path) -> None:
    """It is kept: the same text gets the same logit for a class."""
    base = model_folder("gpt2")
    names = ["c", "a", "b"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    saved_classifier(tmp_path / "theirs", base, num_labels=3, **labels)
    before = pyllmclf.load(tmp_path / "theirs")
    assert before.classes_ == names
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "progress": False, "seed": 7}
    after = pyllmclf.finetune(tmp_path / "theirs", (TEXTS, LABELS), trainable="head", **still).classifier
    assert after.classes_ == ["a", "b", "c"]
    expected = before.logits(TEXTS)[:, [names.index(name) for name in after.classes_]]
    np.testing.assert_allclose(after.logits(TEXTS), expected, rtol=0, atol=1e-5)


def test_an_adapters_head_whose_classes_stand_in_another_order(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder.copy(tmp_path / "base", "gpt2")
    config = json.loads((base / "config.json").read_text())
    names = ["c", "a", "b"]
    config |= {"id2label": {str(i): n for i, n in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
    (base / "config.json").write_text(json.dumps(config))
    from peft import LoraConfig, TaskType, get_peft_model

    torch.manual_seed(3)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["c_attn"], modules_to_save=["score"])
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "adapter")
    before = pyllmclf.load(tmp_path / "adapter")
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "progress": False, "seed": 7}
    for trainable in ("lora", "head"):
        after = pyllmclf.finetune(tmp_path / "adapter", (TEXTS, LABELS), trainable=trainable, **still).classifier
        expected = before.logits(TEXTS)[:, [names.index(name) for name in after.classes_]]
        np.testing.assert_allclose(after.logits(TEXTS), expected, rtol=0, atol=1e-5)


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


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    classifier = pyllmclf.finetune(train=(TEXTS, LABELS), **NANO).classifier
    classifier.export(tmp_path / "export")
    before = sorted(path.read_bytes() for path in (tmp_path / "export").iterdir())
    with pytest.raises(UsageError, match="name a new folder"):
        classifier.export(tmp_path / "export", format="onnx")
    assert sorted(path.read_bytes() for path in (tmp_path / "export").iterdir()) == before
    (tmp_path / "empty").mkdir()
    classifier.export(tmp_path / "empty")


@pytest.mark.parametrize("layers", [range(1, 3), np.array([1, 2]), (np.int64(1), 2), {1: "a", 2: "b"}.keys()], ids=repr)
def test_numbers_of_blocks(layers: Any) -> None:
    assert pyllmclf.LoRAConfig(layers=layers).layers == (1, 2)


def test_class_weights_by_name() -> None:
    """A class that is named like a float, and one that a float means."""
    named = LabelEncoder.fit(read_data((FOUR, ["0.0", "1.0", "0.0", "1.0"])))
    assert resolve_class_weights({0.0: 1.0, 1.0: 2.0}, named, np.array([0, 1, 0, 1])).tolist() == [1.0, 2.0]
    numbered = LabelEncoder.fit(read_data((FOUR, [0, 1, 0, 1])))
    given = {np.float32(0.0): 1.0, 1.0: 2.0}
    assert resolve_class_weights(given, numbered, np.array([0, 1, 0, 1])).tolist() == [1.0, 2.0]


def test_names_of_classes_that_are_none(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder.copy(tmp_path / "base", "gpt2")
    config = json.loads((base / "config.json").read_text()) | {"id2label": {"0": ["a"], "1": "b", "2": "c"}}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="two classes or more"):
        pyllmclf.load(base)
    pyllmclf.finetune(base, (TEXTS, LABELS), epochs=1, progress=False)
