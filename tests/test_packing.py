"""The token store and the packer against plain Python lists."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllmclf import _C
from pyllmclf.data import token_store
from pyllmclf.data.lengths import LengthReport
from pyllmclf.data.packing import PackedBatch, Packer, RowLayout, token_budget_batches
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import PairTemplate
from pyllmclf.errors import DataError, UsageError
from pyllmclf.ops.backends import triton as triton_backend
from pyllmclf.ops.schedule import attention_schedule, fixed_schedule, pooled_schedule

TENSORS = [
    f.name for f in dataclasses.fields(PackedBatch) if f.name not in ("max_seqlen", "schedule", "shared", "token_types")
]

PAD = 99


@dataclass
class FakeTokenizer:
    """A text is its characters' code points."""

    prefix: list[int] = field(default_factory=list)
    suffix: list[int] = field(default_factory=list)
    pad_token_id: int = PAD
    vocab_size: int = 0x110000
    kind: str = "tokenizers"
    prompt: str = ""
    splits_special_tokens: bool = True
    without_position: int | None = None
    pairs: PairTemplate | None = None
    whole: list[str] = field(default_factory=list)

    def encode_batch(self, texts: Sequence[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        empty = [] if self.prefix or self.suffix else [self.pad_token_id]
        return [[ord(c) for c in text] or empty for text in texts]

    def to_json(self) -> str:
        return ""

    def files(self, max_length: int) -> dict[str, str]:
        return {}


def store_of(texts: Sequence[Sequence[int]]) -> TokenStore:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return TokenStore(np.array([t for text in texts for t in text], dtype=np.int32), offsets)


def expected_rows(text: Sequence[int], tokenizer: FakeTokenizer, layout: RowLayout) -> tuple[list[int], int]:
    """Row of one text, and its real tokens."""
    room = layout.max_length - len(tokenizer.prefix) - len(tokenizer.suffix)
    row = [*tokenizer.prefix, *text[:room], *tokenizer.suffix]
    return row + [tokenizer.pad_token_id] * (layout.pad_to - len(row)), len(row)


token = st.integers(0, 90)
token_lists = st.lists(st.lists(token, max_size=12), min_size=1, max_size=8)


@st.composite
def packings(draw: st.DrawFn) -> tuple[list[list[int]], FakeTokenizer, RowLayout, list[int]]:
    texts = draw(token_lists)
    specials = st.lists(st.integers(91, 98), max_size=2)
    tokenizer = FakeTokenizer(draw(specials), draw(specials))
    shortest = max(1, len(tokenizer.prefix) + len(tokenizer.suffix))
    max_length = draw(st.integers(shortest, 16))
    pad_to = draw(st.just(0) | st.integers(max_length, 20))
    ids = draw(st.lists(st.integers(0, len(texts) - 1), max_size=10))
    return texts, tokenizer, RowLayout(max_length, pad_to), ids


# --- the packer -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(packings(), st.booleans())
def test_packer_against_lists(
    drawn: tuple[list[list[int]], FakeTokenizer, RowLayout, list[int]], labelled: bool
) -> None:
    texts, tokenizer, layout, ids = drawn
    labels = np.array([7 * i + 1 for i in range(len(texts))]) if labelled else None
    packer = Packer(store_of(texts), tokenizer, layout, labels)
    batch = packer.batch(ids)

    rows = [expected_rows(texts[i], tokenizer, layout) for i in ids]
    starts = [0]
    for row, _ in rows:
        starts.append(starts[-1] + len(row))
    assert batch.input_ids.tolist() == [t for row, _ in rows for t in row]
    assert batch.positions.tolist() == [p for row, _ in rows for p in range(len(row))]
    assert batch.cu_seqlens.tolist() == starts
    assert batch.max_seqlen == max((len(row) for row, _ in rows), default=0)
    assert batch.lengths.tolist() == [length for _, length in rows]
    assert batch.example_ids.tolist() == ids
    assert (None if batch.labels is None else batch.labels.tolist()) == ([7 * i + 1 for i in ids] if labelled else None)
    assert len(batch) == len(ids)

    assert len(packer) == len(texts)
    everything = [expected_rows(text, tokenizer, layout) for text in texts]
    assert packer.row_counts.tolist() == [len(row) for row, _ in everything]
    assert packer.real_lengths.tolist() == [length for _, length in everything]
    assert packer.row_counts.dtype == np.int64


@pytest.mark.parametrize("ids", [[], [0], [1, 0, 1, 1]], ids=repr)
@pytest.mark.parametrize("make", [list, tuple, lambda i: np.array(i, dtype=np.int64)], ids=["list", "tuple", "array"])
def test_dtypes_and_shapes(ids: list[int], make: Any) -> None:
    packer = Packer(store_of([[1, 2, 3], [4]]), FakeTokenizer(), RowLayout(8), np.array([0, 1], dtype=np.int32))
    batch = packer.batch(make(ids))
    rows = sum([3, 1][i] for i in ids)
    assert batch.token_rows is None
    assert {name: getattr(batch, name).dtype for name in TENSORS if name != "token_rows"} == {
        "input_ids": torch.int32,
        "positions": torch.int32,
        "cu_seqlens": torch.int32,
        "labels": torch.int64,
        "example_ids": torch.int64,
        "lengths": torch.int32,
    }
    assert type(batch.max_seqlen) is int
    assert batch.input_ids.shape == batch.positions.shape == (rows,)
    assert batch.cu_seqlens.shape == (len(ids) + 1,)
    assert batch.lengths.shape == batch.example_ids.shape == (len(ids),)


@pytest.mark.parametrize("layout", [RowLayout(8), RowLayout(8, 10)], ids=["packed", "padded"])
def test_empty_batch(layout: RowLayout) -> None:
    batch = Packer(store_of([[1]]), FakeTokenizer([91], [92]), layout).batch([])
    assert batch.cu_seqlens.tolist() == [0]
    assert (batch.max_seqlen, len(batch), len(batch.input_ids), batch.labels) == (0, 0, 0, None)


def test_texts_of_length_one() -> None:
    packer = Packer(store_of([[i] for i in range(5)]), FakeTokenizer(), RowLayout(1))
    batch = packer.batch([4, 0, 4])
    assert batch.input_ids.tolist() == [4, 0, 4]
    assert batch.positions.tolist() == [0, 0, 0]
    assert batch.cu_seqlens.tolist() == [0, 1, 2, 3]


def test_truncation_keeps_the_special_tokens() -> None:
    packer = Packer(store_of([list(range(10))]), FakeTokenizer([91], [92, 93]), RowLayout(6))
    assert packer.batch([0]).input_ids.tolist() == [91, 0, 1, 2, 92, 93]


def test_a_padded_text_keeps_its_special_tokens_before_the_padding() -> None:
    packer = Packer(store_of([[1, 2], list(range(10))]), FakeTokenizer([91], [92]), RowLayout(5, 7))
    batch = packer.batch([0, 1])
    assert batch.input_ids.tolist() == [91, 1, 2, 92, PAD, PAD, PAD, 91, 0, 1, 2, 92, PAD, PAD]
    assert batch.positions.tolist() == [*range(7), *range(7)]
    assert batch.lengths.tolist() == [4, 5]
    assert batch.max_seqlen == 7


@pytest.mark.parametrize("ids", [[2], [-1], [0, 5], [2**62], [-(2**63)]], ids=repr)
def test_an_id_out_of_range(ids: list[int]) -> None:
    packer = Packer(store_of([[1], [2]]), FakeTokenizer(), RowLayout(4))
    with pytest.raises(IndexError, match=str(next(i for i in ids if i != 0))):
        packer.batch(ids)


def test_a_batch_on_another_device() -> None:
    packer = Packer(store_of([[1, 2], [3]]), FakeTokenizer(), RowLayout(4), np.array([1, 0]))
    batch = packer.batch([0, 1])
    moved = batch.to("meta")
    assert moved.token_rows is None
    for name in set(TENSORS) - {"token_rows"}:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.max_seqlen == 2
    unlabelled = dataclasses.replace(batch, labels=None).to("cpu")
    assert unlabelled.labels is None
    assert unlabelled.input_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("obstacle", [None, "needs a CUDA device"])
def test_schedules_where_the_kernels_run(monkeypatch: pytest.MonkeyPatch, obstacle: str | None) -> None:
    """As Triton's backend says; elsewhere there is none, and the ops take that."""
    monkeypatch.setattr(triton_backend, "missing", lambda device: obstacle)
    cpu, cu_seqlens = torch.device("cpu"), torch.tensor([0, 2, 3], dtype=torch.int32)
    whole, fixed = attention_schedule(cu_seqlens, cpu), fixed_schedule(2, 64, 64, cpu)
    pooled = pooled_schedule(whole, causal=True)
    if obstacle is not None:
        assert (whole, fixed, pooled) == (None, None, None)
        return
    assert whole is not None and pooled is not None and fixed is not None
    assert whole.fits(2, 3, 3, cpu) and pooled.fits(2, 2, 3, cpu) and fixed.fits(2, 64, 64, cpu)
    fixed.load(cu_seqlens)


# --- the native function's checks -------------------------------------------------------------------------------------

TOKENS = np.array([5, 6, 7], dtype=np.int32)
OFFSETS = np.array([0, 2, 3], dtype=np.int64)
IDS = np.array([0, 1], dtype=np.int64)


def native_pack(tokens: Any = TOKENS, offsets: Any = OFFSETS, ids: Any = IDS, **layout: Any) -> Any:
    return _C.pack(
        tokens, offsets, ids, **({"max_length": 4, "pad_to": 0, "pad_token": 0, "prefix": [], "suffix": []} | layout)
    )


def test_native_pack_returns_arrays() -> None:
    input_ids, positions, cu_seqlens, max_seqlen, lengths = native_pack()
    assert input_ids.tolist() == [5, 6, 7]
    assert positions.tolist() == [0, 1, 0]
    assert cu_seqlens.tolist() == [0, 2, 3]
    assert max_seqlen == 2
    assert lengths.tolist() == [2, 1]
    assert {a.dtype for a in (input_ids, positions, cu_seqlens, lengths)} == {np.dtype(np.int32)}


@pytest.mark.parametrize("offsets", [[0, 2, 1], [0, 4, 3], [0, 2, 4], [-1, 2, 3], [3, 0, 3], [0, 2, 2**62]], ids=repr)
def test_malformed_offsets_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        native_pack(offsets=np.array(offsets, dtype=np.int64))


def test_a_store_without_offsets_has_no_texts() -> None:
    with pytest.raises(IndexError):
        native_pack(offsets=np.array([], dtype=np.int64))


@pytest.mark.parametrize(
    "arguments",
    [
        {"tokens": TOKENS.astype(np.int64)},
        {"tokens": TOKENS.astype(np.float32)},
        {"tokens": TOKENS.astype(np.uint32)},
        {"tokens": [5, 6, 7]},
        {"tokens": np.repeat(TOKENS, 2)[::2]},
        {"tokens": TOKENS.astype(">i4")},
        {"offsets": OFFSETS.astype(np.int32)},
        {"offsets": OFFSETS.astype(np.float64)},
        {"offsets": np.repeat(OFFSETS, 2)[::2]},
        {"ids": IDS.astype(np.int32)},
        {"ids": IDS.astype(np.float64)},
        {"ids": [0, 1]},
        {"ids": None},
        {"prefix": [2**31]},
        {"pad_token": 2**31},
        {"max_length": 4.5},
    ],
    ids=lambda a: f"{next(iter(a))}-{getattr(next(iter(a.values())), 'dtype', next(iter(a.values())))}",
)
def test_wrong_types_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        native_pack(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": TOKENS.reshape(1, 3)}, "tokens"),
        ({"offsets": OFFSETS.reshape(3, 1)}, "offsets"),
        ({"ids": np.array(0, dtype=np.int64)}, "ids"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": -1}, "max_length"),
        ({"max_length": 2, "prefix": [1, 2], "suffix": [3]}, "max_length"),
        ({"pad_to": 3}, "pad_to"),
        ({"pad_to": -4}, "pad_to"),
        ({"pad_to": 2**30}, "int32"),
    ],
    ids=repr,
)
def test_wrong_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native_pack(**arguments)


# --- the token store --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=6), max_size=20), chunk=st.integers(1, 6), specials=st.booleans())
def test_store_holds_what_the_tokenizer_gave(texts: list[str], chunk: int, specials: bool) -> None:
    tokenizer = FakeTokenizer([1], [2]) if specials else FakeTokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "TEXTS_PER_CHUNK", chunk)
        store = TokenStore.from_texts(texts, tokenizer)
    expected = tokenizer.encode_batch(texts)
    assert store.tokens.dtype == np.int32
    assert store.offsets.dtype == np.int64
    assert store.tokens.tolist() == [t for text in expected for t in text]
    assert store.offsets.tolist() == [sum(map(len, expected[:i])) for i in range(len(texts) + 1)]
    assert store.lengths.tolist() == [len(text) for text in expected]
    assert len(store) == len(texts)
    assert [store[i].tolist() for i in range(len(store))] == expected
    for outside in (-1, len(store)):
        with pytest.raises(IndexError):
            store[outside]


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text("ab \n.", max_size=30), max_size=8), most=st.integers(1, 9))
def test_long_texts_are_tokenized_in_pieces(texts: list[str], most: int) -> None:
    tokenizer = FakeTokenizer([1], [2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "CHARACTERS_PER_CHUNK", most)
        store = TokenStore.from_texts(texts, tokenizer)
    assert [store[i].tolist() for i in range(len(store))] == tokenizer.encode_batch(texts)


def test_a_text_that_is_too_long_to_be_tokenized_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "CHARACTERS_PER_CHUNK", 10)
    monkeypatch.setattr(token_store, "MOST_UNBROKEN", 20)
    assert len(TokenStore.from_texts(["a" * 20, "ab " * 100], FakeTokenizer()).tokens) == 320
    with pytest.raises(DataError, match=r"text 1 .* has 21 characters with no space"):
        TokenStore.from_texts(["a", "a" * 21], FakeTokenizer())


