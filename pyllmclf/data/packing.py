"""Example ids to :class:`PackedBatch` (``csrc/data/packing.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import _C
from ..errors import UsageError
from ..ops.backends import triton as triton_backend
from .token_store import TokenStore
from .tokenizers import Tokenizer, special_count

if TYPE_CHECKING:
    from ..kernels.tiles import Schedule

PADDINGS = ("none", "train_longest", "context")
LONG_TEXTS = ("head", "tail", "both", "windows")


# Sharing beginnings gathers rows in every block: not worth it where more than this share of the rows is left.
MOST_SHARED_ROWS = 0.98


@dataclass(frozen=True)
class SharedRows:
    """Rows that stand for all of a batch, for a causal model: one that begins as the text before does is that text's.

    Attributes
    ----------
    rows : int64 tensor, shape [computed]
        Rows of the batch that stand for themselves.
    of : int64 tensor, shape [total]
        Which of them each row of the batch is.
    """

    rows: torch.Tensor
    of: torch.Tensor

    def computed(self, x: torch.Tensor) -> torch.Tensor:
        """The rows that stand for themselves, of x [total, channels]."""
        return x.index_select(0, self.rows)

    def all(self, x: torch.Tensor) -> torch.Tensor:
        """All rows, shape [total, channels], of x [computed, channels]."""
        return x.index_select(0, self.of)


@dataclass(frozen=True)
class PackedBatch:
    """A batch of texts, one behind the other.

    Attributes
    ----------
    input_ids : int32 tensor, shape [total]
    positions : int32 tensor, shape [total]
        Position of each token in its text.
    cu_seqlens : int32 tensor, shape [n + 1]
        Text ``i`` takes the rows ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``.
    max_seqlen : int
        Rows of the longest text.
    labels : int64 tensor, shape [n], or fp32, shape [n, classes], or None
        With several labels for a text, 1 where it has a class.
    example_ids : int64 tensor, shape [n]
        Index of each text in its data set; dropout masks depend on it.
    lengths : int32 tensor, shape [n]
        Real tokens of each text: less than its rows where it is padded.
    schedule : Schedule, or None
        In which order Triton's attention works on the texts; made by :meth:`to` for a GPU.
    shared : SharedRows, or None
        Which rows a causal model computes where nothing is dropped; made by :meth:`share_beginnings`.
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

    def __len__(self) -> int:
        return len(self.example_ids)

    def one_row_each(self, positions: torch.Tensor) -> PackedBatch:
        """The batch as it goes on behind pooling: one row per text, at these positions."""
        n = len(self)
        return replace(
            self,
            input_ids=self.input_ids[:0],
            positions=positions,
            cu_seqlens=torch.arange(n + 1, dtype=torch.int32, device=positions.device),
            max_seqlen=min(n, 1),
            schedule=None,
            shared=None,
        )

    def first_tokens(self) -> PackedBatch:
        """Each text cut to its first token."""
        starts = self.cu_seqlens[:-1].long()
        cut = self.one_row_each(self.positions[starts])
        return replace(cut, input_ids=self.input_ids[starts], lengths=torch.ones_like(self.lengths))

    def share_beginnings(self) -> PackedBatch:
        """The batch, on the host, with :attr:`shared` where texts begin as their neighbours do."""
        rows, of = _C.share_prefixes(self.input_ids.numpy(), self.cu_seqlens.numpy())
        if len(rows) > MOST_SHARED_ROWS * len(of):
            return self
        return replace(self, shared=SharedRows(torch.from_numpy(rows), torch.from_numpy(of)))

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch on another device; the host does not wait for it."""
        device = torch.device(device)
        to_gpu = device.type == "cuda" and not self.cu_seqlens.is_cuda

        def move(value: torch.Tensor) -> torch.Tensor:
            return (value.pin_memory() if to_gpu else value).to(device, non_blocking=to_gpu)

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: move(v) for name, v in values.items() if isinstance(v, torch.Tensor)}
        if self.shared is not None:
            moved["shared"] = SharedRows(move(self.shared.rows), move(self.shared.of))
        if to_gpu and triton_backend.missing(device) is None:
            from ..kernels.tiles import Schedule

            moved["schedule"] = Schedule(self.cu_seqlens, self.cu_seqlens, device)
        elif self.schedule is not None and self.schedule.device != moved["cu_seqlens"].device:
            moved["schedule"] = None
        return replace(self, **moved)


@dataclass(frozen=True)
class RowLayout:
    """How a text becomes rows.

    Attributes
    ----------
    max_length : int
        Most tokens of a text, special tokens included.
    pad_to : int
        0 for packed rows; otherwise every text fills this many rows, and padding tokens are ordinary tokens.
    long_texts : {"head", "tail", "both", "windows"}
        What is read of a longer text: its beginning, its end, half of each, or windows that overlap by half.
    """

    max_length: int
    pad_to: int = 0
    long_texts: str = "head"

    def check(self, positions: int) -> None:
        """Raises :class:`UsageError` if the numbers make no sense for a model with so many positions."""
        whole = type(self.max_length) is int and type(self.pad_to) is int
        if not whole or not 1 <= self.max_length <= positions:
            raise UsageError(f"max_length={self.max_length!r} does not fit a model with {positions} positions.")
        if self.long_texts not in LONG_TEXTS:
            raise UsageError(f"long_texts={self.long_texts!r} is unknown; it is one of {', '.join(LONG_TEXTS)}.")
        if self.pad_to and not self.max_length <= self.pad_to <= positions:
            raise UsageError(f"pad_to={self.pad_to!r} does not fit a model with {positions} positions.")

    @classmethod
    def resolve(
        cls,
        padding: str | int,
        max_length: int | None,
        long_texts: str = "head",
        *,
        positions: int,
        longest_train: int,
        specials: int,
    ) -> RowLayout:
        """Turns the arguments of ``finetune`` into a layout.

        Parameters
        ----------
        padding : {"none", "train_longest", "context"} or int
        max_length : int or None
        long_texts : {"head", "tail", "both", "windows"}
        positions : int
            Positions that the model has.
        longest_train : int
            Longest training text in tokens, special tokens included.
        specials : int
            Special tokens of a row.

        Raises
        ------
        UsageError
            If a length is more than the model's positions or leaves no room for text.
        """
        check_padding(padding, max_length, long_texts)
        limit = positions if max_length is None else max_length
        for name, value in (("max_length", max_length), ("padding", padding)):
            if isinstance(value, int) and not specials < value <= positions:
                raise UsageError(
                    f"{name}={value} does not fit: the model has {positions} positions "
                    f"and {specials} of a row are special tokens."
                )
        if padding == "none":
            return cls(limit, 0, long_texts)
        if isinstance(padding, int):
            pad_to = padding
        elif padding == "context":
            pad_to = positions
        else:
            pad_to = min(longest_train, limit)
        return cls(min(limit, pad_to), pad_to, long_texts)


def check_padding(padding: str | int, max_length: int | None, long_texts: str = "head") -> None:
    """Raises :class:`UsageError` if an argument is none that any model could take."""
    if padding not in PADDINGS and type(padding) is not int:
        raise UsageError(f"padding={padding!r} is unknown; it is {', '.join(map(repr, PADDINGS))} or a number.")
    if max_length is not None and type(max_length) is not int:
        raise UsageError(f"max_length={max_length!r} must be an integer.")
    if long_texts not in LONG_TEXTS:
        raise UsageError(f"long_texts={long_texts!r} is unknown; it is one of {', '.join(LONG_TEXTS)}.")


class Packer:
    """Makes batches of the texts of a token store; of a text's windows, where the layout says so, each is a text here.

    Parameters
    ----------
    store : TokenStore
    tokenizer : Tokenizer
        Its special tokens and padding token.
    layout : RowLayout
    labels : ndarray of int64, shape [texts], or of float32, shape [texts, classes], optional

    Attributes
    ----------
    window_bounds : ndarray of int64, shape [texts + 1], or None
        Which windows are a text's; ``None`` where each is read as one.
    cut : int
        Texts of which something is not read.
    """

    def __init__(
        self, store: TokenStore, tokenizer: Tokenizer, layout: RowLayout, labels: np.ndarray | None = None
    ) -> None:
        room = layout.max_length - special_count(tokenizer)
        longer = store.lengths > room
        self.window_bounds: np.ndarray | None = None
        self.cut = int(longer.sum())
        self.text_labels = labels
        if self.cut and layout.long_texts == "windows":
            self.cut = 0
            store, self.window_bounds = store.windows(room, room // 2)
            labels = None if labels is None else np.repeat(labels, np.diff(self.window_bounds), axis=0)
        elif self.cut and layout.long_texts != "head":
            store = store.cut(room, layout.long_texts)
        self.store = store
        self.tokenizer = tokenizer
        self.layout = layout
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
        self.real_lengths = np.minimum(store.lengths + special_count(tokenizer), layout.max_length)

    def __len__(self) -> int:
        return len(self.store)

    def by_text(self, logits: np.ndarray) -> np.ndarray:
        """Logits of each text: the mean over its windows."""
        if self.window_bounds is None:
            return logits
        sums = np.add.reduceat(logits, self.window_bounds[:-1], axis=0, dtype=np.float64)
        return (sums / np.diff(self.window_bounds)[:, None]).astype(logits.dtype)

    @property
    def tokens_by_text(self) -> np.ndarray:
        """Tokens that are read of each text, int64; where windows overlap, in each of them."""
        if self.window_bounds is None:
            return self.real_lengths
        return np.add.reduceat(self.real_lengths, self.window_bounds[:-1])

    @property
    def row_counts(self) -> np.ndarray:
        """Rows that each text takes, padding included, int64, shape [texts]."""
        return np.full_like(self.real_lengths, self.layout.pad_to) if self.layout.pad_to else self.real_lengths

    def row_counts_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows that these texts take, int64."""
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
        index = np.array(ids)  # a copy: the batch keeps it
        if index.size and index.dtype.kind not in "iu":
            raise TypeError(f"example ids must be integers, not {index.dtype}")
        index = index.astype(np.int64)
        packed = _C.pack(self.store.tokens, self.store.offsets, index, **self.row_options)
        input_ids, positions, cu_seqlens, max_seqlen, lengths = packed
        example_ids = torch.from_numpy(index)
        return PackedBatch(
            input_ids=torch.from_numpy(input_ids),
            positions=torch.from_numpy(positions),
            cu_seqlens=torch.from_numpy(cu_seqlens),
            max_seqlen=max_seqlen,
            labels=None if self.labels is None else self.labels[example_ids],
            example_ids=example_ids,
            lengths=torch.from_numpy(lengths),
        )


def token_budget_batches(row_counts: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cuts texts, sorted by length, into batches of at most ``budget`` rows (at least one text each).

    Returns
    -------
    list of ndarray of int64
        Example ids of each batch.
    """
    order = np.argsort(row_counts, kind="stable")
    bounds = budget_bounds(row_counts[order], budget)
    return np.split(order, bounds[1:-1]) if len(order) else []


def budget_bounds(rows: np.ndarray, budget: int) -> np.ndarray:
    """Cuts consecutive texts into batches of at most ``budget`` rows (at least one text each).

    Returns
    -------
    ndarray of int64
        Where each batch begins, and the end of the last.
    """
    ends = np.cumsum(rows)
    bounds = [0]
    while bounds[-1] < len(rows):
        begin = bounds[-1]
        before = int(ends[begin - 1]) if begin else 0
        bounds.append(max(begin + 1, int(np.searchsorted(ends, before + budget, side="right"))))
    return np.array(bounds, dtype=np.int64)
