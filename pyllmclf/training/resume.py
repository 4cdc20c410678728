"""Going on with a training that was ended: what it must have in common with the one before, and its state."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifier.checkpoint import OPTIMIZER_FILE, SPEC_FILE, STATE_FILE, content_hash
from ..classifier.state import ClassifierState
from ..data.readers import TextData
from ..data.token_store import TokenStore
from ..distributed import Processes
from ..errors import DataError, ModelError, PyllmclfError, UsageError
from ..models.adapters import ADAPTER_FILE, load_adapter, read_tensors
from ..models.hub import read_json
from ..models.sequence_classifier import SequenceClassifier
from ..models.weights import load_weights
from ..sharding import put, whole_tensors
from .activation_cache import FrozenPrefix
from .arithmetic import machine_arithmetic
from .optim import moments
from .trainer import Trainer

# Arguments that change nothing of what a step computes; data and model are compared by their content.
FREE = {
    "model", "train", "validation", "test", "text_column", "label_column", "label_separator",
    "empty_texts", "encoding_errors", "cache", "cache_budget", "cache_dir", "output_dir",
    "resume", "save_every_steps", "keep_last", "strategy",
}  # fmt: skip
# Of these, what all processes must have in common.
ALIKE = ("cache", "save_every_steps", "strategy")
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def identity(
    state: ClassifierState,
    train: TextData,
    validation: TextData | None,
    tokens: Mapping[str, TokenStore],
    class_weight: Tensor | None,
    processes: int = 1,
) -> dict[str, dict[str, Any]]:
    """What a run must have in common with the one that it goes on with, as JSON can hold it.

    Parameters
    ----------
    state : ClassifierState
        Before the first step.
    train, validation : TextData
    tokens : mapping of str to TokenStore
        Of ``"train"`` and ``"validation"``.
    class_weight : tensor, optional
        What ``class_weights`` has become.
    processes : int
    """
    settings = {name: value for name, value in state.settings.items() if name not in FREE}
    settings["device"] = str(settings["device"]).partition(":")[0]
    settings["class_weights"] = None if class_weight is None else class_weight.tolist()
    tokenizer = state.tokenizer
    found = {
        "settings": settings | {"processes": processes},
        "data": {
            "train": data_sha256(train),
            "validation": None if validation is None else data_sha256(validation),
            "classes": list(state.encoder.classes),
            "tokens": {name: store.sha256 for name, store in tokens.items()},
            "special tokens": [list(tokenizer.prefix), list(tokenizer.suffix), tokenizer.pad_token_id],
        },
        "model": {"config": str(state.model.config), "sha256": content_hash(dict(state.model.named_parameters()))},
    }
    return json.loads(json.dumps(found))


def arithmetic(prefix: FrozenPrefix | None, strategy: str, device: torch.device, backend: str) -> dict[str, Any]:
    """What the bits of a sum depend on, besides the sum."""
    return {
        "strategy": strategy,
        "kept rows": 0 if prefix is None else prefix.plan.rows,
    } | machine_arithmetic(device, backend)


def data_sha256(data: TextData) -> str:
    """Hash of texts and labels, in their order."""
    digest = hashlib.sha256()
    for text, label in zip(data.texts, data.labels or [None] * len(data), strict=True):
        content = text.encode()
        digest.update(f"{len(content)} {label!r} ".encode())
        digest.update(content)
    return digest.hexdigest()


def check_identity(folder: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuses to go on with another run.

    Raises
    ------
    UsageError, DataError, ModelError
        If settings, data or model are others; the first difference is named.
    """
    if (found := difference(saved, own, "that the run was begun with")) is not None:
        kind, what = found
        raise kind(f"{folder}: {what}; resume with what the run was begun with, or choose another output_dir.")


def difference(before: Mapping[str, Any], now: Mapping[str, Any], which: str) -> tuple[type[PyllmclfError], str] | None:
    """The first thing in which a run is not the one ``which`` speaks of: the error that it is, and what to say."""
    settings, others = now["settings"], before["settings"]
    for name in sorted(settings.keys() | others.keys()):
        if settings.get(name) != others.get(name):
            return UsageError, f"{name} was {others.get(name)!r} there, and is {settings.get(name)!r}"
    for name in ("train", "validation"):
        if now["data"][name] != before["data"].get(name):
            return DataError, f"the {name} texts or their labels are not those {which}"
    if now["data"]["classes"] != before["data"].get("classes"):
        return DataError, f"the classes are not those {which}"
    if now["data"] != before["data"]:
        return ModelError, f"the tokenizer is not the one {which}"
    if now["model"] != before["model"]:
        return ModelError, f"the model is not the one {which}"
    return None


