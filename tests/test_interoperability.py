"""Opens and trains classifiers and adapters of transformers and PEFT; writes ONNX graphs and model cards."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from models import FAMILIES, TEXTS, Folders
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pyllmclf
from pyllmclf import ModelError, UsageError
from pyllmclf.cli.main import app, eval_app, run

# Classes as transformers names them by itself.
CLASSES = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_1", "LABEL_0", "LABEL_2"]
STILL: dict[str, Any] = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-12, "weight_decay": 0.0, "progress": False}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2, "progress": False}


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


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
        ({"id2label": {"0": "one"}}, "two classes or more"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "two classes or more"),
        ({"id2label": {"0": "a", "1": "b"}}, "shape"),
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
    with pytest.raises(ModelError, match="missing"):
        pyllmclf.load(folder)


# --- adapters of PEFT -------------------------------------------------------------------------------------------------

MODULES = {
    "gpt2": (["c_attn", "c_fc"], None),
    "bert": (["query", "value"], None),
    "roberta": (["query", "key", "dense"], None),
    # By itself, PEFT does not save the layer before DistilBERT's head.
    "distilbert": (["q_lin", "lin1"], ["pre_classifier", "classifier"]),
    "modernbert": (["Wqkv", "Wo"], ["head", "classifier"]),
}


def peft_adapter(folder: Path, base: Path, family: str, **changes: Any) -> PeftModel:
    """A random adapter, saved beside its base."""
    torch.manual_seed(3)
    modules, saved = MODULES[family]
    settings = {"r": 3, "lora_alpha": 5, "target_modules": modules, "modules_to_save": saved, "lora_dropout": 0.1}
    if family == "roberta":  # "dense" is also the name of a layer of the classifier
        settings["exclude_modules"] = ".*classifier.*"
    config = LoraConfig(task_type=TaskType.SEQ_CLS, **settings | changes)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
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


# --- graphs -----------------------------------------------------------------------------------------------------------


def graph_inputs(folder: Path, texts: list[str]) -> dict[str, Any]:
    return AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")


# An export takes seconds: there is one of each architecture, and one of each other pooling, mask and kind of weights,
# of smaller models. Name: family, configuration, arguments of the training.
GRAPHS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{family: (family, "plain", {}) for family in FAMILIES},
    "first, head bias": ("gpt2", "unscaled", {"pooling": "first", "head_bias": True}),
    "mean, not causal": ("gpt2", "unscaled", {"causal": False, "pooling": "mean"}),
    "causal ModernBERT, mean": ("modernbert", "two_layers", {"causal": True, "pooling": "mean"}),
    "causal BERT, last, LoRA": ("bert", "one_head", {"causal": True, "pooling": "last", "trainable": "lora"}),
}


class Graph:
    """A trained classifier, its export to ONNX, and its logits before that."""

    def __init__(self, base: Path, folder: Path, changes: dict[str, Any]) -> None:
        self.folder = folder
        lora = {"lora": {"rank": 2}} if changes.get("trainable") == "lora" else {}
        self.classifier = pyllmclf.finetune(base, (TEXTS, CLASSES), **SHORT | changes | lora).classifier
        self.logits_before = self.classifier.logits(TEXTS)
        self.classifier.export(folder, format="onnx")

    def logits(self, texts: list[str]) -> np.ndarray:
        """By ONNX Runtime, from the tokenizer beside the graph."""
        import onnxruntime

        session = onnxruntime.InferenceSession(self.folder / "model.onnx", providers=["CPUExecutionProvider"])
        batch = graph_inputs(self.folder, texts)
        (found,) = session.run(["logits"], {n: batch[n].astype(np.int64) for n in ("input_ids", "attention_mask")})
        return found


@pytest.fixture(scope="module")
def graph(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """The graph of that name, exported once."""

    @functools.cache
    def made(name: str) -> Graph:
        family, config, changes = GRAPHS[name]
        return Graph(model_folder(family, config), tmp_path_factory.mktemp("exported") / "graph", changes)

    return made


@pytest.mark.parametrize("name", GRAPHS)
def test_onnx(graph: Callable[[str], Graph], name: str) -> None:
    """Batches of other sizes and lengths than the graph was made with."""
    made = graph(name)
    files = {path.name for path in made.folder.iterdir()}
    assert files == {"config.json", "manifest.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
    for texts in (TEXTS, TEXTS[2:3], TEXTS[:1]):
        assert close(made.logits(texts), made.classifier.logits(texts))
    np.testing.assert_array_equal(made.classifier.logits(TEXTS), made.logits_before)


@pytest.mark.parametrize(
    ("pooling", "name"), [("last", "gpt2"), ("first", "first, head bias"), ("mean", "mean, not causal")]
)
def test_graph_of_an_empty_text(graph: Callable[[str], Graph], pooling: str, name: str) -> None:
    """GPT-2 reads it as the end-of-text token, which is what pads; its tokenizer gives nothing."""
    made = graph(name)
    assert GRAPHS[name][2].get("pooling", "last") == pooling
    texts = ["", TEXTS[0]]
    assert graph_inputs(made.folder, texts)["attention_mask"][0].sum() == 0
    assert close(made.logits(texts), made.classifier.logits(texts))


def test_torch_export(graph: Callable[[str], Graph], tmp_path: Path) -> None:
    classifier = graph("gpt2").classifier
    classifier.export(tmp_path / "graph", format="torch")
    module = torch.export.load(tmp_path / "graph/model.pt2").module()
    for texts in (TEXTS, TEXTS[:3]):
        batch = graph_inputs(tmp_path / "graph", texts)
        found = module(*(torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")))
        assert close(found.detach().numpy(), classifier.logits(texts))


@pytest.mark.parametrize(
    "changes", [{"pooling": "last_position"}, {"padding": "context"}, {"long_texts": "windows"}], ids=str
)
def test_what_a_graph_cannot_express(model_folder: Folders, tmp_path: Path, changes: dict[str, Any]) -> None:
    base = model_folder("gpt2")
    classifier = pyllmclf.finetune(base, (TEXTS, CLASSES), **SHORT | changes).classifier
    with pytest.raises(UsageError, match="a graph"):
        classifier.export(tmp_path / "graph", format="onnx")
    assert not (tmp_path / "graph").exists()


# --- the model card ---------------------------------------------------------------------------------------------------


def test_model_card(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("bert")
    result = pyllmclf.finetune(
        base, (TEXTS, CLASSES), validation=(TEXTS, CLASSES), test=(TEXTS[:4], CLASSES[:4]), calibrate=True, **SHORT
    )
    result.classifier.save(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved/README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-classification"
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    for part in ("validation", "test"):
        for figure, shown in (("accuracy", "accuracy"), ("macro_f1", "f1"), ("log_loss", "log_loss")):
            assert found[part, shown] == pytest.approx(result.metrics[part][figure], abs=1e-6)
    assert "`LABEL_1`" in card.text and "temperature" in card.text
    assert not any(str(path) in card.content for path in (tmp_path, base))
    loaded = pyllmclf.load(tmp_path / "saved")
    assert loaded.state.metrics == result.classifier.state.metrics
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/README.md").read_text() == (tmp_path / "saved/README.md").read_text()


def test_model_card_of_a_checkpoint_of_a_run(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("gpt2")
    arguments: dict[str, Any] = SHORT | {"causal": False, "output_dir": tmp_path / "run"}
    labels = ["a | b" if c == "LABEL_0" else "`c`\nd" for c in CLASSES]
    pyllmclf.finetune(base, (TEXTS, labels), validation=(TEXTS, labels), **arguments)
    card = ModelCard.load(tmp_path / "run/last/README.md")
    assert {r.dataset_split for r in card.data.eval_results} == {"validation"}
    assert card.data.library_name is None and "transformers" not in card.text
    assert "`a \\| b`" in card.text and "`'c' d`" in card.text


def test_card_of_an_adapter_of_the_hub_names_its_base(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("gpt2")
    classifier = pyllmclf.finetune(base, (TEXTS, CLASSES), trainable="lora", **SHORT).classifier
    classifier.state.hub_id, classifier.state.revision = "someone/gpt2", "f" * 40
    classifier.export(tmp_path / "adapter", format="peft")
    card = ModelCard.load(tmp_path / "adapter/README.md")
    assert card.data.base_model == "someone/gpt2" and card.data.library_name == "peft"


def test_export_from_the_command_line(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model_folder("bert", "one_head")
    assert run(app, "pyllmclf", ["export", str(base), str(tmp_path / "onnx"), "--format", "onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"
    assert (tmp_path / "onnx/model.onnx").is_file()
    assert run(app, "pyllmclf", ["export", str(base), str(tmp_path / "peft"), "--format", "peft"]) == 2
    assert "not trained with LoRA" in capsys.readouterr().err
    assert run(app, "pyllmclf", ["export", str(base), str(tmp_path / "x"), "--format", "gguf"]) == 2
