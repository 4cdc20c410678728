"""One row per text after the last block's keys and values: the same logits and gradients as from all rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import CPU_BACKENDS, relative_error
from models import LABELS, MORE, TEXTS, Folders, make_trainer, some_blocks
from pairwise import pairwise
from torch import Tensor

from pyllmclf import ops
from pyllmclf.data.packing import PackedBatch
from pyllmclf.models.layers import Context, DropoutRates, DropoutState
from pyllmclf.models.pooling import POOLINGS
from pyllmclf.models.sequence_classifier import SequenceClassifier
from pyllmclf.ops.philox import HEAD

RATES = DropoutRates(embedding=0.2, attention=0.3, hidden=0.2, head=0.4, lora=0.3)


def from_all_rows(model: SequenceClassifier, batch: PackedBatch, dropout: DropoutState | None) -> Tensor:
    """Every row of every block, and only then the one that is read."""
    context = Context(batch, model.spec.causal, dropout)
    pooled = model.pooling(model.hidden_states(batch, dropout), batch.cu_seqlens, batch.lengths)
    n = len(batch)
    behind = replace(
        batch,
        cu_seqlens=torch.arange(n + 1, dtype=torch.int32),
        positions=torch.zeros(n, dtype=torch.int32),
    )
    context = replace(context, batch=behind)
    pooled = model.backbone.pooled(pooled, context)
    pooled = context.drop(pooled, context.rates.head, model.config.n_layers, HEAD)
    return model.head(pooled, context)


# Low-rank layers without dropout are another path: they meet the weights instead of the rows.
TRAINED = {
    "last_block": ("last_block", RATES),
    "all": ("all", RATES),
    "lora": ("lora", RATES),
    "lora without dropout": ("lora", replace(RATES, lora=0.0)),
}
OWN_BLOCKS = [name for name, family in MORE.items() if family.own_blocks]
FACTORS = {
    "backend": CPU_BACKENDS,
    "family": ["gpt2", "bert", "roberta", "modernbert", *OWN_BLOCKS],
    "trained": list(TRAINED),
    "pooling": list(POOLINGS),
    "causal": [True, False],
    "padding": ["none", 40],
}


@pytest.mark.parametrize(tuple(FACTORS), pairwise(FACTORS, times=3))
def test_logits_and_gradients(
    model_folder: Folders, backend: str, family: str, trained: str, pooling: str, causal: bool, padding: Any
) -> None:
    trainable, rates = TRAINED[trained]
    trainable = some_blocks(family) if trainable == "last_block" else trainable
    settings = {"pooling": pooling, "causal": causal, "padding": padding, "max_grad_norm": 1.0}
    trainer = make_trainer(model_folder(family), TEXTS, LABELS, trainable, **settings)
    model = trainer.model
    ops.drop_gradient_buffers(model.parameters())
    if trainable == "lora":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_b"):
                    parameter.normal_(generator=torch.Generator().manual_seed(0), std=0.2)
    batch = trainer.packer.batch(range(len(TEXTS)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for logits_of in (model, lambda batch, dropout: from_all_rows(model, batch, dropout)):
        with ops.use_backend(backend):
            logits = logits_of(batch, DropoutState(rates, seed=3, step=2))
            factor = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
            found.append([logits, *torch.autograd.grad(logits, parameters, factor)])
    scale = max(float(g.abs().max()) for g in found[1][1:])
    for mine, expected in zip(*found, strict=True):
        # A key bias, for one, has no true gradient.
        if float(expected.detach().abs().max()) < 1e-5 * scale:
            assert float(mine.detach().abs().max()) < 1e-5 * scale
        else:
            assert relative_error(mine.detach(), expected.detach()) < 1e-5


@pytest.mark.parametrize(("pooling", "causal", "rows"), [
    ("last", True, "all"), ("first", False, "all"), ("mean", True, "all"), ("first", True, "one"),
])  # fmt: skip
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_rows_that_are_computed(
    model_folder: Folders, family: str, pooling: str, causal: bool, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted at the matmuls: of the last block one row per text, and with "first" and a causal mask of every block."""
    model = make_trainer(model_folder(family), TEXTS, LABELS, "all", pooling=pooling, causal=causal).model
    counted: list[int] = []
    gelu_linear = ops.gelu_linear

    def counting(x: Tensor, *rest: Any, **options: Any) -> Tensor:
        counted.append(len(x))
        return gelu_linear(x, *rest, **options)

    monkeypatch.setattr(ops, "gelu_linear", counting)
    batch = make_trainer(model_folder(family), TEXTS, LABELS, "all", pooling=pooling).packer.batch(range(len(TEXTS)))
    for mode in (torch.enable_grad, torch.inference_mode):
        counted.clear()
        with mode():
            model(batch)
        total, texts = len(batch.input_ids), len(batch)
        expected = [total if rows == "all" else texts] * 3
        if pooling != "mean":
            expected[-1] = texts
        assert counted == expected


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", ["gpt2", "bert", "modernbert", *OWN_BLOCKS])
def test_stages(model_folder: Folders, family: str, pooling: str) -> None:
    """A forward pass that begins at any stage gives the same bits."""
    model = make_trainer(model_folder(family), TEXTS, LABELS, "all", pooling=pooling).model.requires_grad_(False)
    batch = make_trainer(model_folder(family), TEXTS, LABELS, "all", pooling=pooling).packer.batch(range(len(TEXTS)))
    expected = model(batch)
    for stage in range(model.depth + 1):
        rows = model.advance(None, model.read(batch), 0, stage) if stage else None
        if rows is None:
            continue
        assert len(rows) == (len(batch) if model.one_row(stage) else len(batch.input_ids))
        assert torch.equal(model(batch, cached=(stage, rows)), expected)