def check_alike(group: Processes, state: ClassifierState, own: Mapping[str, Any], test: TextData | None) -> None:
    """Compares what the processes of a training were given.

    Raises
    ------
    UsageError, DataError, ModelError
        In every process, if one was given other data, settings or another model than the first.
    """
    mine = dict(own) | {"test": None if test is None else data_sha256(test)}
    mine["settings"] = own["settings"] | {name: state.settings[name] for name in ALIKE}
    first = group.from_first(mine)
    found = difference(first, mine, "of process 0")
    if found is None and mine["test"] != first["test"]:
        found = DataError, "the test texts or their labels are not those of process 0"
    if group.any(found is not None):
        kind, what = found or (UsageError, "another process has other data, settings or another model")
        raise kind(f"process {group.rank}: {what}; start all of them with the same.")


def optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """AdamW's state of each trained parameter, by the parameter's name; in the first process alone."""
    kept = {
        f"{name}.{part}": trainer.optimizer.state[parameter][part]
        for name, parameter in trainer.model.named_parameters()
        if trainer.optimizer.state.get(parameter)
        for part in MOMENTS
    }
    return whole_tensors(kept, "cpu", keep=trainer.group.is_first)


@dataclass(frozen=True)
class Saved:
    """A checkpoint to go on from, whose weights the model has got.

    Attributes
    ----------
    folder : Path
    training : dict
        How far training was.
    temperature : float or None
    best : dict of str to tensor, or None
        Weights of the best epoch, where early stopping may come back to it.
    """

    folder: Path
    training: dict[str, Any]
    temperature: float | None
    best: dict[str, Tensor] | None


def load_saved(
    state: ClassifierState, folder: Path, best: Path | None, own: Mapping[str, Any], own_arithmetic: Mapping[str, Any]
) -> Saved:
    """Gives the model the weights of a checkpoint of the same run.

    Parameters
    ----------
    state : ClassifierState
        Before the first step.
    folder : Path
        A checkpoint that was verified.
    best : Path or None
        The one of the best epoch, where early stopping may come back to it.
    own, own_arithmetic : mapping
        What :func:`identity` and :func:`arithmetic` say of this run.

    Raises
    ------
    UsageError, DataError, ModelError
        If the checkpoint is of another run, or not one from which to go on.
    """
    saved = read_json(folder / STATE_FILE)
    if "identity" not in saved:
        raise ModelError(f"{folder}: holds no state of a training to go on from.")
    spec = read_json((best or folder) / SPEC_FILE)
    try:
        check_identity(folder, saved["identity"], own)
        changed = {name for name, value in own_arithmetic.items() if saved["arithmetic"].get(name) != value}
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
        return Saved(folder, saved, spec["temperature"], weights)
    except (KeyError, TypeError, AttributeError) as error:
        raise _malformed(folder / STATE_FILE, error) from error


def go_on(trainer: Trainer, state: ClassifierState, saved: Saved | None) -> None:
    """Puts trainer and optimizer where a checkpoint left them; called by all processes, of which the first has it.

    Parameters
    ----------
    trainer : Trainer
        Made with the weights of the checkpoint, before its first step.
    state : ClassifierState
    saved : Saved or None

    Raises
    ------
    UsageError, ModelError
        If the checkpoint is not one of the same texts, or malformed.
    """
    given = None
    if saved is not None:
        given = str(saved.folder), saved.training, saved.temperature, saved.best is not None
    name, training, temperature, has_best = trainer.group.from_first(given)
    try:
        trainer.load_state_dict(training)
        state.metrics |= training["metrics"]
    except (KeyError, TypeError, AttributeError) as error:
        raise _malformed(Path(name) / STATE_FILE, error) from error
    state.temperature = temperature
    if has_best:
        trainer.take_as_best(None if saved is None else saved.best)
    if not trainer.finished:
        load_moments(trainer, None if saved is None else saved.folder)


def _malformed(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file}: incomplete or malformed ({error!r}).")


def load_parameters(state: ClassifierState, folder: Path) -> None:
    """Weights of a checkpoint of the same run."""
    if state.lora is None:
        load_weights(state.model, folder, head=True)
    else:
        path = folder / ADAPTER_FILE
        load_adapter(state.model, state.lora, read_tensors(path), path)


def load_moments(trainer: Trainer, folder: Path | None) -> None:
    """AdamW's state of a checkpoint of the same run, which the first process gives."""
    parameters = trained(trainer.model)
    found: dict[str, Tensor] = {}
    if folder is not None:
        path = folder / OPTIMIZER_FILE
        found = read_tensors(path)
        left = set(found)
        for name, parameter in parameters.items():
            for part in MOMENTS if f"{name}.step" in found else ():  # the others had no gradient yet
                left.discard(key := f"{name}.{part}")
                if key not in found or found[key].shape != (parameter.shape if part != "step" else ()):
                    raise ModelError(f"{path}: {key} is missing or of another shape.")
        if left:
            raise ModelError(f"{path}: {min(left)!r} is unknown.")
    for name in trainer.group.from_first([name for name in parameters if f"{name}.step" in found]):
        for part, kept in moments(trainer.optimizer, parameters[name]).items():
            put(kept, found.get(f"{name}.{part}"), trainer.group)


def trained(model: SequenceClassifier) -> dict[str, torch.nn.Parameter]:
    """Parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
