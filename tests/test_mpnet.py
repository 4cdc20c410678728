"""MPNet's buckets of distances, and its tokenizer from a ``vocab.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_models import LETTERS
from transformers import MPNetTokenizer

from pyllmclf import ModelError
from pyllmclf.data.tokenizers import load_tokenizer
from pyllmclf.models.architectures import mpnet

TEXTS = ["a", "Hello,  World?", "naïve café", "日本 語", "tabs\tand\nlines", "unknown ☃", "x" * 120, "don't [SEP] <s>"]
VOCABULARY = ["<s>", "<pad>", "</s>", "[UNK]", *LETTERS, *(f"##{c}" for c in LETTERS), "[PAD]", "[CLS]", "<mask>"]


def test_buckets_of_mpnet() -> None:
    """Those of transformers' MPNetEncoder.relative_position_bucket."""
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = torch.arange(-3000, 3001)
    assert torch.equal(mpnet.bucket_of(distances), MPNetEncoder.relative_position_bucket(distances))


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    tokenizer = load_tokenizer(tmp_path, mpnet.ARCHITECTURE.vocabulary, as_configured=True)
    theirs = MPNetTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token, tokenizer.prefix, tokenizer.suffix) == ("<pad>", [0], [2])
    for text in TEXTS:
        assert [0, *tokenizer.encode_batch([text])[0], 2] == theirs(text)["input_ids"]
    config = tokenizer.files(48)["tokenizer_config.json"]
    assert '"unk_token": "[UNK]"' in config and '"cls_token": "<s>"' in config


@pytest.mark.parametrize(
    ("content", "said"), [("a\nb\n", "the vocabulary lacks <s>"), ("<s>\n" * 2, "the vocabulary lacks <pad>")]
)
def test_a_vocabulary_of_others(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(ModelError, match=said):
        load_tokenizer(tmp_path, mpnet.ARCHITECTURE.vocabulary)
