"""Metrics of a server in Prometheus' format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from .batching import Batcher, Observed

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
# Several processes write their values into files of this folder, which prometheus_client reads.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The metrics of one server; names and meanings are in ``docs/serving.md``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by path and status.", "path", "status")
        self.request_seconds = self._histogram("request_seconds", "Time of requests.", SECONDS, "path")
        self.texts = self._counter("texts", "Texts that were classified.", "model")
        self.tokens = self._counter("tokens", "Tokens of texts that were classified.", "model")
        self.truncated = self._counter("truncated_texts", "Texts that were longer than the model reads.", "model")
        self.labels = self._counter("labels", "Labels of texts.", "model", "label")
        self.without_label = self._counter("texts_without_label", "Texts of which no label was sure.", "model")
        self.abstained = self._counter("abstained_texts", "Texts that got no answer, by the rules.", "model")
        self.shared = self._counter("texts_in_flight_shared", "Texts that waited for an identical one.")
        self.batch_tokens = self._histogram("batch_tokens", "Tokens of a batch.", TOKENS)
        self.batch_fill = self._histogram(
            "batch_fill", "Tokens of a batch as a share of its budget.", [n / 10 for n in range(1, 11)]
        )
        self.batch_seconds = self._histogram("batch_seconds", "Time of a batch.", SECONDS)
        self.reloads = self._counter("reloads", "Newer checkpoints that were opened.", "model", "result")
        self.queued_texts = self._gauge("queued_texts", "Texts that wait.")
        self.queued_tokens = self._gauge("queued_tokens", "Tokens of texts that wait.")
        self._seen_shared = 0

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pyllmclf_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"pyllmclf_{name}", text, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"pyllmclf_{name}", text, labels, registry=self.registry, buckets=tuple(buckets))

    def observe_batch(self, batch: Observed) -> None:
        """Counts a batch."""
        self.batch_tokens.observe(batch.rows)
        self.batch_fill.observe(batch.rows / batch.budget)
        self.batch_seconds.observe(batch.seconds)

    def observe_queue(self, batcher: Batcher) -> None:
        """Sets what a batcher's queue holds."""
        self.queued_texts.set(batcher.queued_texts)
        self.queued_tokens.set(batcher.queued_rows)
        self.shared.inc(batcher.shared_texts - self._seen_shared)
        self._seen_shared = batcher.shared_texts

    def page(self) -> bytes:
        """The metrics as text, of all processes of the server."""
        registry: Any = self.registry
        if folder := os.environ.get(FOLDER_VARIABLE):
            _forget_the_dead(Path(folder))
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """Removes the gauges of worker processes that have died."""
    for file in folder.glob("gauge_live*_*.db"):
        number = file.stem.rpartition("_")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            mark_process_dead(int(number), str(folder))
