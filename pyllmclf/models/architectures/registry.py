"""Registry of the architectures: every module of this package that defines ``ARCHITECTURE``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from ...errors import ModelError
from ..architecture import Architecture, Preset
from ..config import ModelConfig, check_config

OWN_MODEL_TYPE = "pyllmclf"
"""``model_type`` of a classifier that no class of transformers can express; its configuration names the base's own."""


@cache
def architectures() -> dict[str, Architecture]:
    """All architectures, by their ``model_type``."""
    package = importlib.import_module(__package__)
    by_model_type: dict[str, Architecture] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{__package__}."):
        architecture = getattr(importlib.import_module(module.name), "ARCHITECTURE", None)
        if isinstance(architecture, Architecture):
            by_model_type[architecture.model_type] = architecture
    return by_model_type


def register(architecture: Architecture) -> None:
    """Adds an architecture that is defined outside of this package.

    Raises
    ------
    ValueError
        If its ``model_type`` or the name of one of its presets is registered already.
    """
    if architecture.model_type in architectures() or architecture.presets.keys() & presets().keys():
        raise ValueError(f"the architecture {architecture.model_type!r}, or one of its presets, is registered already.")
    architectures()[architecture.model_type] = architecture


def presets() -> dict[str, Preset]:
    """All built-in configurations, by name."""
    return {name: preset for each in architectures().values() for name, preset in each.presets.items()}


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture of a configuration."""
    return architectures()[config.model_type]


def model_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads a Hugging Face configuration.

    Parameters
    ----------
    raw : dict
        Content of a ``config.json``.
    origin : str
        Its path, for messages.

    Returns
    -------
    ModelConfig

    Raises
    ------
    ModelError
        If the architecture or a variant is not supported, or a value is missing or malformed.
    """
    model_type = raw.get("model_type")
    if model_type == OWN_MODEL_TYPE:
        model_type = raw.get("pyllmclf_base_model_type")
    architecture = architectures().get(model_type if isinstance(model_type, str) else "")
    if architecture is None:
        *others, last = sorted((each.title for each in architectures().values()), key=str.lower)
        raise ModelError(
            f"{origin}: the architecture {model_type!r} is not supported; {', '.join(others)} and {last} are."
        )
    try:
        config = architecture.read_config(raw, origin)
    except KeyError as error:
        raise ModelError(f"{origin}: the configuration lacks {error}.") from error
    except (TypeError, AttributeError) as error:
        raise ModelError(f"{origin}: the configuration holds a value of the wrong type ({error}).") from error
    return check_config(config, origin)
