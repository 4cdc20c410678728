"""The queue of waiting texts: budgets, turns, texts in flight, bounds, deadlines and failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from served_classifiers import TEXTS, trained

from pyllmclf.classifier.classifier import Classifier
from pyllmclf.server import batching
from pyllmclf.server.batching import (
    Abandoned,
    Batcher,
    DeadlineExceeded,
    Observed,
    QueueFull,
    Request,
    Stopped,
    Text,
    logits_of,
)
from pyllmclf.server.shared_stages import ClassifierGroup


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return trained(pooling="mean", max_length=48)


@pytest.fixture(scope="module")
def group(classifier: Classifier) -> ClassifierGroup:
    return ClassifierGroup([classifier])


Start = Callable[..., Batcher]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Batcher] = []

    def make(**options: Any) -> Batcher:
        batcher = Batcher(**({"max_wait": 0.0, "budget": 256, "max_queue": 1000} | options))
        started.append(batcher)
        return batcher

    yield make
    for batcher in started:
        batcher.stop()


class Held:
    """Lets batches wait until :meth:`release`, and remembers the tokens of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.batches: list[list[Text]] = []
        self.entered, self._go = threading.Event(), threading.Event()
        compute = batching.compute

        def held(group: ClassifierGroup, texts: list[Text]) -> Any:
            self.batches.append(texts)
            self.entered.set()
            assert self._go.wait(30)
            if error is not None:
                raise error
            return compute(group, texts)

        monkeypatch.setattr(batching, "compute", held)

    def release(self) -> None:
        self._go.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


class Waiting:
    """A request, and what ended it."""

    def __init__(self, batcher: Batcher, group: ClassifierGroup, texts: list[str], member: int = 0) -> None:
        self._ended = threading.Event()
        self.error: BaseException | None = None
        self.request: Request = batcher.submit(group, member, group.classifiers[member].packer(texts), self._end)

    def _end(self, error: BaseException | None) -> None:
        assert not self._ended.is_set()
        self.error = error
        self._ended.set()

    def logits(self) -> np.ndarray:
        assert self._ended.wait(30)
        if self.error is not None:
            raise self.error
        return self.request.logits


def first_batch(batcher: Batcher, group: ClassifierGroup, held: Held) -> Waiting:
    """A request that is being computed."""
    waiting = Waiting(batcher, group, ["first"])
    assert held.entered.wait(30)
    return waiting


def test_logits_are_those_of_the_classifier(start: Start, group: ClassifierGroup, classifier: Classifier) -> None:
    batcher = start(budget=40)
    requests = [Waiting(batcher, group, texts) for texts in (TEXTS, TEXTS[:1], [*TEXTS[::-1], "x"])]
    for waiting, texts in zip(requests, (TEXTS, TEXTS[:1], [*TEXTS[::-1], "x"]), strict=True):
        np.testing.assert_allclose(waiting.logits(), classifier.logits(texts), rtol=1e-5, atol=1e-6)
    assert batcher.queued_texts == batcher.queued_rows == 0


def test_batches_keep_to_the_budget(start: Start, group: ClassifierGroup, held: Held) -> None:
    observed: list[Observed] = []
    batcher = start(budget=30, observe=observed.append)
    first = first_batch(batcher, group, held)
    waiting = [Waiting(batcher, group, [f"{text} {i}" for text in TEXTS]) for i in range(5)]
    held.release()
    for each in (first, *waiting):
        each.logits()
    batcher.stop()
    for texts in held.batches:
        assert sum(text.rows for text in texts) <= 30 or len(texts) == 1
    # A batch ends only where the next text has no room.
    full = held.batches[1:-1]
    assert all(sum(text.rows for text in texts) + 48 > 30 for texts in full)
    assert sum(batch.rows for batch in observed) == sum(text.rows for texts in held.batches for text in texts)


def test_a_short_request_does_not_wait_for_a_long_one(start: Start, group: ClassifierGroup, held: Held) -> None:
    batcher = start(budget=64)
    first = first_batch(batcher, group, held)
    long = Waiting(batcher, group, [f"{i} of a long request" for i in range(200)])
    short = Waiting(batcher, group, ["short"])
    held.release()
    short.logits()
    long.logits()
    first.logits()
    tokens = group.classifiers[0].packer(["short"]).store[0].tobytes()
    assert any(text.key[1] == tokens for text in held.batches[1])


