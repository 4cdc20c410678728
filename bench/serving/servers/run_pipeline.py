"""transformers' text-classification pipeline behind Starlette, with a queue that collects texts into batches."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import orjson
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from transformers import pipeline

Waiting = tuple[str, asyncio.Future[dict[str, Any]]]


class Batches:
    """Collects texts for a few milliseconds, or until a batch is full, while the one before is computed.

    Parameters
    ----------
    classify : transformers pipeline
    size : int
        Most texts that are collected.
    wait : float
        Seconds that the first text waits for others.
    step : int
        Texts that are computed together: those collected are sorted by length, and padded to the longest of a step.
    """

    def __init__(self, classify: Any, size: int, wait: float, step: int) -> None:
        self._classify, self._size, self._wait, self._step = classify, size, wait, step
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def answer(self, text: str) -> dict[str, Any]:
        """Label and probability of a text."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((text, future))
        return await future

    async def work(self) -> None:
        """Computes batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            collected = sorted(await self._collected(), key=lambda waiting: len(waiting[0]))
            for begin in range(0, len(collected), self._step):
                step = collected[begin : begin + self._step]
                texts = [text for text, _ in step]
                found = await loop.run_in_executor(self._thread, self._compute, texts)
                for (_, future), answer in zip(step, found, strict=True):
                    if not future.done():
                        future.set_result(answer)

    def _compute(self, texts: list[str]) -> list[dict[str, Any]]:
        with torch.inference_mode():
            return self._classify(texts, batch_size=len(texts))

    async def _collected(self) -> list[Waiting]:
        found = [await self._queue.get()]
        if self._wait and self._queue.empty():
            await asyncio.sleep(self._wait)
        while len(found) < self._size and not self._queue.empty():
            found.append(self._queue.get_nowait())
        return found


def app(batches: Batches, classes: int) -> Starlette:
    async def classify(request: Request) -> Response:
        given = orjson.loads(await request.body())["input"]
        texts = [given] if isinstance(given, str) else given
        found = await asyncio.gather(*map(batches.answer, texts))
        data = [
            {"index": i, "label": each["label"], "probs": [each["score"]], "num_classes": classes}
            for i, each in enumerate(found)
        ]
        return Response(orjson.dumps({"data": data}), media_type="application/json")

    async def health(_: Request) -> Response:
        return Response()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(batches.work())
        yield
        worker.cancel()

    routes = [Route("/classify", classify, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="most texts that are collected")
    parser.add_argument("--step", type=int, default=8, help="texts that are computed together")
    parser.add_argument("--wait-ms", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    classify = pipeline(
        "text-classification",
        model=options.folder,
        device="cpu",
        dtype=getattr(torch, options.dtype),
        truncation=True,
        max_length=options.max_length,
    )
    batches = Batches(classify, options.batch, options.wait_ms / 1000, options.step)
    served = app(batches, len(classify.model.config.id2label))
    uvicorn.run(served, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
