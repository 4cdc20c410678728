"""Checkpoints: round trips, reading them with other tools, damage, and that they are complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

import pyllmclf
from pyllmclf import Classifier, ModelError, ResourceError, UsageError
from pyllmclf.classifier import checkpoint
from pyllmclf.data.atomic_folder import text_writer, write_folder
from pyllmclf.training.run_folder import RunFolder

# Of lengths that differ, so that a padded batch has padding.
TEXTS = [
    "The parcel is late.",
    "I was charged twice for one invoice and nobody answers my mails about it!",
    "Log in fails",
    "ok",
    "Überweisung doppelt? 😀",
    "does the lid of the small pot fit the large one as well, and is it sold alone",
]
LABELS = ["delivery", "billing", "account", "account", "billing", "delivery"]
N_CLASSES = 3

# A few steps at a high rate, so that no weight is still what it was drawn as.
STEPS: dict[str, Any] = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-2, "progress": False}
GPT2: dict[str, Any] = {"model": "gpt2-nano", "weights": "random", "trainable": "all"}
BERT: dict[str, Any] = {"model": "BERT", "trainable": "all"}
LORA: dict[str, Any] = {"trainable": "lora", "lora": {"rank": 3, "alpha": 5.0}}
SOME_LAYERS = {"rank": 2, "alpha": 3.0, "target_modules": ("c_attn", "mlp.c_proj"), "layers": (1,), "scaling": "alpha"}
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2_cut": GPT2 | {"max_length": 6},
    "gpt2_lora": GPT2 | LORA,
    "gpt2_lora_some": GPT2 | LORA | {"lora": SOME_LAYERS},
    "bert": BERT,
    "bert_cut": BERT | {"max_length": 7},
    "bert_lora": BERT | LORA,
    "head_bias": GPT2 | {"head_bias": True},
    "bidirectional": GPT2 | {"causal": False},
    "mean": GPT2 | {"pooling": "mean"},
    "first": GPT2 | {"pooling": "first"},
    "padded": GPT2 | {"padding": 40},
    "padded_last_position": GPT2 | {"padding": "train_longest", "pooling": "last_position"},
    "lora_mean": GPT2 | LORA | {"pooling": "mean"},
    "bert_causal": BERT | {"causal": True, "pooling": "last"},
    "bert_no_bias": BERT | {"head_bias": False},
    "bert_mean": BERT | {"pooling": "mean"},
}
EXPRESSIBLE = ["gpt2", "gpt2_cut", "bert", "bert_cut"]
EXPRESSIBLE_LORA = ["gpt2_lora", "gpt2_lora_some", "bert_lora"]
INEXPRESSIBLE = [name for name in VARIANTS if name not in EXPRESSIBLE + EXPRESSIBLE_LORA]

Trained = Callable[[str], Classifier]
Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT as transformers writes it."""
    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *".,!?"]
    (folder / "vocab.txt").write_text("\n".join([*vocab, "the", "parcel", "##ing", "invoice"]) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab) + 4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=96,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(bert_folder: Path) -> Trained:
    """A classifier of each variant, trained once."""
    made: dict[str, Classifier] = {}

    def get(name: str) -> Classifier:
        if name not in made:
            arguments = STEPS | VARIANTS[name]
            model = bert_folder if arguments["model"] == "BERT" else arguments["model"]
            made[name] = pyllmclf.finetune(**arguments | {"model": model, "train": (TEXTS, LABELS)}).classifier
        return made[name]

    return get


