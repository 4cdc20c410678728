"""Training steps of a few fixed shapes, which a GPU replays as CUDA graphs.

A step on short texts is some hundred kernels of a few microseconds each, and launching them takes the host longer than
running them takes the GPU. A graph launches all of them at once, but always with the same shapes, on the same memory.
So each batch is copied into a static batch of one of a few shapes. A dummy text pads the batch; its loss is ignored.

Every step of a shape runs the same code, recorded or not, and gives the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.packing import PackedBatch
from ..ops.schedule import fixed_schedule

# The rows of a shape are a multiple of it.
ROW_MULTIPLE = 64
# Largest rows * width² of a step that is bound by launches: a block has 15 of them, at six microseconds each, and its
# matmuls run at 400 TFLOP/s.
LAUNCH_BOUND = 1.5e9
# Most shapes that are recorded; others are launched one kernel at a time.
MAX_GRAPHS = 64
_ALIGNMENT = 16


@dataclass(frozen=True)
class BatchShape:
    """Sizes that batches must have in common to share a static batch.

    Attributes
    ----------
    texts : int
        Texts of the batch, without the dummy text.
    rows : int
        Rows of all texts, with those of the dummy text.
    longest : int
        Upper bound of the rows of each text.
    """

    texts: int
    rows: int
    longest: int

    @classmethod
    def of(cls, row_counts: np.ndarray) -> BatchShape:
        """Rounds the sizes of a batch up; the dummy text has at least one row.

        Parameters
        ----------
        row_counts : ndarray of int, shape [texts]
            Rows of each text.
        """
        rows = (int(row_counts.sum()) // ROW_MULTIPLE + 1) * ROW_MULTIPLE
        longest = max(ROW_MULTIPLE, 1 << (int(row_counts.max(initial=1)) - 1).bit_length())
        return cls(len(row_counts), rows, longest)


class StaticBatch:
    """Buffers of fixed addresses for the batches of a shape.

    Parameters
    ----------
    shape : BatchShape
    device : torch.device
    cached : tensor or None
        Cached activations of the shape's first batch; their width and dtype are those of the buffer.
    one_row : bool
        Whether there is one cached row per text.
    typed : bool
        Whether batches have types of tokens.

    Attributes
    ----------
    batch : PackedBatch
        On the device, with the dummy text, which has no label.
    cached : tensor, shape [rows, width] or [texts + 1, width], or None
        Activations from which the step starts: all rows, or one row per text.
    """

    def __init__(
        self, shape: BatchShape, device: torch.device, cached: Tensor | None, one_row: bool, *, typed: bool = False
    ) -> None:
        sizes = [
            (shape.texts, torch.int64),  # labels
            (shape.texts + 1, torch.int64),  # example_ids
            (shape.rows, torch.int32),  # input_ids
            (shape.rows, torch.int32),  # positions
            (shape.texts + 2, torch.int32),  # cu_seqlens
            (shape.texts + 1, torch.int32),  # lengths
            (shape.rows if typed else 0, torch.int32),  # token_types
        ]
        ends = [0]
        for count, dtype in sizes:
            ends.append(ends[-1] + -(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT)
        # All tensors lie in one buffer, so that one copy transfers them.
        self._slices = [
            (slice(begin, begin + count * dtype.itemsize), dtype)
            for (begin, _), (count, dtype) in zip(pairwise(ends), sizes, strict=True)
        ]
        self._shape = shape
        self._buffer = torch.zeros(ends[-1], dtype=torch.uint8, device=device)
        labels, example_ids, input_ids, positions, cu_seqlens, lengths, types = self._views(self._buffer)
        self._schedule = fixed_schedule(shape.texts + 1, shape.rows, shape.longest, device)
        self.batch = PackedBatch(
            input_ids=input_ids,
            positions=positions,
            cu_seqlens=cu_seqlens,
            max_seqlen=shape.longest,
            labels=labels,
            example_ids=example_ids,
            lengths=lengths,
            schedule=self._schedule,
            token_types=types if typed else None,
        )
        self.cached: Tensor | None = None
        if cached is not None:
            count = shape.texts + 1 if one_row else shape.rows
            self.cached = torch.zeros(count, cached.shape[1], dtype=cached.dtype, device=device)

    def _views(self, buffer: Tensor) -> list[Tensor]:
        return [buffer[part].view(dtype) for part, dtype in self._slices]

    def load(self, batch: PackedBatch, cached: Tensor | None) -> None:
        """Copies a batch into the buffers, without waiting for the device.

        Parameters
        ----------
        batch : PackedBatch
            On the host, with labels; of this shape.
        cached : tensor or None
            Its cached activations, on the device.
        """
        total, texts = len(batch.input_ids), len(batch)
        # torch reuses pinned memory only after the copy from it has finished.
        host = torch.zeros(self._buffer.shape, dtype=torch.uint8, pin_memory=self._buffer.is_cuda)
        labels, example_ids, input_ids, positions, cu_seqlens, lengths, types = self._views(host)
        assert batch.labels is not None
        labels.copy_(batch.labels)
        example_ids[:texts] = batch.example_ids
        input_ids[:total] = batch.input_ids
        positions[:total] = batch.positions
        if batch.token_types is not None:
            types[:total] = batch.token_types
        cu_seqlens[: texts + 1] = batch.cu_seqlens
        cu_seqlens[texts + 1] = self._shape.rows
        lengths[:texts] = batch.lengths
        lengths[texts] = self._shape.rows - total
        self._buffer.copy_(host, non_blocking=True)
        if self._schedule is not None:
            self._schedule.load(cu_seqlens)
        if self.cached is not None:
            assert cached is not None
            self.cached[: len(cached)].copy_(cached)


class RecordedGraph:
    """A CUDA graph of what ``run`` launches on the current stream; recording it does not run it."""

    _pool: Any = None

    def __init__(self, run: Callable[[], None]) -> None:
        if RecordedGraph._pool is None:
            # Graphs run one after the other, and none reads another's intermediate results: they share a memory pool.
            RecordedGraph._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self._graph, pool=RecordedGraph._pool):
                run()
        except BaseException:
            torch.cuda.set_stream(stream)  # a failed recording may leave its stream current
            raise

    def replay(self) -> None:
        """Runs the graph."""
        self._graph.replay()


class _ShapeSteps:
    """The steps of one shape."""

    def __init__(self, static: StaticBatch) -> None:
        self.static = static
        self.runs = 0
        self.graph: RecordedGraph | None = None


class GraphedSteps:
    """Computes steps on static batches, as graphs from the second step of a shape on.

    Parameters
    ----------
    width : int
        Width of the model.
    device : torch.device
    compute : callable
        Takes a batch and cached activations (or ``None``); computes the forward and backward pass and the optimizer
        step without waiting for the device; returns the step's stats in a tensor whose shape is always the same.
    release_gradients : callable
        Drops references to gradients that lie in a graph's memory.
    """

    def __init__(
        self,
        width: int,
        device: torch.device,
        compute: Callable[[PackedBatch, Tensor | None], Tensor],
        release_gradients: Callable[[], None],
    ) -> None:
        self._width, self._device = width, device
        self._compute, self._release_gradients = compute, release_gradients
        self._steps: dict[BatchShape, _ShapeSteps] = {}
        self._stats: Tensor | None = None
        self._can_record = True

    @property
    def recorded(self) -> int:
        """Number of recorded shapes."""
        return sum(steps.graph is not None for steps in self._steps.values())

    def is_launch_bound(self, row_counts: np.ndarray) -> bool:
        """Whether launching the kernels of a step takes longer than running them.

        Parameters
        ----------
        row_counts : ndarray of int, shape [texts]
            Rows of each text.
        """
        return len(row_counts) > 0 and int(row_counts.sum()) * self._width**2 <= LAUNCH_BOUND

    def step(self, batch: PackedBatch, cached: Tensor | None = None, *, one_row: bool = False) -> Tensor:
        """Computes one step.

        Parameters
        ----------
        batch : PackedBatch
            On the host, with labels.
        cached : tensor, optional
            Cached activations from which the step starts, on the device.
        one_row : bool
            Whether there is one cached row per text.

        Returns
        -------
        tensor
            The step's stats.

        Raises
        ------
        torch.OutOfMemoryError
            If the device has no memory for the static batch or the graph.
        """
        shape = BatchShape.of(batch.cu_seqlens.diff().numpy())
        steps = self._steps.get(shape)
        if steps is None:
            typed = batch.token_types is not None
            steps = self._steps[shape] = _ShapeSteps(StaticBatch(shape, self._device, cached, one_row, typed=typed))
        steps.static.load(batch, cached)
        # The first step of a shape compiles and loads kernels, which can't be recorded.
        if steps.runs > 0 and steps.graph is None and self._can_record and self.recorded < MAX_GRAPHS:
            steps.graph = self._record(steps)
        steps.runs += 1
        if steps.graph is None:
            self._run(steps)
        else:
            steps.graph.replay()
        assert self._stats is not None
        return self._stats.clone()  # the next step overwrites them

    def _run(self, steps: _ShapeSteps) -> None:
        stats = self._compute(steps.static.batch, steps.static.cached)
        if self._stats is None:
            self._stats = torch.empty_like(stats)
        self._stats.copy_(stats)

    def _record(self, steps: _ShapeSteps) -> RecordedGraph | None:
        try:
            return RecordedGraph(lambda: self._run(steps))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._can_record = False
            warnings.warn(
                f"training steps can't be recorded as CUDA graphs and are launched one kernel at a time: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        finally:
            self._release_gradients()
