"""Waiting texts of many requests, packed into batches by a token budget, and the thread that computes them."""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from ..data.packing import Packer
from ..data.token_store import TokenStore
from .shared_stages import ClassifierGroup

# Seconds after which a waiting request is asked whether its client is still there.
PATIENCE = 0.25


class QueueFull(Exception):
    """The queue has no room; ``retry_after`` is the number of seconds after which it probably has."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue of waiting texts is full")
        self.retry_after = retry_after


class DeadlineExceeded(Exception):
    """A request has waited longer than its deadline."""


class Abandoned(Exception):
    """The client of a request is gone."""


class Stopped(Exception):
    """The batcher computes nothing any more."""


@dataclass(eq=False)
class Request:
    """The texts of one request, and its result.

    Attributes
    ----------
    logits : ndarray of fp32, shape [rows, classes]
        A row for each text or window; with a further column of distances where the classifier's rules read them.
    missing : int
        Number of rows of ``logits`` that are not computed yet.
    done : callable
        Called once, with an exception or ``None``, in the batcher's thread.
    texts : list of Text
    ended : bool
        Whether the result is complete, failed, or not wanted any more.
    """

    logits: np.ndarray
    missing: int
    done: Callable[[BaseException | None], None]
    texts: list[Text] = field(default_factory=list)
    ended: bool = False


@dataclass(eq=False)
class Text:
    """A distinct text in flight, and who waits for it.

    Attributes
    ----------
    key : tuple
        Group, tokens, and how many of them are those of a pair's first text (-1 for a single text).
    tokens : ndarray of int32
    rows : int
        Number of rows in a batch, special tokens and padding included.
    arrived : float
        Value of ``time.monotonic``.
    readers : dict
        For each classifier of the group, by its index, the requests that wait for it and their row.
    taken : bool
        Whether it has left the queue: no classifier can be added then.
    """

    key: tuple[int, bytes, int]
    tokens: np.ndarray
    rows: int
    arrived: float
    readers: dict[int, list[tuple[Request, int]]] = field(default_factory=dict)
    taken: bool = False

    @property
    def wanted(self) -> bool:
        """Whether any request still waits for it."""
        return any(not request.ended for readers in self.readers.values() for request, _ in readers)


@dataclass(frozen=True)
class Observed:
    """One batch that was computed, for metrics: texts, rows, the budget of rows, and seconds."""

    texts: int
    rows: int
    budget: int
    seconds: float


class FairQueue:
    """The waiting texts of one group, in the order of their turns.

    Each text has a start tag, as in start-time fair queueing (Goyal, Vin, Cheng 1996): the tag of the text that was
    taken last, plus the rows of the texts before it in its request. Of a long request, short ones wait for a share of
    its rows that equals their own.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Text]] = []
        self._count = 0

    def push(self, tag: int, text: Text) -> None:
        """Adds a text."""
        heapq.heappush(self._heap, (tag, self._count, text))
        self._count += 1

    def first(self) -> tuple[int, Text] | None:
        """Tag and text whose turn it is; ``None`` if none waits."""
        while self._heap and self._heap[0][2].taken:
            heapq.heappop(self._heap)
        return (self._heap[0][0], self._heap[0][2]) if self._heap else None

    def pop(self) -> None:
        """Removes what :meth:`first` returns."""
        heapq.heappop(self._heap)


