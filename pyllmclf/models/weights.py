"""Weights of a model: loads and names tensors in Hugging Face's layouts, and draws random ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .architectures.registry import architecture_of
from .config import ModelConfig
from .layers import Embedding, LayerNorm, Linear, RmsNorm
from .sequence_classifier import SequenceClassifier
from .weight_files import check_dtype, read_safetensors


def load_weights(model: SequenceClassifier, folder: Path, *, head: bool, keep_bf16: bool = False) -> set[str]:
    """Loads the weights of a Hugging Face folder into a model.

    Parameters
    ----------
    model : SequenceClassifier
    folder : Path
    head : bool
        Whether the head is loaded; otherwise it is unchanged, and one in the file is ignored.
    keep_bf16 : bool
        Whether matrices and the tokens' table of the pretrained model that the file has in bf16 stay so;
        :func:`widen_trained` makes those fp32 that are trained.

    Returns
    -------
    set of str
        Names of the parameters that are unchanged: those of the classifier that are not loaded or not in the file.

    Raises
    ------
    ModelError
        If tensors are missing, unknown, of another shape, or not floating-point.
    """
    architecture = architecture_of(model.config)
    parameters = dict(model.named_parameters())
    # Without ``head``, a prediction_head is loaded if the file has one, but not required.
    required = {
        name
        for name in parameters
        if head or (name.startswith("backbone.") and architecture.of_backbone(name.removeprefix("backbone.")))
    }
    loaded, unknown = set(), []
    kept = _matrices(model) if keep_bf16 else set()
    with torch.no_grad():
        for key, value in read_safetensors(folder):
            name = architecture.parameter_name(key)
            if name.startswith("head.") and not head:
                continue
            parameter = parameters.get(name)
            if parameter is None:
                if not architecture.unneeded.fullmatch(key.removeprefix(architecture.prefix)):
                    unknown.append(key)
                continue
            if architecture.transposed is not None and architecture.transposed.search(name):
                value = value.mT if value.dim() == 2 else value
            if value.shape != parameter.shape:
                raise ModelError(
                    f"{folder}: {key} has the shape {tuple(value.shape)}; the configuration needs "
                    f"{tuple(parameter.shape)}."
                )
            check_dtype(key, value, folder)
            if value.dtype is torch.bfloat16 and name in kept:
                parameter.data = value.clone(memory_format=torch.contiguous_format)
            else:
                parameter.copy_(value)
            loaded.add(name)
    missing = sorted(architecture.file_name(name) for name in required - loaded)
    if missing:
        raise ModelError(f"{folder}: {len(missing)} tensors are missing, {missing[0]!r} among them.")
    if unknown:
        raise ModelError(f"{folder}: {len(unknown)} tensors are unknown, {sorted(unknown)[0]!r} among them.")
    return {name for name in parameters if name not in loaded}


def _matrices(model: SequenceClassifier) -> set[str]:
    """Names of the weights of the backbone's linear layers and its table of tokens, without the classifier's."""
    architecture = architecture_of(model.config)
    names = set()
    for name, module in model.backbone.named_modules():
        is_table = isinstance(module, Embedding) and len(module.weight) == model.config.vocab_size
        if isinstance(module, Linear) or is_table:
            names.add(f"{name}.weight")
    return {f"backbone.{name}" for name in names if architecture.of_backbone(name)}


def widen_trained(model: SequenceClassifier) -> None:
    """Makes parameters that are trained fp32, in place."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype is torch.bfloat16:
            parameter.data = parameter.float()


def load_head_of_same_classes(model: SequenceClassifier, folder: Path, classes: list[str]) -> bool:
    """Loads the head of a model folder if it was trained on the same classes, in any order.

    Parameters
    ----------
    model : SequenceClassifier
    folder : Path
    classes : list of str
        Names of the model's classes, in order.

    Returns
    -------
    bool
        Whether the head is loaded; otherwise the model is unchanged.
    """
    if (order := order_of(classes, head_names(model.config))) is None:
        return False
    prefix = f"{architecture_of(model.config).head}."
    tensors = {key.removeprefix(prefix): value for key, value in read_safetensors(folder, prefix)}
    parameters = dict(model.head.named_parameters())
    if tensors.keys() != parameters.keys() or any(tensors[name].shape != p.shape for name, p in parameters.items()):
        return False
    with torch.no_grad():
        for name, parameter in parameters.items():
            check_dtype(prefix + name, tensors[name], folder)
            parameter.copy_(tensors[name][order])
    return True


