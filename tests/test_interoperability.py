"""Classifiers of transformers and adapters of PEFT are opened, measured and trained on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interoperability import CLASSES, SHORT, STILL, close
from models import DECODERS, FAMILIES, MORE, TEXTS, Folders, each_kind
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

import pyllmclf
from pyllmclf import ModelError, UsageError
from pyllmclf.cli.main import eval_app, run

# Another order of names than that of the heads below.
LETTERS = [("a", "b", "c")[i % 3] for i in range(len(TEXTS))]


@torch.inference_mode()
def their_logits(model: torch.nn.Module, tokenizer_folder: Path) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "[PAD]" if "[PAD]" in tokenizer.get_vocab() else "<|endoftext|>"
    return model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()


# --- classifiers of transformers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_classifier_of_transformers(model_folder: Folders, tmp_path: Path, family: str) -> None:
    folder = model_folder(family)
    expected = their_logits(AutoModelForSequenceClassification.from_pretrained(folder), folder)
    classifier = pyllmclf.load(folder)
    assert classifier.classes_ == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert close(classifier.logits(TEXTS), expected)
    # Nothing is trained at this learning rate: what was there is kept, the head too.
    onward = pyllmclf.finetune(folder, (TEXTS, CLASSES), trainable="all", **STILL).classifier
    assert close(onward.logits(TEXTS), expected)
    classifier.save(tmp_path / "ours")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "ours").logits(TEXTS), classifier.logits(TEXTS))


def test_classifiers_of_others_are_measured_by_the_command(
    model_folder: Folders, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of transformers, an adapter of PEFT and one of this library, compared on the same texts."""
    folder = model_folder("bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, r=2)).save_pretrained(tmp_path / "adapter")
    pyllmclf.load(folder).save(tmp_path / "ours")
    data, page = tmp_path / "data.csv", tmp_path / "report.html"
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(TEXTS, CLASSES, strict=False)])
    compared = [part for name in ("adapter", "ours") for part in ("--compare", str(tmp_path / name))]
    arguments = [str(folder), str(data), "--report", str(page), *compared, "--json", "--no-progress"]
    assert run(eval_app, "pyllmclf-eval", arguments) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["accuracy"] == pyllmclf.evaluate(folder, data).accuracy
    assert found["compared"][str(tmp_path / "ours")]["log_loss"] == found["log_loss"]
    assert "model.safetensors, SHA-256" in page.read_text()


def test_tokenizer_says_what_is_read_of_longer_texts(model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder.copy(tmp_path, "bert")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 12, "truncation_side": "left"}))
    layout = pyllmclf.load(folder).state.layout
    assert (layout.max_length, layout.long_texts) == (12, "tail")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    layout = pyllmclf.load(folder).state.layout
    assert (layout.max_length, layout.long_texts) == (48, "head")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem_type": "regression"}, "problem_type is 'regression'"),
        ({"id2label": {"0": "one"}}, "id2label has 1 names, and the head 3 outputs"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "names two classes 'a'"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label has 2 names, and the head 3 outputs"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "names no class 2"),
        ({"id2label": {"0": 0, "1": 1, "2": 2}}, r"id2label\['0'\] is 0, not a string"),
        ({"id2label": {"0": "a", "1": None, "2": "b"}}, r"id2label\['1'\] is None, not a string"),
        ({"id2label": {"0": "a", "1": "\ud800", "2": "b"}}, r"id2label\['1'\] is not valid Unicode"),
        ({"id2label": ["a", "b", "c"]}, "not an object of class names"),
    ],
)
def test_classifiers_that_are_refused(
    model_folder: Folders, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = model_folder.copy(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=said):
        pyllmclf.load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_head_is_never_made_up(model_folder: Folders, tmp_path: Path, family: str) -> None:
    folder = model_folder.copy(tmp_path, family)
    tensors = load_file(folder / "model.safetensors")
    backbone = {n: t for n, t in tensors.items() if not n.startswith(("score.", "classifier.", "pre_classifier"))}
    assert len(backbone) < len(tensors)
    save_file(backbone, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"a base model without a classification head .* fine-tune it first"):
        pyllmclf.load(folder)


def test_regression_is_refused(model_folder: Folders) -> None:
    with pytest.raises(ModelError, match=r"one output \(num_labels=1\), which is a regression"):
        pyllmclf.load(model_folder("bert", n_classes=1))


def saved_classifier(folder: Path, base: Path, **changes: Any) -> Any:
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(base, **changes)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), pad_token_id=256).save_pretrained(folder)
    return model


