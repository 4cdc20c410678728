"""What an activation cache holds: the frozen stages of a model, and the texts whose activations fit the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..models.layers import DropoutRates
from ..models.sequence_classifier import SequenceClassifier


def frozen_stages(model: SequenceClassifier) -> int:
    """Counts the stages of the model below its lowest trained parameter."""
    for stage, modules in enumerate(model.backbone.stages):
        if any(p.requires_grad for module in modules for p in module.parameters()):
            return stage
    return model.depth


def changes_each_epoch(rates: DropoutRates) -> bool:
    """Whether dropout changes the frozen layers' activations in each epoch."""
    return max(rates.embedding, rates.attention, rates.hidden) > 0.0


def why_not(model: SequenceClassifier, rates: DropoutRates, epochs: int) -> str | None:
    """Explains why the frozen layers' activations are not cached; ``None`` if they are.

    Parameters
    ----------
    model : SequenceClassifier
        With ``requires_grad`` set.
    rates : DropoutRates
    epochs : int
    """
    stages = frozen_stages(model)
    if stages == 0:
        return "the embeddings are trained"
    if stages == 1:
        return "no block is frozen"
    if changes_each_epoch(rates):
        return "dropout changes them in each epoch"
    return "a single epoch reads each text once" if epochs == 1 else None


@dataclass(frozen=True)
class Plan:
    """The texts whose activations are cached, and where they are stored.

    Attributes
    ----------
    batches : list of int64 arrays
        Texts that are computed together, in the order in which their rows are stored.
    starts : int64 array, shape [texts]
        First stored row of each text, the same for identical texts; -1 for texts that are not cached.
    rows, distinct_rows : int
        Number of stored rows, and of rows of all distinct texts.
    """

    batches: list[np.ndarray]
    starts: np.ndarray
    rows: int
    distinct_rows: int

    @classmethod
    def make(
        cls,
        first: np.ndarray,
        distinct: np.ndarray,
        counts: np.ndarray,
        lengths: np.ndarray,
        max_rows: int,
        make_batches: Callable[[np.ndarray], list[np.ndarray]],
    ) -> Plan:
        """Chooses the longest texts first, as far as they fit ``max_rows``.

        Parameters
        ----------
        first : int64 array, shape [texts]
            For each text, the first text that is identical to it.
        distinct : int64 array, shape [distinct texts]
            The first texts, in an order that depends on what they say alone: the same texts are then computed in the
            same batches, however a split or a shuffle has ordered them.
        counts : int64 array, shape [texts]
            Rows of each text that the cache stores.
        lengths : int64 array, shape [texts]
            Rows of each text that the frozen layers compute.
        max_rows : int
            Most rows that the cache may store.
        make_batches : callable
            Takes the chosen texts; returns those that are computed together.
        """
        remaining = distinct[np.argsort(-lengths[distinct], kind="stable")]
        taken = [remaining[:0]]
        free_rows = max_rows
        while len(remaining := remaining[counts[remaining] <= free_rows]):
            fitting = int((np.cumsum(counts[remaining]) <= free_rows).sum())
            taken.append(remaining[:fitting])
            free_rows -= int(counts[remaining[:fitting]].sum())
            remaining = remaining[fitting:]
        chosen = np.concatenate(taken)
        batches = make_batches(chosen)
        stored = np.concatenate(batches) if batches else chosen
        ends = np.cumsum(counts[stored])
        starts = np.full(len(first), -1, dtype=np.int64)
        starts[stored] = ends - counts[stored]
        rows = int(ends[-1]) if len(ends) else 0
        return cls(batches, starts[first], rows, int(counts[distinct].sum()))
