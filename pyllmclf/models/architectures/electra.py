"""ELECTRA (Clark et al. 2020): BERT's layers behind an embedding that may be narrower; the discriminator is read."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ... import ops
from ...data.tokenizers import WORDPIECE
from ...ops.philox import EMBEDDING, LORA
from ..architecture import Architecture, Preset
from ..config import ModelConfig
from ..context import Context
from ..layers import Linear, in_dtype
from .bert import GAMMA_AND_BETA, sizes
from .bert import read_config as read_bert_config
from .roberta import Roberta


class Electra(Roberta):
    """BERT's layers; a projection behind a narrower embedding, and a dense layer that belongs to the classifier."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.embeddings_project: Linear | None = None
        if config.embedding_width is not None:
            # It belongs to no block, whose sites of dropout it would otherwise share.
            self.embeddings_project = Linear(config.embedding_width, config.width, layer=config.n_layers, site=LORA + 1)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each layer, and after the layers."""
        embedding, *others = super().stages
        return [embedding if self.embeddings_project is None else [*embedding, self.embeddings_project], *others]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first layer, shape [total, width]."""
        x = self.embeddings(context)
        return x if self.embeddings_project is None else self.embeddings_project(x, context)

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """gelu(prediction_head(drop(x))), shape [texts, width], of the pooled rows x [texts, width]."""
        x = context.drop(x, context.rates.head, self.n_layers, EMBEDDING)
        dense = self.prediction_head(x, context, add_bias=False)
        return ops.gelu(dense, in_dtype(self.prediction_head.bias, x.dtype), "none")


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads ELECTRA's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        Where BERT's reader raises it.
    """
    bert = read_bert_config(raw, origin)
    narrower = raw.get("embedding_size", 128)
    return replace(bert, model_type="electra", embedding_width=None if narrower == bert.width else narrower, raw=raw)


def _sizes(width: int, layers: int, heads: int, embedding_width: int) -> dict[str, Any]:
    return sizes(width, layers, heads, 30522) | {"model_type": "electra", "embedding_size": embedding_width}


ARCHITECTURE = Architecture(
    model_type="electra",
    title="ELECTRA",
    backbone=Electra,
    class_name="ElectraForSequenceClassification",
    read_config=read_config,
    prefix="electra.",
    head="classifier.out_proj",
    prediction_head="classifier.dense",
    unneeded=re.compile(r"embeddings\.position_ids|(discriminator|generator)_(predictions|lm_head)\..*"),
    renamed=GAMMA_AND_BETA,
    vocabulary=WORDPIECE,
    presets={
        "electra-small-discriminator": Preset(_sizes(256, 12, 4, 128), "google/electra-small-discriminator"),
        "electra-base-discriminator": Preset(_sizes(768, 12, 12, 768), "google/electra-base-discriminator"),
        "electra-large-discriminator": Preset(_sizes(1024, 24, 16, 1024), "google/electra-large-discriminator"),
    },
)