def test_default_names_of_two_classes(model_folder: Folders, tmp_path: Path) -> None:
    """transformers leaves them out of the configuration."""
    base = model_folder.copy(tmp_path / "base", "gpt2", n_classes=2)
    config = json.loads((base / "config.json").read_text())
    for name in ("id2label", "label2id", "num_labels"):
        config.pop(name, None)
    (base / "config.json").write_text(json.dumps(config))
    classifier = pyllmclf.load(base)
    assert classifier.classes_ == ["LABEL_0", "LABEL_1"]
    assert classifier.logits(TEXTS[:4]).shape == (4, 2)


def test_names_of_classes_that_are_none(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder.copy(tmp_path / "base", "gpt2")
    config = json.loads((base / "config.json").read_text()) | {"id2label": {"0": ["a"], "1": "b", "2": "c"}}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"id2label\['0'\] is \['a'\], not a string"):
        pyllmclf.load(base)
    pyllmclf.finetune(base, (TEXTS, LETTERS), epochs=1, progress=False)


def test_a_head_whose_classes_stand_in_another_order(model_folder: Folders, tmp_path: Path) -> None:
    """It is kept: the same text gets the same logit for a class."""
    base = model_folder("gpt2")
    names = ["c", "a", "b"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    saved_classifier(tmp_path / "theirs", base, num_labels=3, **labels)
    before = pyllmclf.load(tmp_path / "theirs")
    assert before.classes_ == names
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "progress": False, "seed": 7}
    after = pyllmclf.finetune(tmp_path / "theirs", (TEXTS, LETTERS), trainable="head", **still).classifier
    assert after.classes_ == ["a", "b", "c"]
    expected = before.logits(TEXTS)[:, [names.index(name) for name in after.classes_]]
    np.testing.assert_allclose(after.logits(TEXTS), expected, rtol=0, atol=1e-5)


# --- adapters of PEFT -------------------------------------------------------------------------------------------------

MODULES = {
    "gpt2": (["c_attn", "c_fc"], None),
    "bert": (["query", "value"], None),
    "roberta": (["query", "key", "dense"], None),
    # By itself, PEFT does not save the layer before DistilBERT's head.
    "distilbert": (["q_lin", "lin1"], ["pre_classifier", "classifier"]),
    "modernbert": (["Wqkv", "Wo"], ["head", "classifier"]),
    **dict.fromkeys(DECODERS, (["q_proj", "v_proj", "down_proj"], None)),
}
MODULES |= {name: (family.targets, family.saved) for name, family in MORE.items()}
EXCLUDED = {"roberta": ".*classifier.*"}  # "dense" is also the name of a layer of the classifier
EXCLUDED |= {name: family.excluded for name, family in MORE.items() if family.excluded is not None}


def peft_adapter(folder: Path, base: Path, family: str, **changes: Any) -> PeftModel:
    """A random adapter, saved beside its base."""
    torch.manual_seed(3)
    modules, saved = MODULES[family]
    settings = {"r": 3, "lora_alpha": 5, "target_modules": modules, "modules_to_save": saved, "lora_dropout": 0.1}
    if family in EXCLUDED:
        settings["exclude_modules"] = EXCLUDED[family]
    config = LoraConfig(task_type=TaskType.SEQ_CLS, **settings | changes)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", each_kind(FAMILIES))
def test_adapter_of_peft(model_folder: Folders, tmp_path: Path, family: str, rslora: bool) -> None:
    base = model_folder(family)
    expected = their_logits(peft_adapter(tmp_path / "theirs", base, family, use_rslora=rslora), base)
    classifier = pyllmclf.load(tmp_path / "theirs")
    assert close(classifier.logits(TEXTS), expected)
    assert close(classifier.merge_lora().logits(TEXTS), expected)
    assert classifier.merge_lora().merge_lora().state.lora is None and classifier.state.lora is not None
    for trainable in ("lora", "head", "all"):
        onward = pyllmclf.finetune(tmp_path / "theirs", (TEXTS, CLASSES), trainable=trainable, **STILL).classifier
        assert close(onward.logits(TEXTS), expected)
        assert (onward.state.lora is not None) == (trainable == "lora")
    # What was trained on goes back to PEFT.
    trained = pyllmclf.finetune(tmp_path / "theirs", (TEXTS, CLASSES), trainable="lora", **SHORT).classifier
    assert not close(trained.logits(TEXTS), expected)
    trained.export(tmp_path / "ours", format="peft")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours/base")
    opened = PeftModel.from_pretrained(again, tmp_path / "ours")
    assert close(their_logits(opened, tmp_path / "ours"), trained.logits(TEXTS))


