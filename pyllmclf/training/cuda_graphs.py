"""Training steps of few fixed shapes, which a GPU replays as CUDA graphs.

A step on short texts is some hundred kernels of a few microseconds each, and launching them takes the host longer than
running them takes the GPU. A graph launches all of them at once, but on the same memory and with the same shapes each
time. So a batch is copied into memory of one of a few shapes: a text more fills the rows up, and no loss is read of it.

Every step of a shape runs the same code, whether it is recorded or not, and gives the same bits.
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

# Rows of a shape are a multiple of it.
ROW_STEP = 64
# Rows times width squared up to which launches take longer than a block's matmuls: at 400 TFLOP/s and six microseconds
# for each of a block's 15 launches.
LAUNCH_BOUND = 1.5e9
# Others are run without being recorded.
MOST_GRAPHS = 64
_ALIGNMENT = 16


@dataclass(frozen=True)
class Shape:
    """What batches must have in common to share memory.

    Attributes
    ----------
    texts : int
        Of the batch; one more fills it up.
    rows : int
        Of all of these.
    longest : int
        At least the rows of the longest.
    """

    texts: int
    rows: int
    longest: int

    @classmethod
    def of(cls, row_counts: np.ndarray) -> Shape:
        """The shape for texts with so many rows; the text that fills it up has one row at least."""
        rows = (int(row_counts.sum()) // ROW_STEP + 1) * ROW_STEP
        longest = max(ROW_STEP, 1 << (int(row_counts.max(initial=1)) - 1).bit_length())
        return cls(len(row_counts), rows, longest)


class StaticBatch:
    """A batch in memory that stays where it is.

    Attributes
    ----------
    batch : PackedBatch
        With the text that fills it up, for which there is no label.
    given : tensor, shape [rows, width] or [texts + 1, width], or None
        Rows to go on from: all, or one for each text.
    """

    def __init__(self, shape: Shape, device: torch.device, given: Tensor | None, one_row: bool) -> None:
        sizes = [
            (shape.texts, torch.int64),  # labels
            (shape.texts + 1, torch.int64),  # example_ids
            (shape.rows, torch.int32),  # input_ids
            (shape.rows, torch.int32),  # positions
            (shape.texts + 2, torch.int32),  # cu_seqlens
            (shape.texts + 1, torch.int32),  # lengths
        ]
        ends = [0]
        for count, dtype in sizes:
            ends.append(ends[-1] + -(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT)
        # One piece of memory is one copy.
        self._parts = [
            (slice(begin, begin + count * dtype.itemsize), dtype)
            for (begin, _), (count, dtype) in zip(pairwise(ends), sizes, strict=True)
        ]
        self._shape = shape
        self._memory = torch.zeros(ends[-1], dtype=torch.uint8, device=device)
        labels, example_ids, input_ids, positions, cu_seqlens, lengths = self._views(self._memory)
        self._tiles = fixed_schedule(shape.texts + 1, shape.rows, shape.longest, device)
        self.batch = PackedBatch(
            input_ids=input_ids,
            positions=positions,
            cu_seqlens=cu_seqlens,
            max_seqlen=shape.longest,
            labels=labels,
            example_ids=example_ids,
            lengths=lengths,
            schedule=self._tiles,
        )
        self.given: Tensor | None = None
        if given is not None:
            count = shape.texts + 1 if one_row else shape.rows
            self.given = torch.zeros(count, given.shape[1], dtype=given.dtype, device=device)

    def _views(self, memory: Tensor) -> list[Tensor]:
        return [memory[part].view(dtype) for part, dtype in self._parts]

    def load(self, batch: PackedBatch, given: Tensor | None) -> None:
        """Copies a batch, on the host, and its rows, on the device; the host does not wait for it."""
        total, texts = len(batch.input_ids), len(batch)
        # Pinned memory is used again only when what was copied from it has arrived.
        host = torch.zeros(self._memory.shape, dtype=torch.uint8, pin_memory=self._memory.is_cuda)
        labels, example_ids, input_ids, positions, cu_seqlens, lengths = self._views(host)
        assert batch.labels is not None
        labels.copy_(batch.labels)
        example_ids[:texts] = batch.example_ids
        input_ids[:total] = batch.input_ids
        positions[:total] = batch.positions
        cu_seqlens[: texts + 1] = batch.cu_seqlens
        cu_seqlens[texts + 1] = self._shape.rows
        lengths[:texts] = batch.lengths
        lengths[texts] = self._shape.rows - total
        self._memory.copy_(host, non_blocking=True)
        if self._tiles is not None:
            self._tiles.load(cu_seqlens)
        if self.given is not None:
            assert given is not None
            self.given[: len(given)].copy_(given)


class Recording:
    """What runs on the current device's stream once, recorded and not run; :meth:`replay` runs it."""

    _pool: Any = None

    def __init__(self, run: Callable[[], None]) -> None:
        if Recording._pool is None:
            # Graphs run one after the other, and none reads what another has left: they share memory.
            Recording._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self._graph, pool=Recording._pool):
                run()
        except BaseException:
            torch.cuda.set_stream(stream)  # a recording that fails may leave its own
            raise

    def replay(self) -> None:
        self._graph.replay()


