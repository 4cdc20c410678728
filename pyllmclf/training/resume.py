"""Resumes a run: which settings, data and model must match, and what is restored."""

from __future__ import annotations

import ast
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifier.checkpoint import OPTIMIZER_FILE, SPEC_FILE, STATE_FILE, content_hash
from ..classifier.state import ClassifierState
from ..compute import Compute
from ..data.readers import TextData
from ..data.token_store import TokenStore
from ..distributed import ProcessGroup
from ..errors import DataError, ModelError, PyllmclfError, UsageError
from ..models.adapters import ADAPTER_FILE, load_adapter, read_tensors
from ..models.config import canonical_fields
from ..models.hub import read_json
from ..models.sequence_classifier import SequenceClassifier
from ..models.weights import load_weights
from ..settings import ARGUMENTS
from ..sharding import copy_from_first, full_tensors
from .activation_cache import ActivationCache
from .optim import moments
from .trainer import Trainer

# Of what :func:`identity` returns. Version 0.1 wrote none, labels with their types, and configurations as Python does.
IDENTITY_FORMAT = 2
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class RunTexts:
    """The texts that a resumed run must have in common with its checkpoint.

    Attributes
    ----------
    train : TextData
    validation : TextData or None
    tokens : dict of str to TokenStore
        Of ``"train"`` and ``"validation"``.
    """

    train: TextData
    validation: TextData | None
    tokens: dict[str, TokenStore]


def identity(
    state: ClassifierState, texts: RunTexts, class_weight: Tensor | None, world_size: int = 1
) -> dict[str, Any]:
    """What a resumed run must have in common with its checkpoint, as JSON can hold it.

    Parameters
    ----------
    state : ClassifierState
        Before the first step.
    texts : RunTexts
    class_weight : tensor, optional
        The weights that ``class_weights`` stands for.
    world_size : int
    """
    settings = {
        name: value for name, value in state.settings.items() if name not in ARGUMENTS or ARGUMENTS[name].changes_result
    }
    settings["device"] = str(settings["device"]).partition(":")[0]
    settings["class_weights"] = None if class_weight is None else class_weight.tolist()
    tokenizer = state.tokenizer
    content = {
        "format": IDENTITY_FORMAT,
        "settings": settings | {"processes": world_size},
        "data": {
            "train": data_sha256(texts.train),
            "validation": None if texts.validation is None else data_sha256(texts.validation),
            "classes": state.encoder.names,
            "tokens": {name: store.sha256 for name, store in texts.tokens.items()},
            "special tokens": [list(tokenizer.prefix), list(tokenizer.suffix), tokenizer.pad_token_id],
        },
        "model": {
            "config": canonical_fields(state.model.config),
            "sha256": content_hash(dict(state.model.named_parameters())),
        },
    }
    return json.loads(json.dumps(content))


def numerics(cache: ActivationCache | None, strategy: str, compute: Compute) -> dict[str, Any]:
    """What can change the bits of a training's results, beside its settings."""
    return {"strategy": strategy, "kept rows": 0 if cache is None else cache.plan.rows} | compute.numerics()


def data_sha256(data: TextData) -> str:
    """Hash of texts and labels, in their order; labels count by their strings."""
    return _data_sha256(data, lambda label: "\x1f".join(map(str, label if isinstance(label, tuple) else (label,))))


