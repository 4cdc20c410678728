"""Resumes a run: compares it with its checkpoint, then restores weights, progress and optimizer state."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifier.checkpoint import OPTIMIZER_FILE, SPEC_FILE, STATE_FILE
from ..classifier.schema import TrainingSpec, read_spec
from ..classifier.state import ClassifierState
from ..compute import DTYPE_VARIABLE, Compute, multiplies_bf16_faster
from ..errors import ModelError, PyllmclfError, UsageError
from ..models.adapters import ADAPTER_FILE, load_adapter, read_tensors
from ..models.hub import read_json
from ..models.sequence_classifier import SequenceClassifier
from ..models.weights import load_weights
from ..sharding import copy_from_first, full_tensors
from .activation_cache import ActivationCache
from .identity import RunTexts, check_identity
from .optim import moments
from .trainer import Trainer

# Names of AdamW's state of a parameter.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def numerics(cache: ActivationCache | None, strategy: str, compute: Compute) -> dict[str, Any]:
    """What can change a training's floating-point results beside its settings, as types that JSON has.

    Parameters
    ----------
    cache : ActivationCache or None
    strategy : {"ddp", "fsdp"}
    compute : Compute
    """
    return {"strategy": strategy, "kept rows": 0 if cache is None else cache.plan.rows} | compute.numerics()


def optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """AdamW's state of each trained parameter, on the CPU, by ``NAME.step``, ``NAME.exp_avg`` and ``NAME.exp_avg_sq``.

    All processes call it; the first gets the tensors, the others an empty dict.
    """
    state = {
        f"{name}.{part}": trainer.optimizer.state[parameter][part]
        for name, parameter in trainer.model.named_parameters()
        if trainer.optimizer.state.get(parameter)
        for part in MOMENTS
    }
    return full_tensors(state, "cpu", keep=trainer.group.is_first)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is resumed, after the model has its weights.

    Attributes
    ----------
    folder : Path
    training : dict
        Progress of the training.
    temperature : float or None
        Temperature of a calibrated classifier.
    best : dict of str to tensor, or None
        Trained parameters of the best epoch by name, for early stopping.
    """

    folder: Path
    training: dict[str, Any]
    temperature: float | None
    best: dict[str, Tensor] | None


def check_dtype(folder: Path, asked: str, compute: Compute) -> None:
    """Checks that an unfinished run, whose dtype was not asked for, doesn't go on in bfloat16 where that is slow.

    Raises
    ------
    UsageError
        If this machine computes it far more slowly than the one that the run was begun on.
    """
    chosen = asked == "auto" and not os.environ.get(DTYPE_VARIABLE)
    if chosen and compute.rounds_operands and not multiplies_bf16_faster(compute.device):
        raise UsageError(
            f"{folder}: the run was begun in bfloat16, which this processor doesn't multiply; resume it on a machine "
            "that does, say dtype='bfloat16' (--dtype bfloat16) to resume it here slowly, or choose another output_dir "
            "(--output-dir)."
        )


def load_saved(
    state: ClassifierState,
    folder: Path,
    best: Path | None,
    identity: Mapping[str, Any],
    texts: RunTexts,
    run_numerics: Mapping[str, Any],
) -> Saved:
    """Loads the weights of a checkpoint of the same run into the model; warns where numerics differ.

    Parameters
    ----------
    state : ClassifierState
        Before the first step.
    folder : Path
        A verified checkpoint.
    best : Path or None
        Checkpoint of the best epoch, for early stopping.
    identity : mapping
        This run's, as :func:`run_identity` returns it.
    texts : RunTexts
    run_numerics : mapping
        This run's :func:`numerics`.

    Raises
    ------
    UsageError, DataError, ModelError
        If the checkpoint belongs to another run, is malformed, or has no training state.
    """
    saved = read_json(folder / STATE_FILE)
    if "identity" not in saved:
        raise ModelError(f"{folder}: the checkpoint has no state of a training to resume; choose another output_dir.")
    TrainingSpec.read(saved, str(folder / STATE_FILE))
    spec_file = (best or folder) / SPEC_FILE
    spec = read_spec(read_json(spec_file), spec_file)
    try:
        check_identity(folder, saved["identity"], identity, texts)
        changed = {name for name, value in run_numerics.items() if saved["arithmetic"].get(name) != value}
        if changed and not saved["finished"]:
            warnings.warn(
                f"{folder}: {', '.join(sorted(changed))} changed since; results may differ in their last bits.",
                RuntimeWarning,
                stacklevel=3,
            )
        weights = None
        if best is not None:
            load_parameters(state, best)
            weights = {name: p.detach().to("cpu", copy=True) for name, p in trained(state.model).items()}
        if best != folder:
            load_parameters(state, folder)
        return Saved(folder, saved, spec.temperature, weights)
    except (KeyError, TypeError, AttributeError, SyntaxError, ValueError) as error:
        if isinstance(error, PyllmclfError):
            raise
        raise _malformed(folder / STATE_FILE, error) from error


