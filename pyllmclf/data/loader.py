"""The texts of each training step, a function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from .packing import Packer, budget_bounds


@dataclass(frozen=True)
class Position:
    """Position in a training, from which a loader can resume.

    Attributes
    ----------
    epoch : int
        Number of complete epochs.
    step : int
        Number of complete steps of the current epoch.
    """

    epoch: int = 0
    step: int = 0


class BatchLoader:
    """Iterates over the texts of each optimizer step, in an order that depends on the seed and the epoch alone.

    Iteration starts at :attr:`position` and ends with that epoch. No object is made per text: the order of an epoch is
    one array, and a step is a slice of it.

    Parameters
    ----------
    packer : Packer
    batch_size : int
        Texts of a micro-batch, over all ranks.
    batch_tokens : int, optional
        Replaces ``batch_size``: maximum number of rows of a micro-batch, which takes as many texts as fit, but at least
        one.
    accumulate : int
        Number of micro-batches of a step.
    seed : int
    rank, ranks : int
        Rank and world size. A step has the same texts for every world size; each rank gets a share of them with about
        the same number of rows.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    def __init__(
        self,
        packer: Packer,
        *,
        batch_size: int = 8,
        batch_tokens: int | None = None,
        accumulate: int = 1,
        seed: int = 123,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not 0 <= rank < ranks:
            raise UsageError(f"rank={rank} must be at least 0 and less than ranks={ranks}.")
        if min(batch_size, accumulate, 1 if batch_tokens is None else batch_tokens) < 1:
            raise UsageError("batch_size, batch_tokens and accumulate must be positive.")
        self.packer, self.batch_size, self.batch_tokens = packer, batch_size, batch_tokens
        self.accumulate, self.seed, self.rank, self.ranks = accumulate, seed, rank, ranks
        self.position = Position()

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        epoch, first = self.position.epoch, self.position.step
        for step, ids in enumerate(self.steps(epoch, first), first):
            # A step is complete when the next one is requested.
            yield ids
            self.position = Position(epoch, step + 1)
        self.position = Position(epoch + 1)

    def state_dict(self) -> dict[str, int | None]:
        """The position, and everything that the order of the texts and the steps depend on, in values for JSON."""
        return {"epoch": self.position.epoch, "step": self.position.step, **self._inputs()}

    def _inputs(self) -> dict[str, int | None]:
        """What the order of the texts and the steps depend on."""
        return {
            "seed": self.seed,
            "texts": len(self.packer),
            "batch_size": self.batch_size,
            "batch_tokens": self.batch_tokens,
            "accumulate": self.accumulate,
            "ranks": self.ranks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes from the :meth:`state_dict` of another loader.

        Raises
        ------
        UsageError
            If that loader had other texts or arguments, or the state is malformed.
        """
        for name, value in self._inputs().items():
            if name not in state or state[name] != value:
                raise UsageError(f"the loader's state is of {name} {state.get(name)}, not {value}.")
        epoch, step = state.get("epoch"), state.get("step")
        if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 0 or not 0 <= step <= self.count(epoch):
            raise UsageError(f"the loader's state names step {step} of epoch {epoch}, which does not exist.")
        self.position = Position(epoch, step)

    def count(self, epoch: int) -> int:
        """Number of steps of an epoch."""
        return len(self._bounds(self.order(epoch))) - 1

    def total(self, epochs: int) -> int:
        """Number of steps of the first ``epochs`` epochs."""
        if self.batch_tokens is None:  # every epoch has as many
            return self.count(0) * epochs
        return sum(map(self.count, range(epochs)))

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the texts in the order of an epoch, int64, shape [texts]."""
        return shuffled(len(self.packer), self.seed, epoch)

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[np.ndarray]]:
        """This rank's texts of each micro-batch, for every step of an epoch from ``first`` on."""
        return map(self.share, self.whole_steps(epoch, first))

    def whole_steps(self, epoch: int, first: int = 0) -> Iterator[np.ndarray]:
        """All ranks' texts of every step of an epoch from ``first`` on, int64."""
        order = self.order(epoch)
        bounds = self._bounds(order)
        for begin, end in zip(bounds[first:-1], bounds[first + 1 :], strict=True):
            yield order[begin:end]

    def share(self, texts: np.ndarray) -> list[np.ndarray]:
        """This rank's texts of each micro-batch of a step, which has these ``texts``."""
        if self.ranks == 1:
            return self._micro_batches(texts)
        limit = None if self.batch_tokens is not None else self._texts_per_rank * self.accumulate
        shards = balanced_shards(texts, self.packer.row_counts_of(texts), self.ranks, limit)
        batches = [self._micro_batches(shard) for shard in shards]
        # Ranks wait for each other at each micro-batch, so all need the same number; some may have no texts.
        missing = max(map(len, batches)) - len(batches[self.rank])
        return batches[self.rank] + [texts[:0]] * missing

    @property
    def _texts_per_rank(self) -> int:
        """Maximum number of texts of one rank's micro-batch."""
        return -(-self.batch_size // self.ranks)

    def _bounds(self, order: np.ndarray) -> np.ndarray:
        """First place of each step in the order, and the number of texts, int64, shape [steps + 1]."""
        if self.batch_tokens is None:
            return np.append(np.arange(0, len(order), self.batch_size * self.accumulate), len(order))
        batches = budget_bounds(self.packer.row_counts_of(order), self.batch_tokens)
        return np.append(batches[:-1][:: self.accumulate], batches[-1])

    def _micro_batches(self, texts: np.ndarray) -> list[np.ndarray]:
        if self.batch_tokens is None:
            size = self._texts_per_rank
            return [texts[i : i + size] for i in range(0, len(texts), size)]
        bounds = budget_bounds(self.packer.row_counts_of(texts), -(-self.batch_tokens // self.ranks))
        return np.split(texts, bounds[1:-1]) if len(texts) else []


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``range(count)`` that depends on the seed and the epoch alone, int64, shape [count]."""
    generator = torch.Generator().manual_seed(seed * 2**16 + epoch)
    return torch.randperm(count, generator=generator).numpy()


def balanced_shards(texts: np.ndarray, rows: np.ndarray, ranks: int, limit: int | None = None) -> list[np.ndarray]:
    """Splits texts among ranks: the longest first, each to the rank with the fewest rows so far.

    Parameters
    ----------
    texts : ndarray of int64, shape [texts]
    rows : ndarray of int64, shape [texts]
        Number of rows of each.
    ranks : int
    limit : int, optional
        Maximum number of texts of a rank.

    Returns
    -------
    list of ndarray of int64
        The texts of each rank in their original order; with fewer texts than ranks, some are empty.
    """
    filled = np.zeros(ranks, dtype=np.int64)
    counts = np.zeros(ranks, dtype=np.int64)
    owner = np.empty(len(texts), dtype=np.int64)
    full = np.iinfo(np.int64).max
    for i in np.argsort(-rows, kind="stable"):
        rank = int((filled if limit is None else np.where(counts < limit, filled, full)).argmin())
        owner[i] = rank
        filled[rank] += rows[i]
        counts[rank] += 1
    return [texts[owner == rank] for rank in range(ranks)]
