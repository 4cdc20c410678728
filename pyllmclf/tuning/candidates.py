"""Candidates of a search: arguments of ``finetune`` that differ from one to the next."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..checks import as_json
from ..errors import UsageError
from ..lora_config import LoRAConfig
from ..models.architectures.registry import architecture_of
from ..models.hub import ModelSource
from ..settings import ARGUMENTS, CONTRASTIVE, Settings
from ..suggestions import closest
from ..training.recipes import learning_rate_of

# Arguments that a candidate may set.
VARIED = (
    "model", "weights", "revision", "trainable", "lora", "pooling", "causal", "padding", "head_bias", "dropout",
    "max_length", "long_texts", "pair_truncation", "prompt", "epochs", "batch_size", "batch_tokens",
    "gradient_accumulation_steps", "learning_rate", "weight_decay", "layerwise_lr_decay", "warmup_ratio", "scheduler",
    "max_grad_norm", "class_weights", "label_smoothing", "loss", "seed",
)  # fmt: skip
ARGUMENT_DEFAULTS = {each.name: each.default for each in fields(Settings)}
MOST_CANDIDATES = 10_000
Space = Mapping[str, Any]
"""Names to optuna's distributions, or to lists of values."""


@dataclass(frozen=True)
class Candidate:
    """Arguments of a training.

    Attributes
    ----------
    number : int
        From 1.
    arguments : dict
        Those of ``finetune`` that this candidate sets, the model among them.
    """

    number: int
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.shown().items())

    def shown(self) -> dict[str, Any]:
        """The arguments as types that JSON has; of a model's path, its last part."""
        shown = {name: as_json(_plain(value)) for name, value in self.arguments.items()}
        return shown | {"model": os.path.basename(str(shown["model"]).rstrip("/")) or str(shown["model"])}


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, LoRAConfig) else value


def is_space(candidates: Any) -> bool:
    """Whether the candidates are drawn from a space: a mapping with a distribution among its values."""
    return isinstance(candidates, Mapping) and any(
        type(value).__module__.startswith("optuna") for value in candidates.values()
    )


def listed_candidates(candidates: Any, models: Sequence[Any], fixed: Mapping[str, Any]) -> list[Candidate]:
    """Candidates of a list of arguments, or of all combinations of lists, for each model.

    Parameters
    ----------
    candidates : sequence of mapping, or mapping of str to sequence
    models : sequence of str or path
        Of candidates that name no model.
    fixed : mapping
        Arguments that the caller gives to all trainings.

    Raises
    ------
    UsageError
        If there is none, or an argument is unknown or given twice.
    """
    if isinstance(candidates, Mapping):
        check_names(candidates, fixed)
        values = [values_of(name, value) for name, value in candidates.items()]
        rows = [dict(zip(candidates, row, strict=True)) for row in itertools.product(*values)]
    else:
        if isinstance(candidates, str) or not isinstance(candidates, Sequence):
            raise UsageError("candidates must be a list of dictionaries, or a dictionary of lists.")
        rows = []
        for each in candidates:
            if not isinstance(each, Mapping):
                raise UsageError(f"candidates: {each!r} is no dictionary of arguments.")
            check_names(each, fixed)
            rows.append(dict(each))
    made = [row if "model" in row else {"model": model} | row for row in rows for model in models]
    return numbered(made)


def numbered(arguments: Sequence[dict[str, Any]]) -> list[Candidate]:
    """Candidates of these arguments, each once.

    Raises
    ------
    UsageError
        If there is none, or there are more than :data:`MOST_CANDIDATES`.
    """
    distinct: list[dict[str, Any]] = []
    seen = set()
    for each in arguments:
        if (key := repr(sorted((name, repr(value)) for name, value in each.items()))) not in seen:
            seen.add(key)
            distinct.append(each)
    if not distinct:
        raise UsageError("candidates: there is none.")
    if len(distinct) > MOST_CANDIDATES:
        raise UsageError(f"candidates: {len(distinct):,} are more than {MOST_CANDIDATES:,}.")
    return [Candidate(number, each) for number, each in enumerate(distinct, 1)]


