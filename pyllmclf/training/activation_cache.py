"""Cache of the frozen layers' activations, one entry per distinct text.

Below the lowest trained parameter a text's activations are the same in every epoch. They are computed before the first
epoch, in large batches of texts of similar length; training and evaluation start from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..classifier.inference import TOKEN_BUDGET, inference_batch, inference_batches
from ..compute import Compute
from ..data.packing import Packer
from ..data.token_store import TokenStore
from ..distributed import ProcessGroup
from ..models.context import hidden_dtype
from ..models.layers import DropoutRates
from ..models.sequence_classifier import SequenceClassifier
from ..progress import progress_bar
from .activation_key import key_of_rows
from .activation_plan import Plan, frozen_stages, why_not
from .activation_storage import Place, choose_place, in_memory, in_shared_file, in_temporary_file, shared_folder
from .recipes import ResolvedSettings
from .shared_rows import SharedRows, shared_rows


class ActivationCache:
    """Input activations of the lowest trained stage, for the texts of some packers.

    Parameters
    ----------
    model : SequenceClassifier
        With ``requires_grad`` set; its frozen parameters must not change any more.
    packers : sequence of Packer
        Texts that are identical, in one packer or several, share an entry.
    compute : Compute
        The cache stores rows of width ``model.config.width`` in its dtype.
    cache : {"auto", "device", "memory", "disk"}
        Where the rows are stored.
    budget : int, optional
        Most bytes of the cache. Texts that don't fit are recomputed at each lookup.
    folder : Path, optional
        With ``"disk"``, the folder in which a file is kept for later runs; by default the file ends with the process.
    group : ProcessGroup, optional
        Processes that share the computation; each has all rows.
    progress : bool
        Whether standard error shows a progress bar (if it is a terminal).

    Attributes
    ----------
    stage : int
        The lowest trained stage.
    plan : Plan
    place : Place
    reused : bool
        Whether :meth:`fill` has read the rows of an earlier run.
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
        self.compute, self.device, self.folder = compute, compute.device, folder
        device, self.stage = compute.device, frozen_stages(model)
        # On a CPU, rows in bf16 take half the memory of the hidden states; those of one row per text stay as they are.
        exact = hidden_dtype(compute.dtype, device)
        self.dtype = exact if model.one_row(self.stage) else compute.dtype
        store = TokenStore.concatenate([packer.store for packer in packers])
        self._all = Packer(store, packers[0].tokenizer, packers[0].layout)
        self._offsets = np.cumsum([0] + [len(packer) for packer in packers])
        lengths = self._all.row_counts.astype(np.int64)
        self._counts = self._counts_at(self.stage)
        first = store.first_equal_texts(packers[0].layout.max_length)
        distinct = store.sorted_texts(np.flatnonzero(first == np.arange(len(first))), packers[0].layout.max_length)
        distinct_rows = int(self._counts[distinct].sum())
        self.row_bytes = model.config.width * self.dtype.itemsize
        make_batches = partial(inference_batches, model, self._all, budget=TOKEN_BUDGET[device.type])
        plan = partial(Plan.make, first, distinct, self._counts, lengths, make_batches=make_batches)
        self._rows: Tensor | None = None
        # The key, and the state of the weights and the plan that it was computed from.
        self._key_of_state: tuple[object, dict[str, object]] | None = None
        self.reused = False
        self.plan = plan(distinct_rows)
        need = self.row_bytes * distinct_rows
        self.place = Place("disk", need)
        if self.group.any(not (cache in ("auto", "disk") and self.is_stored())):
            # 12 bytes per trained parameter: gradient and AdamW's two moments, in fp32.
            reserved = 12 * sum(p.numel() for p in model.parameters() if p.requires_grad)
            place = choose_place(cache, budget, need, device, folder, reserved, self.group.local_world_size)
            # All processes need the same plan.
            self.place = Place(self.group.broadcast_object(place.kind), self.group.all_reduce_min(place.bytes))
            self.plan = plan(self.place.bytes // self.row_bytes)

    def is_stored(self) -> bool:
        """Whether an earlier run has stored these rows in the folder."""
        return self.folder is not None and shared_folder(self.folder, self._key).is_dir()

    def __str__(self) -> str:
        stored, distinct = self.plan.rows, self.plan.distinct_rows
        if not stored:
            return f"frozen layers: {distinct:,} rows don't fit the budget and are recomputed each time; none is cached"
        names = {"device": "on the device", "memory": "in memory", "disk": "on disk"}
        size = f"{stored * self.row_bytes / 1e6:,.0f} MB"
        line = f"frozen layers are computed once; {stored:,} rows are cached {names[self.place.kind]} ({size})"
        if stored < distinct:
            line += f"; {distinct - stored:,} rows don't fit the budget and are recomputed each time"
        return line

    @property
    def holds_all(self) -> bool:
        """Whether every text is cached."""
        return self.plan.rows == self.plan.distinct_rows

    @property
    def filled(self) -> bool:
        """Whether :meth:`fill` has been called."""
        return self._rows is not None

    @torch.inference_mode(False)  # autograd can't save inference tensors
    def fill(self) -> None:
        """Computes and stores the rows of the plan, or reads those of an earlier run from the folder.

        Raises
        ------
        ResourceError
            If there is no memory for them, or they can't be written.
        """
        # Rows on disk are shared by their folder.
        shared = None if self.place.kind == "disk" or self.group.world_size > 1 else shared_rows()
        self._rows = self._fill(self.stage, None) if shared is None else self._fill_shared(shared)

    def _fill_shared(self, shared: SharedRows) -> Tensor:
        """Goes on from the rows of a stage below that an earlier training shares, and shares those on the way.

        The stages on the way are those that other trainings of a search start from, as far as all of them fit the
        budgets.
        """
        if (rows := shared.find(self._sha256_at(self.stage))) is not None:
            return rows
        stages, need = [self.stage], self.plan.rows * self.row_bytes
        # Rounded rows don't give the bits of a pass from the start.
        if self.holds_all and hidden_dtype(self.compute.dtype, self.device) is self.compute.dtype:
            for stage in sorted(self.model.config.n_layers + 1 - blocks for blocks in shared.trained_blocks):
                more = self._rows_at(stage) * self.row_bytes if 0 < stage < self.stage else 0
                if more and need + more <= min(shared.budget, self.place.bytes):
                    stages.insert(-1, stage)
                    need += more
        keys = [self._sha256_at(stage) for stage in stages]
        found = [n for n, key in enumerate(keys) if shared.find(key) is not None]
        begun: tuple[int, Tensor] | None = None
        for stage, key in list(zip(stages, keys, strict=True))[found[-1] if found else 0 :]:
            rows = shared.find(key)
            if rows is None:
                rows = self._fill(stage, begun)
                shared.add(key, rows)
            begun = stage, rows
        assert begun is not None
        return begun[1]

    def _rows_at(self, stage: int) -> int:
        """Number of rows of the plan's texts that a stage takes."""
        counts = self._counts_at(stage)
        return int(sum(counts[texts].sum() for texts in self.plan.batches))

    def _counts_at(self, stage: int) -> np.ndarray:
        """Rows of each text that a stage takes."""
        lengths = self._all.row_counts.astype(np.int64)
        return np.ones_like(lengths) if self.model.one_row(stage) else lengths

    def _fill(self, stage: int, begun: tuple[int, Tensor] | None) -> Tensor:
        """The rows that a stage takes, of the plan's texts; ``begun`` has those of a stage below."""
        shape = self._rows_at(stage), self.model.config.width
        blocks = partial(self._blocks, stage, begun)
        if not self.plan.rows:
            return torch.empty(shape, dtype=self.dtype)
        if self.place.kind != "disk":
            device = self.device if self.place.kind == "device" else torch.device("cpu")
            return in_memory(shape, self.dtype, device, blocks)
        if self.folder is None:
            return in_temporary_file(shape, self.dtype, blocks)
        rows, self.reused = in_shared_file(self.folder, self._key, shape, self.dtype, blocks)
        return rows

    def lookup(self, packer: Packer, ids: np.ndarray) -> tuple[int, Tensor] | None:
        """Looks up the activations of a batch, as :meth:`SequenceClassifier.forward` takes them for ``cached``.

        Parameters
        ----------
        packer : Packer
        ids : ndarray of int64, shape [texts]
            Texts of the batch, in its order.

        Returns
        -------
        (stage, rows) or None
            Rows on the device, shape [total, width], or [texts, width] where the stage reads one row per text; ``None``
            for a packer whose texts are not cached.
        """
        number = next((i for i, cached in enumerate(self.packers) if cached is packer), None)
        if number is None:
            return None
        if self._rows is None:
            self.fill()
        assert self._rows is not None
        texts = ids + self._offsets[number]
        starts, counts = self.plan.starts[texts], self._counts[texts]
        stored = starts >= 0
        if stored.all():
            return self.stage, self._gather(starts, counts)
        computed = self._compute(texts[~stored])
        rows = computed.new_empty(int(counts.sum()), computed.shape[1])
        row_is_stored = np.repeat(stored, counts)
        rows.index_copy_(0, self._index(np.flatnonzero(row_is_stored)), self._gather(starts[stored], counts[stored]))
        rows.index_copy_(0, self._index(np.flatnonzero(~row_is_stored)), computed)
        return self.stage, rows

    def _gather(self, starts: np.ndarray, counts: np.ndarray) -> Tensor:
        """Stored rows of texts, concatenated, on the device."""
        assert self._rows is not None
        offsets = np.cumsum(counts) - counts
        index = np.arange(counts.sum()) + np.repeat(starts - offsets, counts)
        if self._rows.is_cuda:
            return self._rows.index_select(0, self._index(index))
        return self._to_device(self._rows.index_select(0, torch.from_numpy(index)))

    def _index(self, index: np.ndarray) -> Tensor:
        return self._to_device(torch.from_numpy(index))

    def _to_device(self, x: Tensor) -> Tensor:
        """Copies a tensor to the device; the host doesn't wait for a GPU."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x

    def _blocks(self, stage: int, begun: tuple[int, Tensor] | None) -> Iterator[Tensor]:
        """Yields the rows that a stage takes of each batch of the plan, in the order in which they are stored."""
        with progress_bar(self._rows_at(stage), "row", self.progress) as bar:
            direct = begun is None and stage == self.stage
            for rows in self._shared_blocks() if direct else self._advanced(stage, begun):
                yield rows
                bar.update(len(rows))

    def _shared_blocks(self) -> Iterator[Tensor]:
        """Each process computes every ``world_size``-th batch, and broadcasts its rows."""
        batches, group = self.plan.batches, self.group
        # A shared file is written by one process, while the others wait for its lock.
        if group.world_size == 1 or (self.place.kind == "disk" and self.folder is not None):
            yield from map(self._compute, batches)
            return
        for begin in range(0, len(batches), group.world_size):
            turn = batches[begin : begin + group.world_size]
            computed = self._compute(turn[group.rank]) if group.rank < len(turn) else None
            for rank, texts in enumerate(turn):
                shape = int(self._counts[texts].sum()), self.model.config.width
                rows = computed if rank == group.rank else None
                if rows is None:
                    rows = torch.empty(shape, dtype=self.dtype, device=self.device)
                yield group.broadcast(rows, rank)

    def _advanced(self, stage: int, begun: tuple[int, Tensor] | None) -> Iterator[Tensor]:
        """Rows of each batch at a stage, from those of a stage below, which lie in the same order."""
        below, rows = (0, None) if begun is None else begun
        counts, start = self._counts_at(below), 0
        for texts in self.plan.batches:
            end = start + int(counts[texts].sum())
            x = None if rows is None else rows[start:end].to(self.device)
            yield self._compute(texts, stage, below, x)
            start = end

    @torch.no_grad()
    def _compute(self, texts: np.ndarray, stage: int | None = None, start: int = 0, x: Tensor | None = None) -> Tensor:
        """Rows of texts that a stage takes, by default the cache's; ``x`` are those that the stage ``start`` takes."""
        batch = self.model.read(inference_batch(self.model, self._all, texts, self.device))
        with ops.use_backend(self.compute.backend):
            rows = self.model.advance(x, batch, start, self.stage if stage is None else stage, dtype=self.compute.dtype)
        return rows.to(self.dtype)

    @property
    def _key(self) -> dict[str, object]:
        """Identity of the rows: weights, texts and numerics; computed anew after the weights or the plan change."""
        modules = (module for stage in self.model.backbone.stages[: self.stage] for module in stage)
        state = self.plan.rows, [(p.data_ptr(), p._version) for module in modules for p in module.parameters()]
        if self._key_of_state is None or self._key_of_state[0] != state:
            self._key_of_state = state, self._key_at(self.stage)
        return self._key_of_state[1]

    def _key_at(self, stage: int) -> dict[str, object]:
        return key_of_rows(self.model, self._all, self.plan.batches, stage, self.compute)

    def _sha256_at(self, stage: int) -> str:
        """Identity of rows in memory: they are shared on one device."""
        key = self._key if stage == self.stage else self._key_at(stage)
        return f"{key['sha256']} on {self.device if self.place.kind == 'device' else 'the host'}"


def make_cache(
    model: SequenceClassifier,
    packers: Sequence[Packer],
    rates: DropoutRates,
    settings: ResolvedSettings,
    compute: Compute,
    group: ProcessGroup,
) -> tuple[ActivationCache | None, str | None]:
    """Makes the activation cache of a training, where it saves time and changes no result.

    Parameters
    ----------
    model : SequenceClassifier
        With ``requires_grad`` set.
    packers : sequence of Packer
        Packers of the texts that every epoch reads.
    rates : DropoutRates
    settings : Settings
    compute : Compute
    group : ProcessGroup

    Returns
    -------
    cache : ActivationCache or None
    obstacle : str or None
        Why there is no cache, for a message; ``None`` with ``cache="off"``.

    Raises
    ------
    ResourceError
        If another process has ended or can't be reached.
    """
    if settings.cache == "off":
        return None, None
    folder = None if settings.cache_dir is None else Path(settings.cache_dir)
    epochs = 2 if settings.solved else settings.epochs  # the validation texts' rows are read once more
    obstacle = why_not(model, rates, epochs)
    # A single epoch reads each text once, but rows that an earlier run has stored are read faster than recomputed.
    only_if_stored = epochs == 1 and folder is not None and settings.cache in ("auto", "disk")
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
    return (None if only_if_stored and group.any(not cache.is_stored()) else cache), obstacle
