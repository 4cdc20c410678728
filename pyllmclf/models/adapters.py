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
from .weight_files import check_dtype
from .weights import head_parameters, head_state

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
# Folder of the base model in an adapter's, where the base is no revision on the hub.
BASE_FOLDER = "base"
PREFIX = "base_model.model."
# PEFT's settings that do not change what a trained adapter computes, and those that read_adapter reads.
_SUPPORTED_SETTINGS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "base_model_name_or_path", "revision",
    "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules", "modules_to_save",
    "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "eva_config", "ensure_weight_tying",
    "fan_in_fan_out",  # A and B are stored alike
}  # fmt: skip
# Initial values of A and B; those that are missing here change the base model's weights too.
_INITIALIZATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """Content of an adapter's folder.

    Attributes
    ----------
    lora : LoRAConfig
        Its ``target_modules`` are the full names of the adapted layers.
    tensors : dict of str to tensor
        Content of ``adapter_model.safetensors``.
    base : str
        Hub id of the base model, or path of its folder.
    revision : str or None
        Revision of the base model on the hub.
    """

    lora: LoRAConfig
    tensors: dict[str, Tensor] = field(repr=False)
    base: str
    revision: str | None

    def n_classes(self, config: ModelConfig) -> int:
        """Number of outputs of the adapter's head; ``config`` is the base model's.

        Raises
        ------
        ModelError
            If the adapter has no head.
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
        If the adapter is damaged, not LoRA, or of a variant that computes something else.
    """
    path = folder / ADAPTER_CONFIG
    if raw.get("peft_type") != "LORA":
        raise ModelError(f"{path}: peft_type is {raw.get('peft_type')!r}; only 'LORA' is supported.")
    for name, value in raw.items():
        supported = value in _INITIALIZATIONS if name == "init_lora_weights" else not value or value == "none"
        if name not in _SUPPORTED_SETTINGS and not supported:
            raise ModelError(f"{path}: {name}={shortened(value)} is not supported.")
    tensors = read_tensors(folder / ADAPTER_FILE)
    matches = (re.fullmatch(rf"{re.escape(PREFIX)}(.*)\.lora_A\.weight", name) for name in tensors)
    targets = tuple(sorted(match[1] for match in matches if match is not None))
    if not targets:
        raise ModelError(f"{folder / ADAPTER_FILE}: adapts no linear layer.")
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    try:
        assert isinstance(rank, int) and isinstance(alpha, (int, float))
        # PEFT's factor is alpha / r, or alpha / sqrt(r) with rank stabilisation (Kalajdzievski 2023).
        alpha = alpha * rank**0.5 if raw.get("use_rslora") else alpha
        lora = LoRAConfig(rank=rank, alpha=float(alpha), dropout=raw.get("lora_dropout", 0.0), target_modules=targets)
    except (AssertionError, UsageError, TypeError) as error:
        raise ModelError(f"{path}: r={rank!r} or lora_alpha={alpha!r} is invalid ({error}).") from error
    base = raw.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: names no base model in base_model_name_or_path.")
    return Adapter(lora, tensors, base, raw.get("revision"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Content of a safetensors file.

    Raises
    ------
    ModelError
        If the file is damaged or can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: damaged or unreadable ({error}).") from error


def without_prefix(lora: LoRAConfig, config: ModelConfig) -> LoRAConfig:
    """The LoRA configuration with the engine's names of layers, which lack the prefix of the backbone."""
    prefix = architecture_of(config).prefix
    names = tuple(name.removeprefix(prefix) for name in lora.target_modules)
    return LoRAConfig(lora.rank, lora.alpha, lora.dropout, names, lora.layers, lora.scaling)


def load_adapter(
    model: SequenceClassifier, lora: LoRAConfig, tensors: Mapping[str, Tensor], origin: Path, *, head: bool = True
) -> None:
    """Loads the LoRA matrices of an adapter, and its head; adds A and B to layers that lack them.

    Parameters
    ----------
    model : SequenceClassifier
    lora : LoRAConfig
    tensors : mapping of str to tensor
        Content of ``adapter_model.safetensors``.
    origin : Path
        Path of the file, for messages.
    head : bool
        Whether the head is loaded; otherwise the file's is ignored.

    Raises
    ------
    ModelError
        If tensors are missing, unknown, or of another shape.
    """
    stem = PREFIX + architecture_of(model.config).prefix
    parameters: dict[str, torch.nn.Parameter] = {}
    for name, module in lora_targets(model, lora).items():
        if module.lora_a is None:
            module.add_lora(lora.rank, lora.factor, torch.Generator())
        assert module.lora_a is not None and module.lora_b is not None
        parameters[f"{stem}{name}.lora_A.weight"] = module.lora_a
        parameters[f"{stem}{name}.lora_B.weight"] = module.lora_b
    head_only = {PREFIX + name: parameter for name, parameter in head_parameters(model).items()}
    if head:
        parameters |= head_only
    else:
        tensors = {name: value for name, value in tensors.items() if name not in head_only}
    if parameters.keys() != tensors.keys():
        first = min(parameters.keys() ^ tensors.keys())
        raise ModelError(f"{origin}: tensors are missing or unknown, {first!r} among them.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise ModelError(
                    f"{origin}: {name} has the shape {tuple(tensors[name].shape)}; the model needs "
                    f"{tuple(parameter.shape)}."
                )
            check_dtype(name, tensors[name], origin)
            parameter.copy_(tensors[name])


def adapter_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The LoRA matrices and the head's tensors under PEFT's names, on the CPU."""
    prefix = architecture_of(model.config).prefix
    tensors = {}
    for name, module in model.backbone.named_modules():
        if isinstance(module, Linear) and module.lora_a is not None and module.lora_b is not None:
            stem = f"{PREFIX}{prefix}{name}"
            tensors[f"{stem}.lora_A.weight"] = module.lora_a.detach().cpu().contiguous()
            tensors[f"{stem}.lora_B.weight"] = module.lora_b.detach().cpu().contiguous()
    return tensors | {PREFIX + name: value for name, value in head_state(model).items()}


def peft_config(model: SequenceClassifier, lora: LoRAConfig, base: str, revision: str | None) -> dict[str, Any]:
    """Content of ``adapter_config.json``.

    Parameters
    ----------
    model : SequenceClassifier
    lora : LoRAConfig
    base : str
        Hub id of the base model, or its folder.
    revision : str or None
        Revision of the base model on the hub.
    """
    architecture = architecture_of(model.config)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        # PEFT's factor is lora_alpha / r.
        "lora_alpha": lora.factor * lora.rank,
        "lora_dropout": lora.dropout,
        "target_modules": [architecture.prefix + name for name in lora_targets(model, lora)],
        "modules_to_save": list(architecture.saved_modules),
        "fan_in_fan_out": architecture.transposed is not None,
        "bias": "none",
        "inference_mode": True,
    }
