"""The state of one forward pass: the batch, the attention mask, dropout, and the rows that pooling reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..data.packing import PackedBatch, SharedRows
from ..ops.philox import DropoutKey
from .pooling import Pooling


def hidden_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Dtype of the hidden states of a computation in ``dtype``.

    On a CPU, bfloat16 is the dtype of the matmuls' operands alone: the matmuls take the time, and hidden states in fp32
    cost little.
    """
    return torch.float32 if dtype is torch.bfloat16 and device.type == "cpu" else dtype


@dataclass(frozen=True)
class DropoutRates:
    """Dropout probability at each site in training, in [0, 1); ``lora`` is that of the input of low-rank products."""

    embedding: float = 0.0
    attention: float = 0.0
    hidden: float = 0.0
    head: float = 0.0
    lora: float = 0.0

    @property
    def any(self) -> bool:
        """Whether a rate is not 0."""
        return any((self.embedding, self.attention, self.hidden, self.head, self.lora))


@dataclass(frozen=True)
class DropoutState:
    """Dropout of one training step.

    Attributes
    ----------
    rates : DropoutRates
    seed, step : int
        The key of the masks' generator; see :mod:`pyllmclf.ops.philox`.
    """

    rates: DropoutRates
    seed: int
    step: int


@dataclass(frozen=True)
class Context:
    """One forward pass.

    Attributes
    ----------
    batch : PackedBatch
    causal : bool
        Whether attention has a causal mask.
    dropout : DropoutState, optional
        Set in training only.
    dtype : torch.dtype
        Dtype of the hidden states.
    operands : torch.dtype, optional
        Dtype that the operands of matmuls are rounded to, as for :func:`pyllmclf.ops.linear`.
    shared : SharedRows, optional
        The distinct rows of the batch. Where it is set, blocks take and return these rows alone.
    layer : int
        Added to the layer's number in dropout masks: the block's, where all blocks are the same modules.
    attention : callable, optional
        Replaces :func:`pyllmclf.ops.attention`. Takes q, k and v, each [rows, heads, head_dim], and the keywords
        ``causal``, ``scale``, ``window`` and, where scores depend on distances, ``relative``; returns
        [rows, heads * head_dim].
    memo : dict
        What layers compute of the batch alone, once for all of them; contexts made of this one have it, too.
    """

    batch: PackedBatch
    causal: bool
    dropout: DropoutState | None = None
    dtype: torch.dtype = torch.float32
    operands: torch.dtype | None = None
    shared: SharedRows | None = None
    layer: int = 0
    attention: Callable[..., Tensor] | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def make(cls, batch: PackedBatch, causal: bool, dropout: DropoutState | None, dtype: torch.dtype) -> Context:
        """A pass that computes in ``dtype``; see :func:`hidden_dtype`."""
        hidden = hidden_dtype(dtype, batch.positions.device)
        return cls(batch, causal, dropout, hidden, operands=None if hidden is dtype else dtype)

    @property
    def rates(self) -> DropoutRates:
        """The dropout rates of this pass, all 0 outside of training."""
        return self.dropout.rates if self.dropout is not None else DropoutRates()

    @cached_property
    def row_example_ids(self) -> Tensor:
        """Example id of each row, int64, shape [total]."""
        sizes = self.batch.cu_seqlens.diff().long()
        return self.batch.example_ids.repeat_interleave(sizes, output_size=len(self.batch.positions))

    def key(self, layer: int, site: int) -> DropoutKey:
        """Key of the dropout mask at a site (:mod:`pyllmclf.ops.philox`) of a layer; in training only."""
        assert self.dropout is not None
        return DropoutKey(
            seed=self.dropout.seed,
            step=self.dropout.step,
            layer=self.layer + layer,
            site=site,
            example_ids=self.batch.example_ids,
            row_example_ids=self.row_example_ids,
            row_positions=self.batch.positions,
        )

    def drop(self, x: Tensor, p: float, layer: int, site: int) -> Tensor:
        """Dropout with probability ``p`` of x [total, channels], with the mask of a site of a layer."""
        return x if p == 0.0 else ops.dropout(x, p, self.key(layer, site))

    def at_layer(self, layer: int) -> Context:
        """The context of a block that has the parameters of others."""
        return replace(self, layer=layer)


@dataclass(frozen=True)
class PooledRows:
    """The one row per text that pooling reads: after its keys and values, the last block computes these rows only.

    Attributes
    ----------
    index : int64 tensor, shape [texts]
        Index of each text's row in the batch.
    context : Context
        Context of these rows alone, at their positions in the texts: they get the dropout masks that they have among
        all rows.
    """

    index: Tensor
    context: Context

    @classmethod
    def of(cls, context: Context, pooling: Pooling) -> PooledRows | None:
        """The rows that a pooling reads of a batch; ``None`` where it reads all of them."""
        batch = context.batch
        if pooling.rows is None:
            return None
        index = pooling.rows(batch.cu_seqlens, batch.lengths)
        positions = batch.positions.index_select(0, index)
        return cls(index, replace(context, batch=batch.one_row_each(positions), shared=None))

    def __call__(self, x: Tensor) -> Tensor:
        """These rows, shape [texts, width], of x [total, width]."""
        return x.index_select(0, self.index)