def test_requests_share_batches_by_their_rows(start: Start, group: ClassifierGroup, held: Held) -> None:
    """Of two long requests neither waits for the other."""
    batcher = start(budget=64)
    first = first_batch(batcher, group, held)
    requests = [Waiting(batcher, group, [f"{i} of request {name}" for i in range(100)]) for name in "ab"]
    held.release()
    for each in (first, *requests):
        each.logits()
    owners = [[requests.index(_owner(text, requests)) for text in texts] for texts in held.batches[1:-1]]
    for owned in owners[:5]:
        assert 0.3 < np.mean(owned) < 0.7


def _owner(text: Text, requests: list[Waiting]) -> Waiting:
    return next(each for each in requests for request, _ in text.readers[0] if each.request is request)


def test_identical_texts_in_flight_are_computed_once(start: Start, group: ClassifierGroup, held: Held) -> None:
    batcher = start()
    first = first_batch(batcher, group, held)
    same_as_running = Waiting(batcher, group, ["first"])
    queued = [Waiting(batcher, group, ["again", "again", "first"]) for _ in range(3)]
    assert batcher.queued_texts == 1
    assert batcher.shared_texts == 1 + 3 * 3 - 1
    held.release()
    expected = first.logits()[0]
    np.testing.assert_array_equal(same_as_running.logits()[0], expected)
    for each in queued:
        np.testing.assert_array_equal(each.logits()[2], expected)
        np.testing.assert_array_equal(each.logits()[0], each.logits()[1])
    assert sum(len(texts) for texts in held.batches) == 2
    # Nothing is kept behind it.
    later = Waiting(batcher, group, ["first"])
    later.logits()
    assert sum(len(texts) for texts in held.batches) == 3


