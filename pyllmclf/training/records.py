"""Metrics of steps and epochs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ..errors import NonFiniteError


@dataclass(frozen=True)
class EpochRecord:
    """Metrics of one epoch.

    Attributes
    ----------
    epoch, step : int
        Number of finished epochs, and of finished optimizer steps.
    train_loss, train_accuracy : float
        Means over the epoch's texts, each computed before the step that trains on it; the loss is the minimised one,
        weighted as that, the accuracy is not. With ``loss="contrastive"`` the accuracy is the share of texts whose most
        similar other text in the batch has their class, and in the last epoch that of the solved head.
    validation_loss, validation_accuracy : float or None
        Metrics on the validation texts after the epoch, where there are such texts; with ``loss="contrastive"`` after
        the last epoch only.
    learning_rate : float
        Learning rate of the head in the epoch's last step.
    seconds : float
        Time of the training steps, without validation.
    tokens_per_second : float
        Rate of real tokens, without padding.
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
        """Validation accuracy and negated validation loss: the best epoch has the greatest score."""
        if self.validation_accuracy is None or self.validation_loss is None:
            return None
        return self.validation_accuracy, -self.validation_loss

    def to_dict(self) -> dict[str, float | int | None]:
        """The metrics by name."""
        return asdict(self)


def per_second(count: float, seconds: float) -> float:
    """Rate of a count; 0 where the clock did not advance, as in a virtual machine that was paused."""
    return count / seconds if seconds > 0 else 0.0


def not_finite(step: int, problem: str, ids: np.ndarray) -> NonFiniteError:
    """Makes the error for a step with the texts ``ids`` whose result is not finite."""
    texts = ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
    return NonFiniteError(
        f"step {step}: {problem} (texts {texts}); lower the learning rate or look at these texts.", step
    )


@dataclass(frozen=True)
class QueuedStep:
    """A step that the device may still be computing.

    Attributes
    ----------
    step : int
        Number of the step, counted from 1.
    ids : ndarray of int64, shape [texts]
        Texts of the step, of all processes.
    total : float
        Sum of the texts' weights; their number where neither classes nor texts have weights.
    learning_rate : float
        Learning rate of the head.
    stats : fp32 tensor, shape [3] or [4]
        Sums over all processes: loss, correctly classified texts, preempted processes; and with clipping the norm of
        the gradient.
    """

    step: int
    ids: np.ndarray
    total: float
    learning_rate: float
    stats: torch.Tensor

    def result(self) -> tuple[float, int]:
        """Waits for the device; returns (mean loss, number of correctly classified texts).

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
    def preempted(self) -> bool:
        """Whether a process was preempted before this step."""
        return bool(self.stats[2] > 0)


@dataclass
class EpochSums:
    """Sums over the finished steps of an epoch.

    Attributes
    ----------
    loss, total : float
        Sum of the texts' weighted losses, and of their weights.
    correct, texts, tokens : int
        Correctly classified texts, all texts, and their real tokens.
    seconds : float
        Time of the steps.
    learning_rate : float
        Learning rate of the last step.
    """

    loss: float = 0.0
    total: float = 0.0
    correct: int = 0
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0

    def add(self, step: QueuedStep, loss: float, correct: int, tokens: int) -> None:
        """Adds a step with its mean loss, correctly classified texts and real tokens; its time is not included."""
        self.loss += loss * step.total
        self.total += step.total
        self.correct += correct
        self.texts += len(step.ids)
        self.tokens += tokens
        self.learning_rate = step.learning_rate

    def record(self, epoch: int, step: int) -> EpochRecord:
        """Makes the record of the epoch, before validation."""
        return EpochRecord(
            epoch=epoch,
            step=step,
            train_loss=self.loss / self.total,
            train_accuracy=self.correct / self.texts,
            validation_loss=None,
            validation_accuracy=None,
            learning_rate=self.learning_rate,
            seconds=self.seconds,
            tokens_per_second=per_second(self.tokens, self.seconds),
        )
