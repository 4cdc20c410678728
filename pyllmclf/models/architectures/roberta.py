"""RoBERTa (Liu et al. 2019) on packed rows: BERT's layers, with positions counted from behind the padding token."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...data.tokenizers import ROBERTA_BYTE_PAIRS
from ...errors import ModelError
from ...ops.philox import EMBEDDING, LORA
from ..architecture import Architecture, Preset
from ..config import ModelConfig
from ..layers import Context, Linear
from .bert import GAMMA_AND_BETA, Bert, sizes
from .bert import read_config as read_bert_config


class Roberta(Bert):
    """RoBERTa (Liu et al. 2019): BERT's layers; its dense layer before the head belongs to the classifier."""

    def _add_pooler(self, config: ModelConfig) -> None:
        self.prediction_head = Linear(config.width, config.width, layer=config.n_layers, site=LORA)
        self.n_layers = config.n_layers

    @property
    def behind_blocks(self) -> list[nn.Module]:
        return [self.prediction_head]

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        x = context.drop(x, context.rates.head, self.n_layers, EMBEDDING)
        return self.prediction_head(x, context).tanh()


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    padding = raw.get("pad_token_id", 1)
    if not isinstance(padding, int) or padding < 0:
        raise ModelError(f"{origin}: pad_token_id is {padding!r}; RoBERTa counts positions from behind it.")
    bert = read_bert_config({"max_position_embeddings": 514, "layer_norm_eps": 1e-12} | raw, origin)
    offset = padding + 1
    return replace(bert, model_type="roberta", position_offset=offset, n_positions=bert.n_positions - offset, raw=raw)


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    return sizes(width, layers, heads, 50265) | {
        "model_type": "roberta",
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }


ARCHITECTURE = Architecture(
    model_type="roberta",
    title="RoBERTa",
    backbone=Roberta,
    class_name="RobertaForSequenceClassification",
    read_config=read_config,
    prefix="roberta.",
    head="classifier.out_proj",
    prediction_head="classifier.dense",
    unneeded=re.compile(r"embeddings\.position_ids|lm_head\..*|pooler\..*"),
    renamed=GAMMA_AND_BETA,
    vocabulary=ROBERTA_BYTE_PAIRS,
    presets={
        "roberta-base": Preset(_sizes(768, 12, 12), "FacebookAI/roberta-base"),
        "roberta-large": Preset(_sizes(1024, 24, 16), "FacebookAI/roberta-large"),
    },
)
