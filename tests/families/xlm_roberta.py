"""XLM-RoBERTa in the tests that run over all architectures."""

from __future__ import annotations

from pathlib import Path

import torch
from random_models import LETTERS, save
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification, XLMRobertaTokenizer

from families import Family

CONFIGS = {
    "plain": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "odd": {"hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77},
}


def folder(path: Path, name: str, n_classes: int) -> Path:
    """A classifier with a Unigram vocabulary of letters."""
    torch.manual_seed(0)
    vocab = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [(piece, -float(i)) for i, piece in enumerate(["▁", *LETTERS, *(f"▁{c}" for c in LETTERS), "the"], 1)]
    config = XLMRobertaConfig(
        **CONFIGS[name],
        vocab_size=len(vocab) + 1,
        max_position_embeddings=66,
        type_vocab_size=1,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    save(path, XLMRobertaForSequenceClassification(config))
    XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)]).save_pretrained(path)
    return path


FAMILY = Family(
    folder=folder,
    configs=CONFIGS,
    # Without the pooler, which classifiers don't use.
    parameters={
        "xlm-roberta-base": 277_453_056,
        "xlm-roberta-large": 558_840_832,
        "multilingual-e5-base": 277_453_056,
        "multilingual-e5-large": 558_840_832,
        "bge-m3": 566_705_152,
    },
    behind=("backbone.prediction_head.",),
    last_block="backbone.encoder.layer.2.",
    targets=["query", "key", "dense"],
    excluded=".*classifier.*",
    refused=(({"pad_token_id": None}, "counts positions"), ({"hidden_act": "relu"}, "relu")),
)
