"""The state of a classifier, and which other formats can express it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.packing import RowLayout
from ..data.tokenizers import Tokenizer
from ..lora_config import LoRAConfig
from ..models.architecture import Architecture
from ..models.architectures.registry import architecture_of
from ..models.pooling import Pooling
from ..models.sequence_classifier import SequenceClassifier


@dataclass
class ClassifierState:
    """Everything that makes a classifier.

    Attributes
    ----------
    model : SequenceClassifier
    tokenizer : Tokenizer
    encoder : LabelEncoder or MultiLabelEncoder
    layout : RowLayout
    lora : LoRAConfig or None
    hub_id, revision : str or None
        Where the pretrained weights came from, if a hub revision.
    settings : dict
        Arguments of the run; what they left to the architecture or machine is filled in.
    base_sha256 : str or None
        Hash of the frozen base of a LoRA classifier, once it was computed.
    temperature : float or None
        By which calibration has divided the logits; the head has it already.
    metrics : dict
        Headline figures by part, for the model card.
    """

    model: SequenceClassifier
    tokenizer: Tokenizer
    encoder: LabelEncoder | MultiLabelEncoder
    layout: RowLayout
    lora: LoRAConfig | None = None
    hub_id: str | None = None
    revision: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    base_sha256: str | None = None
    temperature: float | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def label_separator(self) -> str | None:
        """What stands between the labels of a text; ``None`` where each has one."""
        return self.encoder.separator if isinstance(self.encoder, MultiLabelEncoder) else None


def why_not_transformers(state: ClassifierState) -> str | None:
    """Why transformers' own class can't express the classifier; ``None`` if it can."""
    spec, architecture = state.model.spec, architecture_of(state.model.config)
    name = architecture.class_name
    if state.layout.pad_to:
        return f"{name} masks padding, and this classifier reads it"
    if state.layout.long_texts not in ("head", "tail"):
        return f"{name} reads one piece of a long text, and this classifier has long_texts={state.layout.long_texts!r}"
    if spec.causal != architecture.causal:
        return f"{name} is {'causal' if architecture.causal else 'bidirectional'}, and this classifier is not"
    if not _reads(architecture, state.model.pooling):
        return f"{name} reads the {architecture.pooling} token, and this classifier uses pooling={spec.pooling!r}"
    if spec.bias != architecture.head_bias:
        has = "with" if architecture.head_bias else "without"
        return f"{name} has a head {has} bias, and this classifier has it otherwise"
    return None


def _reads(architecture: Architecture, pooling: Pooling) -> bool:
    """Whether transformers' classifier reads that row, where nothing is padded."""
    known = architecture.poolings or (architecture.pooling,)
    return pooling.name in known or pooling.unpadded in known


def why_not_padded(state: ClassifierState) -> str | None:
    """Why a graph on padded batches can't express the classifier; ``None`` if it can."""
    if state.layout.pad_to or state.model.pooling.reads_padding:
        return "a graph masks padding, and this classifier reads it"
    if state.layout.long_texts not in ("head", "tail"):
        return f"a graph reads one piece of a long text, and this classifier has long_texts={state.layout.long_texts!r}"
    return None