def test_adapter_on_other_classes_gets_a_fresh_head(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("gpt2")
    peft_adapter(tmp_path / "theirs", base, "gpt2")
    theirs = pyllmclf.load(tmp_path / "theirs").state.model
    labels = ["yes" if c == "LABEL_0" else "no" for c in CLASSES]
    ours = pyllmclf.finetune(tmp_path / "theirs", (TEXTS, labels), trainable="lora", **STILL).classifier.state.model
    assert ours.head.weight.shape == (2, 32)
    for name, parameter in ours.backbone.named_parameters():
        torch.testing.assert_close(parameter, dict(theirs.backbone.named_parameters())[name], rtol=0, atol=1e-9)


def test_our_adapter_is_trained_on(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("bert")
    first = pyllmclf.finetune(base, (TEXTS, CLASSES), trainable="lora", lora={"rank": 2}, **SHORT).classifier
    first.save(tmp_path / "first")
    onward = pyllmclf.finetune(tmp_path / "first", (TEXTS, CLASSES), trainable="lora", **STILL).classifier
    assert close(onward.logits(TEXTS), first.logits(TEXTS))
    merged = pyllmclf.finetune(tmp_path / "first", (TEXTS, CLASSES), trainable="last_block", **STILL).classifier
    assert close(merged.logits(TEXTS), first.logits(TEXTS))
    merged.save(tmp_path / "merged")
    assert (tmp_path / "merged/model.safetensors").is_file()
    with pytest.raises(UsageError, match="leave lora out"):
        pyllmclf.finetune(tmp_path / "first", (TEXTS, CLASSES), trainable="lora", lora={"rank": 4}, **STILL)
    with pytest.raises(UsageError, match="needs its base model's weights"):
        pyllmclf.finetune(tmp_path / "first", (TEXTS, CLASSES), weights="random", **STILL)


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))

    return edit


def without(part: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        kept = {n: t for n, t in tensors.items() if part not in n}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "adapter_model.safetensors")

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edited(peft_type="IA3"), "'IA3'"),
        (edited(use_dora=True), "use_dora=True"),
        (edited(use_qalora=True), "use_qalora=True"),
        (edited(init_lora_weights="pissa"), "init_lora_weights='pissa'"),
        (edited(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
        (edited(init_lora_weights="olora"), "init_lora_weights='olora'"),
        (edited(init_lora_weights=["gaussian"]), "init_lora_weights"),
        (edited(alora_invocation_tokens=[1, 2]), "alora_invocation_tokens"),
        (edited(layer_replication=[[0, 2]]), "layer_replication"),
        (edited(corda_config={"a": 1}), "corda_config"),
        (edited(something_new=1), "something_new=1"),
        (edited(bias="all"), "bias='all'"),
        (edited(rank_pattern={"c_attn": 4}), "rank_pattern"),
        (edited(r=0), "r=0"),
        (edited(lora_alpha="much"), "lora_alpha='much'"),
        (edited(base_model_name_or_path=None), "names no base model"),
        (edited(base_model_name_or_path="/nowhere/at/all"), "nowhere"),
        (without("lora_A"), "adapts no linear layer"),
        (without("h.1.attn.c_attn.lora_B"), "missing or unknown"),
        (without("score"), "no classification head"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"{}"), "damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "damaged or unreadable"),
    ],
)
def test_adapters_that_are_refused(
    model_folder: Folders, tmp_path: Path, edit: Callable[[Path], Any], said: str
) -> None:
    base = model_folder("gpt2")
    peft_adapter(tmp_path / "theirs", base, "gpt2")
    edit(tmp_path / "theirs")
    with pytest.raises(ModelError, match=said):
        pyllmclf.load(tmp_path / "theirs")


def test_another_kind_of_adapter(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("gpt2")
    config = IA3Config(task_type=TaskType.SEQ_CLS, target_modules=["c_attn"], feedforward_modules=[])
    get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config).save_pretrained(tmp_path / "ia3")
    with pytest.raises(ModelError, match="'IA3'"):
        pyllmclf.load(tmp_path / "ia3")


def test_an_adapters_head_whose_classes_stand_in_another_order(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder.copy(tmp_path / "base", "gpt2")
    config = json.loads((base / "config.json").read_text())
    names = ["c", "a", "b"]
    config |= {"id2label": {str(i): n for i, n in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
    (base / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["c_attn"], modules_to_save=["score"])
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "adapter")
    before = pyllmclf.load(tmp_path / "adapter")
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "progress": False, "seed": 7}
    for trainable in ("lora", "head"):
        after = pyllmclf.finetune(tmp_path / "adapter", (TEXTS, LETTERS), trainable=trainable, **still).classifier
        expected = before.logits(TEXTS)[:, [names.index(name) for name in after.classes_]]
        np.testing.assert_allclose(after.logits(TEXTS), expected, rtol=0, atol=1e-5)
