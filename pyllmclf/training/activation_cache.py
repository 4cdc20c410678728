"""Cache of the frozen layers' activations, one entry per distinct text.

Below the lowest trained parameter a text's rows are the same in every epoch. They are computed before the first epoch,
in batches of many texts of similar length; training and evaluation start from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..classifier.inference import TOKEN_BUDGET, inference_batch, inference_batches
from ..compute import Compute, code_sha256
from ..data.packing import Packer
from ..data.token_store import TokenStore
from ..distributed import ProcessGroup
from ..models.layers import DropoutRates
from ..models.sequence_classifier import SequenceClassifier
from ..ops.backends import triton as triton_backend
from ..settings import Settings
from .activation_storage import Place, choose_place, in_file, in_kept_file, in_memory, kept_file


def frozen_stages(model: SequenceClassifier) -> int:
    """How many stages of the model stand below its lowest trained parameter."""
    for stage, modules in enumerate(model.backbone.stages):
        if any(p.requires_grad for module in modules for p in module.parameters()):
            return stage
    return model.depth


def changes_each_epoch(rates: DropoutRates) -> bool:
    """Whether dropout gives frozen layers other rows in each epoch."""
    return max(rates.embedding, rates.attention, rates.hidden) > 0.0


def why_not(model: SequenceClassifier, rates: DropoutRates, epochs: int) -> str | None:
    """Why nothing is kept of a model's frozen layers, for a message; ``None`` if something is."""
    stages = frozen_stages(model)
    if stages == 0:
        return "the embeddings are trained"
    if stages == 1:
        return "no block is frozen"
    if changes_each_epoch(rates):
        return "dropout gives frozen layers other rows in each epoch"
    return "a single epoch reads each text once" if epochs == 1 else None


@dataclass(frozen=True)
class Plan:
    """Which texts are kept, in which order.

    Attributes
    ----------
    batches : list of int64 arrays
        Texts that are computed together, in the order in which their rows are stored.
    starts : int64 array, shape [texts]
        First kept row of each text; -1: not kept. Texts that are the same have the same rows.
    rows, distinct_rows : int
        Rows that are kept, and that all distinct texts have.
    """

    batches: list[np.ndarray]
    starts: np.ndarray
    rows: int
    distinct_rows: int

    @classmethod
    def make(
        cls,
        first: np.ndarray,
        counts: np.ndarray,
        lengths: np.ndarray,
        most_rows: int,
        batches: Callable[[np.ndarray], list[np.ndarray]],
    ) -> Plan:
        """Keeps the longest texts, as far as ``most_rows`` goes.

        Parameters
        ----------
        first : int64 array, shape [texts]
            The first text that is the same as each.
        counts : int64 array, shape [texts]
            Rows that are kept of each.
        lengths : int64 array, shape [texts]
            Rows that each has.
        most_rows : int
        batches : callable
            Takes the texts that are kept; returns those that are computed together.
        """
        distinct = np.flatnonzero(first == np.arange(len(first)))
        rest = distinct[np.argsort(-lengths[distinct], kind="stable")]
        chosen = [rest[:0]]
        left = most_rows
        while len(rest := rest[counts[rest] <= left]):
            fitting = int((np.cumsum(counts[rest]) <= left).sum())
            chosen.append(rest[:fitting])
            left -= int(counts[rest[:fitting]].sum())
            rest = rest[fitting:]
        kept = np.concatenate(chosen)
        together = batches(kept)
        stored = np.concatenate(together) if together else kept
        ends = np.cumsum(counts[stored])
        of_first = np.full(len(first), -1, dtype=np.int64)
        of_first[stored] = ends - counts[stored]
        rows = int(ends[-1]) if len(ends) else 0
        return cls(together, of_first[first], rows, int(counts[distinct].sum()))


