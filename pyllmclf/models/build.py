"""Builds a classifier's model from pretrained weights, an adapter, or random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data.labels import LabelEncoder, MultiLabelEncoder
from .adapters import ADAPTER_FILE, load_adapter
from .hub import ModelSource, class_names
from .lora import merge_lora
from .sequence_classifier import HeadSpec, SequenceClassifier
from .weight_files import check_size
from .weights import (
    head_names,
    head_size,
    init_head,
    init_weights,
    load_head_of_same_classes,
    load_weights,
    order_of,
)


def build_model(
    source: ModelSource,
    n_classes: int,
    head: HeadSpec,
    encoder: LabelEncoder | MultiLabelEncoder,
    *,
    pretrained: bool,
    lora: bool,
    seed: int,
    keep_bf16: bool = False,
) -> SequenceClassifier:
    """Builds a model with the weights of its source; parameters that the source lacks are drawn at random.

    Parameters
    ----------
    source : ModelSource
    n_classes : int
    head : HeadSpec
    encoder : LabelEncoder or MultiLabelEncoder
        The source's head is loaded if it was trained on the same classes.
    pretrained : bool
        Whether the source's weights are read.
    lora : bool
        Whether the run trains LoRA. If not, the source's adapter is merged into the weights; if so, the caller loads it
        by :func:`take_adapter`.
    seed : int
        Seed of the random weights.
    keep_bf16 : bool
        As for :func:`load_weights`.

    Returns
    -------
    SequenceClassifier
        On the CPU, in fp32, except for what is kept in bf16.

    Raises
    ------
    ModelError
        If weights are missing, unknown or of another shape.
    ResourceError
        If the parameters exceed this machine's memory.
    """
    check_size(source.config, source.folder if pretrained else None)
    model = SequenceClassifier(source.config, n_classes, head)
    generator = torch.Generator().manual_seed(seed)
    if not pretrained:
        init_weights(model, generator)
        return model
    assert source.folder is not None
    init_head(model, generator, load_weights(model, source.folder, head=False, keep_bf16=keep_bf16))
    if source.adapter is None:
        load_head_of_same_classes(model, source.folder, encoder.names)
    elif not lora:
        take_adapter(model, source, encoder)
        merge_lora(model)
    return model


def reuses_head(source: ModelSource, encoder: LabelEncoder | MultiLabelEncoder) -> bool:
    """Whether the source is a classifier of the same classes, whose head :func:`build_model` loads."""
    if source.adapter is not None:
        return order_of(encoder.names, class_names(source) or []) is not None
    if source.folder is None or order_of(encoder.names, head_names(source.config)) is None:
        return False
    return head_size(source.config, source.folder) == len(encoder.names)


def take_adapter(model: SequenceClassifier, source: ModelSource, encoder: LabelEncoder | MultiLabelEncoder) -> None:
    """Loads the LoRA matrices of the source's adapter, and its head if it was trained on the encoder's classes.

    Raises
    ------
    ModelError
        If tensors are missing, unknown or of another shape.
    """
    adapter = source.adapter
    assert adapter is not None
    order = order_of(encoder.names, class_names(source) or [])
    load_adapter(model, adapter.lora, adapter.tensors, Path(source.name) / ADAPTER_FILE, head=order is not None)
    if order is not None:
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.copy_(parameter[order])
