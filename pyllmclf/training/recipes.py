"""Settings that are left to the run: a rule on what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..argument_checks import AUTO
from ..errors import ModelError
from ..models.architectures.registry import architecture_of
from ..models.hub import ModelSource
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
    pooler : bool
        See :class:`pyllmclf.models.sequence_classifier.HeadSpec`.
    """

    if TYPE_CHECKING:
        pooling: Pooling | None
        epochs: int
        batch_size: int
        learning_rate: float
        warmup_ratio: float
        scheduler: Scheduler
    solved: bool = False
    pooler: bool = True

    @property
    def steps_of_solved(self) -> dict[str, str]:
        """What a checkpoint records of the settings that only steps have, where the head is solved without any."""
        return dict.fromkeys(STEPS, AUTO) if self.solved else {}


def resolve_settings(settings: Settings, source: ModelSource, recorded: Mapping[str, Any]) -> ResolvedSettings:
    """Chooses the values of the settings that are left to the run; what is given explicitly stays.

    Parameters
    ----------
    settings : Settings
    source : ModelSource
    recorded : mapping
        Settings that the resumed checkpoint records; empty without one.

    Raises
    ------
    ModelError
        If the model comes from sentence-transformers with a pooling, or a module behind it, that the engine lacks.
    """
    trainable = "last_block" if settings.trainable == AUTO else settings.trainable
    values: dict[str, Any] = {each.name: getattr(settings, each.name) for each in fields(Settings)}
    values["trainable"] = trainable
    # A layer before the head that belongs to the classifier (RoBERTa, DistilBERT, ModernBERT) needs steps.
    frozen = trainable == "head" and architecture_of(source.config).prediction_head is None
    solved = frozen and not settings.asks_for_steps
    automatic: dict[str, Any] = STEPS | {"dropout": 0.0, "pooling": None}
    if solved:
        automatic["epochs"] = 1
    pooler = recorded.get("pooler") is not False or recorded.get("pooling") != settings.pooling
    if (sentence := source.sentence) is not None:
        if settings.pooling == AUTO:
            if sentence.pooling is None:
                raise ModelError(
                    f"{source.name}: sentence-transformers' configuration {sentence.obstacle}, which pyllmclf lacks; "
                    "give pooling to read the text otherwise."
                )
            automatic["pooling"], pooler = sentence.pooling, False
        if settings.max_length is None and sentence.max_length is not None:
            values["max_length"] = min(sentence.max_length, source.config.n_positions)
    values |= {name: value for name, value in automatic.items() if values[name] == AUTO}
    return ResolvedSettings(**values, solved=solved, pooler=pooler)
