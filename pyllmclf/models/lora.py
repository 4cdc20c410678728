"""LoRA on a model: selects the layers, adds and merges the low-rank matrices."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..errors import UsageError
from ..lora_config import LoRAConfig
from .architectures.registry import architecture_of
from .layers import Linear
from .sequence_classifier import SequenceClassifier


def lora_targets(model: SequenceClassifier, config: LoRAConfig) -> dict[str, Linear]:
    """Linear layers of the backbone that a LoRA configuration selects.

    Parameters
    ----------
    model : SequenceClassifier
    config : LoRAConfig

    Returns
    -------
    dict of str to Linear
        Name in the backbone to layer.

    Raises
    ------
    UsageError
        If a name matches no layer, a block number no block, or blocks are chosen that share their parameters.
    """
    architecture = architecture_of(model.config)
    of_backbone = architecture.of_backbone
    linears = {
        name: module
        for name, module in model.backbone.named_modules()
        if isinstance(module, Linear) and of_backbone(f"{name}.weight")
    }
    n_layers = model.config.n_layers
    if config.layers is not None:
        if architecture.shares_layers:
            raise UsageError(
                f"LoRA: layers={list(config.layers)}: all blocks of {architecture.title} have the same parameters; "
                "leave layers out."
            )
        unknown = [i for i in config.layers if not 0 <= i < n_layers]
        if unknown:
            raise UsageError(f"LoRA: layers={unknown} don't exist; the model has blocks 0 to {n_layers - 1}.")
        # This leaves out the pooler, which belongs to no block: its layer number is n_layers.
        linears = {name: module for name, module in linears.items() if module.layer in config.layers}
    if config.target_modules == "all-linear":
        return linears
    for target in config.target_modules:
        if not any(_matches(name, target) for name in linears):
            raise UsageError(
                f"LoRA: no linear layer is named {target!r}; there are {', '.join(sorted(_short_names(linears)))}."
            )
    return {
        name: module
        for name, module in linears.items()
        if any(_matches(name, target) for target in config.target_modules)
    }


def add_lora(model: SequenceClassifier, config: LoRAConfig, generator: torch.Generator) -> None:
    """Adds A and B to the layers that :func:`lora_targets` selects; raises as it does."""
    for module in lora_targets(model, config).values():
        module.add_lora(config.rank, config.factor, generator)


def merge_lora(model: SequenceClassifier) -> None:
    """Adds s B A to the weight of each adapted layer, in place, and removes A and B."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.merge_lora()


def _matches(name: str, target: str) -> bool:
    """Whether a target is a layer's name, or its last parts."""
    return name == target or name.endswith(f".{target}")


def _short_names(names: Iterable[str]) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in names}
