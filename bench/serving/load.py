"""Open-loop load: sends texts to a server at random times of a given rate, whether it keeps up or not.

``python bench/serving/load.py --url http://127.0.0.1:8000/classify --rate 50 --seconds 10`` prints a line of JSON.
The texts are test texts of SMS Spam and IMDb, half and half, from ``PYLLMCLF_DATA_DIR``; reviews are truncated to 2,000
characters, so that the server truncates them to its own number of tokens.

Arrivals are a Poisson process. A latency counts from the time at which the request was due, so that a slow server
delays no request without being charged for it. How late the generator itself sends is recorded, too: a run in which
that exceeds ``MAX_LAG_MS`` for one request in a hundred is invalid.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

CHARACTERS = 2000
PER_SET = 1000
MAX_LAG_MS = 5.0
PERCENTILES = (50, 90, 99)
UNANSWERED = "unanswered"
UNCONNECTED = "connection error"


@dataclass
class Load:
    """A server's address and what is sent to it.

    Attributes
    ----------
    url : str
        ``http://HOST:PORT/PATH``.
    texts : sequence of str
        They are sent in this order, again and again.
    model : str
        Name in the requests.
    as_list : bool
        Whether a single text is sent as a list of one, too.
    per_request : int
        Number of texts in a request.
    """

    url: str
    texts: Sequence[str]
    model: str = "classifier"
    as_list: bool = False
    per_request: int = 1

    def requests(self) -> list[bytes]:
        """Every request, head and body."""
        address = urlsplit(self.url)
        groups = [self.texts[i : i + self.per_request] for i in range(0, len(self.texts), self.per_request)]
        return [self._request(address.netloc, address.path, list(group)) for group in groups]

    def _request(self, host: str, path: str, texts: list[str]) -> bytes:
        value = texts if self.as_list or len(texts) > 1 else texts[0]
        body = json.dumps({"model": self.model, "input": value}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body


@dataclass
class Answers:
    """What came back, request by request.

    Attributes
    ----------
    due : list of float
        Seconds after the start at which each request was due.
    seconds : list of float
        From then until the whole answer was there; infinite without one.
    lags : list of float
        From then until the request was sent.
    statuses : list of int or str
        HTTP's, :data:`UNANSWERED` or :data:`UNCONNECTED`.
    bodies : list of bytes
    aborted : bool
        Whether the run ended early, since it could not succeed any more.
    """

    due: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    statuses: list[int | str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    aborted: bool = False


class Connection(asyncio.Protocol):
    """Keep-alive connection that has one request under way at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = bytearray()

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Sends a request; the future gets status and body."""
        assert self.transport is not None
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if (answer := parsed(self._received)) is None or self._answer is None or self._answer.done():
            return
        status, body, closes = answer
        if closes and self.transport is not None:
            self.transport.close()
        self._answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))


def parsed(received: bytearray) -> tuple[int, bytes, bool] | None:
    """Status, body, and whether the server closes the connection; ``None`` while the answer is incomplete.

    Raises
    ------
    ValueError
        If the answer doesn't say its length.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    found = head.find(b"content-length:")
    if found < 0:
        raise ValueError("the server answers without Content-Length")
    length = int(head[found + 15 :].split(b"\r\n", 1)[0])
    if len(received) < end + 4 + length:
        return None
    return int(head[9:12]), bytes(received[end + 4 : end + 4 + length]), b"connection: close" in head


class Pool:
    """Connections to a server; as many as there are requests under way."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._free: list[Connection] = []
        self._all: list[Connection] = []

    def free(self) -> Connection | None:
        """An open connection without a request, if there is one."""
        while self._free:
            if (connection := self._free.pop()).is_open:
                return connection
        return None

    async def opened(self) -> Connection:
        """A new connection."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
        self._all.append(connection)
        return connection

    async def grow(self, count: int) -> None:
        """Opens so many connections in advance."""
        self._free += [await self.opened() for _ in range(count)]

    def release(self, connection: Connection) -> None:
        """Takes a connection back after its answer."""
        self._free.append(connection)

    def close(self) -> None:
        for connection in self._all:
            if connection.transport is not None:
                connection.transport.abort()


