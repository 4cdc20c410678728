"""Weights: reading safetensors in Hugging Face's layouts, drawing random ones, and names for writing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .layers import Embedding, LayerNorm, Linear
from .sequence_classifier import SequenceClassifier

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
BACKBONE_PREFIX = {"gpt2": "transformer.", "bert": "bert."}
HEAD_NAME = {"gpt2": "score", "bert": "classifier"}
# Tensors of known files that a classifier doesn't need: masks, position counters, heads of other tasks.
KNOWN_EXTRAS = {
    "gpt2": re.compile(r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight|multiple_choice_head\..*"),
    "bert": re.compile(r"embeddings\.position_ids|cls\..*"),
}
# GPT-2's files hold [in, out]; the engine holds [out, in].
TRANSPOSED = re.compile(r"(c_attn|c_proj|c_fc)\.weight$")


def read_safetensors(folder: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of a model folder, sharded or not, whose names begin with ``prefix``.

    Raises
    ------
    ModelError
        If there is no safetensors file, or it is damaged. Pickled weights are never opened.
    """
    from safetensors import SafetensorError, safe_open

    if (folder / WEIGHTS_FILE).is_file():
        files = [WEIGHTS_FILE]
    elif (folder / WEIGHTS_INDEX).is_file():
        files = shard_names(folder / WEIGHTS_INDEX)
    else:
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
        also = f" ({pickled[0]} is a pickle file, which is never opened; convert it)" if pickled else ""
        raise ModelError(f"{folder}: there is no {WEIGHTS_FILE}{also}.")
    for name in files:
        try:
            with safe_open(folder / name, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - not a dict
                    if key.startswith(prefix):
                        yield key, opened.get_tensor(key)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{folder / name}: damaged or unreadable ({error}).") from error


def shard_names(index: Path) -> list[str]:
    """Files that a weight index names.

    Raises
    ------
    ModelError
        If it is malformed or names a file outside its folder.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not a weight index ({error!r}).") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{index}: not a weight index.")
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{index}: names a file outside the folder.")
    return sorted(names)


def load_weights(model: SequenceClassifier, folder: Path, *, head: bool) -> None:
    """Fills the model from a Hugging Face folder.

    Parameters
    ----------
    model : SequenceClassifier
    folder : Path
    head : bool
        Whether the classification head is read too; otherwise it is left as it is, and one in the file is ignored.

    Raises
    ------
    ModelError
        If tensors are missing, unknown, or of another shape.
    """
    model_type = model.config.model_type
    prefix, head_name, known = BACKBONE_PREFIX[model_type], HEAD_NAME[model_type], KNOWN_EXTRAS[model_type]
    wanted: dict[str, nn.Parameter] = dict(model.backbone.named_parameters())
    head_wanted = {f"{head_name}.{n}": p for n, p in model.head.named_parameters()}
    loaded, unknown = set(), []
    with torch.no_grad():
        for key, value in read_safetensors(folder):
            if key.startswith(f"{head_name}."):
                if not head:
                    continue
                parameter = head_wanted.get(key)
                name = key
            else:
                name = key.removeprefix(prefix)
                if model_type == "bert":
                    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
                    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
                parameter = wanted.get(name)
                if parameter is None and known.fullmatch(name):
                    continue
            if parameter is None:
                unknown.append(key)
                continue
            if model_type == "gpt2" and TRANSPOSED.search(name):
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
    missing = sorted((set(wanted) | (set(head_wanted) if head else set())) - loaded)
    if missing:
        raise ModelError(f"{folder}: {len(missing)} tensors are missing, {missing[0]!r} among them.")
    if unknown:
        raise ModelError(f"{folder}: {len(unknown)} tensors are unknown, {sorted(unknown)[0]!r} among them.")


def load_head_of_same_classes(model: SequenceClassifier, folder: Path, classes: list[str]) -> bool:
    """Takes the head of a model folder over if it was trained on the same classes in the same order.

    Returns
    -------
    bool
        Whether it was. Otherwise the model is left as it is.
    """
    labels = model.config.raw.get("id2label")
    if not isinstance(labels, dict) or [labels.get(str(i)) for i in range(len(labels))] != classes:
        return False
    prefix = f"{HEAD_NAME[model.config.model_type]}."
    saved = {key.removeprefix(prefix): value for key, value in read_safetensors(folder, prefix)}
    wanted = dict(model.head.named_parameters())
    if saved.keys() != wanted.keys() or any(saved[name].shape != p.shape for name, p in wanted.items()):
        return False
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])
    return True


def init_weights(model: SequenceClassifier, generator: torch.Generator) -> None:
    """Random weights as both papers' code draws them.

    Normal with the configuration's standard deviation (0.02), biases zero, norms one; GPT-2's projections into the
    residual stream are scaled by 1 / sqrt(2 n_layers) (Radford et al. 2019, section 2.3).
    """
    std = model.config.initializer_range
    residual_std = std / (2 * model.config.n_layers) ** 0.5
    with torch.no_grad():
        for name, module in model.backbone.named_modules():
            if isinstance(module, LayerNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()
            elif isinstance(module, (Linear, Embedding)):
                scaled = model.config.model_type == "gpt2" and name.endswith("c_proj")
                module.weight.normal_(0.0, residual_std if scaled else std, generator=generator)
                if isinstance(module, Linear) and module.bias is not None:
                    module.bias.zero_()
    init_head(model, generator)


def init_head(model: SequenceClassifier, generator: torch.Generator) -> None:
    """A fresh head: normal with the configuration's standard deviation, bias zero."""
    with torch.no_grad():
        model.head.weight.normal_(0.0, model.config.initializer_range, generator=generator)
        if model.head.bias is not None:
            model.head.bias.zero_()


def backbone_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The backbone's own tensors (no LoRA) under Hugging Face's names and in its layout."""
    model_type = model.config.model_type
    state = {}
    for name, parameter in model.backbone.named_parameters():
        if name.endswith((".lora_a", ".lora_b")):
            continue
        value = parameter.detach().cpu()
        if model_type == "gpt2" and TRANSPOSED.search(name):
            value = value.mT
        state[BACKBONE_PREFIX[model_type] + name] = value.contiguous()
    return state


def head_state(model: SequenceClassifier) -> dict[str, Tensor]:
    """The head's tensors under Hugging Face's names."""
    name = HEAD_NAME[model.config.model_type]
    return {f"{name}.{n}": p.detach().cpu().contiguous() for n, p in model.head.named_parameters()}
