"""Learning rates that fall from layer to layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import Folders, make_trainer
from short_runs import LABELS, TEXTS, run

from pyllmclf import UsageError


@pytest.fixture(scope="module")
def gpt2(model_folder: Folders) -> Path:
    return model_folder("gpt2", n_classes=2)


@pytest.fixture(scope="module")
def bert(model_folder: Folders) -> Path:
    return model_folder("bert", n_classes=2)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("max_grad_norm", [None, 1e9])
def test_layerwise_lr_decay(family: str, max_grad_norm: float | None, request: pytest.FixtureRequest) -> None:
    """AdamW's first step moves what has a gradient by the learning rate."""
    trainer = make_trainer(
        request.getfixturevalue(family),
        TEXTS,
        LABELS,
        "all",
        layerwise_lr_decay=0.5,
        learning_rate=1e-3,
        weight_decay=0.0,
        max_grad_norm=max_grad_norm,
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train_step([np.arange(len(TEXTS))])
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in trainer.model.named_parameters()}
    blocks = {"gpt2": "backbone.h.{}.", "bert": "backbone.encoder.layer.{}."}[family]
    shares = {blocks.format(i): 0.5 ** (3 - i) for i in range(3)}
    shares |= {"backbone.w": 0.5**4, "backbone.embeddings.": 0.5**4}
    shares |= {"head.": 1.0, "backbone.ln_f.": 1.0, "backbone.pooler.": 1.0}
    for name, distance in moved.items():
        if name.endswith("key.bias"):  # no true gradient
            continue
        share = next(value for prefix, value in shares.items() if name.startswith(prefix))
        assert distance == pytest.approx(1e-3 * share, rel=1e-2), name
    assert trainer.queue_step([np.arange(4)]).learning_rate == 1e-3


@pytest.mark.parametrize("decay", [0.0, 1.5, "half"])
def test_layerwise_lr_decay_that_makes_no_sense(gpt2: Path, decay: Any) -> None:
    with pytest.raises(UsageError, match="layerwise_lr_decay"):
        run(gpt2, layerwise_lr_decay=decay)
