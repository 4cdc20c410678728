"""DeBERTa-v2 in the tests that run over all architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from random_models import save, wordpiece_vocabulary
from tokenizers import BertWordPieceTokenizer
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from families import Family

# Version 3: projections shared by contents and positions, a norm of the distances, no other positions. The buckets of
# 35 tokens' distances are single up to 4, and grow from there.
VERSION_3: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        **VERSION_3,
    },
    # Projections of their own, a bucket for each distance up to 13, absolute positions and types, a narrow embedding.
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 77,
        "embedding_size": 18,
        "relative_attention": True,
        "max_relative_positions": 13,
        "norm_rel_ebd": "none",
        "share_att_key": False,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": True,
        "type_vocab_size": 2,
        "hidden_act": "gelu_new",
        "pooler_hidden_act": "gelu_new",
    },
    "content_to_position": {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 9,
        **VERSION_3,
        "pos_att_type": ["c2p"],
    },
    "position_to_content": {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 9,
        **VERSION_3,
        "share_att_key": False,
        "position_buckets": 5,
        "pos_att_type": "p2c",
    },
}


def folder(path: Path, name: str, n_classes: int) -> Path:
    """A classifier with a tokenizer of letters."""
    torch.manual_seed(0)
    vocab = wordpiece_vocabulary()
    config = DebertaV2Config(
        **CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=48,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    save(path, DebertaV2ForSequenceClassification(config))
    tokenizer = BertWordPieceTokenizer(vocab={token: i for i, token in enumerate(vocab)})
    (path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}')
    return path


FAMILY = Family(
    folder=folder,
    configs=CONFIGS,
    parameters={
        "deberta-v3-small": 141_304_320,
        "deberta-v3-base": 183_831_552,
        "deberta-v3-large": 434_012_160,
    },
    behind=("backbone.prediction_head.",),
    last_block="backbone.encoder.layer.2.",
    targets=["query_proj", "key_proj", "intermediate.dense"],
    saved=["pooler", "classifier"],
    own_blocks=True,
    refused=(
        ({"conv_kernel_size": 3}, "convolution"),
        ({"relative_attention": False}, "relative_attention False"),
        ({"pos_att_type": ["p2p"]}, "p2p"),
        ({"pos_att_type": None}, "pos_att_type is None"),
        ({"position_buckets": 94}, "position_buckets is 94"),
        ({"position_buckets": "8"}, "position_buckets is '8'"),
        ({"norm_rel_ebd": 1}, "norm_rel_ebd is 1"),
        ({"pooler_hidden_act": "tanh"}, "tanh"),
        ({"pooler_dropout": 0.3}, "pooler_dropout is 0.3"),
        ({"attention_head_size": 3}, "attention_head_size"),
        ({"type_vocab_size": -1}, "type_vocab_size is -1"),
    ),
)