@pytest.fixture(scope="module")
def saved(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint of each variant, not to be changed."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "checkpoint"
            trained(name).save(made[name])
        return made[name]

    return get


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Saved:
    """A checkpoint of a variant, to be damaged."""
    return lambda name: Path(shutil.copytree(saved(name), tmp_path / "copied"))


def relative_error(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def padded_logits(model: torch.nn.Module, folder: Path) -> np.ndarray:
    """What transformers computes of ``TEXTS`` as one padded batch."""
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any()
    return model.eval()(**batch).logits.numpy()


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rehash(folder: Path) -> None:
    """Makes the manifest agree with the files again."""
    names = [name for name in files_in(folder) if name != "manifest.json"]
    edit_json(folder / "manifest.json", files={name: hashed(folder / name) for name in names})


def hashed(path: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_gives_the_same_bits(trained: Trained, saved: Saved, tmp_path: Path, name: str) -> None:
    classifier, loaded = trained(name), pyllmclf.load(saved(name))
    texts = [*TEXTS, "", "a much longer text " * 20]
    expected = classifier.logits(texts)
    assert np.isfinite(expected).all()
    assert len(np.unique(expected.round(4), axis=0)) > 3
    np.testing.assert_array_equal(loaded.logits(texts), expected)
    assert loaded.classes_ == classifier.classes_ == ["account", "billing", "delivery"]
    for attribute in ("layout", "lora", "hub_id", "revision", "settings"):
        assert getattr(loaded.state, attribute) == getattr(classifier.state, attribute)
    assert loaded.state.model.spec == classifier.state.model.spec
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "again").logits(texts), expected)


def test_integer_classes_stay_integers(tmp_path: Path) -> None:
    arguments = STEPS | GPT2 | {"train": (TEXTS, [10, 9, -1, -1, 9, 10])}
    pyllmclf.finetune(**arguments).classifier.save(tmp_path / "checkpoint")
    loaded = pyllmclf.load(tmp_path / "checkpoint")
    assert loaded.classes_ == [-1, 9, 10]
    assert all(type(label) is int for label in loaded.predict(TEXTS))


def test_head_on_the_same_classes_is_kept_as_a_start(trained: Trained, saved: Saved) -> None:
    arguments: dict[str, Any] = STEPS | {"learning_rate": 1e-30, "trainable": "head"}
    for name in ("gpt2", "bert", "mean"):
        head = trained(name).state.model.head.weight
        pooling = trained(name).state.model.spec.pooling
        same = pyllmclf.finetune(saved(name), (TEXTS, LABELS), pooling=pooling, **arguments).classifier
        assert torch.equal(same.state.model.head.weight, head)
        np.testing.assert_array_equal(same.logits(TEXTS), trained(name).logits(TEXTS))
        renamed = [label.upper() for label in LABELS]
        other = pyllmclf.finetune(saved(name), (TEXTS, renamed), pooling=pooling, **arguments).classifier
        assert not torch.isclose(other.state.model.head.weight, head).any()


# --- layout -----------------------------------------------------------------------------------------------------------

COMMON = {
    "README.md",
    "manifest.json",
    "pyllmclf.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_rows.safetensors",
    "training_state/state.json",
}
FULL = COMMON | {"config.json", "model.safetensors"}
ADAPTER = COMMON | {"adapter_config.json", "adapter_model.safetensors", "base/config.json", "base/model.safetensors"}


@pytest.mark.parametrize("name", VARIANTS)
def test_layout(saved: Saved, name: str) -> None:
    files = files_in(saved(name))
    assert set(files) == (ADAPTER if "lora" in name else FULL)
    manifest = json.loads(files.pop("manifest.json"))["files"]
    assert manifest == {file: hashed(saved(name) / file) for file in files}
    spec = json.loads(files["pyllmclf.json"])
    assert spec["format_version"] == 1
    assert spec["pyllmclf_version"] == pyllmclf.__version__
    assert spec["classes"] == ["account", "billing", "delivery"]
    assert isinstance(json.loads(files["training_state/state.json"]), dict)
    prefix = "base/" if "lora" in name else ""
    config = json.loads(files[f"{prefix}config.json"])
    architecture = "bert" if name.startswith("bert") else "gpt2"
    assert config["model_type"] == ("pyllmclf" if name in INEXPRESSIBLE else architecture)
    assert config["id2label"] == {"0": "account", "1": "billing", "2": "delivery"}
    assert config["pad_token_id"] is not None


# --- other tools ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_transformers_gives_the_same_logits(trained: Trained, saved: Saved, name: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved(name))
    assert model.config.id2label == {0: "account", 1: "billing", 2: "delivery"}
    assert relative_error(padded_logits(model, saved(name)), trained(name).logits(TEXTS)) <= 1e-5


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_transformers_refuses_what_it_cannot_express(saved: Saved, name: str) -> None:
    folder = saved(name) / "base" if "lora" in name else saved(name)
    with pytest.raises(ValueError, match="pyllmclf"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def test_label_count_of_another_task_is_forgotten(saved: Saved, tmp_path: Path) -> None:
    """Configurations of older models say ``num_labels`` beside ``id2label``."""
    model = Path(shutil.copytree(saved("gpt2"), tmp_path / "model"))
    edit_json(model / "config.json", num_labels=7, id2label={str(i): f"LABEL_{i}" for i in range(7)})
    classifier = pyllmclf.finetune(model, (TEXTS, LABELS), trainable="head", **STEPS).classifier
    classifier.save(tmp_path / "checkpoint")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint")
    assert opened.config.num_labels == N_CLASSES
    assert relative_error(padded_logits(opened, tmp_path / "checkpoint"), classifier.logits(TEXTS)) <= 1e-5


def with_adapter(folder: Path, adapter: Path) -> PeftModel:
    pad = json.loads((folder / "base/config.json").read_text())["pad_token_id"]
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=N_CLASSES, pad_token_id=pad)
    return PeftModel.from_pretrained(base, adapter)


@pytest.mark.parametrize("name", EXPRESSIBLE_LORA)
def test_peft_gives_the_same_logits(trained: Trained, saved: Saved, name: str) -> None:
    adapted = [p for n, p in trained(name).state.model.named_parameters() if n.endswith("lora_b")]
    assert len(adapted) == {"gpt2_lora": 8, "gpt2_lora_some": 2, "bert_lora": 13}[name]
    assert all(b.abs().max() > 1e-3 for b in adapted)
    expected = trained(name).logits(TEXTS)
    model = with_adapter(saved(name), saved(name))
    assert relative_error(padded_logits(model, saved(name)), expected) <= 1e-5
    # Without the adapter the answer is another one, so that the agreement means something.
    with model.disable_adapter():
        assert relative_error(padded_logits(model, saved(name)), expected) > 1e-2


@pytest.mark.parametrize("name", EXPRESSIBLE + EXPRESSIBLE_LORA)
def test_export_for_transformers(trained: Trained, tmp_path: Path, name: str) -> None:
    classifier, target = trained(name), tmp_path / "export"
    expected = classifier.logits(TEXTS)
    classifier.export(target)
    assert set(files_in(target)) == FULL - {"pyllmclf.json", "training_rows.safetensors", "training_state/state.json"}
    model = AutoModelForSequenceClassification.from_pretrained(target)
    assert relative_error(padded_logits(model, target), expected) <= 1e-5
    np.testing.assert_array_equal(classifier.logits(TEXTS), expected)
    assert (classifier.state.lora is None) == ("lora" not in name)


@pytest.mark.parametrize("name", EXPRESSIBLE_LORA)
def test_export_for_peft(trained: Trained, tmp_path: Path, name: str) -> None:
    target = tmp_path / "export"
    trained(name).export(target, format="peft")
    assert set(files_in(target)) == ADAPTER - {
        "pyllmclf.json",
        "training_rows.safetensors",
        "training_state/state.json",
    }
    assert relative_error(padded_logits(with_adapter(target, target), target), trained(name).logits(TEXTS)) <= 1e-5


@pytest.mark.parametrize("name", EXPRESSIBLE_LORA)
def test_auto_peft_opens_an_adapter_from_anywhere(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = trained(name).logits(TEXTS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    trained(name).export("export", format="peft")
    trained(name).save("saved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder in (Path("../export"), tmp_path / "saved"):
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder)
        assert relative_error(padded_logits(model, folder), expected) <= 1e-5
    # A moved folder opens here, and is written anew for PEFT.
    (tmp_path / "export").rename(tmp_path / "moved")
    moved = pyllmclf.load(tmp_path / "moved")
    assert relative_error(moved.logits(TEXTS), expected) <= 1e-6
    moved.export(tmp_path / "again", format="peft")
    model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "again")
    assert relative_error(padded_logits(model, tmp_path / "again"), expected) <= 1e-5


@pytest.mark.parametrize(
    ("name", "format", "word"),
    [
        *((name, "huggingface", "can't be exported") for name in INEXPRESSIBLE),
        ("lora_mean", "peft", "pooling='mean'"),
        ("gpt2", "peft", "LoRA"),
        ("bert", "peft", "LoRA"),
        ("gpt2", "gguf", "gguf"),
    ],
)
def test_export_refuses(trained: Trained, tmp_path: Path, name: str, format: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        trained(name).export(tmp_path / "export", format=format)
    assert list(tmp_path.iterdir()) == []


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "bert_lora"])
def test_every_flipped_bit_is_noticed(copied: Saved, name: str) -> None:
    folder, draw = copied(name), random.Random(0)
    files = files_in(folder)
    whole = [(file, position) for file in sorted(files) for position in (0, len(files[file]) - 1)]
    drawn = [(file, draw.randrange(len(files[file]))) for file in sorted(files) * 5]
    assert len(drawn) >= 35
    for file, position in whole + drawn:
        damaged = bytearray(files[file])
        damaged[position] ^= 1 << draw.randrange(8)
        (folder / file).write_bytes(damaged)
        with pytest.raises(ModelError):
            pyllmclf.load(folder)
        (folder / file).write_bytes(files[file])
    pyllmclf.load(folder)


@pytest.mark.parametrize("name", ["gpt2", "gpt2_lora"])
def test_every_truncated_or_missing_file_is_noticed(copied: Saved, name: str) -> None:
    folder = copied(name)
    for file, content in files_in(folder).items():
        for length in (0, 1, len(content) // 2, len(content) - 1):
            (folder / file).write_bytes(content[:length])
            with pytest.raises(ModelError):
                pyllmclf.load(folder)
        (folder / file).unlink()
        with pytest.raises(ModelError):
            pyllmclf.load(folder)
        (folder / file).write_bytes(content + b"\n")
        if file != "manifest.json":
            with pytest.raises(ModelError, match="damaged"):
                pyllmclf.load(folder)
        (folder / file).write_bytes(content)
    pyllmclf.load(folder)


def test_manifest_that_names_a_file_outside(copied: Saved) -> None:
    folder = copied("gpt2")
    outside = folder.parent / "outside.txt"
    outside.write_text("x")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("../outside.txt", str(outside)):
        edit_json(folder / "manifest.json", files=files | {name: hashed(outside)})
        with pytest.raises(ModelError, match="outside"):
            pyllmclf.load(folder)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["too long", "NUL"])
def test_manifest_with_what_can_be_no_name(copied: Saved, name: str) -> None:
    folder = copied("gpt2")
    content = json.loads((folder / "manifest.json").read_text())
    content["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"its file .* can't be read|lacks its file"):
        pyllmclf.load(folder)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"pyllmclf_manifest": 1, "files": {"a": {"sha256": "", "bytes": 1e999}}}']
)
def test_manifest_that_can_not_be_read(copied: Saved, content: str) -> None:
    folder = copied("gpt2")
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ModelError, match="manifest can't be read"):
        pyllmclf.load(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "pyllmclf.json"])
