"""Decoders of the Llama kind on packed rows: their layers, which each architecture's options vary.

One block, with x of shape [total, width]:

    q, k, v = q_proj(n), k_proj(n), v_proj(n)    with n = input_layernorm(x)
    x = x + o_proj(attention(rotary(q), rotary(k), v))
    x = x + down_proj(act(gate_proj(n)) * up_proj(n))    with n = post_attention_layernorm(x)

Several heads of queries may share a head of keys and values. Qwen3 and Gemma 3 have norms of each head's queries and
keys, Gemma 3 norms after attention and MLP, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from .attention import self_attention
from .config import ModelConfig
from .context import Context, PooledRows
from .layers import Embedding, Linear, RmsNorm
from .rotary import Rotary, RotaryPositions


@dataclass(frozen=True)
class DecoderOptions:
    """The fields of a configuration that only these decoders have.

    Attributes
    ----------
    rotary : tuple of Rotary, one for each layer
    windows : tuple of (int or None), one for each layer
        Number of keys before its own position that a query sees; ``None`` is all.
    activation : {"silu", "gelu_tanh", "gelu"}
        Of the MLP's gate.
    attention_bias, output_bias, mlp_bias : bool
        Biases of the projections to queries, keys and values; of the one behind attention; of the MLP.
    head_norms : bool
        Whether queries and keys have a norm of each head.
    norms_after : bool
        Whether norms follow attention and MLP, too, before their results are added.
    norm_offset : float
        Added to the weights of the norms.
    embedding_scale : float
        Factor of the embeddings.
    scale : float
        Factor of the attention's scores.
    """

    rotary: tuple[Rotary, ...]
    windows: tuple[int | None, ...]
    activation: str
    scale: float
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    norms_after: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0


def _options(config: ModelConfig) -> DecoderOptions:
    assert isinstance(config.options, DecoderOptions)
    return config.options


def _norm(config: ModelConfig, width: int | None = None) -> RmsNorm:
    return RmsNorm(width or config.width, config.layer_norm_eps, offset=_options(config).norm_offset)


class DecoderAttention(nn.Module):
    """drop(o_proj(attention(rotary(q_proj(x)), rotary(k_proj(x)), v_proj(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        options = _options(config)
        self.heads, self.kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.head_dim
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        bias: dict[str, Any] = {"layer": layer, "bias": options.attention_bias}
        self.q_proj = Linear(config.width, queries, site=LORA, **bias)
        self.k_proj = Linear(config.width, keys, site=LORA + 1, **bias)
        self.v_proj = Linear(config.width, keys, site=LORA + 2, **bias)
        self.o_proj = Linear(queries, config.width, layer=layer, site=LORA + 3, bias=options.output_bias)
        if options.head_norms:
            self.q_norm, self.k_norm = _norm(config, self.head_dim), _norm(config, self.head_dim)
        self.head_norms, self.layer = options.head_norms, layer
        self.rotary = RotaryPositions(options.rotary[layer])
        before = options.windows[layer]
        window = None if before is None else (before, before)
        self.options: dict[str, Any] = {"heads": self.heads, "scale": options.scale, "layer": layer, "window": window}

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        queries, rows = (context, x) if pooled is None else (pooled.context, pooled(x))
        q, k, v = self.q_proj(rows, queries), self.k_proj(x, context), self.v_proj(x, context)
        if self.head_norms:
            q, k = self.q_norm.by_head(q), self.k_norm.by_head(k)
        q, k = self.rotary(q, queries, self.heads), self.rotary(k, context, self.kv_heads)
        out = self_attention((q, k, v), context, pooled=pooled, **self.options)
        return queries.drop(self.o_proj(out, queries), queries.rates.hidden, self.layer, ATTENTION_OUTPUT)


class DecoderMLP(nn.Module):
    """drop(down_proj(act(gate_proj(x)) * up_proj(x))) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        options = _options(config)
        shared: dict[str, Any] = {"layer": layer, "bias": options.mlp_bias}
        self.gate_proj = Linear(config.width, config.inner_width, site=LORA + 4, **shared)
        self.up_proj = Linear(config.width, config.inner_width, site=LORA + 5, **shared)
        self.down_proj = Linear(config.inner_width, config.width, site=LORA + 6, **shared)
        self.activation, self.layer = options.activation, layer

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [rows, width], of x [rows, width]."""
        gate, up = self.gate_proj(x, context), self.up_proj(x, context)
        out = self.down_proj.after_gate(gate, up, self.activation, context)
        return context.drop(out, context.rates.hidden, self.layer, MLP_OUTPUT)


class DecoderBlock(nn.Module):
    """One transformer block: attention, then the MLP, each after a norm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = DecoderAttention(config, layer)
        self.post_attention_layernorm = _norm(config)
        self.mlp = DecoderMLP(config, layer)
        self.norms_after = _options(config).norms_after
        if self.norms_after:
            self.pre_feedforward_layernorm = _norm(config)
            self.post_feedforward_layernorm = _norm(config)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        attended = self.self_attn(self.input_layernorm(x), context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        if not self.norms_after:
            normed, x = self.post_attention_layernorm.add(attended, x)
            return x + self.mlp(normed, context)
        normed, x = self.pre_feedforward_layernorm.add(self.post_attention_layernorm(attended), x)
        return x + self.post_feedforward_layernorm(self.mlp(normed, context))


class Decoder(nn.Module):
    """Embedding, blocks and final norm; implements :class:`pyllmclf.models.architecture.Backbone`."""

    no_positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(DecoderBlock(config, layer) for layer in range(config.n_layers))
        self.norm = _norm(config)
        self.scale = _options(config).embedding_scale
        # The op adds a row per position, here always the same row of zeros.
        self.register_buffer("no_positions", torch.zeros(1, config.width), persistent=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.layers

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last block and the head."""
        return [self.norm]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each block, and after the blocks."""
        return [[self.embed_tokens], *([block] for block in self.layers), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first block, shape [total, width]."""
        ids, table = self.embed_tokens.read(context.batch)
        x = ops.embedding(ids, torch.zeros_like(ids), table, self.no_positions)
        x = x.to(context.dtype) if self.scale == 1.0 else x.to(context.dtype) * self.scale
        return context.drop(x, context.rates.embedding, 0, EMBEDDING)

    def finish(self, x: Tensor) -> Tensor:
        """The final norm, shape [rows, width], of x [rows, width]."""
        return self.norm(x)

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """x itself: nothing comes between pooling and the head."""
        return x
