"""The texts of each step: the plain order, token budgets, shards of ranks, and resuming within an epoch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import Folders, make_trainer

from pyllmclf import DataError, UsageError, finetune
from pyllmclf.data import token_store
from pyllmclf.data.loader import BatchLoader, Position, balanced_shards, shuffled
from pyllmclf.data.packing import Packer, RowLayout, budget_bounds
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import LibraryTokenizer, byte_level_json


def packer_of(lengths: list[int], pad_to: int = 0) -> Packer:
    offsets = np.cumsum([0, *lengths])
    store = TokenStore(np.zeros(offsets[-1], np.int32), offsets.astype(np.int64))
    tokenizer = bytes_tokenizer()
    return Packer(store, tokenizer, RowLayout(100, pad_to))


def bytes_tokenizer() -> LibraryTokenizer:
    import tokenizers

    content = byte_level_json([bytes([i]) for i in range(256)])
    return LibraryTokenizer(tokenizers.Tokenizer.from_str(content), {}, "bytes")


def test_batches_are_those_of_a_plain_loader() -> None:
    """The composition of torch's own loader over the same permutation."""
    packer = packer_of([3] * 23)
    loader = BatchLoader(packer, batch_size=5, seed=7)
    for epoch in range(2):
        plain = torch.utils.data.DataLoader(shuffled(23, 7, epoch).tolist(), batch_size=5)
        assert [ids.tolist() for (ids,) in loader.steps(epoch)] == [batch.tolist() for batch in plain]
        assert loader.count(epoch) == 5


def test_accumulation() -> None:
    loader = BatchLoader(packer_of([3] * 23), batch_size=5, accumulate=2)
    assert [[len(ids) for ids in step] for step in loader.steps(0)] == [[5, 5], [5, 5], [3]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 3))
def test_a_budget_of_tokens(lengths: list[int], budget: int, accumulate: int) -> None:
    """Every text once; no batch above the budget but a single text; and none that had room for the next text."""
    packer = packer_of(lengths)
    loader = BatchLoader(packer, batch_tokens=budget, accumulate=accumulate)
    steps = list(loader.steps(0))
    assert len(steps) == loader.count(0) and all(1 <= len(step) <= accumulate for step in steps)
    batches = list(chain.from_iterable(steps))
    assert np.concatenate(batches).tolist() == loader.order(0).tolist()
    rows = [packer.row_counts_of(ids) for ids in batches]
    assert all(r.sum() <= budget or len(r) == 1 for r in rows)
    assert all(one.sum() + following[0] > budget for one, following in pairwise(rows))


def test_budget_with_padding() -> None:
    loader = BatchLoader(packer_of([3] * 10, pad_to=100), batch_tokens=450)
    assert [len(ids) for (ids,) in loader.steps(0)] == [4, 4, 2]


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_tokens": 11}, {"batch_size": 2, "accumulate": 2}])
def test_going_on_from_any_step(options: dict[str, int]) -> None:
    """From a state of three numbers; also at the end of an epoch."""

    def made() -> BatchLoader:
        return BatchLoader(packer_of([1, 5, 2, 7, 3, 4, 6, 2, 9, 1, 1]), seed=3, **options)

    def shown(step: list[np.ndarray]) -> list[list[int]]:
        return [ids.tolist() for ids in step]

    whole = made()
    expected = [[shown(step) for step in whole] for _ in range(3)]
    assert whole.position == Position(3, 0)
    for epoch, steps in enumerate(expected):
        for done in range(len(steps) + 1):
            first = made()
            for _ in range(epoch):
                list(first)
            walk = iter(first)
            for _ in range(done):
                next(walk)
            # The step that was handed out last is not done before the next one is asked for.
            state = json.loads(json.dumps(first.state_dict()))
            again = made()
            again.load_state_dict(state)
            assert [shown(step) for step in again] == steps[max(0, done - 1) :]


@pytest.mark.parametrize("changes", [
    {"seed": 4}, {"batch_size": 2}, {"batch_tokens": 9}, {"accumulate": 2}, {"ranks": 3},
], ids=str)  # fmt: skip
def test_a_state_of_another_loader(changes: dict[str, int]) -> None:
    state = BatchLoader(packer_of([1] * 9), **({"seed": 3} | changes)).state_dict()
    with pytest.raises(UsageError, match=next(iter(changes))):
        BatchLoader(packer_of([1] * 9), seed=3).load_state_dict(state)


