"""SentencePiece models of a few hundred pieces, and texts whose tokens are compared."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from unigram import WORDS

TEXTS = [
    "hello world",
    "  leading, trailing  and   inner spaces ",
    "tabs\tand\nlines\r\nx",
    "l'été où ça, naïve; Straße Größe ﬁn ½ ①Ａ",
    "привет мир 日本語文章　全角",
    "e\u0301 combining, zero\u200bwidth, non\u00a0breaking\u2028",
    "unknown ☃☃ 😀 signs",
    "123 4567 email http.com",
    "▁ a ▁b",
    "a" * 70,
    "a",
]
# Characters that SentencePiece's rules change, in words and between them.
ODD = st.text("ab1é'. \n\t\u0301\u00a0\u3000\u200b\u2028ﬁ½日☃Ａт", max_size=30) | st.text(max_size=40)


def train(path: Path, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    """Trains a model of a few hundred pieces, with SentencePiece's default rules."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=9)) + draw.choice([".", ":", "?", ", ", "!"]) for _ in range(400)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        **{"vocab_size": 250, "hard_vocab_limit": False, "minloglevel": 2} | settings,
        sentence_iterator=iter(lines),
        model_writer=model,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def assert_same_ids(
    found: Callable[[str], list[int]], expected: Callable[[str], list[int]], odd: st.SearchStrategy[str] = ODD
) -> None:
    """Compares the ids of texts, and of odd ones that are made up."""
    for text in TEXTS:
        assert found(text) == expected(text)

    @settings(max_examples=300, deadline=None)
    @given(odd)
    def check(text: str) -> None:
        assert found(text) == expected(text)

    check()


def with_special(tokenizer: Any) -> Callable[[str], list[int]]:
    """Takes a text; returns its ids with the special tokens around it."""
    return lambda text: [*tokenizer.prefix, *tokenizer.encode_batch([text])[0], *tokenizer.suffix]
