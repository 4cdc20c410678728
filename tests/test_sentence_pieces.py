"""SentencePiece's model files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trained_pieces import train

from pyllmclf import ModelError
from pyllmclf.data.tokenizers import read_sentence_pieces


def test_pieces_are_those_of_the_file(tmp_path: Path) -> None:
    processor = train(tmp_path / "model", user_defined_symbols=["<x>"], unk_id=5)
    model = read_sentence_pieces(tmp_path / "model")
    assert model.unknown_id == processor.unk_id() == 5
    assert model.pieces == [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    assert model.character_map
    assert model.added == [("<x>", False), ("<s>", True), ("</s>", True)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "bpe"}, "only Unigram models"),
        ({"byte_fallback": True, "vocab_size": 600}, "only Unigram models"),
        ({"remove_extra_whitespaces": False}, "keep extra spaces"),
        ({"add_dummy_prefix": False}, "keep extra spaces"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    train(tmp_path / "model", **settings)
    with pytest.raises(ModelError, match=f"{said}.*tokenizer.json"):
        read_sentence_pieces(tmp_path / "model")


@pytest.mark.parametrize(
    "content", [b"", b"\x0a", b"not a model", b"\x0a\x05\x0a\x02ab\x16", b"\xff" * 20, b"\x0a\x02\x08\x01"]
)
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ModelError, match="not a model file of SentencePiece"):
        read_sentence_pieces(tmp_path / "model")


def test_every_truncation_is_noticed_or_a_shorter_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "model"
    train(path)
    whole = path.read_bytes()
    pieces = read_sentence_pieces(path).pieces
    for size in range(1, len(whole), max(1, len(whole) // 97)):
        path.write_bytes(whole[:size])
        try:
            shorter = read_sentence_pieces(path).pieces
        except ModelError:
            continue
        assert shorter == pieces[: len(shorter)]
