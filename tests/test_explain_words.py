"""Words of explanations: whole tokens, characters of the text as it is, nothing lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import Folders

import pyllmclf
from pyllmclf.data.tokenizers import LibraryTokenizer, TiktokenTokenizer, byte_level_json
from pyllmclf.explain.words import split_words

TEXTS = [
    "Don't stop! It costs 3.50 £, e-mail...",
    "日本語のテキスト と emoji 👩‍👧👍🏽 🇩🇪",
    "GRÜẞE aus İstanbul, Ça va? e\u0301te\u0301",
    "नमस्ते ประเทศไทย שלום عالم",
    "tabs\t\tand  spaces \n\n",
    "\u200bzero\u200bwidth \ufeff mark",
    "  ",
    "",
]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop!!", ["don't", "stop", "!!"]),
        ("it costs 3.50 £.", ["it", "costs", "3.50", "£", "."]),
        ("'quoted' l’été x_y", ["'", "quoted", "'", "l’été", "x_y"]),
        ("日本 語", ["日", "本", "語"]),
        ("नमस्ते e\u0301te", ["नमस्ते", "e\u0301te"]),
        ("👩‍👧👍🏽 🇩🇪", ["👩‍👧", "👍🏽", "🇩🇪"]),
        (" \n", []),
    ],
    ids=["apostrophe", "number", "quotes", "ideographs", "marks", "emoji", "space"],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[slice(*span)] for span in split_words(text, [])[0]] == words


def test_words_that_share_a_token_are_one() -> None:
    text = "a, b 日本語"
    words, word_of = split_words(text, [(0, 2), (2, 4), (4, 7), (7, 8)])
    assert [text[slice(*span)] for span in words] == ["a,", "b", "日本", "語"]
    assert word_of == [0, 1, 2, 3]


def test_tokens_without_characters_belong_to_the_next_word() -> None:
    words, word_of = split_words("a  b ", [(0, 0), (0, 1), (1, 2), (2, 4), (4, 5), (5, 5)])
    assert words == [(0, 1), (3, 4)]
    assert word_of == [0, 0, 1, 1, 1, 1]
    assert split_words(" ", [(0, 1)]) == ([], [-1])


@given(st.text(max_size=40), st.data())
def test_every_character_but_white_space_is_in_one_word(text: str, data: st.DataObject) -> None:
    """Whatever the tokens are; and each token lies in its word."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    tokens = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    words, word_of = split_words(text, tokens)
    assert all(a < b for a, b in words)
    assert all(one[1] <= other[0] for one, other in pairwise(words))
    covered = {place for word in words for place in range(*word)}
    assert covered >= {i for i, char in enumerate(text) if not char.isspace()}
    for (begin, end), word in zip(tokens, word_of, strict=True):
        own = [i for i in range(begin, end) if not text[i].isspace()]
        assert not own or all(words[word][0] <= i < words[word][1] for i in own)


def tokenizers_of(model_folder: Folders) -> dict[str, LibraryTokenizer]:
    loaded = {name: pyllmclf.load(model_folder(name), device="cpu").state.tokenizer for name in ("bert", "xlm_roberta")}
    byte_level = LibraryTokenizer.from_json(byte_level_json([bytes([i]) for i in range(256)]))
    return loaded | {"byte_level": byte_level}


@pytest.mark.parametrize("name", ["bert", "xlm_roberta", "byte_level"])
def test_offsets_are_characters_of_the_text(model_folder: Folders, name: str) -> None:
    tokenizer = tokenizers_of(model_folder)[name]
    for text, ids, found in zip(
        TEXTS, tokenizer.encode_batch(TEXTS), tokenizer.encode_with_offsets(TEXTS), strict=True
    ):
        assert found.ids == ids
        assert len(found.spans) == len(ids)
        assert all(0 <= a <= b <= len(text) for a, b in found.spans)
        assert found.spans == sorted(found.spans)
        if name == "byte_level":  # a token for each byte: each is a piece of its character
            expected = [(i, i + 1) for i, char in enumerate(text) for _ in char.encode()]
            assert found.spans == (expected or [(0, 0)])


@pytest.mark.real_data
def test_offsets_of_tiktoken_are_those_of_its_library() -> None:
    tokenizer = TiktokenTokenizer.gpt2()
    for text, found in zip(TEXTS, tokenizer.encode_with_offsets(TEXTS), strict=True):
        assert [found.ids] == tokenizer.encode_batch([text])
        if text:
            joined, starts = tokenizer._encoding.decode_with_offsets(found.ids)
            assert joined == text
            assert [begin for begin, _ in found.spans] == starts
            assert found.spans[-1][1] == len(text)
