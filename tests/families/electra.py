"""ELECTRA in the tests that run over all architectures."""

from __future__ import annotations

from pathlib import Path

import torch
from random_models import save, wordpiece_vocabulary
from transformers import ElectraConfig, ElectraForSequenceClassification

from families import Family

CONFIGS = {
    "plain": {
        "embedding_size": 12,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
    # Without a projection.
    "odd": {
        "embedding_size": 30,
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 77,
        "type_vocab_size": 1,
        "hidden_act": "gelu_new",
    },
    "wider": {
        "embedding_size": 17,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 9,
    },
}


def folder(path: Path, name: str, n_classes: int) -> Path:
    """A classifier with a WordPiece vocabulary of letters."""
    torch.manual_seed(0)
    vocab = wordpiece_vocabulary()
    config = ElectraConfig(
        **CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=48,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return save(path, ElectraForSequenceClassification(config), vocab)


FAMILY = Family(
    folder=folder,
    configs=CONFIGS,
    parameters={
        "electra-small-discriminator": 13_483_008,
        "electra-base-discriminator": 108_891_648,
        "electra-large-discriminator": 334_092_288,
    },
    behind=("backbone.prediction_head.",),
    last_block="backbone.encoder.layer.2.",
    targets=["query", "embeddings_project", "dense"],
    excluded=".*classifier.*",
    refused=(({"embedding_size": 0}, "embedding_size is 0"), ({"hidden_act": "relu"}, "relu")),
)
