"""What the architectures differ in: their modules, Hugging Face's names for them, and how each reads a text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..config import ModelConfig
from .bert import Bert, Roberta
from .distilbert import DistilBert
from .gpt2 import GPT2
from .modernbert import ModernBert

Backbone: TypeAlias = GPT2 | Bert | DistilBert | ModernBert


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes
    ----------
    backbone : type
    class_name : str
        Of transformers' classifier.
    prefix : str
        Of the backbone's tensors in a classifier's file.
    head : str
        Name of the last linear layer there.
    prediction_head : str or None
        Name of what stands before it and belongs to the classifier, not to the pretrained model: a linear layer, for
        ModernBERT with a norm.
    saved_modules : tuple of str
        What PEFT calls the modules of the head.
    unneeded : pattern
        Tensors of known files that a classifier doesn't need: masks, position counters, heads of other tasks.
    renamed : tuple of (pattern, str)
        Old names in files, and what they are called now.
    transposed : pattern or None
        Weights that files hold as [in, out]; the engine holds [out, in].
    causal : bool
    pooling : str
    head_bias : bool
        The architecture's convention.
    """

    backbone: type[Backbone]
    class_name: str
    prefix: str
    head: str
    unneeded: re.Pattern[str]
    prediction_head: str | None = None
    saved_modules: tuple[str, ...] = ("classifier",)
    renamed: tuple[tuple[re.Pattern[str], str], ...] = field(default=())
    transposed: re.Pattern[str] | None = None
    causal: bool = False
    pooling: str = "first"
    head_bias: bool = True

    def of_backbone(self, name: str) -> bool:
        """Whether a parameter of our backbone is one of the pretrained model."""
        return not name.startswith("prediction_head.")

    def file_name(self, name: str) -> str:
        """Name in a classifier's file of our parameter ``backbone.*`` or ``head.*``."""
        part, _, rest = name.partition(".")
        if part == "head":
            return f"{self.head}.{rest}"
        if self.of_backbone(rest):
            return self.prefix + rest
        return f"{self.prediction_head}.{rest.removeprefix('prediction_head.')}"

    def own_name(self, name: str) -> str:
        """Our name of a tensor in a file of the pretrained model, with or without the prefix, or of a classifier."""
        if name.startswith(f"{self.head}."):
            return "head." + name.removeprefix(f"{self.head}.")
        if self.prediction_head is not None and name.startswith(f"{self.prediction_head}."):
            return "backbone.prediction_head." + name.removeprefix(f"{self.prediction_head}.")
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.renamed:
            name = pattern.sub(replacement, name)
        return f"backbone.{name}"

    def convention(self, config: ModelConfig) -> dict[str, Any]:
        """Pooling, causal mask and head bias where the user leaves them open."""
        return {"pooling": config.pooling or self.pooling, "causal": self.causal, "bias": self.head_bias}

    def expresses(self, pooling: str) -> bool:
        """Whether transformers' classifier can read that row."""
        if self.backbone is ModernBert:
            return pooling in ("first", "mean")
        return pooling == self.pooling or (pooling == "last_position" and self.pooling == "last")


_GAMMA_AND_BETA = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(
        GPT2,
        "GPT2ForSequenceClassification",
        prefix="transformer.",
        head="score",
        saved_modules=("score",),
        unneeded=re.compile(r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight|multiple_choice_head\..*"),
        transposed=re.compile(r"(c_attn|c_proj|c_fc)\.weight$"),
        causal=True,
        pooling="last",
        head_bias=False,
    ),
    "bert": Architecture(
        Bert,
        "BertForSequenceClassification",
        prefix="bert.",
        head="classifier",
        unneeded=re.compile(r"embeddings\.position_ids|cls\..*"),
        renamed=_GAMMA_AND_BETA,
    ),
    "roberta": Architecture(
        Roberta,
        "RobertaForSequenceClassification",
        prefix="roberta.",
        head="classifier.out_proj",
        prediction_head="classifier.dense",
        unneeded=re.compile(r"embeddings\.position_ids|lm_head\..*|pooler\..*"),
        renamed=_GAMMA_AND_BETA,
    ),
    "distilbert": Architecture(
        DistilBert,
        "DistilBertForSequenceClassification",
        prefix="distilbert.",
        head="classifier",
        prediction_head="pre_classifier",
        saved_modules=("pre_classifier", "classifier"),
        unneeded=re.compile(r"vocab_(transform|layer_norm|projector)\..*|embeddings\.position_ids"),
    ),
    "modernbert": Architecture(
        ModernBert,
        "ModernBertForSequenceClassification",
        prefix="model.",
        head="classifier",
        prediction_head="head",
        saved_modules=("head", "classifier"),
        unneeded=re.compile(r"decoder\..*"),
    ),
}


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture of a configuration."""
    return ARCHITECTURES[config.model_type]
