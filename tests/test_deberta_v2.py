"""DeBERTa's buckets of distances, and its tokenizer from a model file of SentencePiece."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hypothesis import strategies as st
from trained_pieces import TEXTS, assert_same_ids, train, with_special
from transformers import AutoTokenizer, DebertaV2Tokenizer

from pyllmclf import ModelError
from pyllmclf.data.tokenizers import LibraryTokenizer, load_tokenizer
from pyllmclf.models.architectures import deberta_v2
from pyllmclf.models.architectures.deberta_v2 import ARCHITECTURE

FILE = "spm.model"
SPECIAL: dict[str, Any] = {
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "pad_piece": "[PAD]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "unk_piece": "[UNK]",
}


def made(folder: Path, config: dict[str, Any] | None = None) -> tuple[sentencepiece.SentencePieceProcessor, Any]:
    """(SentencePiece's own, ours) of a model in the layout of microsoft/deberta-v3-base."""
    processor = train(folder / FILE, **SPECIAL)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return processor, load_tokenizer(folder, ARCHITECTURE.vocabulary)


def test_ids_are_those_of_sentencepiece(tmp_path: Path) -> None:
    """Which transformers' own tokenizer of the first versions runs; every white space, every sign.

    The tokenizers library replaces characters together with the marks behind them, and loses such a mark where the two
    have no replacement; so does every ``tokenizer.json`` with SentencePiece's rules.
    """
    processor, tokenizer = made(tmp_path)
    assert tokenizer.vocab_size == len(processor) + 1 and tokenizer.pad_token_id == 0
    signs = st.characters(max_codepoint=0x5FF, exclude_categories=["M", "Cf"]) | st.sampled_from(
        "　\u200b\u2028ﬁ日☃Ａ▁  "
    )
    assert_same_ids(with_special(tokenizer), lambda text: [1, *processor.encode(text), 2], st.text(signs, max_size=40))


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    """Version 5 leaves out SentencePiece's own rules for characters, so that plain texts are compared."""
    made(tmp_path)
    theirs = DebertaV2Tokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path, ARCHITECTURE.vocabulary, as_configured=True)
    assert tokenizer.vocab_size == len(theirs)
    plain = [text for text in TEXTS if unicodedata.normalize("NFKC", text) == text and "▁" not in text]
    assert len(plain) > 4
    for text in [*plain, "a [MASK] b", "[SEP]"]:
        assert with_special(tokenizer)(text) == theirs(text)["input_ids"]


@pytest.mark.parametrize(
    ("config", "text", "same"),
    [
        ({"do_lower_case": True}, "The CAT", "the cat"),
        ({"do_lower_case": False}, "the cat", "the cat"),
    ],
)
def test_case(tmp_path: Path, config: dict[str, Any], text: str, same: str) -> None:
    processor, tokenizer = made(tmp_path, config)
    assert tokenizer.encode_batch([text])[0] == processor.encode(same)


@pytest.mark.parametrize("splits", [True, False])
def test_words_are_split_at_punctuation_if_asked(tmp_path: Path, splits: bool) -> None:
    _, tokenizer = made(tmp_path, {"split_by_punct": splits})
    assert ('"Punctuation"' in tokenizer.to_json()) == splits


def test_own_symbols_are_whole(tmp_path: Path) -> None:
    processor = train(tmp_path / FILE, **SPECIAL, user_defined_symbols=["<x>"])
    tokenizer = load_tokenizer(tmp_path, ARCHITECTURE.vocabulary)
    assert processor.piece_to_id("<x>") in tokenizer.encode_batch(["a<x>b"])[0]
    assert "<x>" in tokenizer.whole


def test_what_is_saved_has_the_same_ids(tmp_path: Path) -> None:
    _, tokenizer = made(tmp_path)
    assert isinstance(tokenizer, LibraryTokenizer)
    saved = tmp_path / "saved"
    saved.mkdir()
    for name, content in tokenizer.files(64).items():
        (saved / name).write_text(content, encoding="utf-8")
    (saved / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    theirs, again = AutoTokenizer.from_pretrained(saved), load_tokenizer(saved)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == with_special(again)(text) == with_special(tokenizer)(text)


def test_a_vocabulary_of_others(tmp_path: Path) -> None:
    train(tmp_path / FILE)
    with pytest.raises(ModelError, match=r"the vocabulary lacks \[PAD\]"):
        load_tokenizer(tmp_path, ARCHITECTURE.vocabulary)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with pytest.raises(ModelError, match=r"tokenizer.json or spm.model is needed"):
        load_tokenizer(tmp_path, ARCHITECTURE.vocabulary)


@pytest.mark.parametrize(
    ("log_buckets", "farthest"), [(256, 512), (8, 48), (5, 48), (4, 4), (32, 24), (0, 13), (0, 512)]
)
def test_buckets_of_deberta(log_buckets: int, farthest: int) -> None:
    """Those of transformers' make_log_bucket_position, as rows of the table."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances, span = torch.arange(-700, 701), log_buckets or farthest
    options = deberta_v2.DebertaV2Options(
        terms=("c2p",), span=span, log_buckets=log_buckets, farthest=farthest, shares_projections=True, norm=True,
        positions=False, pooler_gelu="none", pooler_dropout=False,
    )  # fmt: skip
    expected = -distances
    if log_buckets:
        expected = make_log_bucket_position(-distances, log_buckets, farthest).long()
    expected = (expected + span).clamp(0, 2 * span - 1)
    assert torch.equal(deberta_v2.bucket_of(distances, options), expected)
