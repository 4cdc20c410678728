"""Low-rank layers of a model: which layers get them, adding and merging."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UsageError
from ..lora_config import LoRAConfig
from .architectures.registry import architecture_of
from .layers import Linear
from .sequence_classifier import SequenceClassifier


def lora_targets(model: SequenceClassifier, config: LoRAConfig) -> dict[str, Linear]:
    """Layers of the backbone that the configuration names, by name.

    Raises
    ------
    UsageError
        If a name or a block number fits nothing.
    """
    of_backbone = architecture_of(model.config).of_backbone
    linears = {
        name: module
        for name, module in model.backbone.named_modules()
        if isinstance(module, Linear) and of_backbone(f"{name}.weight")
    }
    n_layers = model.config.n_layers
    if config.layers is not None:
        wrong = [i for i in config.layers if not 0 <= i < n_layers]
        if wrong:
            raise UsageError(f"LoRA: layers={wrong} don't exist; the model has blocks 0 to {n_layers - 1}.")
        # The pooler belongs to no block; its layer number is n_layers.
        linears = {name: module for name, module in linears.items() if module.layer in config.layers}
    if config.target_modules == "all-linear":
        return linears
    for target in config.target_modules:
        if not any(_matches(name, target) for name in linears):
            raise UsageError(
                f"LoRA: no linear layer is named {target!r}; there are {', '.join(sorted(_short_names(linears)))}."
            )
    return {n: m for n, m in linears.items() if any(_matches(n, t) for t in config.target_modules)}


def add_lora(model: SequenceClassifier, config: LoRAConfig, generator: torch.Generator) -> None:
    """Adds A and B to the layers that the configuration names."""
    for module in lora_targets(model, config).values():
        module.add_lora(config.rank, config.factor, generator)


def merge_lora(model: SequenceClassifier) -> None:
    """Adds every s B A to its weight, in place."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.merge_lora()


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _short_names(names: Any) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in names}
