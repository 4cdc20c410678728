"""Architectures other than GPT-2 and BERT end to end: training, the activation cache, checkpoints, other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import DECODERS, LABELS, MORE, TEXTS, Folders, each_kind, make_trainer, some_blocks
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import pyllmclf
from pyllmclf import ModelError, UsageError
from pyllmclf.models.hub import find_model
from pyllmclf.models.rotary import read_rotary

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
ENCODERS = ["roberta", "distilbert", "modernbert", *MORE]
NEW = [*ENCODERS, *DECODERS]
CLASSES = [f"class {label}" for label in LABELS]
SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-2, "progress": False}
# Names of parameters that belong to the classifier, and of what else stands behind the blocks.
BEHIND = {
    "roberta": ("backbone.prediction_head.",),
    "distilbert": ("backbone.prediction_head.",),
    "modernbert": ("backbone.prediction_head.", "backbone.final_norm."),
    **dict.fromkeys(DECODERS, ("backbone.norm.",)),
    **{name: family.behind for name, family in MORE.items()},
}
BLOCK = {
    "roberta": "backbone.encoder.layer.2.",
    "distilbert": "backbone.transformer.layer.2.",
    "modernbert": "backbone.layers.3.",
    **dict.fromkeys(DECODERS, "backbone.layers.2."),
    **{name: family.last_block for name, family in MORE.items()},
}


def finetune(folder: Path, **changes: Any) -> pyllmclf.FinetuneResult:
    return pyllmclf.finetune(folder, (TEXTS, CLASSES), **SHORT | changes)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def their_logits(model: torch.nn.Module, folder: Path) -> np.ndarray:
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any()
    return model.eval()(**batch).logits.numpy()


@pytest.mark.parametrize("family", NEW)
def test_tokens_are_those_of_transformers(model_folder: Folders, family: str) -> None:
    folder = model_folder(family)
    tokenizer = find_model(folder, "pretrained").tokenizer
    found = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode_batch(TEXTS)]
    assert found == AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]


@pytest.mark.parametrize("trainable", ["head", "last_block", "all", "lora"])
@pytest.mark.parametrize("family", NEW)
def test_what_is_trained(model_folder: Folders, family: str, trainable: str) -> None:
    """The dense layer before the head belongs to the classifier: it is trained even where nothing else is."""
    if trainable == "last_block" and some_blocks(family) == "all":
        with pytest.raises(
            UsageError, match=r"all blocks of .* have the same parameters; choose 'head', 'all' or 'lora'"
        ):
            make_trainer(model_folder(family), TEXTS, LABELS, trainable)
        return
    trainer = make_trainer(model_folder(family), TEXTS, LABELS, trainable)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    for _ in range(2):  # LoRA's A has no gradient before B is other than zero
        trainer.train_step([np.arange(6)])
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    classifier = ("head.", "backbone.prediction_head.")
    prefixes = {
        "head": classifier,
        "last_block": (*classifier, *BEHIND[family], BLOCK[family]),
        "all": ("",),
    }.get(trainable, classifier)
    expected = {n for n in before if n.startswith(prefixes) or (trainable == "lora" and "lora_" in n)}
    assert changed == expected
    assert not any("prediction_head" in n and "lora_" in n for n in before)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("trainable", ["head", "last_block", "lora"])
@pytest.mark.parametrize("family", each_kind(NEW))
def test_kept_prefix_changes_nothing(model_folder: Folders, family: str, trainable: str, pooling: str) -> None:
    folder = model_folder(family)
    trainable = some_blocks(family) if trainable == "last_block" else trainable
    kept, off = (finetune(folder, trainable=trainable, pooling=pooling, cache=cache) for cache in ("memory", "off"))
    assert np.allclose([r.train_loss for r in kept.history], [r.train_loss for r in off.history], rtol=0, atol=1e-6)
    assert relative_error(kept.classifier.logits(TEXTS), off.classifier.logits(TEXTS)) < 1e-4


@pytest.mark.parametrize("family", each_kind(NEW))
def test_checkpoint_opens_here_and_in_transformers(model_folder: Folders, tmp_path: Path, family: str) -> None:
    classifier = finetune(model_folder(family), trainable=some_blocks(family)).classifier
    expected = classifier.logits(TEXTS)
    classifier.save(tmp_path / "saved")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "saved").logits(TEXTS), expected)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert model.config.id2label == {i: f"class {i}" for i in range(3)}
    assert relative_error(their_logits(model, tmp_path / "saved"), expected) <= 1e-5


@pytest.mark.parametrize("family", each_kind(NEW))
def test_adapter_opens_here_and_in_peft(model_folder: Folders, tmp_path: Path, family: str) -> None:
    lora = {"rank": 2, "dropout": 0.1}
    classifier = finetune(model_folder(family), trainable="lora", lora=lora).classifier
    expected = classifier.logits(TEXTS)
    classifier.save(tmp_path / "saved")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "saved").logits(TEXTS), expected)
    pad = json.loads((tmp_path / "saved/base/config.json").read_text())["pad_token_id"]
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved/base", num_labels=3, pad_token_id=pad)
    model = PeftModel.from_pretrained(base, tmp_path / "saved")
    assert relative_error(their_logits(model, tmp_path / "saved"), expected) <= 1e-5
    classifier.export(tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert relative_error(their_logits(merged, tmp_path / "merged"), expected) <= 1e-5


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_modernbert_says_which_row_is_read(model_folder: Folders, tmp_path: Path, pooling: str) -> None:
    """Its configuration can say that the mean is read, and then that is what transformers does."""
    classifier = finetune(model_folder("modernbert"), pooling=pooling).classifier
    classifier.save(tmp_path / "saved")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert model.config.classifier_pooling == {"first": "cls", "mean": "mean"}[pooling]
    assert relative_error(their_logits(model, tmp_path / "saved"), classifier.logits(TEXTS)) <= 1e-5
    again = pyllmclf.finetune(tmp_path / "saved", (TEXTS, CLASSES), **SHORT | {"trainable": "head"}).classifier
    assert again.state.model.spec.pooling == pooling


@pytest.mark.parametrize("family", ["roberta", "distilbert", *MORE])
def test_what_transformers_cannot_express(model_folder: Folders, tmp_path: Path, family: str) -> None:
    classifier = finetune(model_folder(family), pooling="mean", epochs=1).classifier
    with pytest.raises(UsageError, match="pooling='mean'"):
        classifier.export(tmp_path / "export")
    classifier.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="pyllmclf"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "saved").logits(TEXTS), classifier.logits(TEXTS))


@pytest.mark.parametrize(
    ("family", "cls"),
    [
        *((family, cls) for family in ENCODERS for cls in (AutoModel, AutoModelForMaskedLM)),
        *((family, cls) for family in DECODERS for cls in (AutoModel, AutoModelForCausalLM)),
    ],
)
def test_pretrained_model_gets_a_fresh_head(model_folder: Folders, tmp_path: Path, family: str, cls: type) -> None:
    """Heads of other tasks are left out; of ModernBERT's, transformers takes the dense layer and the norm, and so do
    we.
    """
    folder = model_folder.copy(tmp_path, family)
    torch.manual_seed(5)
    if cls is AutoModelForMaskedLM and family == "albert":
        pytest.skip("it has no pooler, which the classifier needs")
    pretrained = cls.from_config(AutoConfig.from_pretrained(folder))
    pretrained.save_pretrained(folder)
    first, again, other = (
        finetune(folder, trainable="head", epochs=1, seed=seed, learning_rate=1e-12).classifier.state.model
        for seed in (1, 1, 2)
    )
    state = pretrained.state_dict()
    own = dict(first.named_parameters())
    taken = family == "modernbert" and cls is AutoModelForMaskedLM
    if taken:
        torch.testing.assert_close(own["backbone.prediction_head.dense.weight"], state["head.dense.weight"])
    dense = "backbone.prediction_head." + ("dense.weight" if family == "modernbert" else "weight")
    for name, parameter in own.items():
        fresh = name.startswith("head.") or (name == dense and not taken)
        assert torch.equal(parameter, dict(again.named_parameters())[name])
        if fresh and name.endswith("weight"):
            assert not torch.equal(parameter, dict(other.named_parameters())[name])
            assert 0.01 < float(parameter.std()) < 0.03
        else:
            torch.testing.assert_close(parameter, dict(other.named_parameters())[name], rtol=0, atol=1e-9)


def drop_word(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop(next(name for name in tensors if name.endswith(("embeddings.weight", "embed_tokens.weight"))))


@pytest.mark.parametrize(
    ("damage", "word"),
    [(drop_word, "missing"), (lambda t: t.update({"other.weight": torch.zeros(3)}), "unknown")],
    ids=["missing", "unknown"],
)
@pytest.mark.parametrize("family", NEW)
def test_weights_that_do_not_fit(
    model_folder: Folders, tmp_path: Path, family: str, damage: Callable, word: str
) -> None:
    folder = model_folder.copy(tmp_path, family)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=word):
        finetune(folder)


@pytest.mark.parametrize(
    ("family", "changes", "word"),
    [
        ("roberta", {"pad_token_id": None}, "counts positions"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
        ("modernbert", {"layer_types": ["full_attention", "linear", "linear", "linear"]}, "layer_types"),
        ("modernbert", {"local_attention": 0}, "local_attention"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "scaled rotary"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_theta": 0}}}, "rotary positions is 0"),
        ("modernbert", {"hidden_activation": "silu"}, "silu"),
        ("distilbert", {"activation": "relu"}, "relu"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp"),
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("llama", {"num_key_value_heads": 3}, "no multiple of 3"),
        ("llama", {"num_key_value_heads": 0}, "n_kv_heads"),
        ("llama", {"head_dim": 7}, "odd width 7"),
        ("llama", {"mlp_bias": "yes"}, "mlp_bias"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "factor of the rotary"),
        ("llama", {"rope_parameters": YARN | {"rope_theta": 1.0}}, "out of range"),
        ("llama", {"rope_parameters": YARN | {"beta_fast": 1e308}}, "out of range"),
        ("llama", {"rope_parameters": YARN | {"attention_factor": "2"}}, "attention_factor of the rotary"),
        ("llama", {"head_dim": 2_000_000_000}, "head_dim of 2,000,000,000"),
        ("gemma3", {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, "rope_parameters of Gemma 3"),
        ("deberta_v2", {"num_attention_heads": 0}, "num_attention_heads"),
        ("deberta_v2", {"max_position_embeddings": 2_147_483_647}, "max_position_embeddings"),
        ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "part of each head"),
        ("llama", {"num_hidden_layers": 10**9}, "n_layers"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3, "sliding_window": None}, "sliding_window"),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, "layer_types"),
        ("qwen3", {"use_sliding_window": 1}, "use_sliding_window"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar"),
        *((name, changes, word) for name, family in MORE.items() for changes, word in family.refused),
    ],
)
def test_configuration_that_is_not_understood(
    model_folder: Folders, tmp_path: Path, family: str, changes: dict[str, Any], word: str
) -> None:
    folder = model_folder.copy(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=word):
        find_model(folder, "pretrained")


def test_older_modernbert_configuration(model_folder: Folders, tmp_path: Path) -> None:
    """As the hub's: numbers for both kinds of layers instead of lists."""
    folder = model_folder.copy(tmp_path, "modernbert")
    new = find_model(folder, "pretrained").config
    config = json.loads((folder / "config.json").read_text())
    for name in ("layer_types", "rope_parameters"):
        config.pop(name)
    config |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    assert find_model(folder, "pretrained").config == new


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"factor": 0.5},
        {"beta_fast": 8.0, "beta_slow": 2.0},
        {"truncate": False},
        {"attention_factor": 0.7},
        {"mscale": 0.5, "mscale_all_dim": 2.0},
        {"mscale": 0.5},
        {"rope_type": "linear"},
        {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 2.0},
    ],
    ids=str,
)
def test_scaled_positions_are_those_of_transformers(changes: dict[str, Any]) -> None:
    parameters = YARN | changes
    config = LlamaConfig(hidden_size=96, num_attention_heads=2, rope_parameters=parameters)
    expected, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, torch.device("cpu"))
    found = read_rotary(parameters, "test", 48, theta=1e4)
    torch.testing.assert_close(torch.tensor(found.frequencies), expected, rtol=1e-6, atol=0)
    assert found.factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("family", DECODERS)