@pytest.mark.parametrize("changes", [{"step": 3}, {"step": -1}, {"epoch": -1}, {"step": None}, {"texts": 7}], ids=str)
def test_a_state_that_there_is_not(changes: dict[str, int]) -> None:
    loader = BatchLoader(packer_of([1] * 9), batch_size=5)
    with pytest.raises(UsageError, match="state"):
        loader.load_state_dict(loader.state_dict() | changes)
    with pytest.raises(UsageError, match="state"):
        loader.load_state_dict({})
    loader.load_state_dict(loader.state_dict() | {"step": 2})
    assert list(loader) == []


def test_the_trainer_says_where_it_stands(model_folder: Folders) -> None:
    trainer = make_trainer(model_folder("gpt2"), ["a", "b", "c", "d", "e"], [0, 1, 0, 1, 0], "head", batch_size=2)
    seen = []
    for _, alone in trainer._queued_ahead(lambda step: step == 2):
        seen.append((trainer.loader.position, alone))
    # Results are read one step behind, but where there may be a pause.
    assert seen == [(Position(0, 2), False), (Position(0, 2), True), (Position(0, 3), True)]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 5))
def test_shards(rows: list[int], ranks: int) -> None:
    """Every text once, in order; no rank has more than the average and the longest text above it."""
    texts = np.arange(len(rows)) + 100
    shards = balanced_shards(texts, np.array(rows, dtype=np.int64), ranks)
    assert sorted(np.concatenate(shards).tolist()) == texts.tolist()
    assert all((np.diff(shard) > 0).all() for shard in shards)
    loads = [sum(rows[i - 100] for i in shard) for shard in shards]
    assert max(loads) - min(loads) <= max(rows, default=0)


