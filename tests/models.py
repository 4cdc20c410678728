"""Makes small random Hugging Face models on disk, and batches for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import found_families
from random_models import save, wordpiece_vocabulary
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma3TextConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextForSequenceClassification

from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import GPT2_END_OF_TEXT, LibraryTokenizer, byte_alphabet, byte_level_json
from pyllmclf.models.hub import find_model
from pyllmclf.models.sequence_classifier import HeadSpec, SequenceClassifier
from pyllmclf.models.weights import load_weights
from pyllmclf.settings import Settings
from pyllmclf.training.prepare import prepare
from pyllmclf.training.trainer import Trainer

GPT2_CONFIGS = {
    "plain": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 257},
    "odd": {"n_embd": 30, "n_layer": 2, "n_head": 3, "n_positions": 41, "vocab_size": 301, "n_inner": 50},
    "scaled_by_layer": {
        "n_embd": 16,
        "n_layer": 4,
        "n_head": 1,
        "n_positions": 64,
        "vocab_size": 257,
        "scale_attn_by_inverse_layer_idx": True,
        "activation_function": "gelu",
    },
    "long": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 160, "vocab_size": 257},
    "unscaled": {
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 64,
        "vocab_size": 257,
        "scale_attn_weights": False,
        "layer_norm_epsilon": 1e-3,
    },
}
BERT_CONFIGS = {
    "plain": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 77,
        "type_vocab_size": 1,
        "hidden_act": "gelu_new",
    },
    "one_head": {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
    "two_layers": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}
ROBERTA_CONFIGS = {
    "plain": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "odd": {"hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77},
}
DISTILBERT_CONFIGS = {
    "plain": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "odd": {"dim": 30, "n_layers": 2, "n_heads": 5, "hidden_dim": 77, "activation": "gelu"},
}
MODERNBERT_CONFIGS = {
    # The third text has 35 tokens, most of them outside windows of 3 and 1 on either side.
    "plain": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "local_attention": 6,
    },
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 41,
        "local_attention": 2,
        "classifier_pooling": "mean",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "classifier_bias": True,
        # The last layer is local here.
        "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
    },
    "two_layers": {  # the second one local
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 10,
        "local_attention": 4,
    },
}
# Llama's kind: fewer heads of keys than of queries, widths that heads don't divide, scaled positions, windows.
LLAMA_CONFIGS = {
    "plain": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48},
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 41,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 300.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "linear": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 20,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5},
    },
}
QWEN2_CONFIGS = {
    "plain": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    },
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "intermediate_size": 41,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 200.0,
            "factor": 3.0,
            "original_max_position_embeddings": 16,
        },
    },
}
QWEN3_CONFIGS = {
    "plain": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 48,
    },
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 6,
        "intermediate_size": 41,
        "attention_bias": True,
    },
}
GEMMA3_CONFIGS = {
    "plain": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 48,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "odd": {
        "hidden_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "intermediate_size": 41,
        "sliding_window": 3,
        "query_pre_attn_scalar": 10,
        "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 700.0, "factor": 8.0},
        },
    },
}
TEXTS = ["a", "hello world", "the quick brown fox jumps over the lazy dog", "x y z", "b" * 30, "fun, isn't it?"]
LABELS = [0, 1, 2, 1, 0, 2]


def gpt2_folder(path: Path, name: str = "plain", n_classes: int = 3) -> Path:
    """A GPT-2 classifier with a byte-level tokenizer of 257 tokens."""
    torch.manual_seed(0)
    config = GPT2Config(
        **GPT2_CONFIGS[name],
        num_labels=n_classes,
        pad_token_id=256,
        bos_token_id=256,
        eos_token_id=256,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )
    save(path, GPT2ForSequenceClassification(config))
    (path / "tokenizer.json").write_text(byte_level_json([bytes([i]) for i in range(256)]), encoding="utf-8")
    return path


def bert_folder(path: Path, name: str = "plain", n_classes: int = 3) -> Path:
    """A BERT classifier with a WordPiece vocabulary of letters."""
    torch.manual_seed(0)
    vocab = wordpiece_vocabulary()
    config = BertConfig(
        **BERT_CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=48,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return save(path, BertForSequenceClassification(config), vocab)


def roberta_folder(path: Path, name: str = "plain", n_classes: int = 3) -> Path:
    """A RoBERTa classifier with a byte-level tokenizer as ``vocab.json`` and ``merges.txt``."""
    torch.manual_seed(0)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *byte_alphabet().values(), "<mask>"]
    config = RobertaConfig(
        **ROBERTA_CONFIGS[name],
        vocab_size=len(tokens),
        max_position_embeddings=66,
        type_vocab_size=1,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    save(path, RobertaForSequenceClassification(config))
    (path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return path


def distilbert_folder(path: Path, name: str = "plain", n_classes: int = 3) -> Path:
    """A DistilBERT classifier with a WordPiece vocabulary of letters."""
    torch.manual_seed(0)
    vocab = wordpiece_vocabulary()
    config = DistilBertConfig(
        **DISTILBERT_CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=48,
        num_labels=n_classes,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    )
    return save(path, DistilBertForSequenceClassification(config), vocab)


def modernbert_folder(path: Path, name: str = "plain", n_classes: int = 3) -> Path:
    """A ModernBERT classifier with a tokenizer of letters."""
    torch.manual_seed(0)
    vocab = wordpiece_vocabulary()
    special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(
        **MODERNBERT_CONFIGS[name],
        vocab_size=len(vocab),
        max_position_embeddings=48,
        num_labels=n_classes,
        **special,
    )
    config._attn_implementation = "eager"
    save(path, ModernBertForSequenceClassification(config))
    tokenizer = BertWordPieceTokenizer(vocab={token: i for i, token in enumerate(vocab)})
    (path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return path


def decoder_folder(kind: str) -> Callable[[Path, str, int], Path]:
    """Makes a classifier of one of Llama's kind with a byte-level tokenizer of 257 tokens."""

    def make(path: Path, name: str = "plain", n_classes: int = 3) -> Path:
        torch.manual_seed(0)
        config_class, model_class, configs = DECODERS[kind]
        special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 256)
        settings = {"vocab_size": 257, "max_position_embeddings": 64, "num_labels": n_classes} | special
        save(path, model_class(config_class(**settings | configs[name])))
        (path / "tokenizer.json").write_text(byte_level_json([bytes([i]) for i in range(256)]), encoding="utf-8")
        names = dict.fromkeys(("pad_token", "bos_token", "eos_token"), GPT2_END_OF_TEXT)
        tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"} | names
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        return path

    return make


