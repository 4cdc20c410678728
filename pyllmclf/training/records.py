"""Figures of steps and epochs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ..errors import NonFiniteError


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes
    ----------
    epoch, step : int
        Epochs and optimizer steps done.
    train_loss, train_accuracy : float
        Means over the epoch's texts, each seen before its own step; of the loss that is minimised.
    validation_loss, validation_accuracy : float or None
    learning_rate : float
        Of the epoch's last step.
    seconds : float
        Training alone, without validation.
    tokens_per_second : float
        Real tokens, without padding.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    tokens_per_second: float

    @property
    def score(self) -> tuple[float, float] | None:
        """What the best epoch has most of: validation accuracy, then the lower loss."""
        if self.validation_accuracy is None or self.validation_loss is None:
            return None
        return self.validation_accuracy, -self.validation_loss

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures by name."""
        return asdict(self)


def not_finite(step: int, what: str, ids: np.ndarray) -> NonFiniteError:
    """The error of a step that numbers which are not finite came from; ``ids`` are its texts."""
    shown = ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
    return NonFiniteError(f"step {step}: {what} (texts {shown}); lower the learning rate or look at these texts.", step)


@dataclass(frozen=True)
class QueuedStep:
    """A step that the device may still be working on.

    Attributes
    ----------
    step : int
        Counted from 1.
    ids : ndarray of int64
        Texts of the step, of all processes.
    total : float
        Sum of their weights; their number where classes have none.
    learning_rate : float
    stats : fp32 tensor, shape [3 or 4]
        Over all processes: sum of the losses, texts that were classified rightly, how many processes are asked to end
        and, with clipping, the norm of the gradient.
    """

    step: int
    ids: np.ndarray
    total: float
    learning_rate: float
    stats: torch.Tensor

    def result(self) -> tuple[float, int]:
        """(mean loss, texts that were classified rightly), when the device is done.

        Raises
        ------
        NonFiniteError
            If the loss or, with clipping, the norm of the gradient is not finite.
        """
        loss_sum, correct, _, *norm = self.stats.tolist()
        mean_loss = loss_sum / self.total
        if not math.isfinite(mean_loss):
            raise not_finite(self.step, f"the loss is {mean_loss}", self.ids)
        if norm and not math.isfinite(norm[0]):
            raise not_finite(self.step, f"the norm of the gradient is {norm[0]}", self.ids)
        return mean_loss, int(correct)

    @property
    def is_last(self) -> bool:
        """Whether a process was asked to end before this step."""
        return bool(self.stats[2] > 0)


@dataclass
class EpochSums:
    """What the steps of an epoch so far gave.

    Attributes
    ----------
    loss, total : float
        Sum of the texts' losses, and of their weights.
    correct, texts, tokens : int
    seconds, learning_rate : float
        The learning rate is that of the last step.
    """

    loss: float = 0.0
    total: float = 0.0
    correct: int = 0
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0

    def record(self, epoch: int, step: int) -> EpochRecord:
        """The figures of the epoch, before validation."""
        return EpochRecord(
            epoch=epoch,
            step=step,
            train_loss=self.loss / self.total,
            train_accuracy=self.correct / self.texts,
            validation_loss=None,
            validation_accuracy=None,
            learning_rate=self.learning_rate,
            seconds=self.seconds,
            tokens_per_second=self.tokens / self.seconds,
        )
