"""Batches of texts without padding (``csrc/data/packing.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from .. import _C
from ..ops.schedule import Schedule, attention_schedule
from .row_layout import RowLayout, check_padding
from .token_store import TokenStore
from .tokenizers import Tokenizer, special_count

__all__ = [
    "PackedBatch",
    "Packer",
    "RowLayout",
    "SharedRows",
    "budget_bounds",
    "check_padding",
    "token_budget_batches",
]

# Shared prefixes cost a gather of rows in every block, which does not pay off above this fraction of distinct rows.
MAX_DISTINCT_ROWS = 0.98


@dataclass(frozen=True)
class SharedRows:
    """Distinct rows of a batch: texts with a common prefix share its rows. For causal models only.

    Attributes
    ----------
    rows : int64 tensor, shape [distinct]
        Index of each distinct row in the batch.
    of : int64 tensor, shape [total]
        For each row of the batch, its index among the distinct rows.
    """

    rows: torch.Tensor
    of: torch.Tensor

    def computed(self, x: torch.Tensor) -> torch.Tensor:
        """The distinct rows, shape [distinct, channels], of x [total, channels]."""
        return x.index_select(0, self.rows)

    def all(self, x: torch.Tensor) -> torch.Tensor:
        """All rows, shape [total, channels], of x [distinct, channels]."""
        return x.index_select(0, self.of)


@dataclass(frozen=True)
class PackedBatch:
    """A batch of texts, concatenated without padding.

    Attributes
    ----------
    input_ids : int32 tensor, shape [total]
    positions : int32 tensor, shape [total]
        Position of each token in its text.
    cu_seqlens : int32 tensor, shape [n + 1]
        Text ``i`` is the rows from ``cu_seqlens[i]`` up to ``cu_seqlens[i + 1]``, exclusive.
    max_seqlen : int
        Number of rows of the longest text.
    labels : int64 tensor, shape [n], or fp32 tensor, shape [n, classes], or None
        Class indices; where texts may have several labels, 1 for each class that a text has.
    example_ids : int64 tensor, shape [n]
        Index of each text in its data set; dropout masks depend on it.
    lengths : int32 tensor, shape [n]
        Number of real tokens of each text, which is less than its rows if it is padded.
    schedule : Schedule, or None
        Order of work of attention on a GPU (:mod:`pyllmclf.ops.schedule`); made by :meth:`to`.
    shared : SharedRows, or None
        Rows that a causal model computes without dropout; made by :meth:`share_prefixes`.
    token_types : int32 tensor, shape [total], or None
        Type of each token: 1 in the second text of a pair; ``None`` where all are 0, or the model reads none.
    token_rows : fp32 tensor, shape [total, embedding_width], or None
        Rows that take the place of the tokens' embeddings; positions and types are added to them. Explanations are
        gradients of these rows.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    labels: torch.Tensor | None
    example_ids: torch.Tensor
    lengths: torch.Tensor
    schedule: Schedule | None = None
    shared: SharedRows | None = None
    token_types: torch.Tensor | None = None
    token_rows: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.example_ids)

    def one_row_each(self, positions: torch.Tensor) -> PackedBatch:
        """The batch after pooling: one row per text, at these positions, int32, shape [n]."""
        n = len(self)
        return replace(
            self,
            input_ids=self.input_ids[:0],
            positions=positions,
            cu_seqlens=torch.arange(n + 1, dtype=torch.int32, device=positions.device),
            max_seqlen=min(n, 1),
            schedule=None,
            shared=None,
            token_types=None,
            token_rows=None,
        )

    def first_tokens(self) -> PackedBatch:
        """The batch with each text cut to its first token."""
        starts = self.cu_seqlens[:-1].long()
        cut = self.one_row_each(self.positions[starts])
        types = None if self.token_types is None else self.token_types[starts]
        rows = None if self.token_rows is None else self.token_rows[starts]
        ones = torch.ones_like(self.lengths)
        return replace(cut, input_ids=self.input_ids[starts], lengths=ones, token_types=types, token_rows=rows)

    def share_prefixes(self) -> PackedBatch:
        """The batch with :attr:`shared`, if enough texts have a prefix in common with the text before; on the host."""
        # Tokens of different types differ.
        ids = self.input_ids if self.token_types is None else 2 * self.input_ids + self.token_types
        rows, of = _C.share_prefixes(ids.numpy(), self.cu_seqlens.numpy())
        if len(rows) > MAX_DISTINCT_ROWS * len(of):
            return self
        return replace(self, shared=SharedRows(torch.from_numpy(rows), torch.from_numpy(of)))

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch on another device, copied asynchronously to a GPU."""
        device = torch.device(device)
        to_gpu = device.type == "cuda" and not self.cu_seqlens.is_cuda

        def move(value: torch.Tensor) -> torch.Tensor:
            return (value.pin_memory() if to_gpu else value).to(device, non_blocking=to_gpu)

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: move(v) for name, v in values.items() if isinstance(v, torch.Tensor)}
        if self.shared is not None:
            moved["shared"] = SharedRows(move(self.shared.rows), move(self.shared.of))
        if to_gpu:
            moved["schedule"] = attention_schedule(self.cu_seqlens, device)
        elif self.schedule is not None and self.schedule.device != moved["cu_seqlens"].device:
            moved["schedule"] = None
        return replace(self, **moved)


class Packer:
    """Makes batches of the texts of a token store.

    Where the layout cuts long texts into windows, each window counts as a text of its own here.

    Parameters
    ----------
    store : TokenStore
    tokenizer : Tokenizer
        For its special tokens and padding token.
    layout : RowLayout
    labels : ndarray of int64, shape [texts], or of float32, shape [texts, classes], optional
    weights : ndarray of float32, shape [texts], optional
        Weight of each text in training.

    Attributes
    ----------
    weights : ndarray of float32, shape [len(packer)], or None
        Weight of each text or window, which has its text's.
    window_bounds : ndarray of int64, shape [texts + 1], or None
        Text ``i`` is the windows from ``window_bounds[i]`` up to ``window_bounds[i + 1]``, exclusive; ``None`` if no
        text was cut into windows.
    cut : int
        Number of texts that lose tokens to ``max_length``; where pairs are cut into windows, of those whose first text
        does.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        layout: RowLayout,
        labels: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        around = len(tokenizer.prefix) + len(tokenizer.suffix)
        between = special_count(tokenizer) - around
        room = layout.max_length - around
        longer = (store.lengths if tokenizer.pairs is None else store.pair_lengths(between)) > room
        self.window_bounds: np.ndarray | None = None
        self.cut = int(longer.sum())
        self.text_labels = labels
        if self.cut and layout.long_texts == "windows":
            whole = store.firsts
            if tokenizer.pairs is None:
                store, self.window_bounds = store.windows(room, room // 2)
            else:
                store, self.window_bounds = store.pair_windows(room, between)
            # The windows have all tokens but those of a first text that is too long to be in each of them.
            self.cut = 0
            if store.firsts is not None and whole is not None:
                self.cut = int((store.firsts[self.window_bounds[:-1]] < whole).sum())
            labels = None if labels is None else np.repeat(labels, np.diff(self.window_bounds), axis=0)
            weights = None if weights is None else np.repeat(weights, np.diff(self.window_bounds))
        elif self.cut and tokenizer.pairs is not None:
            store = store.cut_pairs(room, between, layout.long_texts, layout.pair_truncation)
        elif self.cut and layout.long_texts != "head":
            store = store.cut(room, layout.long_texts)
        self.store = store
        self.tokenizer = tokenizer
        self.layout = layout
        self.weights = weights
        self.labels: torch.Tensor | None = None
        if labels is not None:
            dtype = np.int64 if labels.ndim == 1 else np.float32
            self.labels = torch.from_numpy(np.ascontiguousarray(labels, dtype=dtype))
        self.row_options: dict[str, Any] = {
            "max_length": layout.max_length,
            "pad_to": layout.pad_to,
            "pad_token": tokenizer.pad_token_id,
            "prefix": list(tokenizer.prefix),
            "suffix": list(tokenizer.suffix),
        }
        self.without_position = tokenizer.without_position
        self.real_lengths = np.minimum(store.lengths + around, layout.max_length)

    def __len__(self) -> int:
        return len(self.store)

    def by_text(self, logits: np.ndarray) -> np.ndarray:
        """Logits of each text, shape [texts, classes]: the mean over its windows."""
        if self.window_bounds is None:
            return logits
        sums = np.add.reduceat(logits, self.window_bounds[:-1], axis=0, dtype=np.float64)
        return (sums / np.diff(self.window_bounds)[:, None]).astype(logits.dtype)

    @property
    def tokens_by_text(self) -> np.ndarray:
        """Number of tokens read of each text, int64, shape [texts]; tokens in two windows count twice."""
        if self.window_bounds is None:
            return self.real_lengths
        return np.add.reduceat(self.real_lengths, self.window_bounds[:-1])

    @property
    def row_counts(self) -> np.ndarray:
        """Number of rows of each text, padding included, int64, shape [texts]."""
        return np.full_like(self.real_lengths, self.layout.pad_to) if self.layout.pad_to else self.real_lengths

    def row_counts_of(self, ids: np.ndarray) -> np.ndarray:
        """Number of rows of the texts ``ids``, padding included, int64, shape [ids]."""
        return np.full(len(ids), self.layout.pad_to) if self.layout.pad_to else self.real_lengths[ids]

    def batch(self, ids: Sequence[int] | np.ndarray) -> PackedBatch:
        """The batch of the texts ``ids``, in that order.

        Raises
        ------
        IndexError
            If an id is not in the store.
        TypeError
            If an id is not an integer.
        """
        index = np.array(ids)  # a copy, which the batch refers to
        if index.size and index.dtype.kind not in "iu":
            raise TypeError(f"example ids must be integers, not {index.dtype}")
        index = index.astype(np.int64)
        packed = _C.pack(self.store.tokens, self.store.offsets, index, **self.row_options)
        input_ids, positions, cu_seqlens, max_seqlen, lengths = packed
        if self.without_position is not None:
            positions = _counted_positions(input_ids, cu_seqlens, self.without_position)
        types = self._token_types(index, cu_seqlens, lengths)
        example_ids = torch.from_numpy(index)
        return PackedBatch(
            input_ids=torch.from_numpy(input_ids),
            positions=torch.from_numpy(positions),
            cu_seqlens=torch.from_numpy(cu_seqlens),
            max_seqlen=max_seqlen,
            labels=None if self.labels is None else self.labels[example_ids],
            example_ids=example_ids,
            lengths=torch.from_numpy(lengths),
            token_types=None if types is None else torch.from_numpy(types),
        )

    def _token_types(self, ids: np.ndarray, cu_seqlens: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """Type of each token of pairs, int32, shape [total], 0 of padding; ``None`` where the model reads none."""
        pairs = self.tokenizer.pairs
        if pairs is None or not pairs.typed:
            return None
        assert self.store.firsts is not None
        sizes = np.diff(cu_seqlens)
        place = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], sizes)
        second = len(self.tokenizer.prefix) + self.store.firsts[ids] + pairs.zeros
        return ((place >= np.repeat(second, sizes)) & (place < np.repeat(lengths, sizes))).astype(np.int32)