def test_builder_goes_on_with_a_text() -> None:
    builder = _C.TokenStoreBuilder()
    builder.append_batch([[1], [2, 3], [4]], [False, True, False])
    builder.append_batch([[5], []], [True, False])
    assert builder.finish()[1].tolist() == [0, 3, 5, 5]
    for texts, goes_on in (([[1]], [True]), ([[1], [2]], [False])):
        with pytest.raises(ValueError, match=r"goes_on|no text"):
            builder.append_batch(texts, goes_on)


def test_builder_is_empty_after_finish() -> None:
    builder = _C.TokenStoreBuilder()
    builder.append_batch([[1, 2], [], [3]])
    assert len(builder) == 3
    tokens, offsets = builder.finish()
    assert len(builder) == 0
    builder.append_batch([[9]])
    again = builder.finish()
    assert (tokens.tolist(), offsets.tolist()) == ([1, 2, 3], [0, 2, 2, 3])
    assert (again[0].tolist(), again[1].tolist()) == ([9], [0, 1])


@pytest.mark.parametrize("texts", [[["a"]], [[1.5]], [[2**31]], [1], None], ids=repr)
def test_builder_refuses_what_is_no_token(texts: Any) -> None:
    with pytest.raises(TypeError):
        _C.TokenStoreBuilder().append_batch(texts)


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.lists(st.integers(-2, 12), max_size=12),
    offsets=st.lists(st.integers(-1, 14), min_size=1, max_size=6) | st.just([0, 3, 6]),
    vocab_size=st.integers(1, 14),
)
def test_first_invalid_text(tokens: list[int], offsets: list[int], vocab_size: int) -> None:
    def invalid(begin: int, end: int) -> bool:
        return not 0 <= begin <= end <= len(tokens) or any(not 0 <= t < vocab_size for t in tokens[begin:end])

    pairs = list(itertools.pairwise(offsets))
    expected = next((i for i, pair in enumerate(pairs) if invalid(*pair)), -1)
    arrays = np.array(tokens, dtype=np.int32), np.array(offsets, dtype=np.int64)
    assert _C.find_invalid_text(*arrays, vocab_size) == expected
    if expected < 0:
        TokenStore(*arrays).check(vocab_size)
    else:
        with pytest.raises(DataError, match=f"text {expected} .*vocabulary of {vocab_size}"):
            TokenStore(*arrays).check(vocab_size)