class Run:
    """One run of a load at a rate.

    Parameters
    ----------
    load : Load
    arrivals : sequence of float
        Seconds after the start at which each request is due.
    limit : float, optional
        Seconds; the run ends early once more than a hundredth of all requests take longer, or one fails.
    patience : float
        Seconds that requests have to end after the last one is due.
    first : int
        Request to begin with.
    """

    def __init__(
        self,
        load: Load,
        arrivals: Sequence[float],
        *,
        limit: float | None = None,
        patience: float = 20.0,
        first: int = 0,
    ) -> None:
        self.load, self.arrivals, self.limit, self.patience, self.first = load, arrivals, limit, patience, first
        self.answers = Answers()
        self._left = len(arrivals) // 100
        self._pool = Pool(load.url)
        self._pending: dict[int, asyncio.Task[None]] = {}
        self._stop = False

    async def __call__(self) -> Answers:
        """Sends all requests and waits for their answers."""
        requests, found, count = self.load.requests(), self.answers, len(self.arrivals)
        found.due = list(self.arrivals)
        found.seconds, found.lags = [float("inf")] * count, [0.0] * count
        found.statuses, found.bodies = [UNANSWERED] * count, [b""] * count
        await self._pool.grow(16)
        gc.collect()
        gc.disable()
        try:
            await self._send_all([requests[(self.first + i) % len(requests)] for i in range(count)])
            await self._wait(self.patience)
        finally:
            gc.enable()
            for task in self._pending.values():
                task.cancel()
            self._pool.close()
        return found

    async def _send_all(self, requests: list[bytes]) -> None:
        start = time.perf_counter() + 0.05
        for number, request in enumerate(requests):
            due = start + self.arrivals[number]
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            if self._stop:
                self._cut(number)
                return
            self._pending[number] = asyncio.ensure_future(self._send(number, request, due))
            if number % 16 == 15:
                await asyncio.sleep(0)  # answers are read even if the generator is behind

    def _cut(self, number: int) -> None:
        """Forgets the requests that are not sent."""
        found = self.answers
        found.aborted = True
        for values in (found.due, found.seconds, found.lags, found.statuses, found.bodies):
            del values[number:]  # type: ignore[attr-defined]

    async def _send(self, number: int, request: bytes, due: float) -> None:
        found = self.answers
        try:
            found.lags[number] = time.perf_counter() - due
            connection = self._pool.free() or await self._pool.opened()
            found.statuses[number], found.bodies[number] = await connection.send(request)
            found.seconds[number] = time.perf_counter() - due
            self._pool.release(connection)
        except (OSError, ValueError):
            found.statuses[number] = UNCONNECTED
        finally:
            del self._pending[number]
        self._check(number)

    def _check(self, number: int) -> None:
        if self.limit is None:
            return
        if self.answers.statuses[number] != 200:
            self._stop = True
        elif self.answers.seconds[number] > self.limit:
            self._left -= 1
            if self._left < 0:
                self._stop = True

    async def _wait(self, seconds: float) -> None:
        if self._pending:
            await asyncio.wait(list(self._pending.values()), timeout=seconds)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process that has ``rate * seconds`` arrivals, so that each seed offers the same rate."""
    count = max(1, round(rate * seconds))
    times = np.cumsum(np.random.default_rng(seed).exponential(size=count + 1))
    return list(times[:-1] / times[-1] * count / rate)


def mixed_texts(seed: int = 0) -> list[str]:
    """Distinct test texts of SMS Spam and IMDb in a random order, as many of one as of the other."""
    from pyllmclf import load_dataset

    short = [text for text in load_dataset("sms_spam:full")["all"].texts if is_test(text)]
    long = [text[:CHARACTERS] for text in load_dataset("imdb")["test"].texts]
    drawn = random.Random(seed)
    chosen: list[str] = []
    count = min(PER_SET, len(set(short)))
    for texts in (short, long):
        chosen += drawn.sample(sorted(set(texts)), count)
    drawn.shuffle(chosen)
    return chosen


def is_test(text: str) -> bool:
    """SMS Spam has no official split: its test texts are chosen as in bench/recipes.py."""
    return hashlib.sha256(text.encode()).digest()[0] < 51


def label_of(answer: Any) -> str:
    """Label of the first text, in the form of pyllmclf (and vLLM), or the best of a list of labels with scores."""
    first = answer["data"][0]
    return first["label"] if isinstance(first, dict) else max(first, key=lambda each: each["score"])["label"]


def agreement(load: Load, answers: Answers, reference: dict[str, str], first: int = 0) -> float | None:
    """Share of the answers to texts of the reference that have its label; a request has one text."""
    right = []
    for number, (status, body) in enumerate(zip(answers.statuses, answers.bodies, strict=True)):
        text = load.texts[(first + number) % len(load.texts)]
        if status == 200 and text in reference:
            right.append(label_of(json.loads(body)) == reference[text])
    return sum(right) / len(right) if right else None


def summary(answers: Answers) -> dict[str, Any]:
    """Percentiles in milliseconds, rates, statuses and the generator's own lag.

    ``achieved`` is the number of answers by the second from the first request that was due to the last answer.
    """
    seconds, due = np.array(answers.seconds), np.array(answers.due)
    answered = np.isfinite(seconds)
    lag = 1000 * float(np.percentile(answers.lags, 99)) if answers.lags else 0.0
    span = float((due + seconds)[answered].max() - due[0]) if answered.any() else 0.0
    return {
        "requests": len(seconds),
        "achieved": round(int(answered.sum()) / span, 2) if span else 0.0,
        **{f"p{p}": percentile(seconds, p) for p in PERCENTILES},
        "max": percentile(seconds, 100),
        "statuses": {str(status): count for status, count in Counter(answers.statuses).items()},
        "generator_lag_p99": round(lag, 2),
        "valid": lag <= MAX_LAG_MS,
        "aborted": answers.aborted,
    }


def percentile(seconds: np.ndarray, percent: int) -> float | None:
    """The least latency, in milliseconds, that so many per cent of the requests don't exceed; ``None`` if infinite."""
    if not len(seconds):
        return None
    rank = len(seconds) - 1 - len(seconds) * (100 - percent) // 100
    value = float(np.sort(seconds)[rank])
    return round(1000 * value, 2) if np.isfinite(value) else None


