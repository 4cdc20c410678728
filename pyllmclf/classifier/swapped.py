"""Recognises a model and data, or a classifier and data, that are given in the wrong order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..data.named import is_named
from ..data.readers import FILE_TYPES
from ..errors import UsageError
from ..models.architectures.registry import presets

# A folder with one of these files is a model or a classifier, or the folder of a training.
_OF_MODELS = ("config.json", "adapter_config.json", "pyllmclf.json", "last")


def check_model_and_data(model: Any, train: Any) -> None:
    """Checks that ``model`` is not data, and ``train`` no model.

    Raises
    ------
    UsageError
        If one of them is, which names the right order if both are.
    """
    if _is_data(model) and is_model(train):
        raise UsageError(
            f"model={_shown(model)} is data and train={_shown(train)} is a model: they are swapped; "
            f"the model comes first: finetune({_shown(train)}, {_shown(model)}), --model {train}."
        )
    if _is_data(model):
        raise UsageError(
            f"model={_shown(model)} is data, not a model; name it as train (--train), and the model as model (--model)."
        )
    if is_model(train):
        raise UsageError(
            f"train={_shown(train)} is a model, not data; name it as model (--model), and the data as train (--train)."
        )


def check_checkpoint_and_data(checkpoint: Any, data: Any) -> None:
    """Checks that a classifier's folder and data are not swapped.

    Raises
    ------
    UsageError
        If they are.
    """
    if _is_data(checkpoint) and is_model(data):
        raise UsageError(
            f"{_shown(checkpoint)} is data and {_shown(data)} is a classifier: they are swapped; the classifier comes "
            "first."
        )


def _is_data(value: Any) -> bool:
    if not isinstance(value, (str, os.PathLike)):
        return isinstance(value, (tuple, list)) or hasattr(value, "columns") or hasattr(value, "column_names")
    path = Path(value)
    if path.name in _OF_MODELS or _is(path.is_dir):
        return False
    return is_named(os.fspath(value)) or path.name.lower().removesuffix(".gz").endswith(FILE_TYPES)


def is_model(value: Any) -> bool:
    """Whether a value names a model: a folder of a model, a classifier or a training, or a preset."""
    if not isinstance(value, (str, os.PathLike)):
        return False
    path = Path(value)
    if _is(path.is_dir):
        return any((path / name).exists() for name in _OF_MODELS)
    return str(value) in presets() and not _is(path.exists)


def _is(question: Any) -> bool:
    """Answer of a question to the file system; false where the value is no path at all."""
    try:
        return bool(question())
    except (OSError, ValueError):
        return False


def _shown(value: Any) -> str:
    return repr(os.fspath(value)) if isinstance(value, (str, os.PathLike)) else f"<{type(value).__name__}>"
