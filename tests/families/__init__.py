"""An architecture's models in the tests that run over all architectures: one module each, which defines ``FAMILY``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Family:
    """What the tests have to know of an architecture.

    Attributes
    ----------
    folder : callable
        Makes the folder of a classifier with random weights, from its path, a name in ``configs``, and the number of
        classes; without dropout.
    configs : dict
        Configurations by name; ``"plain"`` and ``"odd"`` are among them, and ``"odd"`` has two layers.
    parameters : dict of str to int
        Presets, and the published number of parameters of the pretrained model.
    behind : tuple of str
        Beginnings of the names of parameters behind the blocks, other than the head's.
    last_block : str
        Beginning of the names in the last block of ``"plain"``.
    targets : list of str
        Names of layers for an adapter of PEFT.
    saved : list of str or None
        PEFT's ``modules_to_save``, where its default lacks a layer of the classifier.
    excluded : str or None
        PEFT's ``exclude_modules``, where a target is also the name of a layer of the classifier.
    refused : tuple of (dict, str)
        Changes of the configuration that are refused, and a word of the message.
    shares_layers : bool
        Whether all blocks have the same parameters.
    own_blocks : bool
        Whether the blocks are others than BERT's.
    """

    folder: Callable[[Path, str, int], Path]
    configs: dict[str, dict[str, Any]]
    parameters: dict[str, int]
    behind: tuple[str, ...]
    last_block: str
    targets: list[str]
    saved: list[str] | None = None
    excluded: str | None = None
    refused: tuple[tuple[dict[str, Any], str], ...] = ()
    shares_layers: bool = False
    own_blocks: bool = False


def found_families() -> dict[str, Family]:
    """The families of this package's modules, by the names of the modules."""
    return {
        module.name: importlib.import_module(f"{__name__}.{module.name}").FAMILY
        for module in pkgutil.iter_modules(__path__)
    }
