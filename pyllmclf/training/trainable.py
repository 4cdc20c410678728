"""Selection of the trained parameters."""

from __future__ import annotations

import torch

from ..argument_checks import LAST_BLOCKS
from ..errors import UsageError
from ..lora_config import LoRAConfig
from ..models.architectures.registry import architecture_of
from ..models.lora import add_lora
from ..models.sequence_classifier import SequenceClassifier
from ..settings import check_argument


def set_trainable(
    model: SequenceClassifier, trainable: str, lora: LoRAConfig | None, generator: torch.Generator
) -> None:
    """Sets ``requires_grad`` of every parameter, and adds low-rank layers for ``"lora"``.

    Parameters
    ----------
    model : SequenceClassifier
    trainable : str
        ``"head"``: only the head (RoBERTa, DistilBERT and ModernBERT: with its dense layer). ``"last_block"``,
        ``"last_N_blocks"``: the last blocks with all layers after them (GPT-2: final norm and head; BERT: pooler and
        head). ``"all"``: every parameter. ``"lora"``: low-rank layers and the head.
    lora : LoRAConfig or None
        Settings for ``"lora"``.
    generator : torch.Generator
        Draws the initial A of the low-rank layers.

    Raises
    ------
    UsageError
        If the value is unknown, the model has fewer blocks, or its blocks share their parameters.
    """
    check_argument("trainable", trainable)
    model.requires_grad_(trainable == "all")
    for module in model.classifier_modules:
        module.requires_grad_(True)
    for module in model.unused_modules:
        module.requires_grad_(False)
    if trainable in ("head", "all"):
        return
    if trainable == "lora":
        assert lora is not None
        add_lora(model, lora, generator)
        return
    architecture = architecture_of(model.config)
    if architecture.shares_layers:
        raise UsageError(
            f"trainable={trainable!r}: all blocks of {architecture.title} have the same parameters; choose 'head', "
            "'all' or 'lora'."
        )
    count = trained_blocks(trainable, model.config.n_layers)
    if not 1 <= count <= model.config.n_layers:
        raise UsageError(f"trainable={trainable!r}: the model has {model.config.n_layers} blocks.")
    for module in model.backbone.behind_blocks:
        module.requires_grad_(module not in model.unused_modules)
    for block in list(model.backbone.blocks)[-count:]:
        block.requires_grad_(True)


def last_blocks(trainable: str) -> int | None:
    """Number of the last blocks that are trained with what is behind them; ``None`` for other values."""
    match = LAST_BLOCKS.fullmatch(trainable)
    return int(match[1]) if match is not None else 1 if trainable == "last_block" else None


def trained_blocks(trainable: str, n_layers: int) -> int:
    """Number of the last blocks that are trained, of a model of ``n_layers``; low-rank additions train all of them."""
    if trainable in ("all", "lora"):
        return n_layers
    return last_blocks(trainable) or 0
