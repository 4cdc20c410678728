"""Low-rank adaptation: which layers get it, and with what scale."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

from ..checks import is_rate
from ..errors import UsageError
from .architectures.registry import architecture_of
from .layers import Linear
from .sequence_classifier import SequenceClassifier

SCALINGS = ("alpha/rank", "alpha")
MAX_RANK = 1024


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adaptation (Hu et al. 2021).

    Attributes
    ----------
    rank : int
    alpha : float
    dropout : float
        Dropout of the input of the low-rank part, in [0, 1).
    target_modules : "all-linear" or tuple of str
        Every linear layer but the head, or names: a layer is meant if its name is, or ends in ``.`` and, one of them
        (``"c_attn"``, ``"attn.c_proj"``, ``"query"``).
    layers : tuple of int, optional
        Blocks that get it; all by default.
    scaling : {"alpha/rank", "alpha"}
        The factor before B A: PEFT's convention, or that of the published experiments.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    layers: tuple[int, ...] | None = None
    scaling: str = "alpha/rank"

    def __post_init__(self) -> None:
        if not isinstance(self.target_modules, str):
            names = tuple(self.target_modules) if isinstance(self.target_modules, Iterable) else (None,)
            if not all(isinstance(name, str) for name in names):
                raise UsageError(f"LoRA: target_modules={self.target_modules!r} must be names of layers.")
            object.__setattr__(self, "target_modules", names)
        elif self.target_modules != "all-linear":
            object.__setattr__(self, "target_modules", (self.target_modules,))
        if self.layers is not None:
            try:
                object.__setattr__(self, "layers", tuple(map(operator.index, self.layers)))
            except TypeError as error:
                raise UsageError(f"LoRA: layers={self.layers!r} must be numbers of blocks.") from error
        if not isinstance(self.rank, Integral) or not 1 <= self.rank <= MAX_RANK:
            raise UsageError(f"LoRA: rank={self.rank!r} must be an integer from 1 to {MAX_RANK}.")
        if not self.target_modules or self.layers == ():
            raise UsageError("LoRA: target_modules and layers must not be empty; without them nothing is adapted.")
        if not isinstance(self.alpha, Real) or not 0 < self.alpha < math.inf:
            raise UsageError(f"LoRA: alpha={self.alpha!r} must be positive.")
        if not isinstance(self.dropout, Real) or not is_rate(float(self.dropout)):
            raise UsageError(f"LoRA: dropout={self.dropout!r} must lie in [0, 1 - 2**-32].")
        for name, kind in (("rank", int), ("alpha", float), ("dropout", float)):  # numpy's numbers are no JSON
            object.__setattr__(self, name, kind(getattr(self, name)))
        if self.scaling not in SCALINGS:
            raise UsageError(f"LoRA: scaling={self.scaling!r} is unknown; it is one of {', '.join(SCALINGS)}.")

    @property
    def factor(self) -> float:
        """The factor before B A."""
        return self.alpha / self.rank if self.scaling == "alpha/rank" else self.alpha

    @classmethod
    def coerce(cls, value: Any) -> LoRAConfig:
        """A LoRAConfig from one, from a mapping, or the default from ``None``."""
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, dict):
            try:
                return cls(**value)
            except TypeError as error:
                raise UsageError(f"lora: {error}.") from error
        raise UsageError(f"lora must be a LoRAConfig or a dict, not {type(value).__name__}.")


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
