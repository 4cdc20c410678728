"""Class order, encoding and stratified fractions."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.readers import TextData, read_file
from pyllmclf.data.splits import stratified_split, without_validation
from pyllmclf.errors import DataError, UsageError


def labelled(labels: list[Any]) -> TextData:
    return TextData([f"text {i}" for i in range(len(labels))], labels, "here")


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, -1, 9], (-1, 9, 10)),
        (["10", "9", "-1"], ("-1", "10", "9")),
        (["b", "B", "a", "\u00e9", "z"], ("B", "a", "b", "z", "\u00e9")),
        (["\uffff", "\U0001f600"], ("\uffff", "\U0001f600")),
        ([2, "1", 10], ("1", "10", "2")),
    ],
    ids=repr,
)
def test_classes_are_in_order(labels: list[Any], classes: tuple[Any, ...]) -> None:
    encoder = LabelEncoder.fit(labelled(labels))
    assert encoder.classes == classes
    assert encoder.names == [str(c) for c in classes]
    assert [type(c) for c in encoder.classes] == [type(c) for c in classes]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(), min_size=2) | st.lists(st.text(min_size=1), min_size=2), st.randoms(use_true_random=False)
)
def test_encode_and_decode(labels: list[Any], random: Any) -> None:
    assume(len(set(labels)) > 1)
    shuffled = random.sample(labels, len(labels))
    encoder = LabelEncoder.fit(labelled(labels))
    assert LabelEncoder.fit(labelled(shuffled)) == encoder
    assert list(encoder.classes) == sorted(set(labels))
    encoded = encoder.encode(labelled(labels))
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [sorted(set(labels)).index(label) for label in labels]
    decoded = encoder.decode(encoded)
    assert decoded == labels
    assert [type(label) for label in decoded] == [type(label) for label in labels]


def test_decode_takes_plain_integers() -> None:
    encoder = LabelEncoder((3, 7))
    assert encoder.decode([1, 0, 1]) == [7, 3, 7]
    assert encoder.decode([]) == []


def test_integers_accept_their_decimal_strings_and_the_reverse() -> None:
    numbers = LabelEncoder.fit(labelled([10, 2]))
    assert numbers.encode(labelled(["2", "10", 10])).tolist() == [0, 1, 1]
    assert numbers.decode([0, 1]) == [2, 10]
    assert numbers.encode(labelled(["2.0"])).tolist() == [0]
    for other in ("02", " 2", "+2"):
        with pytest.raises(DataError, match=re.escape(repr(other))):
            numbers.encode(labelled([other]))
    assert LabelEncoder.fit(labelled(["10", "2"])).encode(labelled([2, 10])).tolist() == [1, 0]


def test_unknown_label_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('text,label\na,ham\n"b\nc",spam\nd,eggs\n', encoding="utf-8")
    encoder = LabelEncoder(("ham", "spam"))
    with pytest.raises(DataError, match=re.escape(f"{path}, line 5: the label 'eggs' is unknown")) as caught:
        encoder.encode(read_file(path))
    assert "'ham', 'spam'" in str(caught.value)
    with pytest.raises(DataError, match="here, row 1: the label 'Ham'"):
        encoder.encode(labelled(["ham", "Ham"]))


def test_many_classes_are_not_all_listed() -> None:
    encoder = LabelEncoder(tuple(range(500)))
    with pytest.raises(DataError) as caught:
        encoder.encode(labelled([500]))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("labels", [["x"], ["x", "x"], [1, 1, 1], [1, "1"]], ids=repr)
def test_a_single_class_is_refused(labels: list[Any]) -> None:
    with pytest.raises(DataError, match=r"here: .*at least two classes"):
        LabelEncoder.fit(labelled(labels))


# --- stratified fractions ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
    random=st.randoms(use_true_random=False),
)
def test_stratified_split(counts: list[int], fraction: float, seed: int, random: Any) -> None:
    total = sum(counts)
    # One more than a text for every class on both sides, so that rounding leaves room.
    assume(min(fraction, 1 - fraction) * total >= len(counts) + 1)
    labels = [c for c, count in enumerate(counts) for _ in range(count)]
    random.shuffle(labels)
    data = TextData([f"text {i}" for i in range(total)], list(labels), "here", list(range(2, total + 2)))
    rest, taken = stratified_split(data, fraction, seed)

    rest_rows, taken_rows = ([int(t.split()[1]) for t in part.texts] for part in (rest, taken))
    assert sorted(rest_rows + taken_rows) == list(range(total))
    assert rest_rows == sorted(rest_rows)
    assert taken_rows == sorted(taken_rows)
    for part, rows in ((rest, rest_rows), (taken, taken_rows)):
        assert part.labels == [labels[i] for i in rows]
        assert part.lines == [i + 2 for i in rows]
        assert part.origin == "here"

    assert abs(len(taken) - fraction * total) < 1
    found = Counter(taken.labels)
    for c, count in enumerate(counts):
        share = len(taken) * count
        assert share // total <= found[c] <= -(-share // total)

    assert stratified_split(data, fraction, seed) == (rest, taken)


def test_stratified_split_is_exact_where_the_numbers_allow() -> None:
    data = labelled(["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    rest, taken = stratified_split(data, 0.2, 1)
    assert Counter(taken.labels) == {"a": 12, "b": 6, "c": 2}
    assert Counter(rest.labels) == {"a": 48, "b": 24, "c": 8}


def test_the_seed_decides() -> None:
    data = labelled(["a", "b"] * 100)
    drawn = {tuple(stratified_split(data, 0.1, seed)[1].texts) for seed in range(5)}
    assert len(drawn) == 5


def test_data_are_not_modified() -> None:
    data = labelled(["a", "b"] * 10)
    texts, labels = list(data.texts), list(data.labels or [])
    stratified_split(data, 0.5, 0)
    assert (data.texts, data.labels) == (texts, labels)


def test_a_class_with_a_single_member_stays_in_training() -> None:
    labels = ["a"] * 10 + ["rare"] + ["b"] * 10
    rest, taken = stratified_split(labelled(labels), 0.5, 0)
    assert Counter(rest.labels) == {"a": 5, "b": 5, "rare": 1} and Counter(taken.labels) == {"a": 5, "b": 5}
    assert [int(text.split()[1]) for text in rest.texts] == sorted(int(text.split()[1]) for text in rest.texts)
    # The other classes are split as without it.
    without = stratified_split(TextData(*map(list, zip(*_pairs(labels), strict=True)), "here"), 0.5, 0)
    assert taken.texts == without[1].texts
    line = without_validation(rest, taken)
    assert line is not None and line.startswith("no validation text has the class 'rare' (1 text): its texts stay in")
    assert without_validation(taken, rest) is None


def _pairs(labels: list[str]) -> list[tuple[str, str]]:
    return [(f"text {i}", label) for i, label in enumerate(labels) if label != "rare"]


def test_classes_without_a_validation_text_are_named() -> None:
    data = labelled([*"ab" * 100, *(f"class {i}" for i in range(15) for _ in range(2))])
    line = without_validation(*stratified_split(data, 0.1, 0))
    assert line is not None and "no validation text has the classes 'class " in line and " more: their texts" in line
    assert len(line) < 500


def test_only_single_members_leave_nothing_to_split() -> None:
    with pytest.raises(DataError, match=r"here: a fraction of 0\.5 can't be split off"):
        stratified_split(labelled(["a", "b", "c"]), 0.5, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_bad_fractions(fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        stratified_split(labelled(["a", "b"] * 10), fraction, 0)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_fraction_without_room_for_every_class_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=f"here: a fraction of {fraction}"):
        stratified_split(labelled(["a", "b", "c"] * 5), fraction, 0)