def test_manifest_that_lacks_a_file(copied: Saved, file: str) -> None:
    """What is read must have been checked."""
    folder = copied("gpt2")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files[file]
    edit_json(folder / "manifest.json", files=files)
    with pytest.raises(ModelError, match=file):
        pyllmclf.load(folder)


def test_later_format(copied: Saved) -> None:
    folder = copied("gpt2")
    edit_json(folder / "pyllmclf.json", format_version=6, pooling={"kind": "attention"})
    rehash(folder)
    with pytest.raises(ModelError, match=r"format version 6 .*update pyllmclf"):
        pyllmclf.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "max"},
        {"causal": 1},
        {"head_bias": "no"},
        {"classes": ["a", "b"]},
        {"classes": 3},
        {"max_length": -1},
        {"max_length": "long"},
        {"pad_to": "wide"},
        {"lora": {"rank": 0}},
        {"lora": {"width": 3}},
        {"tokenizer": {"kind": "spaces", "pad_token": None}},
        {"tokenizer": None},
    ],
    ids=str,
)
def test_malformed_specification(copied: Saved, changes: dict[str, Any]) -> None:
    folder = copied("gpt2")
    edit_json(folder / "pyllmclf.json", **changes)
    rehash(folder)
    with pytest.raises(ModelError):
        pyllmclf.load(folder)