def run(
    load: Load,
    rate: float,
    seconds: float,
    *,
    seed: int = 0,
    limit: float | None = None,
    first: int = 0,
    reference: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Runs a load at a rate.

    Parameters
    ----------
    load : Load
    rate : float
        Requests by the second.
    seconds : float
    seed : int
        Of the arrivals.
    limit, first
        As for :class:`Run`.
    reference : dict, optional
        Labels by text; the result then has ``agreement``.

    Returns
    -------
    dict
        As :func:`summary`.
    """
    answers = in_loop(Run(load, poisson(rate, seconds, seed), limit=limit, first=first))
    result = {"rate": rate, "seconds": seconds} | summary(answers)
    if reference is not None:
        result["agreement"] = agreement(load, answers, reference, first)
    return result


def in_loop(run: Run) -> Answers:
    """Runs it in an event loop of its own; uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(run())
    return uvloop.run(run())


def closed_loop(load: Load, clients: int, seconds: float) -> float:
    """Answers by the second if so many clients each send a request once the one before is answered."""

    async def client(pool: Pool, requests: list[bytes], number: int, end: float) -> int:
        connection, count = await pool.opened(), 0
        while time.perf_counter() < end:
            await connection.send(requests[(number + count * clients) % len(requests)])
            count += 1
        return count

    async def all_clients() -> float:
        pool, requests, start = Pool(load.url), load.requests(), time.perf_counter()
        counts = await asyncio.gather(*(client(pool, requests, i, start + seconds) for i in range(clients)))
        pool.close()
        return sum(counts) / (time.perf_counter() - start)

    return asyncio.run(all_clients())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/classify")
    parser.add_argument("--model", default="classifier")
    parser.add_argument("--rate", type=float, nargs="+", required=True, help="requests by the second; a run for each")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-request", type=int, default=1, help="texts in a request")
    parser.add_argument("--as-list", action="store_true", help="send a single text as a list")
    parser.add_argument("--reference", type=Path, help="JSON object of labels by text")
    arguments = parser.parse_args()
    if arguments.reference and arguments.per_request > 1:
        parser.error("--reference needs --per-request 1")
    reference = json.loads(arguments.reference.read_text(encoding="utf-8")) if arguments.reference else None
    texts = mixed_texts()
    load = Load(arguments.url, texts, arguments.model, arguments.as_list, arguments.per_request)
    valid = True
    for rate in arguments.rate:
        result = run(load, rate, arguments.seconds, seed=arguments.seed, reference=reference)
        print(json.dumps(result), flush=True)
        valid &= result["valid"]
    return int(not valid)


if __name__ == "__main__":
    sys.exit(main())
