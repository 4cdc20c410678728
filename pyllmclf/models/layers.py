"""The layers that the architectures are made of. Parameters carry Hugging Face's names."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .. import ops
from ..data.packing import PackedBatch, SharedRows
from ..ops.philox import ATTENTION, DropoutKey
from ..ops.schedule import PooledSchedule, pooled_schedule
from .pooling import Pooling


@dataclass(frozen=True)
class DropoutRates:
    """Share of elements dropped at each site in training; ``lora`` is the input of low-rank layers."""

    embedding: float = 0.0
    attention: float = 0.0
    hidden: float = 0.0
    head: float = 0.0
    lora: float = 0.0

    @property
    def any(self) -> bool:
        return any((self.embedding, self.attention, self.hidden, self.head, self.lora))


@dataclass(frozen=True)
class DropoutState:
    """Makes dropout active: rates and the numbers that masks are a function of."""

    rates: DropoutRates
    seed: int
    step: int


@dataclass(frozen=True)
class Context:
    """One forward pass: the batch, whether attention is causal, dropout in training, and the dtype of the rows.

    With ``shared``, blocks get these rows of the batch instead of all. ``attention`` takes the place of the op: called
    with q, k and v [rows, heads, head_dim], ``causal``, ``scale`` and ``window``, it returns [rows, heads * head_dim].
    """

    batch: PackedBatch
    causal: bool
    dropout: DropoutState | None = None
    dtype: torch.dtype = torch.float32
    shared: SharedRows | None = None
    attention: Callable[..., Tensor] | None = None

    @property
    def rates(self) -> DropoutRates:
        return self.dropout.rates if self.dropout is not None else DropoutRates()

    @cached_property
    def row_example_ids(self) -> Tensor:
        """Example of each row, int64, shape [total]."""
        sizes = self.batch.cu_seqlens.diff().long()
        return self.batch.example_ids.repeat_interleave(sizes, output_size=len(self.batch.positions))

    def key(self, layer: int, site: int) -> DropoutKey:
        """Key of the dropout mask at a site."""
        assert self.dropout is not None
        return DropoutKey(
            seed=self.dropout.seed,
            step=self.dropout.step,
            layer=layer,
            site=site,
            example_ids=self.batch.example_ids,
            row_example_ids=self.row_example_ids,
            row_positions=self.batch.positions,
        )

    def drop(self, x: Tensor, p: float, layer: int, site: int) -> Tensor:
        """Dropout of packed rows [total, channels]."""
        return x if p == 0.0 else ops.dropout(x, p, self.key(layer, site))


# Casts of frozen parameters, each with the state of the parameter that it was made in; gone with the parameter.
_kept_casts: MutableMapping[Tensor, tuple[tuple[int, int, torch.device, torch.dtype], Tensor]] = WeakIdKeyDictionary()


@overload
def in_dtype(parameter: nn.Parameter, dtype: torch.dtype) -> Tensor: ...
@overload
def in_dtype(parameter: nn.Parameter | None, dtype: torch.dtype) -> Tensor | None: ...


def in_dtype(parameter: nn.Parameter | None, dtype: torch.dtype) -> Tensor | None:
    """A parameter, which is kept in fp32, in the dtype of the computation.

    A trained one is cast each time, and its gradient comes back in fp32; of a frozen one, the cast is kept until the
    parameter is written to (other than by ``.data``, which torch does not count), moved, or trained.
    """
    if parameter is None:
        return None
    if parameter.requires_grad:
        _kept_casts.pop(parameter, None)  # the fused optimizer's writes are not counted
    if parameter.dtype == dtype:
        return parameter
    if parameter.requires_grad or parameter.is_inference():
        return parameter.to(dtype)
    state = parameter._version, parameter.data_ptr(), parameter.device, dtype
    kept = _kept_casts.get(parameter)
    if kept is None or kept[0] != state:
        # Not an inference tensor, which later training could not use.
        with torch.inference_mode(False), torch.no_grad():
            kept = _kept_casts[parameter] = state, parameter.to(dtype)
    return kept[1]


class Linear(nn.Module):
    """y = x Wᵀ + b, with a low-rank addition once :meth:`add_lora` was called.

    The weight has shape [out, in], for GPT-2 too; uninitialised until weights are loaded or drawn.
    """

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, layer: int = 0, site: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.layer, self.site = layer, site  # of the dropout mask before lora_a
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)
        self.scaling = 0.0

    def add_lora(self, rank: int, scaling: float, generator: torch.Generator) -> None:
        """Adds A [rank, in], drawn as PEFT draws it (Kaiming uniform, a = sqrt 5), and B [out, rank], zero."""
        outputs, inputs = self.weight.shape
        a = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        device = self.weight.device
        self.lora_a = nn.Parameter(a.to(device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.scaling = scaling

    def merge_lora(self) -> None:
        """Adds s B A to the weight and removes A and B."""
        if self.lora_a is None or self.lora_b is None:
            return
        with torch.no_grad():
            self.weight.add_(self.lora_b @ self.lora_a, alpha=self.scaling)
        self.lora_a = self.lora_b = None

    def forward(self, x: Tensor, context: Context, *, add_bias: bool = True) -> Tensor:
        """x Wᵀ + b, or without b where the next op adds it."""
        if self.lora_a is not None:
            return self._adapted(x, context, add_bias=add_bias)
        weight, bias = in_dtype(self.weight, x.dtype), in_dtype(self.bias if add_bias else None, x.dtype)
        return ops.linear(x, weight, bias)

    def query_key_value(self, x: Tensor, context: Context, pooled: PooledRows) -> tuple[Tensor, Tensor]:
        """As the fused projection of attention: (queries of the pooled rows, keys and values of all)."""
        if self.lora_a is None:
            weight, bias = in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype)
            return ops.query_key_value(x, pooled.index, weight, bias)
        width = len(self.weight) // 3
        return (
            self._adapted(pooled(x), pooled.context, slice(0, width)),
            self._adapted(x, context, slice(width, None)),
        )

    def whole_weight(self, dtype: torch.dtype) -> Tensor:
        """W + s B A, where nothing is dropped before A."""
        if self.lora_a is None or self.lora_b is None:
            return in_dtype(self.weight, dtype)
        return torch.addmm(self.weight, self.lora_b, self.lora_a, alpha=self.scaling).to(dtype)

    def _adapted(self, x: Tensor, context: Context, outputs: slice | None = None, *, add_bias: bool = True) -> Tensor:
        """All or some of the outputs, with the low-rank addition."""
        assert self.lora_a is not None and self.lora_b is not None
        weight, lora_b = in_dtype(self.weight, x.dtype), in_dtype(self.lora_b, x.dtype)
        bias = in_dtype(self.bias if add_bias else None, x.dtype)
        if outputs is not None:
            weight, lora_b = weight[outputs], lora_b[outputs]
            bias = None if bias is None else bias[outputs]
        p = context.rates.lora
        return ops.lora_linear(
            x,
            weight,
            bias,
            in_dtype(self.lora_a, x.dtype),
            lora_b,
            scaling=self.scaling,
            dropout_p=p,
            dropout_key=context.key(self.layer, self.site) if p > 0.0 else None,
        )

    def after_gelu(self, x: Tensor, x_bias: nn.Parameter | None, approximate: str, context: Context) -> Tensor:
        """The layer on GELU(x + x_bias)."""
        bias_before = in_dtype(x_bias, x.dtype)
        if self.lora_a is None:
            weight, bias = in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype)
            return ops.gelu_linear(x, bias_before, weight, bias, approximate)
        return self(ops.gelu(x, bias_before, approximate), context)


class LayerNorm(nn.Module):
    """Layer normalisation with weight and bias; without the latter, zeros are added."""

    bias: nn.Parameter

    def __init__(self, width: int, eps: float, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        if bias:
            self.bias = nn.Parameter(torch.empty(width))
        else:
            self.register_buffer("bias", torch.zeros(width), persistent=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype), self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual)."""
        return ops.layer_norm(x, in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype), self.eps, residual)


