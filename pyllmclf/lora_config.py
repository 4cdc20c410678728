"""Settings of low-rank adaptation (LoRA)."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from .arguments import argument, as_blocks, as_modules
from .checks import LARGEST, as_float, is_rate
from .choices import LoRAScaling, words
from .errors import UsageError
from .printable import shown

MAX_RANK = 1024
GROUP = "LoRA"


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adaptation (Hu et al. 2021).

    Attributes
    ----------
    rank : int
        Rank of B A, from 1 to 1,024.
    alpha : float
        Numerator of the factor before B A, above 0.
    dropout : float
        Dropout rate of the input of the low-rank layers, in [0, 1).
    target_modules : "all-linear" or tuple of str
        Every linear layer but the head, or names: a name stands for the layers whose name it is, and for those whose
        name ends in ``.`` and it (``"c_attn"``, ``"attn.c_proj"``, ``"query"``).
    layers : tuple of int, optional
        Numbers of the blocks that are adapted, from 0; all by default.
    scaling : {"alpha/rank", "alpha"}
        The factor before B A: PEFT's convention, or that of the published experiments.

    Raises
    ------
    UsageError
        If a value is outside its range.
    """

    rank: int = argument(16, "Rank of the low-rank layers, with --trainable lora; default 16.", group=GROUP)
    alpha: float = argument(16.0, "Scaling of the low-rank layers; default 16.", group=GROUP)
    dropout: float = argument(0.0, "Dropout of their inputs; default 0.", group=GROUP)
    target_modules: str | tuple[str, ...] = argument(
        "all-linear",
        "Adapted layers: all-linear (default), or names separated by commas.",
        group=GROUP,
        parse=as_modules,
    )
    layers: tuple[int, ...] | None = argument(
        None, "Numbers of the adapted blocks, separated by commas; default: all.", group=GROUP, parse=as_blocks
    )
    scaling: LoRAScaling = argument(
        "alpha/rank", "Factor of the low-rank product: alpha/rank (default) or alpha.", group=GROUP
    )

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
            raise UsageError(f"LoRA: rank={shown(self.rank)} must be an integer from 1 to {MAX_RANK}.")
        if not self.target_modules or self.layers == ():
            raise UsageError("LoRA: target_modules and layers must not be empty; without them nothing is adapted.")
        if not isinstance(self.alpha, Real) or not 0 < as_float(self.alpha) <= LARGEST:
            raise UsageError(f"LoRA: alpha={shown(self.alpha)} must be positive and at most {LARGEST:.2g}.")
        if not isinstance(self.dropout, Real) or not is_rate(as_float(self.dropout)):
            raise UsageError(f"LoRA: dropout={shown(self.dropout)} must lie in [0, 1 - 2**-32].")
        for name, kind in (("rank", int), ("alpha", float), ("dropout", float)):  # JSON has no NumPy numbers
            object.__setattr__(self, name, kind(getattr(self, name)))
        if self.scaling not in words(LoRAScaling):
            raise UsageError(
                f"LoRA: scaling={self.scaling!r} is unknown; it is one of {', '.join(words(LoRAScaling))}."
            )

    @property
    def factor(self) -> float:
        """The factor before B A."""
        return self.alpha / self.rank if self.scaling == "alpha/rank" else self.alpha

    @classmethod
    def coerce(cls, value: Any) -> LoRAConfig:
        """Makes a LoRAConfig from a dict of its fields, or from ``None`` the default; returns a LoRAConfig unchanged.

        Raises
        ------
        UsageError
            If the value has another type, a name is unknown, or a field's value is outside its range.
        """
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
