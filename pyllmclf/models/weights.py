"""Weights: reading safetensors in Hugging Face's layouts, drawing random ones, and names for writing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.json_text import parse_json
from ..errors import ModelError, ResourceError
from ..memory import physical_memory
from .architectures.registry import architecture_of
from .config import ModelConfig
from .layers import Embedding, LayerNorm, Linear
from .sequence_classifier import SequenceClassifier

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


def read_safetensors(folder: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of a model folder, sharded or not, whose names begin with ``prefix``.

    Raises
    ------
    ModelError
        If there is no safetensors file, or it is damaged. Pickled weights are never opened.
    """
    for name in weight_files(folder):
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                if key.startswith(prefix):
                    yield key, file.get_tensor(key)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged or unreadable ({error}).") from error


def weight_files(folder: Path) -> list[str]:
    """Names of a model folder's safetensors files: one, or those that an index names.

    Raises
    ------
    ModelError
        If there is none.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX).is_file():
        return shard_names(folder / WEIGHTS_INDEX)
    pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
    also = f" ({pickled[0]} is a pickle file, which is never opened; convert it)" if pickled else ""
    raise ModelError(f"{folder}: there is no {WEIGHTS_FILE}{also}.")


def check_size(config: ModelConfig, folder: Path | None) -> None:
    """Looks at what a configuration asks for, before it gets memory.

    Parameters
    ----------
    config : ModelConfig
    folder : Path or None
        With the weights, if they are read from one; of them the headers are read.

    Raises
    ------
    ModelError
        If the weights are fewer than the configuration means.
    ResourceError
        If the parameters in fp32 are more than the machine's memory.
    """
    least = architecture_of(config).least_parameters(config)
    if folder is not None:
        there = 0
        for name in weight_files(folder):
            with _opened(folder / name) as file:
                there += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        if there < least:
            raise ModelError(
                f"{folder}: parameters are missing; the configuration means at least {least:,}, the weights hold "
                f"{there:,}."
            )
    if 4 * least > (physical := physical_memory()):
        raise ResourceError(
            f"a model of {least:,} parameters takes {4 * least // 10**9:,} GB; this machine has {physical // 10**9:,}."
        )


def shard_names(index: Path) -> list[str]:
    """Files that a weight index names.

    Raises
    ------
    ModelError
        If it is malformed or names a file outside its folder.
    """
    try:
        names = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not a weight index ({error!r}).") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{index}: not a weight index.")
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{index}: names a file outside the folder.")
    return sorted(names)


def load_weights(model: SequenceClassifier, folder: Path, *, head: bool) -> set[str]:
    """Fills the model from a Hugging Face folder.

    Parameters
    ----------
    model : SequenceClassifier
    folder : Path
    head : bool
        Whether the classification head is read too; otherwise it is left as it is, and one in the file is ignored.

    Returns
    -------
    set of str
        Parameters that were left as they are: the classifier's, where they are not read or not there.

    Raises
    ------
    ModelError
        If tensors are missing, unknown, or of another shape.
    """
    architecture = architecture_of(model.config)
    wanted = dict(model.named_parameters())
    # A classifier's own layer before the head is taken over where there is one, as BERT's pooler is.
    needed = {
        name
        for name in wanted
        if head or (name.startswith("backbone.") and architecture.of_backbone(name.removeprefix("backbone.")))
    }
    loaded, unknown = set(), []
    with torch.no_grad():
        for key, value in read_safetensors(folder):
            name = architecture.parameter_name(key)
            if name.startswith("head.") and not head:
                continue
            parameter = wanted.get(name)
            if parameter is None:
                if not architecture.unneeded.fullmatch(key.removeprefix(architecture.prefix)):
                    unknown.append(key)
                continue
            if architecture.transposed is not None and architecture.transposed.search(name):
                value = value.mT if value.dim() == 2 else value
            if value.shape != parameter.shape:
                raise ModelError(
                    f"{folder}: {key} has the shape {tuple(value.shape)} where the configuration "
                    f"means {tuple(parameter.shape)}."
                )
            if not value.is_floating_point():
                raise ModelError(f"{folder}: {key} has the dtype {value.dtype}, not a floating-point one.")
            parameter.copy_(value)
            loaded.add(name)
    missing = sorted(architecture.file_name(name) for name in needed - loaded)
    if missing:
        raise ModelError(f"{folder}: {len(missing)} tensors are missing, {missing[0]!r} among them.")
    if unknown:
        raise ModelError(f"{folder}: {len(unknown)} tensors are unknown, {sorted(unknown)[0]!r} among them.")
    return {name for name in wanted if name not in loaded}


def load_head_of_same_classes(model: SequenceClassifier, folder: Path, classes: list[str]) -> bool:
    """Takes the head of a model folder over if it was trained on the same classes, in whatever order.

    Returns
    -------
    bool
        Whether it was. Otherwise the model is left as it is.
    """
    labels = model.config.raw.get("id2label")
    found = [labels.get(str(i)) for i in range(len(labels))] if isinstance(labels, dict) else []
    names = [name if isinstance(name, str) else None for name in found]
    if (order := order_of(classes, names)) is None:
        return False
    prefix = f"{architecture_of(model.config).head}."
    saved = {key.removeprefix(prefix): value for key, value in read_safetensors(folder, prefix)}
    wanted = dict(model.head.named_parameters())
    if saved.keys() != wanted.keys() or any(saved[name].shape != p.shape for name, p in wanted.items()):
        return False
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name][order])
    return True


def head_size(config: ModelConfig, folder: Path) -> int:
    """Outputs of the head in a model folder; 0 if there is none."""
    name = f"{architecture_of(config).head}.weight"
    return next((len(value) for key, value in read_safetensors(folder, name) if key == name), 0)


def order_of(classes: list[str], names: Sequence[str | None]) -> list[int] | None:
    """Where each class stands among the names of a head's; ``None`` if these are other classes."""
    if len(names) != len(classes) or set(names) != set(classes):
        return None
    return [names.index(name) for name in classes]