def test_find_invalid_text_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="offsets"):
        _C.find_invalid_text(TOKENS, np.array([], dtype=np.int64), 10)
    with pytest.raises(ValueError, match="tokens"):
        _C.find_invalid_text(TOKENS.reshape(3, 1), OFFSETS, 10)
    for wrong in ((TOKENS.astype(np.int64), OFFSETS), (TOKENS, OFFSETS.astype(np.int32))):
        with pytest.raises(TypeError):
            _C.find_invalid_text(*wrong, 10)


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "max_length", "longest_train", "expected"),
    [
        ("none", None, 9, RowLayout(16, 0)),
        ("none", None, 40, RowLayout(16, 0)),
        ("none", 8, 9, RowLayout(8, 0)),
        ("none", 16, 9, RowLayout(16, 0)),
        ("none", 3, 9, RowLayout(3, 0)),
        ("train_longest", None, 9, RowLayout(9, 9)),
        ("train_longest", None, 40, RowLayout(16, 16)),
        ("train_longest", 5, 9, RowLayout(5, 5)),
        ("train_longest", 12, 9, RowLayout(9, 9)),
        ("context", None, 9, RowLayout(16, 16)),
        ("context", 8, 9, RowLayout(8, 16)),
        (12, None, 9, RowLayout(12, 12)),
        (12, 8, 9, RowLayout(8, 12)),
        (4, 8, 9, RowLayout(4, 4)),
        (16, None, 40, RowLayout(16, 16)),
    ],
)
def test_layouts(padding: str | int, max_length: int | None, longest_train: int, expected: RowLayout) -> None:
    resolved = RowLayout.resolve(padding, max_length, positions=16, longest_train=longest_train, specials=2)
    assert resolved == expected


