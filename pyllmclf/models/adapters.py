"""LoRA adapters in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, UsageError
from ..lora_config import LoRAConfig
from .architectures.registry import architecture_of
from .config import ModelConfig
from .layers import Linear
from .lora import lora_targets
from .sequence_classifier import SequenceClassifier
from .weights import head_parameters, head_state

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Settings of PEFT that change nothing of what an adapter of trained matrices computes, or that are read below.
_HARMLESS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "base_model_name_or_path", "revision",
    "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules", "modules_to_save",
    "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "eva_config", "ensure_weight_tying",
    "fan_in_fan_out",  # A and B are stored alike
}  # fmt: skip
# How A and B begin; other ways change the base model's weights, too.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read.

    Attributes
    ----------
    lora : LoRAConfig
        With the full names of the adapted layers.
    tensors : dict of str to tensor
        As in the file.
    base : str
        Name of the base model, or path of its folder.
    revision : str or None
        Of the base model on the hub.
    """

    lora: LoRAConfig
    tensors: dict[str, Tensor] = field(repr=False)
    base: str
    revision: str | None

    def n_classes(self, config: ModelConfig) -> int:
        """Outputs of its head.

        Raises
        ------
        ModelError
            If it has none.
        """
        name = f"{PREFIX}{architecture_of(config).head}.weight"
        if name not in self.tensors:
            raise ModelError(f"the adapter has no classification head: {name!r} is missing.")
        return len(self.tensors[name])


def read_adapter(folder: Path, raw: Mapping[str, Any]) -> Adapter:
    """Reads an adapter that this library or PEFT wrote.

    Parameters
    ----------
    folder : Path
    raw : mapping
        Content of ``adapter_config.json``.

    Raises
    ------
    ModelError
        If it is damaged, no LoRA adapter, or of a variant whose arithmetic differs.
    """
    where = folder / ADAPTER_CONFIG
    if raw.get("peft_type") != "LORA":
        raise ModelError(f"{where}: the adapter is of the type {raw.get('peft_type')!r}; LORA is supported.")
    for name, value in raw.items():
        plain = value in _BEGINNINGS if name == "init_lora_weights" else not value or value == "none"
        if name not in _HARMLESS and not plain:
            raise ModelError(f"{where}: {name}={shortened(value)} is not supported.")
    tensors = read_tensors(folder / ADAPTER_FILE)
    found = (re.fullmatch(rf"{re.escape(PREFIX)}(.*)\.lora_A\.weight", name) for name in tensors)
    targets = tuple(sorted(match[1] for match in found if match is not None))
    if not targets:
        raise ModelError(f"{folder / ADAPTER_FILE}: adapts no linear layer.")
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    try:
        assert isinstance(rank, int) and isinstance(alpha, (int, float))
        # PEFT multiplies by alpha / r, or with rank stabilisation by alpha / sqrt(r).
        alpha = alpha * rank**0.5 if raw.get("use_rslora") else alpha
        lora = LoRAConfig(rank=rank, alpha=float(alpha), dropout=raw.get("lora_dropout", 0.0), target_modules=targets)
    except (AssertionError, UsageError, TypeError) as error:
        raise ModelError(f"{where}: r={rank!r} or lora_alpha={alpha!r} make no sense ({error}).") from error
    base = raw.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{where}: names no base model.")
    return Adapter(lora, tensors, base, raw.get("revision"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Content of a safetensors file, or :class:`ModelError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: damaged or unreadable ({error}).") from error


def without_prefix(lora: LoRAConfig, config: ModelConfig) -> LoRAConfig:
    """The configuration with our names of layers, which have no prefix of the backbone."""
    prefix = architecture_of(config).prefix
    names = tuple(name.removeprefix(prefix) for name in lora.target_modules)
    return LoRAConfig(lora.rank, lora.alpha, lora.dropout, names, lora.layers, lora.scaling)


def load_adapter(
    model: SequenceClassifier, lora: LoRAConfig, tensors: Mapping[str, Tensor], origin: Path, *, head: bool = True
) -> None:
    """Adds low-rank layers, where there are none yet, and fills them, and the head.

    Parameters
    ----------
    model : SequenceClassifier
    lora : LoRAConfig
    tensors : mapping of str to tensor
        As in ``adapter_model.safetensors``.
    origin : Path
        For messages.
    head : bool
        Whether the head is read too; otherwise the file's is ignored.

    Raises
    ------
    ModelError
        If tensors are missing, unknown, or of another shape.
    """
    stem = PREFIX + architecture_of(model.config).prefix
    wanted: dict[str, torch.nn.Parameter] = {}
    for name, module in lora_targets(model, lora).items():
        if module.lora_a is None:
            module.add_lora(lora.rank, lora.factor, torch.Generator())
        assert module.lora_a is not None and module.lora_b is not None
        wanted[f"{stem}{name}.lora_A.weight"] = module.lora_a
        wanted[f"{stem}{name}.lora_B.weight"] = module.lora_b
    of_head = {PREFIX + name: parameter for name, parameter in head_parameters(model).items()}
    if head:
        wanted |= of_head
    else:
        tensors = {name: value for name, value in tensors.items() if name not in of_head}
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())[0]
        raise ModelError(f"{origin}: tensors are missing or unknown, {odd!r} among them.")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if parameter.shape != tensors[name].shape:
                raise ModelError(f"{origin}: {name} has the shape {tuple(tensors[name].shape)}.")
            parameter.copy_(tensors[name])


def adapter_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The low-rank layers' and the head's tensors under PEFT's names."""
    prefix = architecture_of(model.config).prefix
    tensors = {}
    for name, module in model.backbone.named_modules():
        if isinstance(module, Linear) and module.lora_a is not None and module.lora_b is not None:
            stem = f"{PREFIX}{prefix}{name}"
            tensors[f"{stem}.lora_A.weight"] = module.lora_a.detach().cpu().contiguous()
            tensors[f"{stem}.lora_B.weight"] = module.lora_b.detach().cpu().contiguous()
    return tensors | {PREFIX + name: value for name, value in head_state(model).items()}


def peft_config(model: SequenceClassifier, lora: LoRAConfig, base: str, revision: str | None) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter on a base model."""
    architecture = architecture_of(model.config)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        # PEFT multiplies by lora_alpha / r.
        "lora_alpha": lora.factor * lora.rank,
        "lora_dropout": lora.dropout,
        "target_modules": [architecture.prefix + name for name in lora_targets(model, lora)],
        "modules_to_save": list(architecture.saved_modules),
        "fan_in_fan_out": architecture.transposed is not None,
        "bias": "none",
        "inference_mode": True,
    }