def check_names(candidate: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raises :class:`UsageError` for an argument that a candidate can't set, or that is given for all of them."""
    for name in candidate:
        if name not in VARIED:
            known = closest(name, VARIED)
            reason = "is the same for all candidates" if name in ARGUMENTS else "is no argument of finetune"
            raise UsageError(f"candidates: {name!r} {reason}{f'; is {known} meant?' if known else '.'}")
        if name in fixed:
            raise UsageError(f"candidates: {name} is also given for all of them; leave it out of one place.")


def values_of(name: str, values: Any) -> list[Any]:
    """The values of an argument, as a list.

    Raises
    ------
    UsageError
        If they are none.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not len(values):
        raise UsageError(f"candidates: {name} must be a list of values.")
    return list(values)


def default_candidates(
    models: Mapping[Any, ModelSource], fixed: Mapping[str, Any], classes: int, *, steps: bool, contrasts: bool = False
) -> list[Candidate]:
    """The stated default list, for each model: from the most to the least promising.

    Parameters
    ----------
    models : mapping of str or path to ModelSource
    fixed : mapping
        Arguments that the caller gives to all trainings; they replace those of a candidate.
    classes : int
    steps : bool
        Whether an argument is given that only optimizer steps have, so that no head is solved.
    contrasts : bool
        Whether the texts and the arguments allow a contrastive loss.
    """
    by_model = [
        _of_model(model, source, fixed, classes, steps=steps, contrasts=contrasts) for model, source in models.items()
    ]
    # In turn, so that each model's best guess comes before any model's second one.
    ranked = itertools.zip_longest(*by_model)
    arguments = [each for turn in ranked for each in turn if each is not None]
    return numbered([{name: value for name, value in each.items() if name not in fixed} for each in arguments])


def _of_model(
    model: Any, source: ModelSource, fixed: Mapping[str, Any], classes: int, *, steps: bool, contrasts: bool
) -> list[dict[str, Any]]:
    config, weights = source.config, fixed.get("weights", "pretrained")

    def rate(trainable: str, factor: float = 1.0) -> float:
        trainable = str(fixed.get("trainable", trainable))
        return float(f"{factor * learning_rate_of(trainable, weights, config.width, classes):.2g}")

    contrastive = fixed.get("loss") == CONTRASTIVE
    two_layers = architecture_of(config).prediction_head is not None
    solved = not (steps or contrastive or two_layers)
    other_pooling = "first" if source.sentence is not None and source.sentence.pooling == "mean" else "mean"
    rows: list[dict[str, Any]] = [
        *([{"trainable": "head"}] if solved or (two_layers and fixed.get("trainable") == "head") else []),
        *([{"trainable": "all", "loss": CONTRASTIVE}] if contrasts and source.sentence is not None else []),
        {"trainable": "all", "learning_rate": rate("all")},
        {"trainable": "last_block", "learning_rate": rate("last_block", 3)},
        {"trainable": "last_2_blocks", "learning_rate": rate("last_block")},
        {"trainable": "all", "learning_rate": rate("all", 2)},
        {"trainable": "last_block", "learning_rate": rate("last_block")},
        {"trainable": "lora", "learning_rate": rate("lora")},
        {"trainable": "all", "learning_rate": rate("all", 0.5)},
        {"trainable": "all", "learning_rate": rate("all"), "pooling": other_pooling},
        *([{"trainable": "head", "pooling": other_pooling}] if solved else []),
        {"trainable": "all", "learning_rate": rate("all"), "dropout": 0.1},
        {"trainable": "last_4_blocks", "learning_rate": rate("last_block")},
        {"trainable": "all", "learning_rate": rate("all", 0.5), "dropout": 0.1},
    ]
    layers = {"last_2_blocks": 2, "last_4_blocks": 4}
    if architecture_of(config).shares_layers:
        layers = dict.fromkeys(("last_block", *layers), config.n_layers)
    return [{"model": model} | row for row in rows if layers.get(row["trainable"], 0) < config.n_layers]


def fixed_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of all trainings that a candidate could set, but for the model, and that are not at their default."""
    varied = [name for name in VARIED if name != "model"]
    return {name: arguments[name] for name in varied if repr(arguments[name]) != repr(ARGUMENT_DEFAULTS[name])}