@pytest.mark.parametrize(
    ("padding", "max_length", "named"),
    [
        ("none", 17, "max_length=17"),
        ("none", 2, "max_length=2"),
        ("none", 0, "max_length=0"),
        ("none", -1, "max_length=-1"),
        ("train_longest", 17, "max_length=17"),
        (17, None, "padding=17"),
        (2, None, "padding=2"),
        (0, None, "padding=0"),
        (-5, 8, "padding=-5"),
        ("longest", None, "padding='longest'"),
        ("", None, "padding=''"),
    ],
)
def test_layouts_refused(padding: str | int, max_length: int | None, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        RowLayout.resolve(padding, max_length, positions=16, longest_train=9, specials=2)


# --- batches by rows --------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(row_counts=st.lists(st.integers(1, 60), max_size=40), budget=st.integers(1, 100))
def test_token_budget_batches(row_counts: list[int], budget: int) -> None:
    batches = [b.tolist() for b in token_budget_batches(np.array(row_counts, dtype=np.int64), budget)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(row_counts)))
    for batch in batches:
        assert len(batch) == 1 or sum(row_counts[i] for i in batch) <= budget
    in_order = [row_counts[i] for batch in batches for i in batch]
    assert in_order == sorted(row_counts)
    # No batch is cut before it is full.
    for batch, following in itertools.pairwise(batches):
        assert sum(row_counts[i] for i in [*batch, following[0]]) > budget


