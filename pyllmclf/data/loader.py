"""Which texts each step of training sees."""

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
    """Where an epoch stands: enough to go on from there.

    Attributes
    ----------
    epoch, step : int
        Epochs that are over, and steps of the current one that are done.
    """

    epoch: int = 0
    step: int = 0


class BatchLoader:
    """The texts of each optimizer step, in an order that (seed, epoch) decides.

    Iterating it goes on from :attr:`position` to the end of that epoch. Nothing is made per text: an epoch's order is
    one array, and a step is a slice of it.

    Parameters
    ----------
    packer : Packer
    batch_size : int
        Texts of a micro-batch, of all ranks together.
    batch_tokens : int, optional
        Instead: rows of a micro-batch at most, as many texts of the order as fit (one at least).
    accumulate : int
        Micro-batches of a step.
    seed : int
    rank, ranks : int
        With several ranks each gets its share of every step, which is the same step for any number of them: its texts
        have about as many rows as each other rank's.
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
            raise UsageError(f"rank={rank} is none of {ranks} ranks.")
        if min(batch_size, accumulate, 1 if batch_tokens is None else batch_tokens) < 1:
            raise UsageError("batch_size, batch_tokens and accumulate must be positive.")
        self.packer, self.batch_size, self.batch_tokens = packer, batch_size, batch_tokens
        self.accumulate, self.seed, self.rank, self.ranks = accumulate, seed, rank, ranks
        self.position = Position()

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        epoch, first = self.position.epoch, self.position.step
        for step, ids in enumerate(self.steps(epoch, first), first):
            # A step is done when the next one is asked for.
            yield ids
            self.position = Position(epoch, step + 1)
        self.position = Position(epoch + 1)

    def state_dict(self) -> dict[str, int | None]:
        """Where it stands, and what its order and its steps are a function of, as JSON can hold it."""
        return {"epoch": self.position.epoch, "step": self.position.step, **self._made_of()}

    def _made_of(self) -> dict[str, int | None]:
        return {
            "seed": self.seed,
            "texts": len(self.packer),
            "batch_size": self.batch_size,
            "batch_tokens": self.batch_tokens,
            "accumulate": self.accumulate,
            "ranks": self.ranks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another loader of the same texts and arguments stood.

        Raises
        ------
        UsageError
            If that one had others, or the state is none.
        """
        for name, value in self._made_of().items():
            if name not in state or state[name] != value:
                raise UsageError(f"the loader's state is of {name} {state.get(name)}, not {value}.")
        epoch, step = state.get("epoch"), state.get("step")
        if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 0 or not 0 <= step <= self.count(epoch):
            raise UsageError(f"the loader's state names step {step} of epoch {epoch}, which there is not.")
        self.position = Position(epoch, step)

    def count(self, epoch: int) -> int:
        """Steps of an epoch."""
        return len(self._bounds(self.order(epoch))) - 1

    def total(self, epochs: int) -> int:
        """Steps of so many epochs."""
        if self.batch_tokens is None:  # the order does not matter
            return self.count(0) * epochs
        return sum(map(self.count, range(epochs)))

    def order(self, epoch: int) -> np.ndarray:
        """The texts of an epoch in their order, int64."""
        return shuffled(len(self.packer), self.seed, epoch)

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[np.ndarray]]:
        """Texts of the micro-batches of each step of an epoch, from step ``first`` on: this rank's share."""
        return map(self.share, self.whole_steps(epoch, first))

    def whole_steps(self, epoch: int, first: int = 0) -> Iterator[np.ndarray]:
        """All texts of each step of an epoch, from step ``first`` on."""
        order = self.order(epoch)
        bounds = self._bounds(order)
        for begin, end in zip(bounds[first:-1], bounds[first + 1 :], strict=True):
            yield order[begin:end]

    def share(self, texts: np.ndarray) -> list[np.ndarray]:
        """Texts of this rank's micro-batches of a step."""
        if self.ranks == 1:
            return self._micro_batches(texts)
        most = None if self.batch_tokens is not None else self._own_size * self.accumulate
        shards = balanced_shards(texts, self.packer.row_counts_of(texts), self.ranks, most)
        batches = [self._micro_batches(shard) for shard in shards]
        # Ranks wait for each other at each micro-batch: all have as many, some without texts.
        missing = max(map(len, batches)) - len(batches[self.rank])
        return batches[self.rank] + [texts[:0]] * missing

    @property
    def _own_size(self) -> int:
        """Texts of a rank's micro-batch at most."""
        return -(-self.batch_size // self.ranks)

    def _bounds(self, order: np.ndarray) -> np.ndarray:
        """Where each step begins in the order, and its end."""
        if self.batch_tokens is None:
            return np.append(np.arange(0, len(order), self.batch_size * self.accumulate), len(order))
        batches = budget_bounds(self.packer.row_counts_of(order), self.batch_tokens)
        return np.append(batches[:-1][:: self.accumulate], batches[-1])

    def _micro_batches(self, texts: np.ndarray) -> list[np.ndarray]:
        if self.batch_tokens is None:
            return [texts[i : i + self._own_size] for i in range(0, len(texts), self._own_size)]
        bounds = budget_bounds(self.packer.row_counts_of(texts), -(-self.batch_tokens // self.ranks))
        return np.split(texts, bounds[1:-1]) if len(texts) else []


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``count`` that depends on (seed, epoch) alone, int64."""
    generator = torch.Generator().manual_seed(seed * 2**16 + epoch)
    return torch.randperm(count, generator=generator).numpy()


def balanced_shards(texts: np.ndarray, rows: np.ndarray, ranks: int, most: int | None = None) -> list[np.ndarray]:
    """Splits texts among ranks: longest first, each to the rank with the fewest rows so far.

    Each rank's texts keep their order; with fewer texts than ranks some get none. ``most``: of texts for a rank.
    """
    filled = np.zeros(ranks, dtype=np.int64)
    counts = np.zeros(ranks, dtype=np.int64)
    owner = np.empty(len(texts), dtype=np.int64)
    full = np.iinfo(np.int64).max
    for i in np.argsort(-rows, kind="stable"):
        rank = int((filled if most is None else np.where(counts < most, filled, full)).argmin())
        owner[i] = rank
        filled[rank] += rows[i]
        counts[rank] += 1
    return [texts[owner == rank] for rank in range(ranks)]
