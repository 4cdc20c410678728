"""A small tokenizer of XLM-RoBERTa's kind, and a BERT of sentence-transformers that reads with it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from random_models import perturb
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

WORDS = (
    *("query", "passage", "hello", "world", "the", "cat", "sat", "on", "a", "mat", "there", "leading", "trailing"),
    *("words", "lengths", "text", "l'été", "où", "ça", "naïve", "Straße", "über", "Größe", "привет", "мир", "как"),
    *("дела", "日本", "語", "文章", "123", "4567", "email", "http", "com"),
)
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def unigram_tokenizer(*, splits_at_white_space: bool = True) -> Tokenizer:
    """A Unigram model of a few hundred tokens: ``<s>`` and ``</s>`` around a text, padding token 1, ``<mask>`` last.

    XLM-RoBERTa's splits at white space before Metaspace marks the beginnings of words; others mark every space.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    metaspace = pre_tokenizers.Metaspace()
    splits = [pre_tokenizers.WhitespaceSplit(), metaspace]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits) if splits_at_white_space else metaspace
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=9)) + draw.choice([".", ":", "?", ", ", "!"]) for _ in range(400)]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*lines, *["query: a cat"] * 99], trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def multilingual_folder(folder: Path) -> Path:
    """A folder in the layout of multilingual-e5-small: a BERT whose embedding has more rows than there are tokens."""
    torch.manual_seed(0)
    tokenizer = unigram_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size() + 35,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(config)
    perturb(model, 1)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    tokens = {f"{name}_token": token for name, token in named.items()}
    sentence = "sentence_transformers.models."
    files = {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 48} | tokens,
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{sentence}Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{sentence}Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{sentence}Normalize"},
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": False},
    }
    (folder / "1_Pooling").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
