"""An architecture is one file: a toy one registered from outside is trained, saved, opened and exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LABELS, TEXTS
from random_models import wordpiece_vocabulary
from torch import Tensor, nn

import pyllmclf
from pyllmclf import ModelError, ops
from pyllmclf.data.tokenizers import WORDPIECE
from pyllmclf.models.architecture import Architecture, Preset
from pyllmclf.models.architectures import registry
from pyllmclf.models.attention import self_attention
from pyllmclf.models.config import ModelConfig
from pyllmclf.models.context import Context, PooledRows
from pyllmclf.models.layers import Embedding, LayerNorm, Linear
from pyllmclf.ops.philox import LORA


class ToyBlock(nn.Module):
    """x + out(attention(in(norm(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm = LayerNorm(config.width, config.layer_norm_eps)
        self.project = Linear(config.width, 3 * config.width, layer=layer, site=LORA)
        self.out = Linear(config.width, config.width, layer=layer, site=LORA + 1)
        self.heads, self.layer, self.scale = config.n_heads, layer, config.head_dim**-0.5

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        how: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer}
        attended = self_attention(self.project(self.norm(x), context), context, **how)
        if pooled is not None:
            x, attended, context = pooled(x), pooled(attended), pooled.context
        return x + self.out(attended, context)


class Toy(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = Embedding(config.vocab_size, config.width)
        self.places = Embedding(config.n_positions, config.width)
        self.layers = nn.ModuleList(ToyBlock(config, layer) for layer in range(config.n_layers))

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    @property
    def behind_blocks(self) -> list[nn.Module]:
        return []

    @property
    def stages(self) -> list[list[nn.Module]]:
        return [[self.tokens, self.places], *([layer] for layer in self.layers), []]

    def embed(self, context: Context) -> Tensor:
        batch = context.batch
        return ops.embedding(batch.input_ids, batch.positions, self.tokens.weight, self.places.weight).to(context.dtype)

    def finish(self, x: Tensor) -> Tensor:
        return x

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        return x


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    return ModelConfig(
        model_type="toy", vocab_size=raw["vocab_size"], n_positions=48, width=raw["width"], n_layers=raw["layers"],
        n_heads=2, inner_width=1, type_vocab_size=0, gelu="none", layer_norm_eps=1e-5, initializer_range=0.2,
        embedding_dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0, head_dropout=0.0, raw=raw,
    )  # fmt: skip


SIZES = {"model_type": "toy", "vocab_size": len(wordpiece_vocabulary()), "width": 16, "layers": 3}
TOY = Architecture(
    model_type="toy",
    title="Toy",
    backbone=Toy,
    class_name="ToyForSequenceClassification",
    read_config=read_config,
    prefix="toy.",
    head="classifier",
    unneeded=re.compile("nothing"),
    vocabulary=WORDPIECE,
    presets={"toy-small": Preset(SIZES, None)},
)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Path]:
    """The folder of a model of the registered architecture."""
    registry.register(TOY)
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SIZES))
    (folder / "vocab.txt").write_text("\n".join(wordpiece_vocabulary()) + "\n")
    yield folder
    del registry.architectures()["toy"]


def test_it_is_unknown_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'toy' is not supported"):
        registry.model_config(SIZES, "here")


def test_a_name_is_registered_once(toy: Path) -> None:
    with pytest.raises(ValueError, match="registered already"):
        registry.register(TOY)
    assert registry.presets()["toy-small"].config == SIZES


@pytest.mark.parametrize("trainable", ["head", "last_block", "last_2_blocks", "all", "lora"])
def test_it_is_trained_saved_and_opened(toy: Path, tmp_path: Path, trainable: str) -> None:
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "progress": False}
    out = tmp_path / "out"
    result = pyllmclf.finetune(toy, (TEXTS, LABELS), weights="random", trainable=trainable, output_dir=out, **arguments)
    assert result.history[-1].train_loss < result.history[0].train_loss
    opened = pyllmclf.load(out)
    assert np.allclose(opened.logits(TEXTS), result.classifier.logits(TEXTS), rtol=0, atol=1e-6)
    whole = pyllmclf.finetune(
        toy, (TEXTS, LABELS), weights="random", trainable=trainable, cache="off", backend="reference", **arguments
    )
    assert np.allclose(whole.classifier.logits(TEXTS), result.classifier.logits(TEXTS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_it_is_exported(toy: Path, tmp_path: Path, pooling: str) -> None:
    classifier = pyllmclf.finetune(
        toy, (TEXTS, LABELS), weights="random", trainable="all", pooling=pooling, epochs=1, progress=False
    ).classifier
    classifier.export(tmp_path / "graph", format="torch")
    graph = torch.export.load(tmp_path / "graph" / "model.pt2").module()
    packer = classifier.packer(TEXTS)
    rows = [packer.batch([i]).input_ids.long() for i in range(len(TEXTS))]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
    assert np.allclose(graph(ids, mask).detach(), classifier.logits(TEXTS), rtol=0, atol=1e-5)
