"""Lines on what the course of a training says: its loss was still falling, or it learnt its texts by heart."""

from __future__ import annotations

from collections.abc import Sequence

from .records import EpochRecord

FALLING = 0.95
"""The validation loss of the last epoch, as a share of that before, below which it counts as falling."""
GAP = 0.1
"""Difference of training and validation accuracy that is far."""


def hints(history: Sequence[EpochRecord]) -> list[str]:
    """Lines on a training that is over; empty without validation texts."""
    scores = [each.score for each in history]
    if not scores or scores[-1] is None:
        return []
    (accuracy, loss), lines = scores[-1], []
    before = scores[-2] if len(scores) > 1 else None
    if before is not None and loss > FALLING * before[1]:  # both are negated losses
        lines.append(
            f"the validation loss was still falling in the last epoch ({-before[1]:.4f}, then {-loss:.4f}): more "
            "epochs, or a higher learning_rate, may help."
        )
    if history[-1].train_accuracy == 1.0 and accuracy <= 1.0 - GAP:
        lines.append(
            f"all training texts are classified right, and {accuracy:.2%} of the validation texts: more texts may "
            "help, or fewer trained layers."
        )
    return lines
