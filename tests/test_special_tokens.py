"""Names of special tokens inside a text: the same ids here and in transformers, for classifiers of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interoperability import CLASSES, SHORT, STILL, close
from models import FAMILIES, TEXTS, Folders, each_kind
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pyllmclf
from pyllmclf import ModelError
from pyllmclf.data.atomic_folder import MANIFEST
from pyllmclf.data.fetch import sha256
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import LibraryTokenizer
from pyllmclf.models.hub import find_model

# With blanks and none around them, at both ends, in other letters, and cut.
NAMES = ["[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>"]
SPECIAL = [text for name in NAMES for text in (f"a {name} b", f"x{name}y{name}", name, f"{name.lower()} c {name[:-1]}")]
SPECIAL += ["a [SEP] b <s> c <|endoftext|> d", "[USER] look at [URL]", "[NEW LINE]b [USER][URL]", "a [TAG] b[TAG]"]
LETTERS = [("a", "b", "c")[i % 3] for i in range(len(TEXTS))]


def tokenizer_of(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "[PAD]" if "[PAD]" in tokenizer.get_vocab() else "<|endoftext|>"
    return tokenizer


@torch.inference_mode()
def their_logits(folder: Path, texts: list[str] = SPECIAL, tokenizer: Any = None) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    batch = (tokenizer or tokenizer_of(folder))(
        texts, padding=True, truncation=True, max_length=48, return_tensors="pt"
    )
    return model(**batch).logits.numpy()


def rehash(folder: Path) -> None:
    """Makes the manifest fit the files, as whoever forges a checkpoint would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def with_own_tokens(folder: Path) -> Path:
    """Saves the folder again with special tokens of its author, as a training with transformers does."""
    tokenizer = tokenizer_of(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[USER]", "[URL]", "[NEW LINE]"]})
    tokenizer.add_tokens(["[TAG]"])
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.manual_seed(3)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[-4:].normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- classifiers of transformers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_tokens", [False, True], ids=["plain", "own_tokens"])
@pytest.mark.parametrize("family", each_kind(FAMILIES))
def test_classifier_of_transformers_reads_its_special_tokens(
    model_folder: Folders, tmp_path: Path, family: str, own_tokens: bool
) -> None:
    folder = model_folder.copy(tmp_path / "theirs", family)
    if own_tokens:
        with_own_tokens(folder)
    expected = their_logits(folder)
    classifier = pyllmclf.load(folder)
    assert not classifier.state.tokenizer.splits_special_tokens
    assert close(classifier.logits(SPECIAL), expected)
    # Saved, opened and saved again, here and there.
    classifier.save(tmp_path / "ours")
    again = pyllmclf.load(tmp_path / "ours")
    np.testing.assert_array_equal(again.logits(SPECIAL), classifier.logits(SPECIAL))
    assert close(their_logits(tmp_path / "ours"), expected)
    again.export(tmp_path / "exported")
    assert close(pyllmclf.load(tmp_path / "exported").logits(SPECIAL), expected)
    # Trained further on the same classes it reads as before; on others, texts are data.
    onward = pyllmclf.finetune(tmp_path / "ours", (TEXTS, CLASSES), trainable="all", **STILL).classifier
    assert close(onward.logits(SPECIAL), expected)
    onward = pyllmclf.finetune(folder, (TEXTS, CLASSES), trainable="all", **STILL).classifier
    assert close(onward.logits(SPECIAL), expected)
    assert pyllmclf.finetune(folder, (TEXTS, LETTERS), **STILL).classifier.state.tokenizer.splits_special_tokens


def test_split_special_tokens_of_their_configuration(model_folder: Folders, tmp_path: Path) -> None:
    folder = with_own_tokens(model_folder.copy(tmp_path / "theirs", "bert"))
    path = folder / "tokenizer_config.json"
    parsed = their_logits(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))
    split = their_logits(folder)
    assert not close(split, parsed)
    assert close(pyllmclf.load(folder).logits(SPECIAL), split)


@pytest.mark.parametrize("where", ["added_tokens_decoder", "added_tokens.json", "additional_special_tokens"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_added_tokens_beside_a_vocabulary(model_folder: Folders, tmp_path: Path, family: str, where: str) -> None:
    """Older layouts, without a tokenizer.json."""
    folder = model_folder.copy(tmp_path / "theirs", family)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    size, width = weights[name].shape
    weights[name] = torch.cat([weights[name], torch.randn(2, width, generator=torch.Generator().manual_seed(1))])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size + 2}))
    tokens = ["[USER]", "[URL]"]
    flags = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}
    ours: dict[str, Any] = {}
    if where == "added_tokens_decoder":
        ours = {where: {str(size + i): {"content": token} | flags for i, token in enumerate(tokens)}}
    else:
        ours = {"additional_special_tokens": tokens}
    if where == "added_tokens.json":
        (folder / where).write_text(json.dumps({token: size + i for i, token in enumerate(tokens)}))
        (folder / "special_tokens_map.json").write_text(json.dumps(ours))
        ours = {}
    classes = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": classes[family]} | ours))
    assert close(pyllmclf.load(folder).logits(SPECIAL), their_logits(folder))


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "[A]"}}}, "'x' is not the id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": 5}}, "has no text"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": "[A]", "lstrip": 5}}}, "a flag"),
        ("tokenizer_config.json", {"additional_special_tokens": [["a"]]}, "has no text"),
        ("tokenizer_config.json", {"mask_token": 5}, "has no text"),
        ("added_tokens.json", {"[A]": "x"}, "'x' is not the id"),
        ("added_tokens.json", [], "not a JSON object"),
        ("special_tokens_map.json", 5, "not a JSON object"),
    ],
)
def test_malformed_tokens(model_folder: Folders, tmp_path: Path, name: str, content: Any, word: str) -> None:
    folder = model_folder.copy(tmp_path, "bert")
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=word):
        pyllmclf.load(folder)