class Batcher:
    """Computes texts in batches of at most ``budget`` rows, in a thread of its own.

    Identical texts in flight are computed once. A text that comes while nothing is computed waits at most ``max_wait``
    for others; one that comes during a batch is in the next one, unless other requests have filled it.

    Parameters
    ----------
    max_wait : float
        Seconds.
    budget : int
        Most rows of a batch, which has at least one text.
    max_queue : int
        Most waiting texts.
    max_drain : float
        Most seconds that the waiting texts may take: later ones could not be answered in time.
    observe : callable, optional
        Called with :class:`Observed` after each batch, in the batcher's thread.

    Attributes
    ----------
    queued_texts, queued_rows : int
        What waits now.
    shared_texts : int
        Number of texts that were found in flight.
    """

    def __init__(
        self,
        *,
        max_wait: float,
        budget: int,
        max_queue: int,
        max_drain: float = math.inf,
        observe: Callable[[Observed], None] | None = None,
    ) -> None:
        self.max_wait, self.budget, self.max_queue, self.max_drain = max_wait, budget, max_queue, max_drain
        self._observe = observe
        self._condition = threading.Condition()
        self._queues: dict[ClassifierGroup, FairQueue] = {}
        self._in_flight: dict[tuple[int, bytes, int], Text] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._now_at = 0
        self._seconds_per_row = 0.0
        self.queued_texts = self.queued_rows = self.shared_texts = 0

    def submit(
        self, group: ClassifierGroup, member: int, packer: Packer, done: Callable[[BaseException | None], None]
    ) -> Request:
        """Queues the texts of a packer.

        Parameters
        ----------
        group : ClassifierGroup
        member : int
            Index of the classifier in the group.
        packer : Packer
            At least one text.
        done : callable
            Called with an exception, or with ``None`` when :attr:`Request.logits` are complete; in another thread.

        Raises
        ------
        QueueFull
            If more texts than ``max_queue`` would wait, or those that wait take longer than ``max_drain``.
        Stopped
            If :meth:`stop` was called.
        """
        classifier = group.classifiers[member]
        columns = classifier.state.model.head.weight.shape[0] + (classifier.measure is not None)
        request = Request(np.empty((len(packer), columns), dtype=np.float32), len(packer), done)
        with self._condition:
            if self._stopping:
                raise Stopped("the server is shutting down")
            seconds = self.queued_rows * self._seconds_per_row
            if self.queued_texts + len(packer) > self.max_queue or seconds > self.max_drain:
                raise QueueFull(seconds)
            self._add(request, group, member, packer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pyllmclf-batcher", daemon=True)
                self._thread.start()
            self._condition.notify()
        return request

    def _add(self, request: Request, group: ClassifierGroup, member: int, packer: Packer) -> None:
        queue = self._queues.setdefault(group, FairQueue())
        store, row_counts, tag = packer.store, packer.row_counts, self._now_at
        for row in range(len(packer)):
            tokens = store[row]
            key = id(group), tokens.tobytes(), -1 if store.firsts is None else int(store.firsts[row])
            text = self._in_flight.get(key)
            if text is not None and (not text.taken or member in text.readers):
                self.shared_texts += 1
            else:
                text = self._in_flight[key] = Text(key, tokens, int(row_counts[row]), time.monotonic())
                queue.push(tag, text)
                tag += text.rows
                self._count(text, 1)
            text.readers.setdefault(member, []).append((request, row))
            request.texts.append(text)

    def _count(self, text: Text, sign: int) -> None:
        self.queued_texts += sign
        self.queued_rows += sign * text.rows

    def cancel(self, request: Request) -> None:
        """Drops a request that nobody waits for any more; texts that no other request needs are not computed."""
        with self._condition:
            self._drop(request)

    def _drop(self, request: Request) -> None:
        request.ended = True
        for text in request.texts:
            if not text.taken and not text.wanted:
                text.taken = True
                self._count(text, -1)
                del self._in_flight[text.key]

    def stop(self) -> None:
        """Computes what is queued, then ends the thread; later requests raise :class:`Stopped`."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            group, texts = batch
            started = time.perf_counter()
            found: list[np.ndarray | None] | Exception
            try:
                found = compute(group, texts)
            except Exception as failure:  # of this batch; the next one may succeed
                found = failure
            seconds = time.perf_counter() - started
            for request, error in self._finish(texts, found, seconds):
                request.done(error)
            if self._observe is not None:
                rows = sum(text.rows for text in texts)
                self._observe(Observed(len(texts), rows, self.budget, seconds))
            # Nothing is held while the thread waits: a classifier that was replaced is released.
            del batch, group, texts, found

    def _next_batch(self) -> tuple[ClassifierGroup, list[Text]] | None:
        """Waits for texts, and takes those of the next batch from the queue; ``None`` when the thread shall end."""
        with self._condition:
            while True:
                group = self._group_in_turn()
                if group is None:
                    if self._stopping:
                        return None
                    self._condition.wait()
                    continue
                first = self._queues[group].first()
                assert first is not None
                left = first[1].arrived + self.max_wait - time.monotonic()
                if left <= 0 or self._stopping or self.queued_rows >= self.budget:
                    return group, self._take(self._queues[group])
                self._condition.wait(left)

    def _group_in_turn(self) -> ClassifierGroup | None:
        """The group of the text whose turn it is."""
        best, least = None, None
        for group, queue in list(self._queues.items()):
            if (first := queue.first()) is None:
                del self._queues[group]
            elif least is None or (first[0], first[1].arrived) < least:
                best, least = group, (first[0], first[1].arrived)
        return best

    def _take(self, queue: FairQueue) -> list[Text]:
        """Takes texts in their turn, up to the budget."""
        taken, rows = list[Text](), 0
        while (first := queue.first()) is not None:
            tag, text = first
            if taken and rows + text.rows > self.budget:
                break
            queue.pop()
            text.taken = True
            self._count(text, -1)
            self._now_at = max(self._now_at, tag)
            taken.append(text)
            rows += text.rows
        return taken

    def _finish(
        self, texts: list[Text], found: list[np.ndarray | None] | Exception, seconds: float
    ) -> list[tuple[Request, Exception | None]]:
        """Hands the logits of a batch to the requests that wait for them; returns those that end, and their error."""
        ended: list[tuple[Request, Exception | None]] = []
        with self._condition:
            rows = sum(text.rows for text in texts)
            old, new = self._seconds_per_row, seconds / rows
            self._seconds_per_row = 0.8 * old + 0.2 * new if old else new
            places = dict[int, int]()
            for text in texts:
                if self._in_flight.get(text.key) is text:
                    del self._in_flight[text.key]
                for member, readers in text.readers.items():
                    place = places[member] = places.get(member, -1) + 1
                    for request, row in readers:
                        if not isinstance(found, Exception):
                            logits = found[member]
                            assert logits is not None
                            request.logits[row] = logits[place]
                        request.missing -= 1
                        error = found if isinstance(found, Exception) else None
                        if not request.ended and (error is not None or not request.missing):
                            self._drop(request)
                            ended.append((request, error))
        return ended


def compute(group: ClassifierGroup, texts: list[Text]) -> list[np.ndarray | None]:
    """Logits of each classifier of a group for the texts that want it, in their order."""
    state = group.classifiers[0].state
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(text.tokens) for text in texts])])
    firsts = None if state.tokenizer.pairs is None else np.array([text.key[2] for text in texts], dtype=np.int64)
    store = TokenStore(np.concatenate([text.tokens for text in texts]), offsets, firsts)
    packer = Packer(store, state.tokenizer, state.layout)
    wanted = np.zeros((len(texts), len(group.classifiers)), dtype=bool)
    for row, text in enumerate(texts):
        wanted[row, list(text.readers)] = True
    return [None if found is None else found.cpu().numpy() for found in group.logits(packer, wanted)]


async def logits_of(
    batcher: Batcher,
    group: ClassifierGroup,
    member: int,
    packer: Packer,
    seconds: float,
    abandoned: Callable[[], Awaitable[None]] | None = None,
) -> np.ndarray:
    """Logits of the texts of a packer, shape [texts, classes], from a batcher.

    Parameters
    ----------
    batcher, group, member, packer
        As for :meth:`Batcher.submit`.
    seconds : float
        Deadline.
    abandoned : callable, optional
        Makes an awaitable that ends when the client is gone. It is called after :data:`PATIENCE` seconds.

    Raises
    ------
    QueueFull, Stopped
        As :meth:`Batcher.submit`.
    DeadlineExceeded
        If they take longer than ``seconds``.
    Abandoned
        If the client is gone first.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def done(error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, error)

    request = batcher.submit(group, member, packer, done)
    try:
        await _first_of(future, seconds, abandoned)
    finally:
        if not request.ended:
            batcher.cancel(request)
    return packer.by_text(request.logits)


async def _first_of(
    future: asyncio.Future[None], seconds: float, abandoned: Callable[[], Awaitable[None]] | None
) -> None:
    """Waits for a future, until a deadline or until the client is gone."""
    began = min(PATIENCE, seconds)
    await asyncio.wait({future}, timeout=began)
    if not future.done() and seconds > began:
        watch = None if abandoned is None else asyncio.ensure_future(abandoned())
        waited: set[asyncio.Future[None]] = {future} if watch is None else {future, watch}
        await asyncio.wait(waited, timeout=seconds - began, return_when=asyncio.FIRST_COMPLETED)
        if watch is not None:
            if watch.done() and not future.done():
                raise Abandoned("the client has closed the connection")
            watch.cancel()
    if not future.done():
        raise DeadlineExceeded(f"the texts were not computed within {seconds:g} s")
    future.result()
