"""XLM-RoBERTa (Conneau et al. 2019): RoBERTa's modules with a vocabulary of about 100 languages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.tokenizers import FAIRSEQ_FILE, LibraryTokenizer, Vocabulary, fairseq_tokenizer
from ..architecture import Preset
from ..config import ModelConfig
from .bert import E5_PROMPT
from .bert import sizes as bert_sizes
from .roberta import ARCHITECTURE as ROBERTA
from .roberta import read_config as read_roberta_config


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads XLM-RoBERTa's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        Where RoBERTa's reader raises it.
    """
    roberta = read_roberta_config({"max_position_embeddings": 512} | raw, origin)
    return replace(roberta, model_type="xlm-roberta", raw=raw)


def _sentence_pieces(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return fairseq_tokenizer(folder, config, first=first, skipped=3, special=(), **rules)


def _sizes(width: int, layers: int, heads: int, max_positions: int = 514) -> dict[str, Any]:
    return bert_sizes(width, layers, heads, 250002) | {
        "model_type": "xlm-roberta",
        "max_position_embeddings": max_positions,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }


BASE, LARGE = _sizes(768, 12, 12), _sizes(1024, 24, 16)

ARCHITECTURE = replace(
    ROBERTA,
    model_type="xlm-roberta",
    title="XLM-RoBERTa",
    class_name="XLMRobertaForSequenceClassification",
    read_config=read_config,
    vocabulary=Vocabulary((FAIRSEQ_FILE,), _sentence_pieces),
    presets={
        "xlm-roberta-base": Preset(BASE, "FacebookAI/xlm-roberta-base"),
        "xlm-roberta-large": Preset(LARGE, "FacebookAI/xlm-roberta-large"),
        "multilingual-e5-base": Preset(BASE, "intfloat/multilingual-e5-base", prompt=E5_PROMPT),
        "multilingual-e5-large": Preset(LARGE, "intfloat/multilingual-e5-large", prompt=E5_PROMPT),
        "bge-m3": Preset(_sizes(1024, 24, 16, 8194), "BAAI/bge-m3"),
    },
)