# --- classifiers of this library --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", each_kind(FAMILIES))
def test_transformers_splits_special_tokens_of_our_classifiers(
    model_folder: Folders, tmp_path: Path, family: str
) -> None:
    folder = with_own_tokens(model_folder.copy(tmp_path / "theirs", family))
    classifier = pyllmclf.finetune(folder, (TEXTS, LETTERS), trainable="all", **SHORT).classifier
    expected = classifier.logits(SPECIAL)
    classifier.save(tmp_path / "saved")
    classifier.export(tmp_path / "exported")
    for name in ("saved", "exported"):
        assert json.loads((tmp_path / name / "tokenizer_config.json").read_text())["split_special_tokens"] is True
        assert close(their_logits(tmp_path / name), expected)
        np.testing.assert_array_equal(pyllmclf.load(tmp_path / name).logits(SPECIAL), expected)
        # Saved again by transformers.
        tokenizer_of(tmp_path / name).save_pretrained(tmp_path / f"{name} again")
        assert close(their_logits(tmp_path / name, tokenizer=tokenizer_of(tmp_path / f"{name} again")), expected)


def test_preset_of_gpt2_in_transformers(gpt2_vocabulary: Path, tmp_path: Path) -> None:
    """tiktoken's encoding and the tokenizer.json that is written for it."""
    tokenizer = find_model("gpt2", "random").tokenizer
    for name, content in tokenizer.files(64).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode_batch(SPECIAL) == theirs(SPECIAL)["input_ids"]
    theirs.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert tokenizer.encode_batch(SPECIAL) == again(SPECIAL)["input_ids"]
    assert [tokenizer.encode_batch([text])[0] for text in SPECIAL] == [again.encode(text) for text in SPECIAL]


def test_checkpoint_of_before_splits_special_tokens(model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder("bert")
    classifier = pyllmclf.finetune(folder, (TEXTS, LETTERS), **SHORT).classifier
    expected = classifier.logits(SPECIAL)
    classifier.save(tmp_path / "saved")
    classifier.export(tmp_path / "exported")
    for name in ("saved", "exported"):
        for file in ("tokenizer_config.json", "pyllmclf.json"):
            if not (path := tmp_path / name / file).is_file():
                continue
            content = json.loads(path.read_text())
            content.pop("split_special_tokens", None)
            content.get("tokenizer", {}).pop("split_special_tokens", None)
            path.write_text(json.dumps(content))
        rehash(tmp_path / name)
        np.testing.assert_array_equal(pyllmclf.load(tmp_path / name).logits(SPECIAL), expected)


def test_adapter_and_graph_have_the_rule(model_folder: Folders, tmp_path: Path) -> None:
    lora: dict[str, Any] = {"trainable": "lora", "lora": {"rank": 2}}
    classifier = pyllmclf.finetune(model_folder("bert"), (TEXTS, LETTERS), **SHORT, **lora).classifier
    expected = classifier.state.tokenizer.encode_batch(SPECIAL)
    for format in ("peft", "huggingface", "torch"):
        classifier.export(tmp_path / format, format)
        theirs = AutoTokenizer.from_pretrained(tmp_path / format)
        assert theirs(SPECIAL, add_special_tokens=False)["input_ids"] == expected


# --- what depends on the rule -----------------------------------------------------------------------------------------


def test_cached_tokens_depend_on_the_rule(model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder("bert")
    stores = []
    for splits in (True, False):
        wordpiece = LibraryTokenizer.from_wordpiece_vocab(folder / "vocab.txt", splits_special_tokens=splits)
        stores.append(TokenStore.cached(tmp_path / "cache", SPECIAL, wordpiece))
        assert wordpiece.fingerprint.startswith("tokenizers ")
    assert len(stores[0].tokens) > len(stores[1].tokens)


def test_long_text_is_not_broken_within_a_token(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_own_tokens(model_folder.copy(tmp_path, "bert"))
    tokenizer = pyllmclf.load(folder).state.tokenizer
    texts = ["a [NEW LINE] b " * 40]
    expected = tokenizer.encode_batch(texts)[0]
    monkeypatch.setattr("pyllmclf.data.token_store.CHARACTERS_PER_CHUNK", 7)
    assert TokenStore.from_texts(texts, tokenizer)[0].tolist() == expected