def _counted_positions(input_ids: np.ndarray, cu_seqlens: np.ndarray, uncounted: int) -> np.ndarray:
    """Positions that leave a token out, int32, shape [total]; the token's own is -1.

    RoBERTa in transformers counts positions so: ``RobertaEmbeddings.create_position_ids_from_input_ids``.
    """
    counted = input_ids != uncounted
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counted)])
    before = np.repeat(counts[cu_seqlens[:-1]], np.diff(cu_seqlens))
    return ((counts[1:] - before) * counted - 1).astype(np.int32)


def token_budget_batches(row_counts: np.ndarray, budget: int) -> list[np.ndarray]:
    """Sorts texts by length and cuts them into batches of at most ``budget`` rows, but at least one text.

    Parameters
    ----------
    row_counts : ndarray of int64, shape [texts]
        Number of rows of each text.
    budget : int

    Returns
    -------
    list of ndarray of int64
        Indices of the texts of each batch.
    """
    order = np.argsort(row_counts, kind="stable")
    bounds = budget_bounds(row_counts[order], budget)
    return np.split(order, bounds[1:-1]) if len(order) else []


def budget_bounds(rows: np.ndarray, budget: int) -> np.ndarray:
    """Cuts consecutive texts into batches of at most ``budget`` rows, but at least one text.

    Parameters
    ----------
    rows : ndarray of int64, shape [texts]
        Number of rows of each text.
    budget : int

    Returns
    -------
    ndarray of int64, shape [batches + 1]
        Index of the first text of each batch, and the number of texts.
    """
    ends = np.cumsum(rows)
    bounds = [0]
    while bounds[-1] < len(rows):
        begin = bounds[-1]
        before = int(ends[begin - 1]) if begin else 0
        bounds.append(max(begin + 1, int(np.searchsorted(ends, before + budget, side="right"))))
    return np.array(bounds, dtype=np.int64)
