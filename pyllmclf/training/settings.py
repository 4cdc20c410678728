"""The numbers of a training run, checked."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from ..errors import UsageError

SCHEDULERS = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class TrainingSettings:
    """Arguments of the training loop; see :func:`pyllmclf.finetune`."""

    epochs: int = 5
    batch_size: int = 8
    batch_tokens: int | None = None
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.1
    layerwise_lr_decay: float = 1.0
    warmup_ratio: float = 0.0
    scheduler: str = "constant"
    max_grad_norm: float | None = None
    early_stopping: int | None = None
    save_every_steps: int | None = None
    keep_last: int = 1
    seed: int = 123

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "gradient_accumulation_steps", "keep_last")
        optional_counts = ("batch_tokens", "early_stopping", "save_every_steps")
        for name in (*counts, *optional_counts):
            value = getattr(self, name)
            if name in optional_counts and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name}={value!r} must be a positive integer.")
        for name in ("learning_rate", "weight_decay", "layerwise_lr_decay", "warmup_ratio", "max_grad_norm"):
            value = getattr(self, name)
            optional = name == "max_grad_norm" and value is None
            if not optional and (not isinstance(value, numbers.Real) or isinstance(value, bool)):
                raise UsageError(f"{name}={value!r} must be a number.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(f"learning_rate={self.learning_rate!r} must be positive.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(f"weight_decay={self.weight_decay!r} must not be negative.")
        if not 0.0 < self.layerwise_lr_decay <= 1.0:
            raise UsageError(f"layerwise_lr_decay={self.layerwise_lr_decay!r} must lie above 0, and at 1 at most.")
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise UsageError(f"warmup_ratio={self.warmup_ratio!r} must lie between 0 and 1.")
        if self.scheduler not in SCHEDULERS:
            raise UsageError(f"scheduler={self.scheduler!r} is unknown; it is one of {', '.join(SCHEDULERS)}.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise UsageError(f"max_grad_norm={self.max_grad_norm!r} must be positive.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**32:
            raise UsageError(f"seed={self.seed!r} must be an integer from 0 to 2**32 - 1.")
