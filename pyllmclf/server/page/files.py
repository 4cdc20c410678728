"""``POST /files``: classifies the rows of a file, and answers with a line of JSON for each.

The file is read from the request's body in memory. Neither it nor its texts are written anywhere, and nothing of them
is kept after the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ...errors import DataError, PyllmclfError
from ...printable import printable
from ..catalog import Served
from ..errors import RequestError
from ..http import body_of
from ..service import Answer, Service
from .tally import Tally
from .uploads import GivenLabels, Upload, given_labels, read_upload

# Files that are read or classified at once; each lies in memory.
MOST_FILES = 4
# Times the bytes that a file may have, it may have unpacked.
UNPACKED = 8
# Bounds of the texts that wait in the queue at once, so that they are computed well within the deadline.
CHUNK_TEXTS, CHUNK_CHARACTERS = 256, 1 << 16
# Classes whose probabilities a row has, the most probable ones; with as many or fewer, all.
BEST = 20
NO_PAIRS = "the classifier reads pairs of texts, which the page doesn't take; /classify and /predict do."
# What an error says for the command line.
_OPTION = re.compile(r" \(--[^)]*\)")


class Files:
    """The handler of files, which counts those in work and reads one at a time."""

    def __init__(self) -> None:
        self._in_work = 0
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="pyllmclf-files")

    async def classify(self, request: Request, service: Service) -> StreamingResponse:
        """Lines of JSON: about the file, one for each row, and the figures of an evaluation where it has labels."""
        content = await _body(request, service)
        if self._in_work >= MOST_FILES:
            raise RequestError(429, "too many files are in work; try again in 5 s.", {"Retry-After": "5"})
        self._in_work += 1
        try:
            work = await self._work(request, service, content)
        except BaseException:
            self._release()
            raise
        lines = _lines(work, service, request.scope["pyllmclf"])
        return _Lines(lines, self._release, service.options.deadline)

    def _release(self) -> None:
        self._in_work -= 1

    async def _work(self, request: Request, service: Service, content: bytes) -> _Work:
        query, options = request.query_params, service.options
        served = service.find(query.get("model") or None)
        name = printable(PurePath(query.get("name", "")).name)[-200:]
        if not name:
            raise RequestError(400, "the parameter name is missing; its ending tells the file's format.")
        columns = query.get("text_column") or None, query.get("label_column") or None
        loop = asyncio.get_running_loop()
        try:
            most = UNPACKED * options.max_file_bytes
            return await loop.run_in_executor(self._reading, _read, served, content, name, *columns, most)
        except PyllmclfError as error:
            raise RequestError(422, _OPTION.sub("", str(error))) from error


async def _body(request: Request, service: Service) -> bytes:
    """The file; it has as much time for each byte as a request of another kind has."""
    options = service.options
    seconds = options.body_timeout * max(1.0, options.max_file_bytes / options.max_body_bytes)
    return await body_of(request, options.max_file_bytes, seconds)


class _Lines(StreamingResponse):
    """A stream of JSON lines; ``release`` is called at its end, whatever ends it.

    It ends, too, where the client reads nothing for so many seconds.
    """

    def __init__(self, lines: AsyncIterator[bytes], release: Callable[[], None], seconds: float) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
        super().__init__(lines, media_type="application/x-ndjson", headers=headers)
        self._release, self._seconds = release, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._seconds)
            except asyncio.TimeoutError:
                raise RequestError(499, "the client reads no more of the answer.") from None

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            self._release()


@dataclass(frozen=True)
class _Work:
    """A file that is read, and who classifies it."""

    served: Served
    name: str
    upload: Upload
    given: GivenLabels | None

    @property
    def classes(self) -> list[str]:
        return self.served.classifier.state.encoder.names


def _read(
    served: Served, content: bytes, name: str, text_column: str | None, label_column: str | None, most: int
) -> _Work:
    state = served.classifier.state
    if state.has_pairs:
        raise DataError(NO_PAIRS)
    upload = read_upload(content, name, text_column, label_column, most)
    given = given_labels(upload, state.encoder.names, state.label_separator, served.name)
    return _Work(served, name, upload, given)


async def _lines(work: _Work, service: Service, facts: dict[str, Any]) -> AsyncIterator[bytes]:
    """The answer, a chunk of texts at a time."""
    yield _line(_about(work))
    tally, truncated = Tally(work.classes), 0
    facts.update(model=work.served.name, texts=0, tokens=0)
    try:
        for rows in chunks(work.upload.texts, min(CHUNK_TEXTS, service.options.max_queue // 2)):
            texts = work.upload.texts[rows.start : rows.stop]
            row = rows.start
            async for answer in _answers(service, work.served.name, texts, service.options.deadline):
                if answer.served.classifier is not work.served.classifier:
                    raise RequestError(503, "a newer checkpoint has replaced the classifier; send the file again.")
                truncated += answer.truncated
                facts["texts"] += len(answer.labels)
                facts["tokens"] += int(answer.tokens.sum())
                yield b"".join(_rows(work, row, answer, tally))
                row += len(answer.labels)
    except RequestError as error:
        yield _line({"error": error.message, "status": error.status})
        return
    end: dict[str, Any] = {"done": True, "rows": len(work.upload.texts), "truncated": truncated}
    if work.given is not None:
        end |= tally.figures() | {"missing": work.given.missing, "unknown": work.given.unknown}
    yield _line(end)


def chunks(texts: list[str], most: int) -> Iterator[range]:
    """Consecutive rows whose texts are classified at once: at most so many, and :data:`CHUNK_CHARACTERS` or one."""
    start = characters = 0
    for row, text in enumerate(texts):
        if row > start and (row - start >= max(most, 1) or characters + len(text) > CHUNK_CHARACTERS):
            yield range(start, row)
            start, characters = row, 0
        characters += len(text)
    if start < len(texts):
        yield range(start, len(texts))


async def _answers(service: Service, name: str, texts: list[str], patience: float) -> AsyncIterator[Answer]:
    """The answer to texts, in parts where they are too many at once; waits while the queue is full."""
    while True:
        try:
            answer = await service.classify(name, texts, most=len(texts))
        except RequestError as error:
            wait = float(error.headers.get("Retry-After", 0))
            if error.status == 429 and wait <= patience:
                patience -= wait
                await asyncio.sleep(wait)
                continue
            if error.status not in (413, 504) or len(texts) == 1:
                raise
        else:
            yield answer
            return
        break
    half = len(texts) // 2
    for part in (texts[:half], texts[half:]):
        async for answer in _answers(service, name, part, patience):
            yield answer


def _about(work: _Work) -> dict[str, Any]:
    """The first line."""
    upload, classes = work.upload, work.classes
    return {
        "rows": len(upload.texts),
        "columns": upload.columns,
        "text_columns": upload.text_columns,
        "label_column": None if work.given is None else upload.label_column,
        "model": work.served.name,
        "classes": classes,
        "best": None if len(classes) <= BEST else BEST,
        "label_separator": work.served.classifier.state.label_separator,
        "abstains": work.served.classifier.decisions.abstains,
    }


def _rows(work: _Work, first: int, answer: Answer, tally: Tally) -> Iterator[bytes]:
    """The lines of the texts of an answer, the first of which is in this row of the file."""
    classes = work.classes
    several = work.served.classifier.state.label_separator is not None
    # Figures are those of all texts, as of an evaluation, also of those without an answer.
    decided = answer.served.classifier.decisions.predictions(answer.probabilities, several=several)
    probabilities = answer.probabilities.round(6)
    order = None if len(classes) <= BEST else np.argsort(-probabilities, axis=1, kind="stable")[:, :BEST]
    for i, label in enumerate(answer.labels):
        row = first + i
        best = range(len(classes)) if order is None else order[i]
        found = {
            "label": label,
            "probabilities": {classes[k]: float(probabilities[i, k]) for k in best},
            "length": len(work.upload.texts[row]),
            "text": work.upload.texts[row],
        }
        if answer.reasons[i] is not None:
            found["abstained"] = answer.reasons[i]
        if work.upload.columns:
            found["cells"] = work.upload.cells(row)
        given = None if work.given is None else work.given.rows[row]
        if given is not None:
            predicted = np.flatnonzero(decided[i]).tolist() if several else [int(decided[i])]
            tally.add(given, predicted)
            names = [classes[k] for k in given]
            found |= {"given": names if several else names[0], "right": set(given) == set(predicted)}
        yield _line(found)


def _line(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"
