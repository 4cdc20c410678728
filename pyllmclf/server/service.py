"""The part of a server below HTTP: texts in, labels and probabilities out, from classifiers that may be replaced."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier.classifier import Classifier
from ..classifier.inference import TOKEN_BUDGET
from ..data.packing import Packer
from ..errors import DataError, ModelError, PyllmclfError
from ..printable import shown
from ..text_pair import Text, TextPair, characters
from .batching import Abandoned, Batcher, DeadlineExceeded, QueueFull, Stopped, logits_of
from .catalog import Catalog, Served, mark_of
from .errors import RequestError, queue_full
from .metrics import Metrics
from .options import ServerOptions

logger = logging.getLogger("pyllmclf.server")
# A request of fewer characters is tokenized at once, others in a thread.
FEW_CHARACTERS = 8192
# A batch takes about this long where `batch_tokens` is chosen, and has at least so many tokens, for full matmuls.
BATCH_SECONDS, LEAST_BATCH = 0.025, 256
# Of the deadline, the longest that waiting texts may take before more are refused.
DRAIN_SHARE = 0.5
# Seconds after which a checkpoint that can't be opened is tried again, if its files have not changed.
RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """The result of some texts.

    Attributes
    ----------
    served : Served
    logits : ndarray of fp32, shape [texts, classes]
    probabilities : ndarray of float64, shape [texts, classes]
    labels : list of str, or of list of str where texts may have several labels
        ``None`` for a text without an answer.
    tokens : ndarray of int, shape [texts]
    truncated : int
        Number of texts that were longer than the classifier reads.
    reasons : list of str or None
        Why a text has no answer.
    sets : list of list of str, or None
        Label sets, the most probable label first, where the classifier was loaded with ``conformal``.
    """

    served: Served
    logits: np.ndarray
    probabilities: np.ndarray
    labels: list[Any]
    tokens: np.ndarray
    truncated: int
    reasons: list[str | None] = field(default_factory=list)
    sets: list[list[str]] | None = None

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns."""
        return self.served.classifier.state.encoder.names

    @cached_property
    def best(self) -> list[str]:
        """The most probable class of each text."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]


class Service:
    """Classifies texts of concurrent requests with named classifiers.

    Parameters
    ----------
    classifiers : mapping of str to Classifier
    options : ServerOptions
    reload : callable, optional
        Opens a classifier anew, given its name.
    paths : mapping of str to Path
        Folders that are watched for newer checkpoints.

    Attributes
    ----------
    catalog : Catalog
    batcher : Batcher
    metrics : Metrics
    ready : bool
        Whether new requests are welcome; false while the server shuts down.
    """

    def __init__(
        self,
        classifiers: Mapping[str, Classifier],
        options: ServerOptions,
        *,
        reload: Callable[[str], Classifier] | None = None,
        paths: Mapping[str, Path] | None = None,
        marks: Mapping[str, object] | None = None,
    ) -> None:
        self.options, self.metrics = options, Metrics()
        self._owned = reload is not None
        self.catalog = Catalog(classifiers, share_memory=self._owned)
        self.batcher = Batcher(
            max_wait=options.max_wait_ms / 1000,
            budget=options.batch_tokens or self._measured_budget(),
            max_queue=options.max_queue,
            max_drain=DRAIN_SHARE * options.deadline,
            observe=self.metrics.observe_batch,
        )
        self.ready = True
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="pyllmclf-tokenizer")
        self._reload, self._paths, self._marks = reload, dict(paths or {}), dict(marks or {})
        self._failed: dict[str, tuple[object, float]] = {}
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        if reload is not None and self._paths and options.reload_seconds:
            self._watcher = threading.Thread(target=self._watch, name="pyllmclf-reload", daemon=True)
            self._watcher.start()

    def find(self, name: str | None) -> Served:
        """The classifier of a name, the first one for ``None``.

        Raises
        ------
        RequestError
            404 if there is none of that name.
        """
        catalog = self.catalog
        if name is None:
            return catalog.default
        if (served := catalog.served.get(name)) is None:
            names = ", ".join(map(repr, catalog.served))
            raise RequestError(404, f"there is no model {shown(name)} here; there is {names}.")
        return served

    async def classify(
        self,
        name: str | None,
        texts: Sequence[Text],
        *,
        truncate: bool = True,
        most: int | None = None,
        abandoned: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Labels and probabilities of texts.

        Parameters
        ----------
        name : str or None
        texts : sequence of str, or of TextPair for a classifier of pairs
        truncate : bool
            Whether longer texts than the classifier reads are truncated; otherwise they are refused.
        most : int, optional
            Most texts; ``max_texts`` by default.
        abandoned : callable, optional
            As for :func:`.batching.logits_of`.

        Raises
        ------
        RequestError
        """
        served = self.find(name)
        most = self.options.max_texts if most is None else most
        if len(texts) > most:
            raise RequestError(413, f"{len(texts):,} texts are more than {most:,}; send them in several requests.")
        if not texts:
            classes = len(served.classifier.classes_)
            nothing = np.zeros((0, classes), dtype=np.float32)
            return Answer(served, nothing, nothing.astype(np.float64), [], np.zeros(0, np.int64), 0)
        packer = await self._packer(served, texts)
        if packer.cut and not truncate:
            longest = served.classifier.state.layout.max_length
            raise RequestError(
                413,
                f"a text has {int(packer.store.lengths.max()):,} tokens or more, and the model reads {longest:,}; "
                "set truncate, or send shorter texts.",
            )
        logits = await self._logits(served, packer, abandoned)
        return self._answer(served, packer, logits)

    async def _packer(self, served: Served, texts: Sequence[Text]) -> Packer:
        try:
            if sum(map(characters, texts)) <= FEW_CHARACTERS:
                return served.classifier.packer(list(texts))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._tokenizing, served.classifier.packer, list(texts))
        except DataError as error:
            raise RequestError(422, str(error)) from error

    async def _logits(
        self, served: Served, packer: Packer, abandoned: Callable[[], Awaitable[None]] | None
    ) -> np.ndarray:
        if len(packer) > self.options.max_queue:
            raise RequestError(413, "the texts have too many windows; send them in several requests.")
        try:
            logits = await logits_of(
                self.batcher, served.group, served.member, packer, self.options.deadline, abandoned
            )
        except QueueFull as error:
            raise queue_full(error.retry_after) from None
        except DeadlineExceeded as error:
            raise RequestError(504, f"{error}; send fewer texts, or later.") from None
        except Abandoned as error:
            raise RequestError(499, f"{error}.") from None
        except Stopped:
            raise RequestError(503, "the server is shutting down.", {"Retry-After": "5"}) from None
        if not np.isfinite(logits).all():
            raise RequestError(500, "the logits are not finite; the model is damaged.")
        return logits

    def _answer(self, served: Served, packer: Packer, logits: np.ndarray) -> Answer:
        classifier, metrics = served.classifier, self.metrics
        logits, distances = classifier.split_outputs(logits)
        probabilities = classifier.probabilities_of(logits)
        found, reasons = classifier.answers(probabilities, distances)
        labels: list[Any]
        if classifier.state.label_separator is not None:
            labels = [None if each is None else list(map(str, each)) for each in found]
            flat = [label for each in labels for label in each or ()]
            metrics.without_label.labels(served.name).inc(sum(each == [] for each in labels))
        else:
            labels = [None if label is None else str(label) for label in found]
            flat = [label for label in labels if label is not None]
        if classifier.decisions.abstains:
            metrics.abstained.labels(served.name).inc(sum(reason is not None for reason in reasons))
        sets = None
        if classifier.decisions.conformal is not None:
            sets = [list(map(str, each)) for each in classifier.label_sets(probabilities)]
        for label, count in Counter(flat).items():
            metrics.labels.labels(served.name, label).inc(count)
        tokens = packer.tokens_by_text
        metrics.texts.labels(served.name).inc(len(labels))
        metrics.tokens.labels(served.name).inc(int(tokens.sum()))
        metrics.truncated.labels(served.name).inc(packer.cut)
        return Answer(served, logits, probabilities, labels, tokens, packer.cut, reasons, sets)

    def _measured_budget(self) -> int:
        """Tokens of a batch of about :data:`BATCH_SECONDS` of the slowest group; each group is computed once before."""
        budgets = []
        for group in self.catalog.groups:
            classifier = group.classifiers[0]
            text = " ".join(["word"] * (LEAST_BATCH // 4))
            packer = classifier.packer(_warm(classifier, [f"{text} {i}" for i in range(4)]))
            wanted = np.ones((len(packer), len(group.classifiers)), dtype=bool)
            group.logits(packer, wanted)
            started = time.perf_counter()
            group.logits(packer, wanted)
            seconds = time.perf_counter() - started
            most = TOKEN_BUDGET[classifier.device.type]
            budgets.append(int(min(most, packer.row_counts.sum() * BATCH_SECONDS / seconds)))
        return max(LEAST_BATCH, min(budgets))

    def _watch(self) -> None:
        while not self._ended.wait(self.options.reload_seconds):
            for name in self._paths:
                try:
                    self._look(name)
                except Exception:  # the next look may find it whole
                    logger.exception("%s: an unexpected error; the checkpoint before stays.", name)

    def _look(self, name: str) -> None:
        """Opens the newer checkpoint of a name, if there is one. One that failed is tried again a minute later."""
        mark = mark_of(self._paths[name])
        failed, when = self._failed.get(name, (None, 0.0))
        if mark == self._marks.get(name) or (mark == failed and time.monotonic() < when + RETRY_SECONDS):
            return
        self._failed[name] = mark, time.monotonic()
        if self._replace(name, warned=mark == failed):
            self._marks[name] = mark

    def _replace(self, name: str, *, warned: bool = False) -> bool:
        """Opens the newer checkpoint of a name; requests in flight finish on the one before.

        Returns
        -------
        bool
            Whether it is served now.
        """
        assert self._reload is not None
        try:
            classifier = self._reload(name)
            classifiers = {n: served.classifier for n, served in self.catalog.served.items()} | {name: classifier}
            catalog = Catalog(classifiers, self.catalog, share_memory=self._owned)
            served = catalog.served[name]
            packer = classifier.packer(_warm(classifier, ["warm"]))
            found = served.group.logits(packer, np.ones((1, len(served.group.classifiers)), dtype=bool))
            if not all(logits is None or logits.isfinite().all() for logits in found):
                raise ModelError("its logits are not finite")
        except (PyllmclfError, OSError) as error:
            if not warned:
                logger.warning("%s: the newer checkpoint can't be opened (%s); the one before stays.", name, error)
                self.metrics.reloads.labels(name, "failed").inc()
            return False
        self.catalog = catalog
        logger.info("%s: a newer checkpoint is served.", name)
        self.metrics.reloads.labels(name, "done").inc()
        return True

    def close(self) -> None:
        """Computes what is queued, then ends the threads."""
        self.ready = False
        self._ended.set()
        self.batcher.stop()
        self._tokenizing.shutdown()


def _warm(classifier: Classifier, texts: list[str]) -> list[Text]:
    """Texts that a classifier reads: with a second text each, where it reads pairs."""
    return [TextPair(text, "") if classifier.state.has_pairs else text for text in texts]