def test_adapter_does_not_load_on_another_base(copied: Saved, saved: Saved) -> None:
    folder = copied("gpt2_lora")
    shutil.copy(saved("gpt2") / "model.safetensors", folder / "base/model.safetensors")
    rehash(folder)
    with pytest.raises(ModelError, match="base"):
        pyllmclf.load(folder)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_pickled_weights_are_never_opened(copied: Saved, tmp_path: Path) -> None:
    folder, trace = copied("gpt2"), tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Trap(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        pyllmclf.finetune(folder, (TEXTS, LABELS), **STEPS)
    rehash(folder)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        pyllmclf.load(folder)
    assert not trace.exists()


# --- complete or absent -----------------------------------------------------------------------------------------------


def fail_after_half(error: BaseException) -> Callable[..., None]:
    def save_file(tensors: Any, path: Path, metadata: Any = None) -> None:
        Path(path).write_bytes(b"half of it")
        raise error

    return save_file


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError),
        (RuntimeError("a bug"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "bug", "interrupt"],
)
def test_failure_leaves_nothing_behind(
    trained: Trained,
    saved: Saved,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    expected: type[BaseException],
) -> None:
    older = Path(shutil.copytree(saved("gpt2_lora"), tmp_path / "older"))
    before = files_in(older)
    monkeypatch.setattr("safetensors.torch.save_file", fail_after_half(error))
    for target in (tmp_path / "new", older):
        with pytest.raises(expected):
            trained("gpt2").save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["older"]
    assert files_in(older) == before


