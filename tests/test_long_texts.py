"""Texts that are longer than the model reads: their head, their tail, both, or windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Folders
from short_runs import TEXTS, run
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pyllmclf
from pyllmclf import UsageError
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.token_store import TokenStore


@pytest.fixture(scope="module")
def gpt2(model_folder: Folders) -> Path:
    return model_folder("gpt2", n_classes=2)


@pytest.fixture(scope="module")
def bert(model_folder: Folders) -> Path:
    return model_folder("bert", n_classes=2)


LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


def store_of(lengths: list[int]) -> tuple[TokenStore, list[list[int]]]:
    texts = [list(range(100 * i, 100 * i + n)) for i, n in enumerate(lengths)]
    tokens = np.array([t for text in texts for t in text], dtype=np.int32)
    return TokenStore(tokens, np.cumsum([0, *lengths], dtype=np.int64)), texts


def listed(store: TokenStore) -> list[list[int]]:
    return [store[i].tolist() for i in range(len(store))]


@given(LENGTHS, st.integers(1, 12))
def test_cut(lengths: list[int], room: int) -> None:
    store, texts = store_of(lengths)
    assert listed(store.cut(room, "head")) == [text[:room] for text in texts]
    assert listed(store.cut(room, "tail")) == [text[-room:] for text in texts]
    head, tail = room - room // 2, room // 2
    both = [text if len(text) <= room else text[:head] + text[len(text) - tail :] for text in texts]
    assert listed(store.cut(room, "both")) == both


@given(LENGTHS, st.integers(1, 12), st.integers(0, 11))
@settings(max_examples=200)
def test_windows(lengths: list[int], room: int, overlap: int) -> None:
    """Every token is in a window, neighbours share as many as asked for, the last ends with the text."""
    overlap = min(overlap, room - 1)
    store, texts = store_of(lengths)
    windows, bounds = store.windows(room, overlap)
    found = listed(windows)
    for text, begin, end in zip(texts, bounds[:-1], bounds[1:], strict=True):
        own = found[begin:end]
        if len(text) <= room:
            assert own == [text]
            continue
        assert all(len(window) == room for window in own)
        starts = [window[0] - text[0] for window in own]
        assert starts[:-1] == list(range(0, (room - overlap) * (len(own) - 1), room - overlap))
        assert starts[-1] == len(text) - room and starts[-1] > starts[-2]
        assert {t for window in own for t in window} == set(text)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("long_texts", ["head", "tail", "both", "windows"])
def test_long_texts(family: str, long_texts: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What is read of a text of 38 letters with room for 10: the logits of those pieces alone."""
    folder = request.getfixturevalue(family)
    specials = {"gpt2": 0, "bert": 2}[family]
    result = run(folder, long_texts=long_texts, max_length=10 + specials, trainable="last_block")
    classifier = result.classifier
    read = TEXTS if family == "gpt2" else [text.replace(" ", "") for text in TEXTS]
    assert result.lengths.truncated == (0 if long_texts == "windows" else sum(len(t) > 10 for t in read))
    assert result.lengths.texts == len(TEXTS)
    text = "abcdefghijklmnopqrstuvwxyzabcdefghijkl"
    tokenizer = classifier.state.tokenizer
    ids = tokenizer.encode_batch([text])[0]
    assert len(ids) == len(text)
    pieces = {
        "head": [ids[:10]],
        "tail": [ids[-10:]],
        "both": [ids[:5] + ids[-5:]],
        "windows": [ids[i : i + 10] for i in (0, 5, 10, 15, 20, 25, 28)],
    }[long_texts]
    store = TokenStore(np.array(pieces, dtype=np.int32).ravel(), np.arange(len(pieces) + 1) * 10)
    expected = classifier.packed_logits(Packer(store, tokenizer, RowLayout(10 + specials))).mean(axis=0)
    found = classifier.logits([text, "short"])
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], classifier.logits(["short"])[0], rtol=0, atol=1e-6)
    labelled = classifier.evaluate(([text, "short"], [0, 1]))
    assert labelled.predictions.tolist() == found.argmax(axis=1).tolist() and len(labelled.labels) == 2
    classifier.save(tmp_path / "saved")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "saved").logits([text, "short"]), found)


@pytest.mark.parametrize("long_texts", ["head", "tail"])
def test_transformers_cuts_long_texts_likewise(bert: Path, tmp_path: Path, long_texts: str) -> None:
    classifier = run(bert, long_texts=long_texts, max_length=12).classifier
    classifier.export(tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    texts = ["abcdefghijklmnopqrstuvwxyz", "short"]
    with torch.inference_mode():
        theirs = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(theirs, classifier.logits(texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("long_texts", ["both", "windows"])
def test_transformers_reads_one_piece(gpt2: Path, tmp_path: Path, long_texts: str) -> None:
    with pytest.raises(UsageError, match=f"long_texts='{long_texts}'"):
        run(gpt2, long_texts=long_texts, max_length=12).classifier.export(tmp_path / "export")


def test_unknown_part_of_long_texts(gpt2: Path) -> None:
    with pytest.raises(UsageError, match="long_texts='middle' is unknown"):
        run(gpt2, long_texts="middle")