class Embedding(nn.Module):
    """A table of vectors; :func:`pyllmclf.ops.embedding` reads it."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))


@dataclass(frozen=True)
class PooledRows:
    """The one row of each text that is read: behind keys and values, the last block computes no other.

    Attributes
    ----------
    index : int64 tensor, shape [texts]
        Among the rows of the batch.
    context : Context
        Of these rows alone, at their positions in their texts: dropout masks are those of all rows' computation.
    """

    index: Tensor
    context: Context

    @classmethod
    def of(cls, context: Context, pooling: Pooling) -> PooledRows | None:
        """``None`` where all rows are read."""
        batch = context.batch
        if pooling.rows is None:
            return None
        index = pooling.rows(batch.cu_seqlens, batch.lengths)
        positions = batch.positions.index_select(0, index)
        return cls(index, replace(context, batch=batch.one_row_each(positions)))

    def __call__(self, x: Tensor) -> Tensor:
        """These rows of x [total, width]."""
        return x.index_select(0, self.index)


def self_attention(
    qkv: Tensor | tuple[Tensor, Tensor, Tensor],
    context: Context,
    *,
    heads: int,
    scale: float,
    layer: int,
    window: tuple[int, int] | None = None,
    pooled: PooledRows | None = None,
) -> Tensor:
    """Attention of all rows, shape [total, width], or of the pooled ones, shape [texts, width].

    ``qkv`` is a fused projection of shape [total, 3 width], or q, k and v of shape [total, width]; with ``pooled``, q
    has the pooled rows. Where the context's rows are shared, what comes and what is returned are these.
    """
    if (shared := context.shared) is not None:
        # Attention is cheap beside the matmuls: it gets all rows again.
        if isinstance(qkv, Tensor):
            qkv = shared.all(qkv)
        else:
            q, k, v = qkv
            qkv = shared.all(q), shared.all(k), shared.all(v)
        context = replace(context, shared=None)
        return shared.computed(self_attention(qkv, context, heads=heads, scale=scale, layer=layer, window=window))
    batch = context.batch
    if context.attention is not None:
        parts = qkv.chunk(3, dim=1) if isinstance(qkv, Tensor) else qkv
        by_head = (t.unflatten(1, (heads, -1)) for t in parts)
        return context.attention(*by_head, causal=context.causal, scale=scale, window=window)
    p = context.rates.attention
    key = context.key(layer, ATTENTION) if p > 0.0 else None
    if isinstance(qkv, Tensor):
        return ops.attention_packed(
            qkv,
            batch.cu_seqlens,
            batch.max_seqlen,
            heads=heads,
            causal=context.causal,
            scale=scale,
            window=window,
            dropout_p=p,
            dropout_key=key,
            schedule=batch.schedule,
        )
    q, k, v = (t.unflatten(1, (heads, -1)) for t in qkv)
    queries = batch if pooled is None else pooled.context.batch
    out = ops.attention(
        q,
        k,
        v,
        queries.cu_seqlens,
        batch.cu_seqlens,
        queries.max_seqlen,
        batch.max_seqlen,
        causal=context.causal,
        query_positions=None if pooled is None else queries.positions,
        scale=scale,
        window=window,
        dropout_p=p,
        dropout_key=key,
        schedule=batch.schedule if pooled is None else _pooled_schedule(context),
    )
    return out.flatten(1)


def _pooled_schedule(context: Context) -> PooledSchedule | None:
    return pooled_schedule(context.batch.schedule, causal=context.causal)


def pooled_self_attention(
    x: Tensor,
    layers: Sequence[Linear],
    context: Context,
    pooled: PooledRows,
    *,
    heads: int,
    scale: float,
    layer: int,
) -> Tensor:
    """Attention of the pooled rows, shape [texts, width].

    ``layers`` project x [total, width] to queries, keys and values: one fused layer, or three.
    """
    adapted = any(linear.lora_a is not None for linear in layers)
    if adapted and (context.rates.lora > 0.0 or not ops.avoids_keys(x, len(pooled.index), heads)):
        # Where rows are dropped from before the low-rank part, keys and values are no product of one matrix; where they
        # are computed, adding to them is cheaper than adding to the weights.
        if len(layers) == 1:
            q, kv = layers[0].query_key_value(x, context, pooled)
            k, v = kv.chunk(2, dim=1)
        else:
            query, key, value = layers
            q, k, v = query(pooled(x), pooled.context), key(x, context), value(x, context)
        return self_attention((q, k, v), context, heads=heads, scale=scale, layer=layer, pooled=pooled)
    batch = context.batch
    p = context.rates.attention
    return ops.pooled_attention(
        x,
        pooled.index,
        [linear.whole_weight(x.dtype) for linear in layers],
        [in_dtype(linear.bias, x.dtype) for linear in layers],
        batch.cu_seqlens,
        batch.max_seqlen,
        pooled.context.batch.positions,
        heads=heads,
        causal=context.causal,
        scale=scale,
        dropout_p=p,
        dropout_key=context.key(layer, ATTENTION) if p > 0.0 else None,
        schedule=_pooled_schedule(context),
    )
