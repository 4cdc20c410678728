"""CamemBERT's tokenizer from its model file of SentencePiece."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
from trained_pieces import TEXTS, assert_same_ids, train, with_special
from transformers import CamembertTokenizer

from pyllmclf.data.tokenizers import load_tokenizer
from pyllmclf.models.architectures.camembert import ARCHITECTURE

FILE = "sentencepiece.bpe.model"


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    train(tmp_path / FILE)
    theirs = CamembertTokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path, ARCHITECTURE.vocabulary, as_configured=True)
    assert tokenizer.vocab_size == len(theirs)
    assert_same_ids(with_special(tokenizer), lambda text: theirs(text)["input_ids"])


def test_ids_are_those_of_sentencepiece(tmp_path: Path) -> None:
    """Moved by four, behind fairseq's tokens; the unknown token has fairseq's id."""
    processor = train(tmp_path / FILE)
    found = with_special(load_tokenizer(tmp_path, ARCHITECTURE.vocabulary))

    def expected(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
        ids = [3 if piece == processor.unk_id() else piece + 4 for piece in processor.encode(text)]
        return [5, *ids, 6]

    for text in TEXTS:
        assert found(text) == expected(processor, text)


def test_mask_token_is_added(tmp_path: Path) -> None:
    processor = train(tmp_path / FILE)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))
    tokenizer = load_tokenizer(tmp_path, ARCHITECTURE.vocabulary, as_configured=True)
    assert tokenizer.encode_batch(["a <mask>"])[0][-1] == len(processor) + 4
