"""Identity of a run: the settings, data and model that a resumed run, and every process of a run, must share."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..classifier.checkpoint import content_hash
from ..classifier.replaceable import HELD_OUT
from ..classifier.state import ClassifierState
from ..data.readers import TextData
from ..data.token_store import TokenStore
from ..distributed import ProcessGroup
from ..errors import DataError, ModelError, PyllmclfError, UsageError
from ..models.config import canonical_fields
from ..settings import ARGUMENTS
from ..text_pair import parts_of

# Version of the format of an identity. Version 0.1 of the package wrote no number, hashed labels with their types, and
# wrote configurations as Python's repr. Before 3, runs with several labels for a text recorded no class weights.
IDENTITY_FORMAT = 3


@dataclass(frozen=True)
class RunTexts:
    """Texts that are part of a run's identity.

    Attributes
    ----------
    train : TextData
    validation : TextData or None
    tokens : dict of str to TokenStore
        Tokens of ``"train"`` and ``"validation"``.
    weights : ndarray of float32, shape [texts], or None
        Resolved weights of the training texts.
    """

    train: TextData
    validation: TextData | None
    tokens: dict[str, TokenStore]
    weights: np.ndarray | None = None


def run_identity(
    state: ClassifierState, texts: RunTexts, class_weight: Tensor | None, world_size: int = 1
) -> dict[str, Any]:
    """Computes a run's identity: settings and hashes, as types that JSON has.

    Parameters
    ----------
    state : ClassifierState
        Before the first step.
    texts : RunTexts
    class_weight : fp32 tensor, shape [classes], or None
        Resolved weights of the classes.
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
            "weights": None if texts.weights is None else hashlib.sha256(texts.weights.tobytes()).hexdigest(),
            "classes": state.encoder.names,
            "tokens": {name: store.sha256 for name, store in texts.tokens.items()},
            "special tokens": [
                *(list(tokenizer.prefix), list(tokenizer.suffix), tokenizer.pad_token_id),
                *([] if tokenizer.pairs is None else [list(tokenizer.pairs.between)]),
            ],
        },
        "model": {
            "config": canonical_fields(state.model.config),
            "sha256": content_hash(dict(state.model.named_parameters())),
        },
    }
    return json.loads(json.dumps(content))


def data_sha256(data: TextData) -> str:
    """Hashes texts and labels in their order; labels enter as strings."""
    return _data_sha256(data, lambda label: "\x1f".join(map(str, label if isinstance(label, tuple) else (label,))))


def _data_sha256(data: TextData, label_text: Callable[[Any], str]) -> str:
    digest = hashlib.sha256()
    for text, label in zip(data.texts, data.labels or [None] * len(data), strict=True):
        content, *second = (part.encode() for part in parts_of(text))
        digest.update(f"{len(content)} {label_text(label)} ".encode())
        digest.update(content)
        for each in second:
            digest.update(f" {len(each)} ".encode())
            digest.update(each)
    return digest.hexdigest()


def _as_version_0_1(identity: Mapping[str, Any], saved: Mapping[str, Any], texts: RunTexts) -> dict[str, Any]:
    """Converts an identity to the format of version 0.1, for comparison with the ``saved`` one of a checkpoint."""
    classes = {str(label): label for label in saved["data"]["classes"]}

    def label_text(label: Any) -> str:
        if isinstance(label, tuple):
            return repr(tuple(classes.get(str(each), each) for each in label))
        return repr(classes.get(str(label), label))

    hashes = {
        name: None if data is None else _data_sha256(data, label_text)
        for name, data in (("train", texts.train), ("validation", texts.validation))
    }
    return {**identity, "data": {**identity["data"], **hashes}}