class _Steps:
    """The steps of one shape."""

    def __init__(self, memory: StaticBatch) -> None:
        self.memory = memory
        self.runs = 0
        self.recording: Recording | None = None


class FixedShapes:
    """Takes steps on batches in fixed memory.

    Parameters
    ----------
    width : int
        Of the model.
    device : torch.device
    compute : callable
        Takes a batch and rows to go on from (or ``None``); does the forward and backward pass and the optimizer's step,
        waiting for nothing; returns the step's figures in a tensor of always the same shape.
    forget : callable
        Lets go of gradients that lie in a recording's memory.
    """

    def __init__(
        self,
        width: int,
        device: torch.device,
        compute: Callable[[PackedBatch, Tensor | None], Tensor],
        forget: Callable[[], None],
    ) -> None:
        self._width, self._device = width, device
        self._compute, self._forget = compute, forget
        self._steps: dict[Shape, _Steps] = {}
        self._figures: Tensor | None = None
        self._records = True

    @property
    def recorded(self) -> int:
        """Shapes that are replayed."""
        return sum(steps.recording is not None for steps in self._steps.values())

    def takes(self, row_counts: np.ndarray) -> bool:
        """Whether launches take the longer part of a step on texts with so many rows."""
        return len(row_counts) > 0 and int(row_counts.sum()) * self._width**2 <= LAUNCH_BOUND

    def step(self, batch: PackedBatch, given: Tensor | None = None, *, one_row: bool = False) -> Tensor:
        """One step.

        Parameters
        ----------
        batch : PackedBatch
            On the host, with labels.
        given : tensor, optional
            Rows to go on from, on the device.
        one_row : bool
            Whether these are one for each text.

        Returns
        -------
        tensor
            The figures.
        """
        shape = Shape.of(batch.cu_seqlens.diff().numpy())
        steps = self._steps.get(shape)
        if steps is None:
            steps = self._steps[shape] = _Steps(StaticBatch(shape, self._device, given, one_row))
        steps.memory.load(batch, given)
        # The first step of a shape compiles and loads kernels, which can't be recorded.
        if steps.runs > 0 and steps.recording is None and self._records and self.recorded < MOST_GRAPHS:
            steps.recording = self._record(steps)
        steps.runs += 1
        if steps.recording is None:
            self._run(steps)
        else:
            steps.recording.replay()
        assert self._figures is not None
        return self._figures.clone()  # the next step writes there

    def _run(self, steps: _Steps) -> None:
        figures = self._compute(steps.memory.batch, steps.memory.given)
        if self._figures is None:
            self._figures = torch.empty_like(figures)
        self._figures.copy_(figures)

    def _record(self, steps: _Steps) -> Recording | None:
        try:
            return Recording(lambda: self._run(steps))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._records = False
            warnings.warn(
                f"training steps can't be recorded as CUDA graphs and are launched one kernel at a time: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        finally:
            self._forget()
