"""The state of a classifier, and whether other formats can express it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.packing import RowLayout
from ..data.tokenizers import PromptedTokenizer, Tokenizer
from ..lora_config import LoRAConfig
from ..models.architecture import Architecture
from ..models.architectures.registry import architecture_of
from ..models.pooling import Pooling
from ..models.sequence_classifier import SequenceClassifier
from .decisions import Decisions
from .held_out import HeldOut, TrainingRows


@dataclass(frozen=True)
class Int8Layers:
    """Which layers compute in int8, and how many labels of the calibration texts that left as in float32.

    Attributes
    ----------
    layers, left_out : tuple of str
        Names of the linear layers of the blocks that compute in int8, and of those that change the logits too much.
    agreement : float
        Share of the calibration texts whose label is that of float32.
    texts : int
        Number of calibration texts.
    factors : dict of str to tensor
        Factors of the rows of a layer, by its name; see :class:`pyllmclf.ops.Int8Weight`.
    """

    layers: tuple[str, ...]
    left_out: tuple[str, ...]
    agreement: float
    texts: int
    factors: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def record(self) -> dict[str, Any]:
        """The fields that JSON can hold."""
        return {"layers": self.layers, "left_out": self.left_out, "agreement": self.agreement, "texts": self.texts}

    def __str__(self) -> str:
        count = len(self.layers) + len(self.left_out)
        return (
            f"int8: {len(self.layers)} of {count} linear layers; on {self.texts:,} texts {self.agreement:.2%} of the "
            "labels are those of float32"
        )


@dataclass
class ClassifierState:
    """Everything that a classifier consists of.

    Attributes
    ----------
    model : SequenceClassifier
    tokenizer : Tokenizer
    encoder : LabelEncoder or MultiLabelEncoder
    layout : RowLayout
    lora : LoRAConfig or None
    hub_id, revision : str or None
        Repository and commit of the pretrained weights, if they come from the hub.
    settings : dict
        Arguments of the run, with the values that "auto" and ``None`` stood for.
    base_sha256 : str or None
        Hash of the frozen base of a LoRA classifier; ``None`` until it is computed.
    temperature : float or None
        Temperature of the calibration, which the head's weights are divided by.
    metrics : dict
        Main figures by split, for the model card.
    int8 : Int8Layers or None
        The layers that classify in int8, where they were chosen.
    held_out : HeldOut or None
        Scores of texts that the classifier was not trained on.
    training_rows : TrainingRows or None
        Statistics of what the head reads of the training texts.
    decisions : Decisions
        How probabilities become answers.
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
    int8: Int8Layers | None = None
    held_out: HeldOut | None = None
    training_rows: TrainingRows | None = None
    decisions: Decisions = field(default_factory=Decisions)

    @property
    def has_pairs(self) -> bool:
        """Whether the classifier reads pairs of texts."""
        return self.tokenizer.pairs is not None

    @property
    def reads_types(self) -> bool:
        """Whether the model reads types of tokens, which tell the second text of a pair."""
        return self.tokenizer.pairs is not None and self.tokenizer.pairs.typed

    @property
    def label_separator(self) -> str | None:
        """Separator of a text's labels; ``None`` where each text has one label."""
        return self.encoder.separator if isinstance(self.encoder, MultiLabelEncoder) else None


def why_not_transformers(state: ClassifierState) -> str | None:
    """The reason why transformers' own class can't express the classifier; ``None`` if it can."""
    spec, architecture = state.model.spec, architecture_of(state.model.config)
    name = architecture.class_name
    if state.layout.pad_to:
        return f"{name} masks padding, and this classifier reads it"
    if state.layout.long_texts not in ("head", "tail"):
        return f"{name} reads one piece of a long text, and this classifier has long_texts={state.layout.long_texts!r}"
    if state.has_pairs and state.layout.pair_truncation != "longest_first":
        return (
            f"{name}'s pipeline truncates the longer text of a pair, and this classifier has "
            f"pair_truncation={state.layout.pair_truncation!r}"
        )
    if spec.causal != architecture.causal:
        return f"{name} is {'causal' if architecture.causal else 'bidirectional'}, and this classifier is not"
    if not spec.pooler:
        return (
            f"{name} reads the token through its pooler, and this classifier, as its sentence-transformers model, does "
            "not; one trained with pooling='first' (--pooling first) does"
        )
    if not _can_read(architecture, state.model.pooling):
        return f"{name} reads the {architecture.pooling} token, and this classifier uses pooling={spec.pooling!r}"
    if spec.bias != architecture.head_bias:
        theirs, ours = ("with", "without") if architecture.head_bias else ("without", "with")
        return f"{name} has a head {theirs} bias, and this classifier has one {ours} it"
    return why_not_in_tokenizer(state)


def _can_read(architecture: Architecture, pooling: Pooling) -> bool:
    """Whether transformers' classifier reads the same rows, where nothing is padded."""
    poolings = architecture.poolings or (architecture.pooling,)
    return pooling.name in poolings or pooling.unpadded in poolings


def why_not_padded(state: ClassifierState) -> str | None:
    """The reason why a graph of padded batches can't express the classifier; ``None`` if it can."""
    if state.layout.pad_to or state.model.pooling.reads_padding:
        return "a graph masks padding, and this classifier reads it"
    if state.layout.long_texts not in ("head", "tail"):
        return f"a graph reads one piece of a long text, and this classifier has long_texts={state.layout.long_texts!r}"
    return why_not_in_tokenizer(state)


def why_not_in_tokenizer(state: ClassifierState) -> str | None:
    """The reason why the tokenizer's files can't hold the classifier's prompt; ``None`` if they can."""
    return state.tokenizer.obstacle if isinstance(state.tokenizer, PromptedTokenizer) else None