def test_another_classifier_joins_a_waiting_text_but_not_a_running_one(start: Start, held: Held) -> None:
    one, two = trained(pooling="mean", max_length=48), trained(pooling="mean", max_length=48, seed=5)
    group = ClassifierGroup([one, two])
    batcher = start()
    first = first_batch(batcher, group, held)
    joined = [Waiting(batcher, group, ["second"], member) for member in (0, 1)]
    late = Waiting(batcher, group, ["first"], 1)
    assert batcher.queued_texts == 2
    held.release()
    np.testing.assert_allclose(first.logits(), one.logits(["first"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(late.logits(), two.logits(["first"]), rtol=1e-5, atol=1e-6)
    for classifier, each in zip((one, two), joined, strict=True):
        np.testing.assert_allclose(each.logits(), classifier.logits(["second"]), rtol=1e-5, atol=1e-6)


def test_a_full_queue_refuses_and_says_when_to_come_back(start: Start, group: ClassifierGroup, held: Held) -> None:
    batcher = start(max_queue=3)
    first = first_batch(batcher, group, held)
    kept = Waiting(batcher, group, ["a", "b"])
    with pytest.raises(QueueFull) as refused:
        Waiting(batcher, group, ["c", "d"])
    assert refused.value.retry_after >= 0
    fits = Waiting(batcher, group, ["c"])
    held.release()
    for each in (first, kept, fits):
        each.logits()


def test_a_queue_that_takes_too_long_refuses(start: Start, group: ClassifierGroup, held: Held) -> None:
    batcher = start(max_drain=1.0)
    first = first_batch(batcher, group, held)
    batcher._seconds_per_row = 0.2
    kept = Waiting(batcher, group, ["six tokens or more of text"])
    assert batcher.queued_rows > 5
    with pytest.raises(QueueFull) as refused:
        Waiting(batcher, group, ["late"])
    assert refused.value.retry_after > 1.0
    held.release()
    for each in (first, kept):
        each.logits()


def test_a_failed_request_frees_its_place(
    start: Start, group: ClassifierGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Held(monkeypatch, RuntimeError("no memory"))
    batcher = start(budget=16)
    broken = Waiting(batcher, group, [f"{i} of a request" for i in range(20)])
    failing.release()
    with pytest.raises(RuntimeError):
        broken.logits()
    assert batcher.queued_texts == batcher.queued_rows == 0


def test_a_cancelled_request_is_not_computed_unless_others_need_it(
    start: Start, group: ClassifierGroup, held: Held
) -> None:
    batcher = start()
    first = first_batch(batcher, group, held)
    gone = Waiting(batcher, group, ["only mine", "ours"])
    stays = Waiting(batcher, group, ["ours"])
    batcher.cancel(gone.request)
    assert batcher.queued_texts == 1
    again = Waiting(batcher, group, ["only mine"])
    assert batcher.queued_texts == 2
    held.release()
    for each in (first, stays, again):
        each.logits()
    assert sum(len(texts) for texts in held.batches) == 3


def test_an_error_ends_the_requests_of_its_batch_alone(
    start: Start, group: ClassifierGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Held(monkeypatch, RuntimeError("no memory"))
    batcher = start()
    broken = Waiting(batcher, group, ["broken"])
    failing.release()
    with pytest.raises(RuntimeError, match="no memory"):
        broken.logits()
    monkeypatch.undo()
    assert np.isfinite(Waiting(batcher, group, ["whole"]).logits()).all()


def test_stop_computes_what_is_queued_and_refuses_more(start: Start, group: ClassifierGroup, held: Held) -> None:
    batcher = start()
    first = first_batch(batcher, group, held)
    queued = Waiting(batcher, group, TEXTS)
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    while not batcher._stopping:
        time.sleep(0.001)
    with pytest.raises(Stopped):
        Waiting(batcher, group, ["late"])
    held.release()
    stopping.join(30)
    assert not stopping.is_alive()
    for each in (first, queued):
        assert np.isfinite(each.logits()).all()


def test_a_text_waits_for_others_until_a_batch_is_full(start: Start, group: ClassifierGroup, held: Held) -> None:
    held.release()
    batcher = start(max_wait=60.0, budget=24)
    first = Waiting(batcher, group, ["a"])
    assert not held.entered.wait(0.1)
    rest = [Waiting(batcher, group, [f"a longer text, the {i}th"]) for i in range(5)]
    first.logits()
    batcher.stop()  # the last ones have no more to wait for
    for each in rest:
        each.logits()
    assert len(held.batches[0]) > 1


def test_deadline_and_a_client_that_is_gone(start: Start, group: ClassifierGroup, held: Held) -> None:
    batcher = start()
    first = first_batch(batcher, group, held)
    packer = group.classifiers[0].packer(["waits"])

    async def gone() -> None:
        return None

    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        asyncio.run(logits_of(batcher, group, 0, packer, 0.05))
    with pytest.raises(Abandoned):
        asyncio.run(logits_of(batcher, group, 0, packer, 30.0, gone))
    assert batcher.queued_texts == 0
    held.release()
    first.logits()


def test_windows_of_a_long_text_are_averaged(start: Start) -> None:
    classifier = trained(pooling="mean", max_length=16, long_texts="windows")
    group = ClassifierGroup([classifier])
    texts = [" ".join(TEXTS), "short", " ".join(TEXTS[::-1])]
    batcher = start(budget=32)
    packer = classifier.packer(texts)
    assert len(packer) > len(texts)
    logits = asyncio.run(logits_of(batcher, group, 0, packer, 30.0))
    np.testing.assert_allclose(logits, classifier.logits(texts), rtol=1e-5, atol=1e-6)


def test_many_threads_get_their_own_results(start: Start, group: ClassifierGroup, classifier: Classifier) -> None:
    batcher = start(max_wait=0.002, budget=64)
    texts = [f"{TEXTS[i % len(TEXTS)]} {i % 17}" for i in range(60)]
    expected = classifier.logits(texts)
    wrong: list[int] = []

    def ask(i: int) -> None:
        generator = np.random.default_rng(i)
        for _ in range(10):
            chosen = generator.choice(len(texts), generator.integers(1, 6))
            found = Waiting(batcher, group, [texts[k] for k in chosen]).logits()
            if not np.allclose(found, expected[chosen], rtol=1e-5, atol=1e-6):
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert batcher.queued_texts == batcher.queued_rows == 0
    assert not batcher._in_flight
