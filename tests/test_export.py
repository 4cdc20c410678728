"""Graphs for ONNX Runtime and torch.export: their logits, what they can't express, and the command."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interoperability import CLASSES, SHORT, close
from models import FAMILIES, TEXTS, Folders
from transformers import AutoTokenizer

import pyllmclf
from pyllmclf import UsageError
from pyllmclf.cli.main import app, run


def graph_inputs(folder: Path, texts: list[str]) -> dict[str, Any]:
    return AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")


# Their graphs are those of RoBERTa, and of Llama with biases.
OTHERS_MODULES = ("camembert", "xlm_roberta", "qwen2")
# An export takes 10 to 30 seconds: there is one of each kind of embedding and attention, and one of each other pooling,
# mask and kind of weights, of smaller models. Those of the other architectures, whose padded batches other tests
# compare with transformers, are slow tests. Name: family, configuration, arguments of the training.
ALWAYS = ("gpt2", "bert", "llama", "deberta_v2", "first, head bias", "mean, not causal", "causal BERT, last, LoRA")
GRAPHS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        family: (family, "two_layers" if family == "modernbert" else "odd", {})
        for family in FAMILIES
        if family not in OTHERS_MODULES
    },
    "first, head bias": ("gpt2", "unscaled", {"pooling": "first", "head_bias": True}),
    "mean, not causal": ("gpt2", "unscaled", {"causal": False, "pooling": "mean"}),
    "causal ModernBERT, mean": ("modernbert", "two_layers", {"causal": True, "pooling": "mean"}),
    "causal BERT, last, LoRA": (
        "bert",
        "one_head",
        {"causal": True, "pooling": "last", "trainable": "lora", "lora": {"rank": 2}},
    ),
}


class Graph:
    """A trained classifier, its export to ONNX, and its logits before that."""

    def __init__(self, base: Path, folder: Path, changes: dict[str, Any]) -> None:
        self.folder = folder
        self.classifier = pyllmclf.finetune(base, (TEXTS, CLASSES), **SHORT | changes).classifier
        self.logits_before = self.classifier.logits(TEXTS)
        self.classifier.export(folder, format="onnx")

    def logits(self, texts: list[str]) -> np.ndarray:
        """By ONNX Runtime, from the tokenizer beside the graph."""
        import onnxruntime

        session = onnxruntime.InferenceSession(self.folder / "model.onnx", providers=["CPUExecutionProvider"])
        batch = graph_inputs(self.folder, texts)
        (found,) = session.run(["logits"], {n: batch[n].astype(np.int64) for n in ("input_ids", "attention_mask")})
        return found


@pytest.fixture(scope="module")
def graph(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """The graph of that name, exported once."""

    @functools.cache
    def made(name: str) -> Graph:
        family, config, changes = GRAPHS[name]
        return Graph(model_folder(family, config), tmp_path_factory.mktemp("exported") / "graph", changes)

    return made


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in GRAPHS],
)
def test_onnx(graph: Callable[[str], Graph], name: str) -> None:
    """Batches of other sizes and lengths than the graph was made with."""
    made = graph(name)
    files = {path.name for path in made.folder.iterdir()}
    assert files == {"config.json", "manifest.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
    for texts in (TEXTS, TEXTS[2:3], TEXTS[:1]):
        assert close(made.logits(texts), made.classifier.logits(texts))
    np.testing.assert_array_equal(made.classifier.logits(TEXTS), made.logits_before)


@pytest.mark.parametrize(
    ("pooling", "name"), [("last", "gpt2"), ("first", "first, head bias"), ("mean", "mean, not causal")]
)
def test_graph_of_an_empty_text(graph: Callable[[str], Graph], pooling: str, name: str) -> None:
    """GPT-2 reads it as the end-of-text token, which is what pads; its tokenizer gives nothing."""
    made = graph(name)
    assert GRAPHS[name][2].get("pooling", "last") == pooling
    texts = ["", TEXTS[0]]
    assert graph_inputs(made.folder, texts)["attention_mask"][0].sum() == 0
    assert close(made.logits(texts), made.classifier.logits(texts))


def test_torch_export(graph: Callable[[str], Graph], tmp_path: Path) -> None:
    classifier = graph("gpt2").classifier
    classifier.export(tmp_path / "graph", format="torch")
    module = torch.export.load(tmp_path / "graph/model.pt2").module()
    for texts in (TEXTS, TEXTS[:3]):
        batch = graph_inputs(tmp_path / "graph", texts)
        found = module(*(torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")))
        assert close(found.detach().numpy(), classifier.logits(texts))


@pytest.mark.parametrize(
    "changes", [{"pooling": "last_position"}, {"padding": "context"}, {"long_texts": "windows"}], ids=str
)
def test_what_a_graph_cannot_express(model_folder: Folders, tmp_path: Path, changes: dict[str, Any]) -> None:
    base = model_folder("gpt2")
    classifier = pyllmclf.finetune(base, (TEXTS, CLASSES), **SHORT | changes).classifier
    with pytest.raises(UsageError, match="a graph"):
        classifier.export(tmp_path / "graph", format="onnx")
    assert not (tmp_path / "graph").exists()


def test_export_from_the_command_line(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model_folder("bert", "one_head")
    assert run(app, "pyllmclf", ["export", str(base), str(tmp_path / "onnx"), "--format", "onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"
    assert (tmp_path / "onnx/model.onnx").is_file()
    assert run(app, "pyllmclf", ["export", str(base), str(tmp_path / "peft"), "--format", "peft"]) == 2
    assert "not trained with LoRA" in capsys.readouterr().err
    assert run(app, "pyllmclf", ["export", str(base), str(tmp_path / "x"), "--format", "gguf"]) == 2


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    classifier = pyllmclf.finetune("gpt2-nano", (TEXTS, CLASSES), weights="random", **SHORT).classifier
    classifier.export(tmp_path / "export")
    before = sorted(path.read_bytes() for path in (tmp_path / "export").iterdir())
    with pytest.raises(UsageError, match="name a new folder"):
        classifier.export(tmp_path / "export", format="onnx")
    assert sorted(path.read_bytes() for path in (tmp_path / "export").iterdir()) == before
    (tmp_path / "empty").mkdir()
    classifier.export(tmp_path / "empty")