def init_weights(model: SequenceClassifier, generator: torch.Generator) -> None:
    """Random weights as the papers' code draws them.

    Normal with the configuration's standard deviation (0.02), biases zero, norms one; projections into the residual
    stream of GPT-2 and ModernBERT are scaled by 1 / sqrt(2 n_layers) (Radford et al. 2019, section 2.3).
    """
    scaled = architecture_of(model.config).residual_projections
    for name, module in model.backbone.named_modules():
        _init_module(model, module, generator, scaled=name.endswith(scaled) if scaled else False)
    init_head(model, generator, {name for name, _ in model.head.named_parameters(prefix="head")})


def init_head(model: SequenceClassifier, generator: torch.Generator, left: set[str]) -> None:
    """Fresh layers of the classifier, as :func:`init_weights` draws them.

    Parameters
    ----------
    model : SequenceClassifier
    generator : torch.Generator
    left : set of str
        Parameters that have no values yet; a layer is drawn if one of its own is among them.
    """
    for name, module in model.named_modules():
        if any(f"{name}.{own}" in left for own, _ in module.named_parameters(recurse=False)):
            _init_module(model, module, generator, scaled=False)


def _init_module(model: SequenceClassifier, module: nn.Module, generator: torch.Generator, *, scaled: bool) -> None:
    std = model.config.initializer_range
    with torch.no_grad():
        if isinstance(module, LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, (Linear, Embedding)):
            residual_std = std / (2 * model.config.n_layers) ** 0.5
            module.weight.normal_(0.0, residual_std if scaled else std, generator=generator)
            if isinstance(module, Linear) and module.bias is not None:
                module.bias.zero_()


def backbone_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The pretrained model's own tensors (no LoRA, nothing of the classifier) under Hugging Face's names, in its
    layout.
    """
    architecture = architecture_of(model.config)
    state = {}
    for name, parameter in model.backbone.named_parameters():
        if name.endswith((".lora_a", ".lora_b")) or not architecture.of_backbone(name):
            continue
        value = parameter.detach().cpu()
        if architecture.transposed is not None and architecture.transposed.search(name):
            value = value.mT
        state[architecture.prefix + name] = value.contiguous()
    return state


def head_parameters(model: SequenceClassifier) -> dict[str, nn.Parameter]:
    """The classifier's parameters under Hugging Face's names."""
    architecture = architecture_of(model.config)
    return {
        architecture.file_name(name): parameter
        for name, parameter in model.named_parameters()
        if name.startswith("head.") or not architecture.of_backbone(name.removeprefix("backbone."))
    }


def head_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The classifier's tensors under Hugging Face's names."""
    return {name: p.detach().cpu().contiguous() for name, p in head_parameters(model).items()}