def _config_of_version_0_1(text: str) -> dict[str, Any]:
    """Parses a configuration's repr, ``ModelConfig(model_type='gpt2', ...)``, to its canonical fields."""

    def value_of(node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            return {keyword.arg: value_of(keyword.value) for keyword in node.keywords}
        return ast.literal_eval(node)

    config = value_of(ast.parse(text, mode="eval").body)
    config["options"] = config.pop("modernbert", None)
    return json.loads(json.dumps(canonical_fields(config)))


def check_identity(folder: Path, saved: Mapping[str, Any], identity: Mapping[str, Any], texts: RunTexts) -> None:
    """Compares a run with the checkpoint that it resumes.

    Parameters
    ----------
    folder : Path
        The checkpoint, for errors.
    saved : mapping
        The checkpoint's identity.
    identity : mapping
        This run's.
    texts : RunTexts

    Raises
    ------
    UsageError, DataError, ModelError
        If settings, data or model differ; the first difference is named.
    """
    if saved.get("format", 1) < 3 and identity["settings"].get("multi_label"):
        unknown = {"class_weights": saved["settings"]["class_weights"]}
        identity = {**identity, "settings": identity["settings"] | unknown}
    if "format" not in saved:
        identity = _as_version_0_1(identity, saved, texts)
        model = {**saved["model"], "config": _config_of_version_0_1(saved["model"]["config"])}
        saved = {**saved, "model": model}
    if (differs := difference(saved, identity, "that the run was begun with")) is not None:
        kind, problem = differs
        onward = ""
        if not problem.startswith("processes was"):
            weights = " and weights='pretrained'" if identity["settings"].get("weights") == "random" else ""
            onward = f"train on from its weights with model={str(_run_of(folder) / 'last')!r} (--model){weights} in "
        raise kind(
            f"{folder}: {problem}; resume with the same settings, data and model, or {onward or 'choose '}another "
            "output_dir (--output-dir)."
        )


def _run_of(folder: Path) -> Path:
    """The output folder of a checkpoint."""
    return folder.parent.parent if folder.parent.name == HELD_OUT else folder.parent


def difference(
    expected: Mapping[str, Any], identity: Mapping[str, Any], which: str
) -> tuple[type[PyllmclfError], str] | None:
    """Finds the first difference of two identities.

    Parameters
    ----------
    expected, identity : mapping
        That of the checkpoint or of process 0, and this run's.
    which : str
        Description of the expected one, for the message.

    Returns
    -------
    (error class, message) or None
    """
    settings, expected_settings = identity["settings"], expected["settings"]
    for name in sorted(settings.keys() | expected_settings.keys()):
        value = expected_settings.get(name, ARGUMENTS[name].absent if name in ARGUMENTS else None)
        if settings.get(name) != value:
            return UsageError, f"{name} was {value!r} there, and is {settings.get(name)!r}"
    for name in ("train", "validation"):
        if identity["data"][name] != expected["data"].get(name):
            return DataError, f"the {name} texts or their labels are not those {which}"
    if identity["data"].get("weights") != expected["data"].get("weights"):
        return DataError, f"the sample_weight of the training texts is not the one {which}"
    if identity["data"]["classes"] != list(map(str, expected["data"]["classes"])):
        return DataError, f"the classes are not those {which}"
    if any(identity["data"][name] != expected["data"].get(name) for name in ("tokens", "special tokens")):
        return ModelError, f"the tokenizer is not the one {which}"
    if identity["model"] != expected["model"]:
        return ModelError, f"the model is not the one {which}"
    return None


def check_same_in_processes(
    group: ProcessGroup, state: ClassifierState, identity: Mapping[str, Any], test: TextData | None
) -> None:
    """Compares settings, data and model of all processes with those of the first.

    Parameters
    ----------
    group : ProcessGroup
    state : ClassifierState
    identity : mapping
        This process's.
    test : TextData or None
        The test texts, which are no part of an identity.

    Raises
    ------
    UsageError, DataError, ModelError
        In every process, if one differs.
    ResourceError
        If another process is lost.
    """
    this_process = dict(identity) | {"test": None if test is None else data_sha256(test)}
    shared = [name for name, declared in ARGUMENTS.items() if declared.same_in_processes]
    this_process["settings"] = identity["settings"] | {name: state.settings[name] for name in shared}
    first = group.broadcast_object(this_process)
    differs = difference(first, this_process, "of process 0")
    if differs is None and this_process["test"] != first["test"]:
        differs = DataError, "the test texts or their labels are not those of process 0"
    if group.any(differs is not None):
        kind, problem = differs or (UsageError, "another process has other data, settings or another model")
        raise kind(f"process {group.rank}: {problem}; start all processes with the same.")