def test_token_budget_batches_can_be_packed() -> None:
    batches = token_budget_batches(np.array([3, 1, 2], dtype=np.int64), 3)
    assert [b.tolist() for b in batches] == [[1, 2], [0]]
    assert {b.dtype for b in batches} == {np.dtype(np.int64)}


# --- lengths ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text("uvwxyz", max_size=12), min_size=1, max_size=20),
    specials=st.booleans(),
    max_length=st.integers(3, 16),
    padding=st.none() | st.integers(0, 4),
)
def test_length_report(texts: list[str], specials: bool, max_length: int, padding: int | None) -> None:
    tokenizer = FakeTokenizer([1], [2]) if specials else FakeTokenizer()
    layout = RowLayout(max_length, 0 if padding is None else max_length + padding)
    report = LengthReport.of(Packer(TokenStore.from_texts(texts, tokenizer), tokenizer, layout), tokenizer)

    # Without special tokens an empty text is one padding token.
    full = [len(t) + 2 if specials else max(len(t), 1) for t in texts]
    lengths = [min(n, max_length) for n in full]
    place = 0.99 * (len(lengths) - 1)
    low, high = sorted(lengths)[int(place)], sorted(lengths)[min(int(place) + 1, len(lengths) - 1)]
    avoided = 0.0 if layout.pad_to else 1 - sum(lengths) / (len(lengths) * max(lengths))
    assert report == LengthReport(
        texts=len(texts),
        tokens=sum(lengths),
        mean=sum(lengths) / len(lengths),
        median=statistics.median(lengths),
        percentile_99=pytest.approx(low + (high - low) * (place % 1), rel=1e-12),
        longest=max(lengths),
        empty=sum(not t for t in texts),
        truncated=sum(n > max_length for n in full),
        padding_avoided=avoided,
    )
    assert report.to_dict() == {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}


def test_length_report_in_words() -> None:
    tokenizer = FakeTokenizer([1], [2])
    texts = ["", "a" * 100, *["ab"] * 8]
    report = LengthReport.of(Packer(TokenStore.from_texts(texts, tokenizer), tokenizer, RowLayout(10)), tokenizer)
    assert str(report) == (
        "10 texts, 44 tokens (mean 4.4, longest 10), 56% of the rows of a padded batch avoided, "
        "1 texts cut to 10 tokens, 1 texts empty"
    )