@pytest.mark.parametrize("options", [{"batch_size": 7}, {"batch_size": 2, "accumulate": 2}, {"batch_tokens": 40}])
def test_ranks_share_each_step(options: dict[str, int]) -> None:
    packer = packer_of([90, *range(1, 19)])
    ranks = [list(BatchLoader(packer, rank=rank, ranks=3, **options).steps(0)) for rank in range(3)]
    assert len({len(steps) for steps in ranks}) == 1
    seen = [ids for steps in ranks for step in steps for ids in step]
    assert sorted(np.concatenate(seen).tolist()) == list(range(19))
    # As many micro-batches at each step.
    for step in zip(*ranks, strict=True):
        assert len({len(batches) for batches in step}) == 1
    # The same texts in each step as one process has, and no more of them at a time than its share.
    alone = BatchLoader(packer, **options)
    together = [
        sorted(np.concatenate([ids for batches in step for ids in batches])) for step in zip(*ranks, strict=True)
    ]
    assert together == [sorted(texts) for texts in alone.whole_steps(0)]
    if "batch_size" in options:
        most = -(-options["batch_size"] // 3)
        assert max(len(ids) for steps in ranks for step in steps for ids in step) == most


@pytest.mark.parametrize("options", [{"rank": 2, "ranks": 2}, {"batch_size": 0}, {"batch_tokens": 0}], ids=str)
def test_what_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        BatchLoader(packer_of([1]), **options)


def test_budget_bounds() -> None:
    assert budget_bounds(np.array([], dtype=np.int64), 5).tolist() == [0]
    assert budget_bounds(np.array([9, 2, 3, 1, 9]), 5).tolist() == [0, 1, 3, 4, 5]


# --- tokens that are kept -------------------------------------------------------------------------------------------

TEXTS = ["a", "some more", "", "the end"]


def test_tokens_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And found again by the same texts and tokenizer alone."""
    tokenizer = bytes_tokenizer()
    expected = TokenStore.from_texts(TEXTS, tokenizer)
    first = TokenStore.cached(tmp_path, TEXTS, tokenizer)
    called: list[int] = []
    from_texts = TokenStore.from_texts
    monkeypatch.setattr(TokenStore, "from_texts", lambda *a: called.append(1) or from_texts(*a))
    again = TokenStore.cached(tmp_path, TEXTS, tokenizer)
    assert not called and isinstance(again.tokens, np.memmap)
    for store in (first, again):
        assert store.tokens.tolist() == expected.tokens.tolist()
        assert store.offsets.tolist() == expected.offsets.tolist()
        assert Packer(store, tokenizer, RowLayout(9)).batch([1, 3]).input_ids.tolist() == [
            *expected[1].tolist(), *expected[3].tolist(),
        ]  # fmt: skip
    TokenStore.cached(tmp_path, [*TEXTS[:1], "".join(TEXTS[1:])], tokenizer)
    assert called and len(list(tmp_path.glob("[!.]*"))) == 2


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"12345678")], ids=["gone", "other"])
@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "manifest.json"])
def test_damaged_tokens_are_made_anew(tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    tokenizer = bytes_tokenizer()
    expected = TokenStore.from_texts(TEXTS, tokenizer)
    TokenStore.cached(tmp_path, TEXTS, tokenizer)
    (folder,) = tmp_path.glob("[!.]*")
    damage(folder / name)
    assert TokenStore.cached(tmp_path, TEXTS, tokenizer).tokens.tolist() == expected.tokens.tolist()


def test_tokens_of_other_texts_are_not_taken(tmp_path: Path) -> None:
    """Neither of fewer texts under this key's name, nor of as many others."""
    tokenizer = bytes_tokenizer()
    expected = TokenStore.from_texts(TEXTS, tokenizer).tokens.tolist()
    TokenStore.cached(tmp_path, TEXTS, tokenizer)
    (folder,) = tmp_path.glob("[!.]*")
    for others in (TEXTS[:2], [*TEXTS[:-1], "other"]):
        shutil.rmtree(folder)
        TokenStore.cached(tmp_path / "others", others, tokenizer)
        next((tmp_path / "others").glob("[!.]*")).rename(folder)
        assert TokenStore.cached(tmp_path, TEXTS, tokenizer).tokens.tolist() == expected


def test_texts_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From any iterable, without asking for its length."""
    monkeypatch.setattr(token_store, "TEXTS_PER_CHUNK", 3)
    tokenizer = bytes_tokenizer()
    store = TokenStore.from_texts((f"text {i}" for i in range(10)), tokenizer)
    assert [bytes(store[i].tolist()).decode() for i in (0, 3, 9)] == ["text 0", "text 3", "text 9"]
    assert len(TokenStore.from_texts([], tokenizer)) == 0


def test_concatenate() -> None:
    tokenizer = bytes_tokenizer()
    parts = [TokenStore.from_texts(texts, tokenizer) for texts in (TEXTS, ["b"], TEXTS[:2])]
    whole = TokenStore.concatenate(parts)
    assert [whole[i].tolist() for i in range(len(whole))] == [p[i].tolist() for p in parts for i in range(len(p))]
    assert whole.first_equal_texts(100).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert whole.first_equal_texts(0).tolist() == [0] * 7


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=12), st.integers(0, 5))
def test_first_equal_texts(texts: list[list[int]], most: int) -> None:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    store = TokenStore(np.array([t for text in texts for t in text], dtype=np.int32), offsets)
    cut = [text[:most] for text in texts]
    assert store.first_equal_texts(most).tolist() == [cut.index(text) for text in cut]


def test_first_equal_texts_checks_its_arguments() -> None:
    for offsets in ([0, 3], [2, 1], [-1, 1]):
        with pytest.raises(ValueError, match="offsets"):
            TokenStore(np.zeros(2, np.int32), np.array(offsets, dtype=np.int64)).first_equal_texts(1)


def test_what_an_empty_text_becomes_is_part_of_the_key(tmp_path: Path) -> None:
    """The padding token, which tokenizer.json does not name."""
    stores = []
    for pad in (97, 98):
        tokenizer = bytes_tokenizer()
        tokenizer.pad_token_id = pad
        stores.append(TokenStore.cached(tmp_path, ["", "x"], tokenizer))
    assert [store[0].tolist() for store in stores] == [[97], [98]]


def test_finetune_keeps_tokens(model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder("gpt2", n_classes=2)
    arguments: dict[str, Any] = {"epochs": 1, "progress": False, "cache_dir": tmp_path / "kept", "batch_tokens": 9}
    data = (["one", "two", "three"], [0, 1, 0])
    first = finetune(folder, data, test=data, **arguments)
    assert [path.name.split("-")[0] for path in (tmp_path / "kept").glob("[!.]*")] == ["tokens"]
    monkeypatch.setattr(TokenStore, "from_texts", lambda *_: pytest.fail("tokenized again"))
    again = finetune(folder, data, test=data, **arguments)
    assert first.history[0].train_loss == again.history[0].train_loss
    assert first.timing["steps"] == 2


def test_a_text_that_is_no_unicode(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="surrogate"):
        TokenStore.cached(tmp_path, ["a\ud800"], bytes_tokenizer())
    assert not list(tmp_path.glob("[!.]*"))
