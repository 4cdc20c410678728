"""Prefixes that texts share, computed once by a causal model: the same rows, logits and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cases import CPU_BACKENDS, relative_error
from hypothesis import given
from hypothesis import strategies as st
from models import Folders, make_trainer
from torch import Tensor

from pyllmclf import _C, ops
from pyllmclf.classifier.inference import inference_batch, inference_batches, predict_logits
from pyllmclf.compute import Compute
from pyllmclf.data.token_store import TokenStore
from pyllmclf.models.layers import DropoutRates, DropoutState

# The same beginnings of other lengths, one text that is another's beginning, one that is like no other.
TEXTS = ["subject: hello you", "subject: hello", "subject: help", "no", "subject: hello yours", "say", "sad"]
LABELS = [0, 1, 0, 1, 0, 1, 0]


def store_of(texts: list[list[int]]) -> TokenStore:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return TokenStore(np.array([t for text in texts for t in text], dtype=np.int32), offsets)


# --- order and rows -------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=12), st.integers(0, 5), st.data())
def test_sorted_texts(texts: list[list[int]], most: int, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True)) if texts else []
    found = store_of(texts).sorted_texts(np.array(ids, dtype=np.int64), most)
    assert found.tolist() == sorted(ids, key=lambda i: (texts[i][:most], i))


def test_sorted_texts_checks_its_arguments() -> None:
    store = store_of([[1], [2]])
    for ids in ([2], [-1]):
        with pytest.raises(IndexError, match="store"):
            store.sorted_texts(np.array(ids, dtype=np.int64), 1)
    with pytest.raises(ValueError, match="length"):
        store.sorted_texts(np.array([0]), -1)


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=10))
def test_share_beginnings(texts: list[list[int]]) -> None:
    """A row stands for those of the neighbours before it that have the same tokens up to it."""
    store = store_of(texts)
    rows, of = _C.share_prefixes(store.tokens, store.offsets.astype(np.int32))
    beginnings = [tuple(text[: p + 1]) for text in texts for p in range(len(text))]
    assert [beginnings[rows[i]] for i in of] == beginnings
    assert of[rows].tolist() == list(range(len(rows)))
    assert rows.tolist() == sorted(rows)
    expected = sum(len(text) for text in texts[:1])
    for before, text in itertools.pairwise(texts):
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False))
        expected += len(text) - len(list(same))
    assert len(rows) == expected


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=10))
def test_sorted_texts_share_each_beginning(texts: list[list[int]]) -> None:
    store = store_of(texts)
    in_order = store_of([texts[i] for i in store.sorted_texts(np.arange(len(texts)), 5)])
    rows, _ = _C.share_prefixes(in_order.tokens, in_order.offsets.astype(np.int32))
    assert len(rows) == len({tuple(text[: p + 1]) for text in texts for p in range(len(text))})


@pytest.mark.parametrize("cu_seqlens", [[], [1, 3], [0, 2], [0, 2, 1, 3], [0, 4]])
def test_share_beginnings_checks_its_arguments(cu_seqlens: list[int]) -> None:
    with pytest.raises(ValueError, match="cu_seqlens"):
        _C.share_prefixes(np.zeros(3, np.int32), np.array(cu_seqlens, dtype=np.int32))


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["none", 40])
@pytest.mark.parametrize("pooling", ["last", "last_position", "mean"])
@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_logits_and_gradients(
    model_folder: Folders, backend: str, family: str, trainable: str, pooling: str, padding: Any
) -> None:
    trainer = make_trainer(
        model_folder(family), TEXTS, LABELS, trainable, pooling=pooling, causal=True, padding=padding, max_grad_norm=1.0
    )
    model = trainer.model
    ops.drop_gradient_buffers(model.parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(generator=torch.Generator().manual_seed(0), std=0.2)
    order = trainer.packer.store.sorted_texts(np.arange(len(TEXTS)), 100)
    batch = trainer.packer.batch(order)
    shared = batch.share_prefixes()
    assert shared.shared is not None
    assert len(shared.shared.rows) <= len(batch.input_ids) - len("subject: he") * 2
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for given_batch in (shared, batch):
        with ops.use_backend(backend):
            logits = model(given_batch)
            factor = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
            found.append([logits, *torch.autograd.grad(logits, trained, factor)])
    scale = max(float(g.abs().max()) for g in found[1][1:])
    for mine, expected in zip(*found, strict=True):
        # A key bias, for one, has no true gradient.
        if float(expected.detach().abs().max()) < 1e-5 * scale:
            assert float(mine.detach().abs().max()) < 1e-5 * scale
        else:
            assert relative_error(mine.detach(), expected.detach()) < 1e-5


@pytest.mark.parametrize(("pooling", "causal"), [("last", False), ("mean", False), ("first", True)])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_models_that_share_nothing(model_folder: Folders, family: str, pooling: str, causal: bool) -> None:
    """Rows that see what follows them, or of which one per text is read; a batch that shares is read all the same."""
    trainer = make_trainer(model_folder(family), TEXTS, LABELS, "all", pooling=pooling, causal=causal)
    model = trainer.model
    order = np.arange(len(TEXTS))
    assert inference_batch(model, trainer.packer, order, torch.device("cpu")).shared is None
    batch = trainer.packer.batch(trainer.packer.store.sorted_texts(order, 100))
    with torch.inference_mode():
        assert torch.equal(model(batch.share_prefixes()), model(batch))
    in_batches = [len(TEXTS[i]) for ids in inference_batches(model, trainer.packer, order, 30) for i in ids]
    assert in_batches == sorted(in_batches)


def test_dropped_rows_are_not_shared(model_folder: Folders) -> None:
    """Each text has masks of its own."""
    trainer = make_trainer(model_folder("gpt2"), TEXTS, LABELS, "all")
    batch = trainer.packer.batch(trainer.packer.store.sorted_texts(np.arange(len(TEXTS)), 100))
    dropout = DropoutState(DropoutRates(hidden=0.5), seed=1, step=1)
    with torch.no_grad():
        assert torch.equal(trainer.model(batch.share_prefixes(), dropout), trainer.model(batch, dropout))


def test_little_is_not_shared(model_folder: Folders) -> None:
    trainer = make_trainer(model_folder("gpt2"), ["a" + "b" * 60, "a" + "c" * 60], [0, 1], "all")
    assert trainer.packer.batch([0, 1]).share_prefixes().shared is None


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_predictions_compute_each_beginning_once(
    model_folder: Folders, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the texts' order, whatever order they are computed in; rows are counted at the matmuls."""
    trainer = make_trainer(model_folder(family), TEXTS, LABELS, "all", causal=True, pooling="last")
    model, packer = trainer.model, trainer.packer
    alone = torch.cat([model(packer.batch([i])) for i in range(len(TEXTS))]).detach()
    counted: list[int] = []
    gelu_linear = ops.gelu_linear

    def counting(x: Tensor, *rest: Any, **options: Any) -> Tensor:
        counted.append(len(x))
        return gelu_linear(x, *rest, **options)

    monkeypatch.setattr(ops, "gelu_linear", counting)
    logits = predict_logits(model, packer, Compute(torch.device("cpu")))
    assert relative_error(torch.from_numpy(logits), alone) < 1e-5
    rows = [packer.batch([i]).input_ids.tolist() for i in range(len(TEXTS))]
    distinct = len({tuple(row[: p + 1]) for row in rows for p in range(len(row))})
    assert counted == [distinct, distinct, len(TEXTS)]
