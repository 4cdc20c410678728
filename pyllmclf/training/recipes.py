"""Settings that are left to the run: a rule on what is trained."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..argument_checks import AUTO
from ..settings import Settings

if TYPE_CHECKING:
    from ..choices import Pooling, Scheduler

STEPS = {"epochs": 5, "batch_size": 8, "learning_rate": 5e-5, "scheduler": "constant", "warmup_ratio": 0.0}
"""Values of the settings of optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(Settings):
    """Settings of a run, none of which is ``"auto"``.

    Attributes
    ----------
    solved : bool
        Whether the head is solved to its optimum; no optimizer step is taken then.
    """

    if TYPE_CHECKING:
        pooling: Pooling | None
        epochs: int
        batch_size: int
        learning_rate: float
        warmup_ratio: float
        scheduler: Scheduler
    solved: bool = False

    @property
    def steps_of_solved(self) -> dict[str, str]:
        """What a checkpoint records of the settings that only steps have, where the head is solved without any."""
        return dict.fromkeys(STEPS, AUTO) if self.solved else {}


def resolve_settings(settings: Settings) -> ResolvedSettings:
    """Chooses the values of the settings that are left to the run; what is given explicitly stays."""
    trainable = "last_block" if settings.trainable == AUTO else settings.trainable
    values: dict[str, Any] = {each.name: getattr(settings, each.name) for each in fields(Settings)}
    values["trainable"] = trainable
    solved = settings.solves_head
    automatic = STEPS | {"dropout": 0.0, "pooling": None}
    if solved:
        automatic["epochs"] = 1
    values |= {name: value for name, value in automatic.items() if values[name] == AUTO}
    return ResolvedSettings(**values, solved=solved)
