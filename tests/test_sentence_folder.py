"""Model folders of sentence-transformers are read as their files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LABELS, TEXTS, Folders

import pyllmclf
from pyllmclf import ModelError
from pyllmclf.models.hub import find_model
from pyllmclf.models.sentence_folder import SentenceSettings

TRAINING: dict[str, Any] = {"trainable": "head", "validation": False, "progress": False}


def modules(*kinds: str) -> list[dict[str, Any]]:
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds, 1))]
    return [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(("Transformer", *kinds), paths, strict=True))
    ]


@pytest.fixture
def folder(model_folder: Folders, tmp_path: Path) -> Path:
    """A BERT of sentence-transformers: the mean of the tokens, at most 10 of them."""
    path = model_folder.copy(tmp_path / "sentence", "bert")
    write(path, "modules.json", modules("Pooling", "Normalize"))
    write(path, "1_Pooling/config.json", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    write(path, "sentence_bert_config.json", {"max_seq_length": 10, "do_lower_case": False})
    return path


def vocab(folder: Path) -> list[str]:
    return (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_its_own_pooling_without_the_pooler(folder: Path) -> None:
    """The head reads the mean of the hidden states, as sentence-transformers gives it."""
    classifier = pyllmclf.finetune(folder, (TEXTS, LABELS), **TRAINING).classifier
    model = classifier.state.model
    assert (model.spec.pooling, model.spec.pooler, classifier.state.layout.max_length) == ("mean", False, 10)
    from transformers import BertModel

    reference = BertModel.from_pretrained(folder).eval()
    tokens, vocabulary = find_model(folder, "pretrained").tokenizer.encode_batch(TEXTS[1:2])[0], vocab(folder)
    ids = torch.tensor([[vocabulary.index("[CLS]"), *tokens[:8], vocabulary.index("[SEP]")]])
    with torch.no_grad():
        mean = reference(ids).last_hidden_state[0].mean(dim=0)
        expected = torch.nn.functional.linear(mean, model.head.weight.cpu(), model.head.bias.cpu())
    np.testing.assert_allclose(classifier.logits(TEXTS[1:2])[0], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("trainable", ["head", "last_block", "all", "lora"])
def test_saved_and_opened(folder: Path, tmp_path: Path, trainable: str) -> None:
    run = {"output_dir": tmp_path / "run", **TRAINING, "trainable": trainable}
    classifier = pyllmclf.finetune(folder, (TEXTS, LABELS), **run).classifier
    spec = json.loads((tmp_path / "run/last/pyllmclf.json").read_text())
    assert (spec["pooler"], spec["format_version"]) == (False, 2)
    loaded = pyllmclf.load(tmp_path / "run")
    np.testing.assert_allclose(loaded.logits(TEXTS), classifier.logits(TEXTS), atol=1e-6)
    again = pyllmclf.finetune(folder, (TEXTS, LABELS), resume=True, **run).classifier
    np.testing.assert_allclose(again.logits(TEXTS), classifier.logits(TEXTS), atol=1e-6)


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_trained_further(folder: Path, tmp_path: Path, trainable: str) -> None:
    """The checkpoint has the same files, so that its own head reads the same rows again."""
    run = {**TRAINING, "trainable": trainable, "epochs": 1}
    first = pyllmclf.finetune(folder, (TEXTS, LABELS), output_dir=tmp_path / "run", **run).classifier
    again = pyllmclf.finetune(tmp_path / "run/last", (TEXTS, LABELS), learning_rate=1e-12, **run).classifier
    assert again.state.model.spec == first.state.model.spec and not again.state.model.spec.pooler
    assert again.state.layout == first.state.layout
    np.testing.assert_allclose(again.logits(TEXTS), first.logits(TEXTS), atol=1e-5)


def test_what_is_given_stays(folder: Path) -> None:
    classifier = pyllmclf.finetune(folder, (TEXTS, LABELS), pooling="mean", max_length=20, **TRAINING).classifier
    assert (classifier.state.model.spec.pooler, classifier.state.layout.max_length) == (True, 20)
    convention = pyllmclf.finetune(folder, (TEXTS, LABELS), pooling=None, **TRAINING).classifier
    assert (convention.state.model.spec.pooling, convention.state.model.spec.pooler) == ("first", True)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls", "embedding_dimension": 32}, "first"),
    ],
)
def test_poolings(folder: Path, config: dict[str, Any], pooling: str) -> None:
    write(folder, "1_Pooling/config.json", config)
    assert find_model(folder, "pretrained").sentence == SentenceSettings(pooling, None, 10)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by max_tokens"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "mean_tokens and cls",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pools by weightedmean"),
        ("modules.json", modules("Pooling", "Dense"), "has a Dense module"),
        ("modules.json", modules(), "has no pooling"),
    ],
)
def test_what_the_engine_lacks(folder: Path, file: str, content: Any, said: str) -> None:
    write(folder, file, content)
    with pytest.raises(ModelError, match=f"{said}.*give pooling"):
        pyllmclf.finetune(folder, (TEXTS, LABELS), **TRAINING)
    assert pyllmclf.finetune(folder, (TEXTS, LABELS), pooling="first", **TRAINING).history


@pytest.mark.parametrize("content", ["{", '{"a": 1}', '[["x"]]'])
def test_damaged_files(folder: Path, content: str) -> None:
    (folder / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules\.json"):
        find_model(folder, "pretrained")


def test_lower_case(folder: Path) -> None:
    """The tokenizer's file says so afterwards: saved classifiers read texts the same way."""
    write(folder, "sentence_bert_config.json", {"do_lower_case": True})
    tokenizer = find_model(folder, "pretrained").tokenizer
    assert tokenizer.encode_batch(["Hello WORLD"]) == tokenizer.encode_batch(["hello world"])


def test_minilm(minilm: Path) -> None:
    assert find_model(minilm, "pretrained").sentence == SentenceSettings("mean", None, 256)