def head_names(config: ModelConfig) -> list[str | None]:
    """Names of the outputs of the head that a configuration describes, ``None`` for one that is no string."""
    labels = config.raw.get("id2label")
    values = [labels.get(str(i)) for i in range(len(labels))] if isinstance(labels, dict) else []
    return [value if isinstance(value, str) else None for value in values]


def head_size(config: ModelConfig, folder: Path) -> int:
    """Number of outputs of the head in a model folder; 0 without a head."""
    name = f"{architecture_of(config).head}.weight"
    return next((len(value) for key, value in read_safetensors(folder, name) if key == name), 0)


def order_of(classes: list[str], names: Sequence[str | None]) -> list[int] | None:
    """Index of each class among a head's class names; ``None`` if the two are not the same classes."""
    if len(names) != len(classes) or set(names) != set(classes):
        return None
    return [names.index(name) for name in classes]


def init_weights(model: SequenceClassifier, generator: torch.Generator) -> None:
    """Draws random weights as the papers' code does, in place.

    Weights are normal with the configuration's ``initializer_range`` as standard deviation, biases are 0 and norms 1.
    Projections into the residual stream of GPT-2, Llama's kind and ModernBERT are scaled by 1 / sqrt(2 n_layers), where
    2 n_layers is the number of residual layers (Radford et al. 2019, section 2.3).
    """
    scaled = architecture_of(model.config).residual_projections
    for name, module in model.backbone.named_modules():
        _init_module(model, module, generator, scaled=name.endswith(scaled) if scaled else False)
    init_head(model, generator, {name for name, _ in model.head.named_parameters(prefix="head")})


def init_head(model: SequenceClassifier, generator: torch.Generator, uninitialized: set[str]) -> None:
    """Draws the layers that no file held, as :func:`init_weights` does, in place.

    Parameters
    ----------
    model : SequenceClassifier
    generator : torch.Generator
    uninitialized : set of str
        Names of the parameters without values; a layer is drawn if one of its parameters is among them.
    """
    for name, module in model.named_modules():
        if any(f"{name}.{leaf}" in uninitialized for leaf, _ in module.named_parameters(recurse=False)):
            _init_module(model, module, generator, scaled=False)


def _init_module(model: SequenceClassifier, module: nn.Module, generator: torch.Generator, *, scaled: bool) -> None:
    std = model.config.initializer_range
    with torch.no_grad():
        if isinstance(module, LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, RmsNorm):
            module.weight.fill_(1.0 - module.offset)
        elif isinstance(module, (Linear, Embedding)):
            residual_std = std / (2 * model.config.n_layers) ** 0.5
            module.weight.normal_(0.0, residual_std if scaled else std, generator=generator)
            if isinstance(module, Linear) and module.bias is not None:
                module.bias.zero_()


def backbone_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The pretrained model's tensors, without LoRA and classifier, on the CPU, in Hugging Face's names and layout."""
    architecture = architecture_of(model.config)
    state = {}
    for name, parameter in model.backbone.named_parameters():
        if name.endswith((".lora_a", ".lora_b")) or not architecture.of_backbone(name):
            continue
        value = parameter.detach().cpu().float()
        if architecture.transposed is not None and architecture.transposed.search(name):
            value = value.mT
        state[architecture.prefix + name] = value.contiguous()
    return state


def head_parameters(model: SequenceClassifier) -> dict[str, nn.Parameter]:
    """The parameters of head and ``prediction_head`` under Hugging Face's names."""
    architecture = architecture_of(model.config)
    return {
        architecture.file_name(name): parameter
        for name, parameter in model.named_parameters()
        if name.startswith("head.") or not architecture.of_backbone(name.removeprefix("backbone."))
    }


def head_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The tensors of :func:`head_parameters`, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in head_parameters(model).items()}