@pytest.mark.real_disk
def test_failed_move_keeps_the_older_checkpoint(
    trained: Trained, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(saved("mean"), tmp_path / "checkpoint"))
    before = files_in(target)
    rename = Path.rename

    def fail_into_place(self: Path, to: Path) -> Path:
        if Path(to) == target and (self / "manifest.json").exists() and files_in(self) != before:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_into_place)
    monkeypatch.setattr("pyllmclf.data.atomic_folder._exchange", lambda a, b: False)  # as on systems without it
    with pytest.raises(ResourceError):
        trained("gpt2").save(target)
    assert files_in(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.real_disk
def test_saving_over_a_checkpoint_replaces_it(trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    for name in ("gpt2_lora", "gpt2", "bert", "bert"):
        trained(name).save(target)
        assert set(files_in(target)) == (ADAPTER if "lora" in name else FULL)
        np.testing.assert_array_equal(pyllmclf.load(target).logits(TEXTS), trained(name).logits(TEXTS))
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_saving_into_an_empty_or_new_folder(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "new/and/deep"):
        trained("gpt2").save(target)
        np.testing.assert_array_equal(pyllmclf.load(target).logits(TEXTS), trained("gpt2").logits(TEXTS))


def test_saving_through_a_link_leaves_no_leftovers(trained: Trained, saved: Saved, tmp_path: Path) -> None:
    shutil.copytree(saved("mean"), tmp_path / "checkpoint-1")
    (tmp_path / "last").symlink_to("checkpoint-1", target_is_directory=True)
    trained("gpt2").save(tmp_path / "last")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "last").logits(TEXTS), trained("gpt2").logits(TEXTS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1", "last"]


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": b"important"},
        {"sub/notes.txt": b"important"},
        # As a browser extension or a web application has it.
        {"manifest.json": b'{"name": "My extension", "manifest_version": 3}', "background.js": b"important"},
        {"config.json": b"{}", "model.safetensors": b"someone's model"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_saving_over_something_else_is_refused(trained: Trained, tmp_path: Path, files: dict[str, bytes]) -> None:
    target = tmp_path / "folder"
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    for write in (trained("gpt2").save, trained("gpt2").export):
        with pytest.raises(UsageError, match="folder"):
            write(target)
        assert files_in(target) == files
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_saving_over_a_file_is_refused(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("important")
    with pytest.raises(UsageError, match="file"):
        trained("gpt2").save(tmp_path / "file")
    with pytest.raises(ResourceError, match="below"):
        trained("gpt2").save(tmp_path / "file" / "below")
    assert files_in(tmp_path) == {"file": b"important"}


@pytest.mark.real_disk
def test_write_folder_makes_folders_and_a_manifest(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"x.txt": text_writer("ü"), "sub/y.txt": text_writer("")})
    files = files_in(tmp_path / "a")
    assert (files["x.txt"], files["sub/y.txt"]) == ("ü".encode(), b"")
    manifest = json.loads(files["manifest.json"])["files"]
    assert manifest == {name: hashed(tmp_path / "a" / name) for name in ("x.txt", "sub/y.txt")}


# --- the folder of a run ----------------------------------------------------------------------------------------------


def test_run_keeps_last_and_best(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = STEPS | GPT2 | {"epochs": 4, "train": (TEXTS, LABELS), "validation": (TEXTS[:4], LABELS[:4])}
    result = pyllmclf.finetune(**arguments, output_dir=folder)
    assert result.output_dir == folder
    steps = {"last": 12, "best": 0}
    best = max(result.history, key=lambda r: (r.validation_accuracy, -r.validation_loss))
    steps["best"] = best.step
    names = {f"checkpoint-{step}" for step in steps.values()}
    assert {p.name for p in folder.iterdir()} == names | {"last", "best"}
    for name, step in steps.items():
        assert (folder / name).is_symlink()
        assert (folder / name).readlink() == Path(f"checkpoint-{step}")
        state = json.loads((folder / name / "training_state/state.json").read_text())
        assert state["step"] == step
        assert len(state["history"]) == state["epoch"] == step // 3
    assert state["best"]["accuracy"] == best.validation_accuracy
    expected = result.classifier.logits(TEXTS)
    for path in (folder, folder / "last", folder / "checkpoint-12", str(folder)):
        np.testing.assert_array_equal(pyllmclf.load(path).logits(TEXTS), expected)
    accuracy = pyllmclf.evaluate(folder / "best", (TEXTS[:4], LABELS[:4])).accuracy
    assert accuracy == best.validation_accuracy


@pytest.fixture
def run_of_three(trained: Trained, tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """A run whose checkpoint of step 9 is the best and that of step 10 the last, and the logits of steps 8 to 10."""
    run, logits = RunFolder(tmp_path / "run"), []
    for step, name in ((8, "gpt2"), (9, "mean"), (10, "bert")):
        run.save(trained(name).state, step, {"epoch": step}, is_best=step == 9)
        logits.append(trained(name).logits(TEXTS))
    return run.path, logits


def test_last_and_best_are_kept_and_the_others_deleted(run_of_three: tuple[Path, list[np.ndarray]]) -> None:
    folder, (_, best, last) = run_of_three
    assert sorted(p.name for p in folder.iterdir()) == ["best", "checkpoint-10", "checkpoint-9", "last"]
    np.testing.assert_array_equal(pyllmclf.load(folder).logits(TEXTS), last)
    np.testing.assert_array_equal(pyllmclf.load(folder / "last").logits(TEXTS), last)
    np.testing.assert_array_equal(pyllmclf.load(folder / "best").logits(TEXTS), best)


@pytest.mark.parametrize("file", sorted(FULL))
@pytest.mark.parametrize("how", ["cut", "missing", "flipped"])
def test_damaged_newest_checkpoint_falls_back(run_of_three: tuple[Path, list[np.ndarray]], file: str, how: str) -> None:
    folder, (_, older, _) = run_of_three
    path = folder / "checkpoint-10" / file
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        path.write_bytes(content[:30] + bytes([content[30] ^ 1]) + content[31:])
    with pytest.warns(UserWarning, match="checkpoint-10.*older"):
        np.testing.assert_array_equal(pyllmclf.load(folder).logits(TEXTS), older)


def test_run_without_an_undamaged_checkpoint(run_of_three: tuple[Path, list[np.ndarray]]) -> None:
    folder, _ = run_of_three
    for step in (9, 10):
        (folder / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no complete"), pytest.warns(UserWarning, match="damaged"):
        pyllmclf.load(folder)


def test_unfinished_checkpoint_is_not_looked_at(run_of_three: tuple[Path, list[np.ndarray]]) -> None:
    folder, (_, _, last) = run_of_three
    shutil.copytree(folder / "checkpoint-10", folder / ".checkpoint-11.1.tmp")
    (folder / ".checkpoint-11.1.tmp" / "manifest.json").unlink()
    (folder / "checkpoint-12").mkdir()
    np.testing.assert_array_equal(pyllmclf.load(folder).logits(TEXTS), last)


@pytest.mark.parametrize("path", [".", "last"])
@pytest.mark.parametrize("when", ["verified", "opened"])
def test_checkpoint_that_a_training_deletes_meanwhile(
    run_of_three: tuple[Path, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch, path: str, when: str
) -> None:
    """A newer one is there then, and is opened without a warning."""
    folder, (_, _, last) = run_of_three
    later, deleted = folder.parent / "later", []
    shutil.copytree(folder / "checkpoint-10", later)
    state = json.loads((later / "training_state/state.json").read_text())
    (later / "training_state/state.json").write_text(json.dumps(state | {"step": 11}))
    rehash(later)
    name = {"verified": "verify_folder", "opened": "read_config"}[when]
    original = getattr(checkpoint, name)

    def deletes(opened: Path, *rest: Any) -> Any:
        if not deleted:
            deleted.append(opened)
            later.rename(folder / "checkpoint-11")
            (folder / "last").unlink()
            (folder / "last").symlink_to("checkpoint-11")
            shutil.rmtree(folder / "checkpoint-10")
        return original(opened, *rest)

    monkeypatch.setattr(checkpoint, name, deletes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pyllmclf.load(folder / path).logits(TEXTS), last)
    assert deleted[0].name == "checkpoint-10"


def test_checkpoint_of_a_run_is_not_written_over(run_of_three: tuple[Path, list[np.ndarray]]) -> None:
    folder, _ = run_of_three
    classifier, before = pyllmclf.load(folder), files_in(folder)
    for path in (folder, folder / "last", folder / "checkpoint-10"):
        with pytest.raises(UsageError):
            classifier.save(path)
        with pytest.raises(UsageError):
            classifier.export(path)
    classifier.save(folder.parent / "saved")
    with pytest.raises(UsageError, match="an export would replace"):
        classifier.export(folder.parent / "saved")
    assert files_in(folder) == before


def untouched_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("pyllmclf.training.trainer.Trainer.fit", fail)


def test_folder_of_another_run_is_refused_before_training(
    run_of_three: tuple[Path, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = run_of_three
    before = files_in(folder)
    untouched_trainer(monkeypatch)
    with pytest.raises(UsageError, match="output_dir"):
        pyllmclf.finetune(**STEPS | GPT2 | {"train": (TEXTS, LABELS), "output_dir": folder})
    assert files_in(folder) == before


def test_folder_of_a_saved_classifier_is_refused(tmp_path: Path) -> None:
    """load(folder) would open the saved one instead of the run's."""
    pyllmclf.finetune(**STEPS | GPT2 | {"train": (TEXTS, LABELS)}).classifier.save(tmp_path / "saved")
    with pytest.raises(UsageError, match="already holds"):
        pyllmclf.finetune(**STEPS | GPT2 | {"train": (TEXTS, LABELS), "output_dir": tmp_path / "saved"})


def test_unwritable_output_folder_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untouched_trainer(monkeypatch)
    (tmp_path / "file").write_text("important")
    # Below a regular file, since permissions don't bind root.
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match="output_dir"):
            pyllmclf.finetune(**STEPS | GPT2 | {"train": (TEXTS, LABELS), "output_dir": target})
    assert files_in(tmp_path) == {"file": b"important"}


@pytest.mark.parametrize("path", [".", "no/such/folder"])
def test_loading_what_is_no_checkpoint(tmp_path: Path, path: str) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ModelError, match="no complete pyllmclf checkpoint"):
        pyllmclf.load(tmp_path / path)


@pytest.mark.parametrize("kind", ["lists", "tuples", "arrays", "frame"])
def test_no_text_is_in_a_checkpoint(tmp_path: Path, kind: str) -> None:
    """Of the data that were given in memory; names and paths are recorded."""
    pair: Any = (TEXTS, LABELS)
    if kind == "frame":
        pair = pd.DataFrame({"text": TEXTS, "label": LABELS})
    elif kind != "lists":
        pair = tuple((tuple if kind == "tuples" else np.array)(part) for part in pair)
    arguments = {"validation": pair, "test": pair, "output_dir": tmp_path / "run"}
    classifier = pyllmclf.finetune(train=pair, **GPT2, **STEPS, **arguments).classifier
    classifier.save(tmp_path / "saved")
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(contents) > 10
    for text in TEXTS:
        spellings = (text.encode(), json.dumps(text)[1:-1].encode()) if len(text) > 10 else ()
        assert not any(spelling in content for spelling in spellings for content in contents)