def restore(trainer: Trainer, state: ClassifierState, saved: Saved | None) -> None:
    """Restores trainer and optimizer from a checkpoint; all processes call it.

    Parameters
    ----------
    trainer : Trainer
        With the weights of the checkpoint, before its first step.
    state : ClassifierState
    saved : Saved or None
        In the first process; ``None`` in the others.

    Raises
    ------
    UsageError, ModelError
        If the checkpoint belongs to other texts, or is malformed.
    ResourceError
        If another process is lost.
    """
    progress = None
    if saved is not None:
        progress = str(saved.folder), saved.training, saved.temperature, saved.best is not None
    name, training, temperature, has_best = trainer.group.broadcast_object(progress)
    try:
        trainer.load_state_dict(training)
        state.metrics |= training["metrics"]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, PyllmclfError):
            raise
        raise _malformed(Path(name) / STATE_FILE, error) from error
    state.temperature = temperature
    if has_best:
        trainer.load_best(None if saved is None else saved.best)
    if not trainer.finished:
        load_moments(trainer, None if saved is None else saved.folder)


def _malformed(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file}: incomplete or malformed ({error!r}).")


def load_parameters(state: ClassifierState, folder: Path) -> None:
    """Loads the weights, or the adapter, of a checkpoint of the same run into the model.

    Raises
    ------
    ModelError
        If a file is missing, damaged or doesn't fit the model.
    """
    if state.lora is None:
        load_weights(state.model, folder, head=True)
    else:
        path = folder / ADAPTER_FILE
        load_adapter(state.model, state.lora, read_tensors(path), path)


def load_moments(trainer: Trainer, folder: Path | None) -> None:
    """Loads AdamW's state from a checkpoint of the same run; all processes call it.

    Parameters
    ----------
    trainer : Trainer
    folder : Path or None
        The checkpoint, in the first process; ``None`` in the others.

    Raises
    ------
    ModelError
        If a tensor is missing, unknown or of another shape.
    ResourceError
        If another process is lost.
    """
    parameters = trained(trainer.model)
    saved: dict[str, Tensor] = {}
    if folder is not None and (trainer.step or (folder / OPTIMIZER_FILE).exists()):  # before the first step none
        path = folder / OPTIMIZER_FILE
        saved = read_tensors(path)
        unknown = set(saved)
        for name, parameter in parameters.items():
            for part in MOMENTS if f"{name}.step" in saved else ():  # parameters without a gradient so far have none
                unknown.discard(key := f"{name}.{part}")
                if key not in saved or saved[key].shape != (parameter.shape if part != "step" else ()):
                    raise ModelError(f"{path}: {key} is missing or of another shape.")
        if unknown:
            raise ModelError(f"{path}: {min(unknown)!r} is unknown.")
    for name in trainer.group.broadcast_object([name for name in parameters if f"{name}.step" in saved]):
        for part, tensor in moments(trainer.optimizer, parameters[name]).items():
            copy_from_first(tensor, saved.get(f"{name}.{part}"), trainer.group)


def trained(model: SequenceClassifier) -> dict[str, torch.nn.Parameter]:
    """Trained parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
