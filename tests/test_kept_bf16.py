"""Frozen weights of a file in bf16, which stay so where the computation is in bf16."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LABELS, TEXTS, Folders
from safetensors.torch import load_file, save_file

import pyllmclf
from pyllmclf import ops
from pyllmclf.models import build, weight_files, weights
from pyllmclf.models.layers import Embedding, Linear

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2, "progress": False, "validation": False}
FAMILIES = ("gpt2", "bert", "modernbert", "llama", "gemma3", "mpnet", "deberta_v2", "electra")


def in_bf16(folder: Path) -> Path:
    """The folder with all tensors in bf16, as most published decoders are."""
    path = folder / "model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


def finetune(folder: Path, **changes: Any) -> pyllmclf.FinetuneResult:
    return pyllmclf.finetune(folder, (TEXTS * 6, LABELS * 6), dtype="bfloat16", **SHORT | changes)


@pytest.mark.parametrize("trainable", ["last_block", "lora", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_as_from_fp32(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, trainable: str
) -> None:
    folder = in_bf16(model_folder.copy(tmp_path, family))
    kept = finetune(folder, trainable=trainable)
    monkeypatch.setattr(build, "load_weights", lambda *a, keep_bf16, **k: weights.load_weights(*a, **k))
    widened = finetune(folder, trainable=trainable)
    assert [r.train_loss for r in kept.history] == [r.train_loss for r in widened.history]
    np.testing.assert_array_equal(kept.classifier.logits(TEXTS), widened.classifier.logits(TEXTS))
    dtypes = [p.dtype for p in kept.classifier.state.model.parameters()]
    assert (torch.bfloat16 in dtypes) == (trainable != "all")
    assert all(p.dtype is torch.float32 for p in widened.classifier.state.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept(model_folder: Folders, tmp_path: Path, family: str) -> None:
    """Matrices and the tokens' table below what is trained, in half the memory; a checkpoint has them in fp32."""
    classifier = finetune(in_bf16(model_folder.copy(tmp_path / "model", family)), trainable="last_block").classifier
    model = classifier.state.model
    last = model.backbone.blocks[-1]
    for module in model.backbone.modules():
        if isinstance(module, (Linear, Embedding)):
            trained = any(module is other for part in (last, *model.backbone.behind_blocks) for other in part.modules())
            small = isinstance(module, Embedding) and len(module.weight) != model.config.vocab_size
            assert (module.weight.dtype is torch.bfloat16) == (not trained and not small)
    classifier.save(tmp_path / "saved")
    assert all(t.dtype is torch.float32 for t in load_file(tmp_path / "saved/model.safetensors").values())
    np.testing.assert_array_equal(
        pyllmclf.load(tmp_path / "saved", dtype="bfloat16").logits(TEXTS), classifier.logits(TEXTS)
    )


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "mpnet"])
def test_native_ops_take_what_is_kept(model_folder: Folders, tmp_path: Path, family: str) -> None:
    folder = in_bf16(model_folder.copy(tmp_path, family))
    native, auto = (finetune(folder, trainable="last_block", backend=backend) for backend in ("native", "auto"))
    assert [r.train_loss for r in native.history] == [r.train_loss for r in auto.history]


def test_computation_in_fp32_widens_the_file(model_folder: Folders, tmp_path: Path) -> None:
    """Casts in every product would cost more than they save."""
    folder = in_bf16(model_folder.copy(tmp_path, "llama"))
    result = pyllmclf.finetune(folder, (TEXTS, LABELS), trainable="last_block", dtype="float32", **SHORT)
    assert all(p.dtype is torch.float32 for p in result.classifier.state.model.parameters())


def test_merged_and_exported_in_fp32(model_folder: Folders, tmp_path: Path) -> None:
    classifier = finetune(in_bf16(model_folder.copy(tmp_path / "model", "llama")), trainable="lora").classifier
    expected = classifier.logits(TEXTS)
    classifier.export(tmp_path / "adapter", format="peft")
    merged = classifier.merge_lora()
    assert all(p.dtype is torch.float32 for n, p in merged.state.model.named_parameters() if "proj" in n)
    assert np.abs(merged.logits(TEXTS) - expected).max() < 2e-2 * np.abs(expected).max()
    classifier.export(tmp_path / "graph", format="torch")


@pytest.mark.parametrize("rows", [1, 24, 25, 70])
@pytest.mark.parametrize("backend", ["auto", "native", "reference"])
def test_products_of_a_weight_in_bf16(rows: int, backend: str, generator: torch.Generator) -> None:
    """Those of the same numbers in fp32, to the bits, and so are the gradients."""
    x, gate = torch.randn(2, rows, 33, generator=generator)
    kept = torch.randn(17, 33, generator=generator).bfloat16()
    bias = torch.randn(17, generator=generator)
    a, b = torch.randn(4, 33, generator=generator), torch.randn(17, 4, generator=generator)
    rounded = {"operands": torch.bfloat16}
    calls = {
        "linear": partial(lambda w, x: ops.linear(x, w, bias, **rounded)),
        "lora_linear": partial(lambda w, x: ops.lora_linear(x, w, bias, a, b, scaling=0.5, **rounded)),
        "gelu_linear": partial(lambda w, x: ops.gelu_linear(x, None, w, bias, **rounded)),
        "gated_linear": partial(lambda w, x: ops.gated_linear(gate, x, w, bias, "silu", **rounded)),
    }
    with ops.use_backend(backend):
        for name, call in calls.items():
            results = []
            for weight in (kept, kept.float()):
                at = x.clone().requires_grad_()
                y = call(weight, at)
                results.append((y.detach(), *torch.autograd.grad(y.square().sum(), at)))
            for found, expected in zip(*results, strict=True):
                assert torch.equal(found, expected), name


def test_embedding_of_a_table_in_bf16(generator: torch.Generator) -> None:
    ids, positions = torch.tensor([3, 0, 3], dtype=torch.int32), torch.arange(3, dtype=torch.int32)
    table, places = torch.randn(7, 5, generator=generator).bfloat16(), torch.randn(4, 5, generator=generator)
    expected = ops.embedding(ids, positions, table.float(), places)
    assert torch.equal(ops.embedding(ids, positions, table, places), expected)
    norm = torch.rand(5, generator=generator), torch.rand(5, generator=generator)
    found = ops.embedding_layer_norm(ids, positions, table, places, None, *norm, 1e-5)
    assert torch.equal(found, ops.embedding_layer_norm(ids, positions, table.float(), places, None, *norm, 1e-5))


def test_reading_a_file_does_not_keep_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened again after some bytes; every tensor comes once."""
    tensors = {f"tensor {i}": torch.full((10,), float(i)) for i in range(9)}
    save_file(tensors, tmp_path / "model.safetensors")
    opened = []
    real = weight_files._open_safetensors
    monkeypatch.setattr(weight_files, "_open_safetensors", lambda path: opened.append(path) or real(path))
    monkeypatch.setattr(weight_files, "MAPPED_BYTES", 100)
    found = dict(weight_files.read_safetensors(tmp_path))
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert len(opened) == 1 + 3
