"""Near-duplicates across parts of data, against the Jaccard similarity of sets of substrings."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllmclf.data import near_duplicates as module
from pyllmclf.data.named import load_named
from pyllmclf.data.near_duplicates import SIMILARITY, near_duplicates, similarity
from pyllmclf.data.readers import TextData
from pyllmclf.data.validation import validate_splits
from pyllmclf.text_pair import Text, TextPair

pytest.importorskip("datasketch")


def part(texts: list[Text], name: str = "here", labels: list[str] | None = None) -> TextData:
    return TextData(texts, labels or ["x"] * len(texts), name)


def plain_similarity(first: str, second: str) -> float:
    """Of the sets of five-character substrings, by their definition."""

    def grams(text: str) -> set[str]:
        words = " ".join(re.findall(r"\w+", text.casefold())) or " ".join(text.casefold().split())
        padded = words.ljust(5, "\0")
        return {padded[i : i + 5] for i in range(len(padded) - 4)}

    a, b = grams(first), grams(second)
    return len(a & b) / len(a | b)


@settings(max_examples=100, deadline=None)
@given(st.text("aAb c.é漢!", max_size=30), st.text("aAb c.é漢!", max_size=30))
def test_similarity_is_that_of_the_sets(first: str, second: str) -> None:
    assert similarity(first, second) == plain_similarity(first, second)


def edited(text: str, rng: random.Random) -> str:
    characters = list(text)
    for place in rng.sample(range(len(text)), max(1, len(text) // 50)):
        characters[place] = "q"
    return "".join(characters)


def test_all_pairs_of_a_small_set() -> None:
    """Nothing is found that brute force doesn't find, and of what it finds all but a few just above the limit."""
    splits = load_named("sample")
    rng = random.Random(0)
    train = list(dict.fromkeys(splits["train"].texts))[:150]
    test = [edited(str(text), rng) for text in train[:60]] + list(dict.fromkeys(splits["test"].texts))[:40]
    found = {each.second: each for each in near_duplicates([part(train), part(test)])[0, 1]}
    best = {
        row: max(plain_similarity(str(first), str(text)) for first in train)
        for row, text in enumerate(test)
        if text not in train
    }
    assert set(found) <= {row for row, value in best.items() if value >= SIMILARITY}
    assert {row for row, value in best.items() if value >= 0.8} <= set(found)
    assert all(each.similarity == best[row] for row, each in found.items())
    assert len(found) >= 50 and all(found[row].first == row for row in found if row < 60)


def test_equal_and_blank_texts_are_left_out() -> None:
    texts: list[Text] = ["the same text here", "  ", "", "!!!"]
    assert near_duplicates([part(texts), part(texts)]) == {(0, 1): []}
    (only,) = near_duplicates([part(["???", "Hello,   World and all"]), part(["hello world and ALL!"])])[0, 1]
    assert (only.first, only.second, only.similarity) == (1, 0, 1.0)
    assert near_duplicates([part(["!!!"]), part(["???"])])[0, 1] == []


def test_both_texts_of_a_pair_must_be_alike() -> None:
    """One premise with other hypotheses is no duplicate, however long the premise is."""
    premise = "a long premise about a cat that sleeps on the warm roof of a car " * 3
    first = [TextPair(premise, "the animal rests on the car")]
    second = [TextPair(premise, "it is raining"), TextPair(premise + ".", "the animal rests on the car!")]
    (only,) = near_duplicates([part(first), part(second)])[0, 1]
    assert (only.second, only.similarity) == (1, 1.0)
    swapped = [TextPair("the animal rests on the car", premise)]
    assert near_duplicates([part(first), part(swapped)])[0, 1] == []


def test_every_pair_of_parts() -> None:
    parts = [part([f"{word} sentence of several words number {i}" for i in range(3)]) for word in ("One", "one", "ONE")]
    found = near_duplicates(parts)
    assert set(found) == {(0, 1), (0, 2), (1, 2)} and all(len(each) == 3 for each in found.values())


def test_messages_of_one_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are candidates of each other; the shingles of few are compared, and the nearest is among them."""
    compared: list[int] = []
    most_similar = module._most_similar

    def counted(data: TextData, candidates: list[int], text: Text, row: int) -> list[module.NearDuplicate]:
        compared.append(len(candidates))
        return most_similar(data, candidates, text, row)

    monkeypatch.setattr(module, "_most_similar", counted)
    start = "Dear customer, the code for the login at our website is"
    end = "do not share it with anybody, and do not answer to this message"
    first = [f"{start} {1000 * i}, {end}" for i in range(200)]
    second = [f"{text.upper()}!" for text in first]
    found = near_duplicates([part(first), part(second)])[0, 1]
    assert [(each.first, each.similarity) for each in found] == [(row, 1.0) for row in range(200)]
    assert max(compared) == module._COMPARED


def test_in_the_report() -> None:
    splits = {
        "train": part(["my parcel has not arrived yet", "how do I reset it"], "train", ["a", "b"]),
        "test": part(["My parcel has not arrived, yet!", "nothing like these two"], "test", ["b", "b"]),
    }
    near = near_duplicates(list(splits.values()))
    report = validate_splits(splits, near=near)
    assert report.near_overlaps is not None
    (overlap,) = report.near_overlaps
    assert (overlap.first, overlap.second, overlap.texts, overlap.conflicting) == ("train", "test", 1, 1)
    assert overlap.examples == [{"first": "train, row 0", "second": "test, row 0", "similarity": 1.0}]
    (note,) = [note for note in report.notes if "nearly" in note]
    assert note == (
        "1 texts of test are nearly the same as texts of train, 1 with other labels "
        "(test, row 0 and train, row 0: 100% alike)"
    )
    assert not report.problems and validate_splits(splits).near_overlaps is None


@pytest.mark.real_data
def test_edited_copies_of_imdb(data_dir: Path) -> None:
    """The texts that both parts of IMDb have are found with 2 % of their characters changed, each with its original."""
    splits = load_named("imdb")
    shared = sorted(set(splits["train"].texts) & set(splits["test"].texts), key=str)
    assert len(shared) == 123
    rng = random.Random(0)
    copies = [edited(str(text), rng) for text in shared]
    others = [text for text in splits["train"].texts[::50] if text not in shared]
    found = near_duplicates([part(shared + others), part(copies + splits["test"].texts[1::100])])[0, 1]
    assert [(each.first, each.second) for each in found if each.second < 123] == [(i, i) for i in range(123)]


def test_it_can_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert not module.is_available()