DECODERS: dict[str, tuple[Any, Any, dict[str, dict[str, Any]]]] = {
    "llama": (LlamaConfig, LlamaForSequenceClassification, LLAMA_CONFIGS),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification, QWEN2_CONFIGS),
    "qwen3": (Qwen3Config, Qwen3ForSequenceClassification, QWEN3_CONFIGS),
    "gemma3": (Gemma3TextConfig, Gemma3TextForSequenceClassification, GEMMA3_CONFIGS),
}


FAMILIES = {
    "gpt2": (gpt2_folder, GPT2_CONFIGS),
    "bert": (bert_folder, BERT_CONFIGS),
    "roberta": (roberta_folder, ROBERTA_CONFIGS),
    "distilbert": (distilbert_folder, DISTILBERT_CONFIGS),
    "modernbert": (modernbert_folder, MODERNBERT_CONFIGS),
    **{kind: (decoder_folder(kind), configs) for kind, (_, _, configs) in DECODERS.items()},
}
MORE = found_families()
FAMILIES |= {name: (family.folder, family.configs) for name, family in MORE.items()}


# Architectures whose modules are those of another one, or nearly: tests that train, save and open are slow tests for
# them; logits, gradients and losses are compared for all.
RELATIVES = ("camembert", "xlm_roberta", "qwen2", "electra", "distilbert")


def each_kind(families: Iterable[str]) -> list[Any]:
    """The families as parameters of a test, those like another one with the marker ``slow``."""
    return [pytest.param(name, marks=pytest.mark.slow if name in RELATIVES else ()) for name in families]


def some_blocks(family: str) -> str:
    """The least ``trainable`` of an architecture that trains a block and is not LoRA."""
    return "all" if family in MORE and MORE[family].shares_layers else "last_block"


def make_folder(path: Path, family: str, name: str = "plain", n_classes: int = 3) -> Path:
    """Makes a classifier of an architecture."""
    return FAMILIES[family][0](path, name, n_classes)


class Folders:
    """Model folders, made once each and shared by all tests of a process, which only read them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._states: dict[Path, dict[str, tuple[int, int]]] = {}

    def __call__(self, family: str, name: str = "plain", n_classes: int = 3) -> Path:
        """The folder of a classifier, as :func:`make_folder` makes it."""
        path = self._root / f"{family}-{name}-{n_classes}"
        if path not in self._states:
            make_folder(path, family, name, n_classes)
            self._states[path] = self._state(path)
        self._check(path)
        return path

    def copy(self, to: Path, family: str, name: str = "plain", n_classes: int = 3) -> Path:
        """Copies a folder, for a test that changes it."""
        return Path(shutil.copytree(self(family, name, n_classes), to, dirs_exist_ok=True))

    def check(self) -> None:
        """Fails if a test has changed a folder."""
        for path in self._states:
            self._check(path)

    def _check(self, path: Path) -> None:
        assert self._state(path) == self._states[path], f"a test has changed {path}; take a copy"

    @staticmethod
    def _state(path: Path) -> dict[str, tuple[int, int]]:
        stats = {file.name: file.stat() for file in path.iterdir()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def our_model(folder: Path, **changes: Any) -> tuple[SequenceClassifier, Any]:
    """The classifier of a folder with another pooling or mask, and its tokenizer."""
    source = find_model(folder, "pretrained")
    head = HeadSpec.resolve(source.config, changes.get("pooling"), changes.get("causal"), None)
    model = SequenceClassifier(source.config, 3, head)
    load_weights(model, folder, head=True)
    return model, source.tokenizer


def packer_of(tokenizer: LibraryTokenizer, max_length: int, texts: list[str] = TEXTS) -> Packer:
    """A packer over the texts, without padding."""
    store = TokenStore.from_texts(texts, tokenizer)
    return Packer(store, tokenizer, RowLayout(max_length), np.array(LABELS[: len(texts)]))


def padded(packer: Packer, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads the texts of a packer: (input_ids, attention_mask), each of shape [texts, longest]."""
    rows = []
    for i in range(len(packer)):
        rows.append(packer.batch([i]).input_ids.long())
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(r) for r in rows])
    return ids, (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()


def make_trainer(folder: Path, texts: list[str], labels: list[int], trainable: str, **changes: Any) -> Trainer:
    """Makes the trainer that finetune makes, before its first step."""
    steps = {"batch_size": 8, "learning_rate": 1e-3, "epochs": 2, "scheduler": "constant", "warmup_ratio": 0.0}
    arguments: dict[str, Any] = steps | {"progress": False} | changes
    with prepare(Settings(model=folder, train=(texts, labels), trainable=trainable, **arguments)) as run:
        return run.trainer
