"""CamemBERT (Martin et al. 2020): RoBERTa's modules with a French vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.tokenizers import FAIRSEQ_FILE, LibraryTokenizer, Vocabulary, fairseq_tokenizer
from ..architecture import Preset
from ..config import ModelConfig
from .bert import sizes
from .roberta import ARCHITECTURE as ROBERTA
from .roberta import read_config as read_roberta_config


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads CamemBERT's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        Where RoBERTa's reader raises it.
    """
    roberta = read_roberta_config({"max_position_embeddings": 512} | raw, origin)
    return replace(roberta, model_type="camembert", raw=raw)


def _sentence_pieces(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    unused = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
    # SentencePiece's own unknown token has an id that no text gets.
    first = [(unused[0], 0.0), ("<pad>", 0.0), (unused[1], 0.0), ("<unk>", 0.0), (unused[2], -100.0)]
    return fairseq_tokenizer(folder, config, first=first, skipped=1, special=unused, **rules)


ARCHITECTURE = replace(
    ROBERTA,
    model_type="camembert",
    title="CamemBERT",
    class_name="CamembertForSequenceClassification",
    read_config=read_config,
    vocabulary=Vocabulary((FAIRSEQ_FILE,), _sentence_pieces),
    presets={
        "camembert-base": Preset(
            sizes(768, 12, 12, 32005)
            | {
                "model_type": "camembert",
                "max_position_embeddings": 514,
                "type_vocab_size": 1,
                "layer_norm_eps": 1e-5,
                "pad_token_id": 1,
            },
            "almanach/camembert-base",
        ),
    },
)
