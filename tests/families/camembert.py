"""CamemBERT in the tests that run over all architectures."""

from __future__ import annotations

from pathlib import Path

import torch
from random_models import LETTERS, save
from transformers import CamembertConfig, CamembertForSequenceClassification, CamembertTokenizer

from families import Family

CONFIGS = {
    "plain": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "odd": {"hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77},
}


def folder(path: Path, name: str, n_classes: int) -> Path:
    """A classifier with a Unigram vocabulary of letters."""
    torch.manual_seed(0)
    vocab = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    vocab += [("<s>", 0.0), ("</s>", 0.0)]
    vocab += [(piece, -float(i)) for i, piece in enumerate(["▁", *LETTERS, *(f"▁{c}" for c in LETTERS), "the"], 1)]
    config = CamembertConfig(
        **CONFIGS[name],
        vocab_size=len(vocab) + 1,
        max_position_embeddings=66,
        type_vocab_size=1,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    save(path, CamembertForSequenceClassification(config))
    CamembertTokenizer(vocab=[*vocab, ("<mask>", 0.0)]).save_pretrained(path)
    return path


FAMILY = Family(
    folder=folder,
    configs=CONFIGS,
    parameters={"camembert-base": 110_031_360},  # without the pooler, which classifiers don't use
    behind=("backbone.prediction_head.",),
    last_block="backbone.encoder.layer.2.",
    targets=["query", "key", "dense"],
    excluded=".*classifier.*",
    refused=(({"pad_token_id": None}, "counts positions"), ({"hidden_act": "relu"}, "relu")),
)