def test_older_decoder_configuration(model_folder: Folders, tmp_path: Path, family: str) -> None:
    """As transformers 4 writes it: the base and the scaling of positions apart, windows by a rule."""
    folder = model_folder.copy(tmp_path, family)
    new = find_model(folder, "pretrained").config
    config = json.loads((folder / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config.pop("layer_types", None)
    if family == "gemma3":
        config |= {"sliding_window_pattern": 2, "rope_local_base_freq": parameters["sliding_attention"]["rope_theta"]}
        parameters = parameters["full_attention"]
    config |= {"rope_theta": parameters["rope_theta"], "rope_scaling": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert find_model(folder, "pretrained").config == new


def test_decoder_without_padding_token(model_folder: Folders, tmp_path: Path) -> None:
    """What ends a text pads it, here and in the checkpoint."""
    folder = model_folder.copy(tmp_path / "model", "llama")
    vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "tokenizer_config.json").read_text())
    end = "<|end_of_text|>"
    text = json.dumps(vocab).replace(names.pop("pad_token"), end)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    names |= {"bos_token": end, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    classifier = finetune(folder, epochs=1).classifier
    classifier.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token == end
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert relative_error(their_logits(model, tmp_path / "saved"), classifier.logits(TEXTS)) <= 1e-5


def test_roberta_vocabulary_that_lacks_a_special_token(model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder.copy(tmp_path, "roberta")
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocab["other"] = vocab.pop("<pad>")
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    with pytest.raises(ModelError, match="<pad>"):
        find_model(folder, "pretrained")
