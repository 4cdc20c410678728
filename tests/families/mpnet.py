"""MPNet in the tests that run over all architectures."""

from __future__ import annotations

from pathlib import Path

import torch
from random_models import LETTERS, save
from transformers import MPNetConfig, MPNetForSequenceClassification

from families import Family

CONFIGS = {
    "plain": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 77,
        "hidden_act": "gelu_new",
        "relative_attention_num_buckets": 37,
    },
}


def folder(path: Path, name: str, n_classes: int) -> Path:
    """A classifier with a WordPiece vocabulary of letters, and RoBERTa's special tokens."""
    torch.manual_seed(0)
    vocab = ["<s>", "<pad>", "</s>", "[UNK]", *LETTERS, *(f"##{c}" for c in LETTERS), "[CLS]", "<mask>"]
    config = MPNetConfig(
        **CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=50,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return save(path, MPNetForSequenceClassification(config), vocab)


FAMILY = Family(
    folder=folder,
    configs=CONFIGS,
    # Without the pooler, which classifiers don't use.
    parameters={"mpnet-base": 108_895_872, "all-mpnet-base-v2": 108_895_872},
    behind=("backbone.prediction_head.",),
    last_block="backbone.encoder.layer.2.",
    targets=["q", "o", "intermediate.dense"],
    own_blocks=True,
    refused=(
        ({"relative_attention_num_buckets": 31}, "relative_attention_num_buckets is 31"),
        ({"max_position_embeddings": 2}, "max_position_embeddings is 2"),
        ({"hidden_act": "relu"}, "relu"),
    ),
)