class ActivationCache:
    """The rows before the lowest trained stage, of the texts of some packers.

    Parameters
    ----------
    model : SequenceClassifier
        With ``requires_grad`` set; its frozen parameters must not change from now on.
    packers : sequence of Packer
        Identical texts of all of them are computed once.
    cache : {"auto", "device", "memory", "disk"}
    budget : int, optional
        Bytes at most. Texts that don't fit are computed again each time.
    folder : Path, optional
        With ``"disk"``: where the file is kept for later runs; otherwise it goes with the process.
    compute : Compute
        Rows are kept in its dtype.
    group : ProcessGroup, optional
        Those that compute the rows together; each keeps all.
    progress : bool
        Whether a progress bar is drawn on standard error (if that is a terminal).
    """

    def __init__(
        self,
        model: SequenceClassifier,
        packers: Sequence[Packer],
        compute: Compute,
        *,
        cache: str = "auto",
        budget: int | None = None,
        folder: Path | None = None,
        group: ProcessGroup | None = None,
        progress: bool = False,
    ) -> None:
        self.progress, self.group = progress, group or ProcessGroup()
        self.model, self.packers = model, list(packers)
        self.compute, self.device, self.dtype, self.folder = compute, compute.device, compute.dtype, folder
        device, dtype = compute.device, compute.dtype
        self.stage = frozen_stages(model)
        # All texts, one part behind the other.
        store = TokenStore.concatenate([packer.store for packer in packers])
        self._all = Packer(store, packers[0].tokenizer, packers[0].layout)
        self._offsets = np.cumsum([0] + [len(packer) for packer in packers])
        lengths = self._all.row_counts.astype(np.int64)
        self._counts = np.ones_like(lengths) if model.one_row(self.stage) else lengths
        first = store.first_equal_texts(packers[0].layout.max_length)
        distinct_rows = int(self._counts[first == np.arange(len(first))].sum())
        self.row_bytes = model.config.width * torch.empty((), dtype=dtype).element_size()
        together = partial(inference_batches, model, self._all, budget=TOKEN_BUDGET[device.type])
        plan = partial(Plan.make, first, self._counts, lengths, batches=together)
        self._rows: Tensor | None = None
        self._made_key: tuple[object, dict[str, object]] | None = None
        self.found = False
        self.plan = plan(distinct_rows)
        need = self.row_bytes * distinct_rows
        self.place = Place("disk", need)
        if self.group.any(not (cache in ("auto", "disk") and self.is_kept())):
            # Of each trained parameter: gradient and two moments, in fp32.
            reserved = 12 * sum(p.numel() for p in model.parameters() if p.requires_grad)
            place = choose_place(cache, budget, need, device, folder, reserved, self.group.local_world_size)
            # All processes have the same plan.
            self.place = Place(self.group.broadcast_object(place.kind), self.group.all_reduce_min(place.bytes))
            self.plan = plan(self.place.bytes // self.row_bytes)

    def is_kept(self) -> bool:
        """Whether an earlier run has left these rows in the folder."""
        return self.folder is not None and kept_file(self.folder, self._key).is_dir()

    def __str__(self) -> str:
        kept, distinct = self.plan.rows, self.plan.distinct_rows
        if not kept:
            return f"frozen layers: {distinct:,} rows don't fit the budget and are computed each time; none is kept"
        names = {"device": "on the device", "memory": "in memory", "disk": "on disk"}
        size = f"{kept * self.row_bytes / 1e6:,.0f} MB"
        line = f"frozen layers are computed once; {kept:,} rows are kept {names[self.place.kind]} ({size})"
        if kept < distinct:
            line += f"; {distinct - kept:,} rows don't fit the budget and are computed each time"
        return line

    @property
    def keeps_all(self) -> bool:
        return self.plan.rows == self.plan.distinct_rows

    @property
    def filled(self) -> bool:
        return self._rows is not None

    @torch.inference_mode(False)  # of inference tensors autograd could save none
    def fill(self) -> None:
        """Computes all rows that are kept, or finds them in the folder.

        Raises
        ------
        ResourceError
            If they can't be stored.
        """
        shape = self.plan.rows, self.model.config.width
        if not self.plan.rows:
            self._rows = torch.empty(shape, dtype=self.dtype)
        elif self.place.kind != "disk":
            where = self.device if self.place.kind == "device" else torch.device("cpu")
            self._rows = in_memory(shape, self.dtype, where, self._blocks)
        elif self.folder is None:
            self._rows = in_file(shape, self.dtype, self._blocks)
        else:
            self._rows, self.found = in_kept_file(self.folder, self._key, shape, self.dtype, self._blocks)

    def lookup(self, packer: Packer, ids: np.ndarray) -> tuple[int, Tensor] | None:
        """What :class:`SequenceClassifier` goes on from for a batch; ``None`` for another packer's texts.

        Parameters
        ----------
        packer : Packer
        ids : ndarray of int64
            The texts of the batch, in its order.
        """
        part = next((i for i, known in enumerate(self.packers) if known is packer), None)
        if part is None:
            return None
        if self._rows is None:
            self.fill()
        assert self._rows is not None
        texts = ids + self._offsets[part]
        starts, counts = self.plan.starts[texts], self._counts[texts]
        kept = starts >= 0
        if kept.all():
            return self.stage, self._gather(starts, counts)
        computed = self._compute(texts[~kept])
        rows = computed.new_empty(int(counts.sum()), computed.shape[1])
        of_kept = np.repeat(kept, counts)
        rows.index_copy_(0, self._index(np.flatnonzero(of_kept)), self._gather(starts[kept], counts[kept]))
        rows.index_copy_(0, self._index(np.flatnonzero(~of_kept)), computed)
        return self.stage, rows

    def _gather(self, starts: np.ndarray, counts: np.ndarray) -> Tensor:
        """Kept rows of texts, one behind the other, on the device."""
        assert self._rows is not None
        before = np.cumsum(counts) - counts
        index = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        if self._rows.is_cuda:
            return self._rows.index_select(0, self._index(index))
        return self._moved(self._rows.index_select(0, torch.from_numpy(index)))

    def _index(self, index: np.ndarray) -> Tensor:
        return self._moved(torch.from_numpy(index))

    def _moved(self, x: Tensor) -> Tensor:
        """On the device, without waiting for it."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x

    def _blocks(self) -> Iterator[Tensor]:
        """The rows that are kept, in their order."""
        from tqdm import tqdm

        hidden = None if self.progress else True
        with tqdm(total=self.plan.rows, unit="row", disable=hidden, dynamic_ncols=True, leave=False) as bar:
            for rows in self._shared_blocks():
                yield rows
                bar.update(len(rows))

    def _shared_blocks(self) -> Iterator[Tensor]:
        """Each process computes every so many of the batches, and sends their rows to the others."""
        batches, group = self.plan.batches, self.group
        if group.world_size == 1 or (self.place.kind == "disk" and self.folder is not None):  # which one makes for all
            yield from map(self._compute, batches)
            return
        for begin in range(0, len(batches), group.world_size):
            some = batches[begin : begin + group.world_size]
            own = self._compute(some[group.rank]) if group.rank < len(some) else None
            for rank, texts in enumerate(some):
                shape = int(self._counts[texts].sum()), self.model.config.width
                sent = own if rank == group.rank else None
                yield group.broadcast(
                    torch.empty(shape, dtype=self.dtype, device=self.device) if sent is None else sent, rank
                )

    @torch.no_grad()
    def _compute(self, texts: np.ndarray) -> Tensor:
        batch = self.model.read(inference_batch(self.model, self._all, texts, self.device))
        with ops.use_backend(self.compute.backend):
            return self.model.advance(None, batch, 0, self.stage, dtype=self.dtype)

    @property
    def _key(self) -> dict[str, object]:
        """What the rows are a function of, and of which machine's arithmetic; made anew where weights have changed."""
        modules = (module for stage in self.model.backbone.stages[: self.stage] for module in stage)
        state = self.plan.rows, [(p.data_ptr(), p._version) for module in modules for p in module.parameters()]
        if self._made_key is None or self._made_key[0] != state:
            self._made_key = state, self._make_key()
        return self._made_key[1]

    def _make_key(self) -> dict[str, object]:
        digest = hashlib.sha256()
        for stage, modules in enumerate(self.model.backbone.stages[: self.stage]):
            for module in modules:
                for name, parameter in module.named_parameters():
                    digest.update(f"{stage} {name} {tuple(parameter.shape)}".encode())
                    digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        for texts in self.plan.batches:
            batch = self._all.batch(texts)
            digest.update(batch.input_ids.numpy().data)
            digest.update(batch.cu_seqlens.numpy().data)
            digest.update(batch.lengths.numpy().data)
        described: dict[str, object] = {
            "model": str(self.model.config),
            "head": str(self.model.spec),
            "stage": self.stage,
            "dtype": str(self.dtype),
            "device": self.device.type,
            "code": code_sha256(),
            "triton": version("triton") if triton_backend.installed() else None,
        } | self.compute.numerics()
        digest.update(repr(sorted(described.items())).encode())
        return described | {"sha256": digest.hexdigest()}


def make_cache(
    model: SequenceClassifier,
    packers: Sequence[Packer],
    rates: DropoutRates,
    settings: Settings,
    compute: Compute,
    group: ProcessGroup,
) -> tuple[ActivationCache | None, str | None]:
    """The cache of a training, and why there is none.

    Parameters
    ----------
    model : SequenceClassifier
        With ``requires_grad`` set.
    packers : sequence of Packer
        Of the texts that are read in every epoch.
    rates : DropoutRates
    settings : Settings
    compute : Compute
    group : ProcessGroup

    Returns
    -------
    cache : ActivationCache or None
    obstacle : str or None
        For a message: why nothing is cached, where that was not asked for.
    """
    if settings.cache == "off":
        return None, None
    folder = None if settings.cache_dir is None else Path(settings.cache_dir)
    obstacle = why_not(model, rates, settings.epochs)
    # A single epoch reads each text once; but rows that an earlier run has stored are read sooner than computed.
    only_if_stored = settings.epochs == 1 and folder is not None and settings.cache in ("auto", "disk")
    if obstacle is not None and not (only_if_stored and why_not(model, rates, 2) is None):
        return None, obstacle
    cache = ActivationCache(
        model,
        packers,
        compute,
        cache=settings.cache,
        budget=settings.cache_budget,
        folder=folder,
        group=group,
        progress=settings.progress,
    )
    return (None if only_if_stored and group.any(not cache.is_kept()) else cache), obstacle