def _data_sha256(data: TextData, written: Callable[[Any], str]) -> str:
    digest = hashlib.sha256()
    for text, label in zip(data.texts, data.labels or [None] * len(data), strict=True):
        content = text.encode()
        digest.update(f"{len(content)} {written(label)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _as_version_0_1(saved: Mapping[str, Any], own: Mapping[str, Any], texts: RunTexts) -> dict[str, Any]:
    """A run's identity in the form of a checkpoint of version 0.1, to be compared with that checkpoint's."""
    classes = {str(label): label for label in saved["data"]["classes"]}

    def written(label: Any) -> str:
        if isinstance(label, tuple):
            return repr(tuple(classes.get(str(each), each) for each in label))
        return repr(classes.get(str(label), label))

    hashes = {
        name: None if data is None else _data_sha256(data, written)
        for name, data in (("train", texts.train), ("validation", texts.validation))
    }
    return {**own, "data": {**own["data"], **hashes}}


def _config_of_version_0_1(written: str) -> dict[str, Any]:
    """The fields of a configuration that Python has written: ``ModelConfig(model_type='gpt2', ...)``."""

    def value_of(node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            return {keyword.arg: value_of(keyword.value) for keyword in node.keywords}
        return ast.literal_eval(node)

    found = value_of(ast.parse(written, mode="eval").body)
    found["options"] = found.pop("modernbert", None)
    return json.loads(json.dumps(canonical_fields(found)))


def check_identity(folder: Path, saved: Mapping[str, Any], own: Mapping[str, Any], texts: RunTexts) -> None:
    """Refuses to resume another run.

    Raises
    ------
    UsageError, DataError, ModelError
        If settings, data or model differ; the first difference is named.
    """
    if "format" not in saved:
        own = _as_version_0_1(saved, own, texts)
        model = {**saved["model"], "config": _config_of_version_0_1(saved["model"]["config"])}
        saved = {**saved, "model": model}
    if (found := difference(saved, own, "that the run was begun with")) is not None:
        kind, what = found
        raise kind(f"{folder}: {what}; resume with what the run was begun with, or choose another output_dir.")


def difference(before: Mapping[str, Any], now: Mapping[str, Any], which: str) -> tuple[type[PyllmclfError], str] | None:
    """The first difference of a run from the one that ``which`` speaks of: the class of its error, and what to say."""
    settings, others = now["settings"], before["settings"]
    for name in sorted(settings.keys() | others.keys()):
        there = others.get(name, ARGUMENTS[name].absent if name in ARGUMENTS else None)
        if settings.get(name) != there:
            return UsageError, f"{name} was {there!r} there, and is {settings.get(name)!r}"
    for name in ("train", "validation"):
        if now["data"][name] != before["data"].get(name):
            return DataError, f"the {name} texts or their labels are not those {which}"
    if now["data"]["classes"] != list(map(str, before["data"]["classes"])):
        return DataError, f"the classes are not those {which}"
    if any(now["data"][name] != before["data"].get(name) for name in ("tokens", "special tokens")):
        return ModelError, f"the tokenizer is not the one {which}"
    if now["model"] != before["model"]:
        return ModelError, f"the model is not the one {which}"
    return None


def check_alike(group: ProcessGroup, state: ClassifierState, own: Mapping[str, Any], test: TextData | None) -> None:
    """Compares data, settings and model of the processes of a training.

    Raises
    ------
    UsageError, DataError, ModelError
        In every process, if one has other data, settings or another model than the first.
    """
    mine = dict(own) | {"test": None if test is None else data_sha256(test)}
    shared = [name for name, declared in ARGUMENTS.items() if declared.same_in_processes]
    mine["settings"] = own["settings"] | {name: state.settings[name] for name in shared}
    first = group.broadcast_object(mine)
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
    return full_tensors(kept, "cpu", keep=trainer.group.is_first)


@dataclass(frozen=True)
class Saved:
    """A checkpoint to resume from, whose weights the model has.

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
    state: ClassifierState,
    folder: Path,
    best: Path | None,
    own: Mapping[str, Any],
    texts: RunTexts,
    own_numerics: Mapping[str, Any],
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
    own : mapping
        This run's :func:`identity`.
    texts : RunTexts
    own_numerics : mapping
        This run's :func:`numerics`.

    Raises
    ------
    UsageError, DataError, ModelError
        If the checkpoint is of another run, or one that can't be resumed.
    """
    saved = read_json(folder / STATE_FILE)
    if "identity" not in saved:
        raise ModelError(f"{folder}: holds no state of a training to resume.")
    spec = read_json((best or folder) / SPEC_FILE)
    try:
        check_identity(folder, saved["identity"], own, texts)
        changed = {name for name, value in own_numerics.items() if saved["arithmetic"].get(name) != value}
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
    except (KeyError, TypeError, AttributeError, SyntaxError, ValueError) as error:
        if isinstance(error, PyllmclfError):
            raise
        raise _malformed(folder / STATE_FILE, error) from error


def restore(trainer: Trainer, state: ClassifierState, saved: Saved | None) -> None:
    """Restores trainer and optimizer from a checkpoint, which the first process has; called by all processes.

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
    mine = None
    if saved is not None:
        mine = str(saved.folder), saved.training, saved.temperature, saved.best is not None
    name, training, temperature, has_best = trainer.group.broadcast_object(mine)
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
    for name in trainer.group.broadcast_object([name for name in parameters if f"{name}.step" in found]):
        for part, kept in moments(trainer.optimizer, parameters[name]).items():
            copy_from_first(kept, found.get(f"{name}.{part}"), trainer.group)


def trained(model: SequenceClassifier) -> dict[str, torch.nn.Parameter]:
    """Parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
