"""Low-rank adapters: which layers they adapt, their scale, merging them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import relative_error
from models import Folders, our_model, packer_of

import pyllmclf
from pyllmclf import UsageError
from pyllmclf.lora_config import LoRAConfig
from pyllmclf.models.lora import add_lora, lora_targets, merge_lora

TOLERANCE = 1e-5


def test_merged_lora_gives_the_same_logits(model_folder: Folders, generator: torch.Generator) -> None:
    model, tokenizer = our_model(model_folder("gpt2"))
    packer = packer_of(tokenizer, 40)
    batch = packer.batch([0, 1, 2])
    with torch.no_grad():
        before = model(batch)
        add_lora(model, LoRAConfig(rank=4, alpha=8), generator)
        assert relative_error(model(batch), before) == 0.0
        for module in lora_targets(model, LoRAConfig()).values():
            module.lora_b.normal_(generator=generator)
        changed = model(batch)
        assert relative_error(changed, before) > 1e-2
        merge_lora(model)
        assert relative_error(model(batch), changed) < TOLERANCE


@pytest.mark.parametrize(
    ("family", "lora", "expected"),
    [
        ("gpt2", LoRAConfig(), 12),
        ("gpt2", LoRAConfig(target_modules="c_attn"), 3),
        ("gpt2", LoRAConfig(target_modules=("c_attn", "mlp.c_proj"), layers=(0, 2)), 4),
        ("bert", LoRAConfig(), 19),
        ("bert", LoRAConfig(target_modules=("query", "value")), 6),
        ("bert", LoRAConfig(layers=(1,)), 6),
    ],
)
def test_lora_targets(model_folder: Folders, family: str, lora: LoRAConfig, expected: int) -> None:
    model, _ = our_model(model_folder(family))
    assert len(lora_targets(model, lora)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": -1.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": 1.0 - 1e-12}, "dropout"),
        ({"scaling": "sqrt"}, "scaling"),
        ({"target_modules": ("nonsense",)}, "nonsense"),
        ({"layers": (7,)}, "layers"),
        ({"colour": 1}, "colour"),
    ],
)
def test_lora_refuses(model_folder: Folders, arguments: dict, message: str) -> None:
    model, _ = our_model(model_folder("gpt2"))
    with pytest.raises(UsageError, match=message):
        lora_targets(model, LoRAConfig.coerce(arguments))


def test_lora_scale() -> None:
    assert LoRAConfig(rank=8, alpha=16).factor == 2.0
    assert LoRAConfig(rank=8, alpha=16, scaling="alpha").factor == 16.0


@pytest.mark.parametrize("layers", [range(1, 3), np.array([1, 2]), (np.int64(1), 2), {1: "a", 2: "b"}.keys()], ids=repr)
def test_numbers_of_blocks(layers: Any) -> None:
    assert pyllmclf.LoRAConfig(layers=layers).layers == (1, 2)
