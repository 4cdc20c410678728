"""Which parameters are trained."""

from __future__ import annotations

import re

import torch

from ..errors import UsageError
from ..models.lora import LoRAConfig, add_lora
from ..models.sequence_classifier import SequenceClassifier


def set_trainable(
    model: SequenceClassifier, trainable: str, lora: LoRAConfig | None, generator: torch.Generator
) -> None:
    """Sets ``requires_grad`` of every parameter, and adds the low-rank layers.

    Parameters
    ----------
    model : SequenceClassifier
    trainable : str
        ``"head"``: the classifier alone. ``"last_block"``, ``"last_N_blocks"``: the last blocks with what follows them
        (GPT-2: final norm and head; BERT: pooler and head). ``"all"``. ``"lora"``: low-rank additions and the head.
    lora : LoRAConfig or None
        Needed for ``"lora"``.
    generator : torch.Generator
        Draws the low-rank layers' A.

    Raises
    ------
    UsageError
        For an unknown value, or more blocks than there are.
    """
    model.requires_grad_(trainable == "all")
    model.head.requires_grad_(True)
    if trainable in ("head", "all"):
        return
    if trainable == "lora":
        assert lora is not None
        add_lora(model, lora, generator)
        return
    count = _block_count(trainable, model.config.n_layers)
    behind_blocks = "ln_f" if model.config.model_type == "gpt2" else "pooler"
    getattr(model.backbone, behind_blocks).requires_grad_(True)
    for block in list(model.backbone.blocks)[-count:]:
        block.requires_grad_(True)


def _block_count(trainable: str, n_layers: int) -> int:
    if trainable == "last_block":
        return 1
    match = re.fullmatch(r"last_(\d+)_blocks", trainable)
    if match is None:
        raise UsageError(
            f"trainable={trainable!r} is unknown; it is 'head', 'last_block', 'last_N_blocks' (N a number), "
            "'all' or 'lora'."
        )
    count = int(match[1])
    if not 1 <= count <= n_layers:
        raise UsageError(f"trainable={trainable!r}: the model has {n_layers} blocks.")
    return count
