"""Micro-batches of a step, in smaller pieces once the device has run out of memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..data.packing import PackedBatch, Packer
from ..distributed import lost_processes
from ..errors import ResourceError

# (stage, rows) as of ActivationCache.lookup, for texts of the training packer.
Lookup = Callable[[np.ndarray], "tuple[int, torch.Tensor] | None"]


class MicroBatch(NamedTuple):
    """Texts of a step that are computed together.

    Attributes
    ----------
    batch : PackedBatch
        On the device, with labels.
    cached : (stage, rows) or None
        Cached activations, from which :meth:`SequenceClassifier.forward` starts.
    counts : bool
        Whether the texts contribute to loss, gradient and metrics.
    """

    batch: PackedBatch
    cached: tuple[int, torch.Tensor] | None
    counts: bool = True


class MicroBatcher:
    """Computes steps in micro-batches of at most as many texts as the device has memory for.

    Parameters
    ----------
    packer : Packer
        The training texts with their labels.
    device : torch.device
    release_gradients : callable
        Frees the gradients of a step that is repeated.
    """

    def __init__(self, packer: Packer, device: torch.device, release_gradients: Callable[[], None]) -> None:
        self._packer, self._device, self._release_gradients = packer, device, release_gradients
        self._max_texts: int | None = None

    def run(
        self,
        compute: Callable[[Iterator[MicroBatch], int], torch.Tensor],
        micro_batches: list[np.ndarray],
        ids: np.ndarray,
        *,
        lookup: Lookup,
        step: int,
        repeatable: bool,
        splittable: bool = True,
    ) -> torch.Tensor:
        """Computes a step; where the device runs out of memory, again in halved micro-batches, with the same result.

        Parameters
        ----------
        compute : callable
            Takes the micro-batches and their number; returns the step's stats.
        micro_batches : list of int64 arrays
            Texts of each.
        ids : ndarray of int64, shape [texts]
            Texts of the step, of all processes.
        lookup : callable
            Takes the texts of a micro-batch; returns their cached activations, or ``None``.
        step : int
            Number of the step, for errors.
        repeatable : bool
            Whether the step can be computed again after a part of it.
        splittable : bool
            Whether the loss of a batch is the sum of that of its texts.

        Raises
        ------
        ResourceError
            If there is no memory for a single text, the step is not repeatable or can't be split, or another process
            is lost.
        """
        while True:
            micro_batches = self._split(micro_batches)
            try:
                with lost_processes():
                    return compute(self._load(micro_batches, ids, lookup), len(micro_batches))
            except torch.OutOfMemoryError as error:
                most = max(map(len, micro_batches))
                if most <= 1 or not (repeatable and splittable):
                    raise ResourceError(
                        f"step {step}: out of memory on {self._device} with {most} texts of up to "
                        f"{int(self._packer.row_counts_of(ids).max())} tokens at a time; use a smaller batch_size"
                        f"{' with gradient_accumulation_steps' if splittable else ''}, shorter texts (max_length) or a "
                        "smaller model."
                    ) from error
                self._max_texts = -(-most // 2)
                self._release_gradients()
                warnings.warn(
                    f"out of memory with {most} texts at a time; from now on {self._max_texts} are computed at a "
                    "time, with the same result.",
                    RuntimeWarning,
                    stacklevel=3,
                )
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _split(self, micro_batches: list[np.ndarray]) -> list[np.ndarray]:
        """Splits the micro-batches once more texts are in one than memory has sufficed for."""
        if self._max_texts is None or max(map(len, micro_batches)) <= self._max_texts:
            return micro_batches
        max_texts = self._max_texts
        split = [np.array_split(texts, -(-len(texts) // max_texts) or 1) for texts in micro_batches]
        return [piece for pieces in split for piece in pieces]

    def _load(self, micro_batches: list[np.ndarray], ids: np.ndarray, lookup: Lookup) -> Iterator[MicroBatch]:
        """Yields micro-batches on the device, each loaded when it is computed.

        A process whose micro-batch is empty computes one text that doesn't count: the others wait for its part in the
        all-reduce.
        """
        for texts in micro_batches:
            computed = texts if len(texts) else ids[:1]
            batch = self._packer.batch(computed).to(self._device)
            yield MicroBatch(batch, lookup(computed), counts=len(texts) > 0)
