"""RoBERTa (Liu et al. 2019) on packed rows: BERT's layers; positions start at the padding token's id + 1."""

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
from ..context import Context
from ..layers import Linear
from .bert import GAMMA_AND_BETA, Bert, sizes
from .bert import read_config as read_bert_config


class Roberta(Bert):
    """BERT's layers; the dense layer before the head belongs to the classifier."""

    def _add_pooler(self, config: ModelConfig) -> None:
        self.prediction_head = Linear(config.width, config.width, layer=config.n_layers, site=LORA)
        self.n_layers = config.n_layers

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last layer and the head."""
        return [self.prediction_head]

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """tanh(prediction_head(drop(x))), shape [texts, width], of the pooled rows x [texts, width]."""
        x = context.drop(x, context.rates.head, self.n_layers, EMBEDDING)
        return self.prediction_head(x, context).tanh()


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads RoBERTa's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        If the padding token's id is not a count, and where BERT's reader raises it.
    """
    pad_token_id = raw.get("pad_token_id", 1)
    if not isinstance(pad_token_id, int) or pad_token_id < 0:
        raise ModelError(f"{origin}: pad_token_id is {pad_token_id!r}, not a count; RoBERTa counts positions from it.")
    bert = read_bert_config({"max_position_embeddings": 514, "layer_norm_eps": 1e-12} | raw, origin)
    offset = pad_token_id + 1
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
