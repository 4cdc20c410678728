"""ALBERT in the tests that run over all architectures."""

from __future__ import annotations

from pathlib import Path

import torch
from random_models import save, wordpiece_vocabulary
from tokenizers import BertWordPieceTokenizer
from transformers import AlbertConfig, AlbertForSequenceClassification

from families import Family

CONFIGS = {
    "plain": {
        "embedding_size": 12,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
    "odd": {
        "embedding_size": 30,
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 77,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
    },
}


def folder(path: Path, name: str, n_classes: int) -> Path:
    """A classifier with a tokenizer of letters."""
    torch.manual_seed(0)
    vocab = wordpiece_vocabulary()
    config = AlbertConfig(
        **CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=48,
        num_labels=n_classes,
        classifier_dropout_prob=0.0,
        bos_token_id=2,
        eos_token_id=3,
    )
    save(path, AlbertForSequenceClassification(config))
    tokenizer = BertWordPieceTokenizer(vocab={token: i for i, token in enumerate(vocab)})
    (path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}')
    return path


FAMILY = Family(
    folder=folder,
    configs=CONFIGS,
    parameters={"albert-base-v2": 11_683_584, "albert-large-v2": 17_683_968},
    behind=("backbone.pooler.",),
    last_block="backbone.",
    shares_layers=True,
    targets=["query", "ffn", "embedding_hidden_mapping_in"],
    own_blocks=True,
    refused=(
        ({"num_hidden_groups": 2}, "num_hidden_groups=2"),
        ({"inner_group_num": 2}, "inner_group_num=2"),
        ({"embedding_size": -1}, "embedding_size is -1"),
        ({"hidden_act": "relu"}, "relu"),
    ),
)
