"""ModernBERT (Warner et al. 2024) on packed rows.

One layer, with x of shape [total, width]; the first has no attn_norm:

    x = x + Wo(attention(rotary(Wqkv(attn_norm(x)))))
    a, b = halves of Wi(mlp_norm(x))
    x = x + Wo(gelu(a) * b)

Two of three layers see a window around each token alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..config import ModelConfig, ModernBertOptions
from ..layers import Context, Embedding, LayerNorm, Linear, PooledRows, in_dtype, self_attention


def _options(config: ModelConfig) -> ModernBertOptions:
    assert config.modernbert is not None
    return config.modernbert


def _norm(config: ModelConfig) -> LayerNorm:
    return LayerNorm(config.width, config.layer_norm_eps, bias=_options(config).norm_bias)


class ModernBertEmbeddings(nn.Module):
    """Tokens alone: positions are the attention's."""

    no_positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = Embedding(config.vocab_size, config.width)
        self.norm = _norm(config)
        # The op adds a row for each position: here the same row of zeros.
        self.register_buffer("no_positions", torch.zeros(1, config.width), persistent=False)

    def forward(self, context: Context) -> Tensor:
        ids = context.batch.input_ids
        x = ops.embedding_layer_norm(
            ids,
            torch.zeros_like(ids),
            self.tok_embeddings.weight,
            self.no_positions,
            None,
            self.norm.weight,
            self.norm.bias,
            self.norm.eps,
        )
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)


class ModernBertAttention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        options = _options(config)
        bias = options.attention_bias
        self.Wqkv = Linear(config.width, 3 * config.width, layer=layer, site=LORA, bias=bias)
        self.Wo = Linear(config.width, config.width, layer=layer, site=LORA + 1, bias=bias)
        self.heads, self.layer, self.scale = config.n_heads, layer, config.head_dim**-0.5
        side = options.windows[layer]
        self.window = None if side is None else (side, side)
        self.turned: dict[str, Any] = {"head_dim": config.head_dim, "theta": options.rope_theta[layer]}

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        positions = context.batch.positions
        how: dict[str, Any] = {
            "heads": self.heads,
            "scale": self.scale,
            "layer": self.layer,
            "window": self.window,
        }
        if pooled is None:
            if context.shared is not None:
                positions = context.shared.computed(positions)
            qkv = ops.rotary(self.Wqkv(x, context), positions, heads=2 * self.heads, **self.turned)
            out = self_attention(qkv, context, **how)
        else:
            q, kv = self.Wqkv.query_key_value(x, context, pooled)
            q = ops.rotary(q, pooled.context.batch.positions, heads=self.heads, **self.turned)
            k, v = ops.rotary(kv, positions, heads=self.heads, **self.turned).chunk(2, dim=1)
            out = self_attention((q, k, v), context, pooled=pooled, **how)
            context = pooled.context
        return context.drop(self.Wo(out, context), context.rates.attention, self.layer, ATTENTION_OUTPUT)


class ModernBertMLP(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        bias = _options(config).mlp_bias
        self.Wi = Linear(config.width, 2 * config.inner_width, layer=layer, site=LORA + 2, bias=bias)
        self.Wo = Linear(config.inner_width, config.width, layer=layer, site=LORA + 3, bias=bias)
        self.gelu, self.layer = config.gelu, layer

    def forward(self, x: Tensor, context: Context) -> Tensor:
        activated, gate = self.Wi(x, context).chunk(2, dim=1)
        inner = ops.gelu(activated, None, self.gelu) * gate
        return self.Wo(context.drop(inner, context.rates.hidden, self.layer, MLP_OUTPUT), context)


class ModernBertLayer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = _norm(config) if layer > 0 else nn.Identity()
        self.attn = ModernBertAttention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = ModernBertMLP(config, layer)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """All rows, or the pooled ones of them."""
        attended = self.attn(self.attn_norm(x), context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        normed, x = self.mlp_norm.add(attended, x)
        return x + self.mlp(normed, context)


class ModernBertPredictionHead(nn.Module):
    """norm(gelu(dense(x))) of the pooled rows; belongs to the classifier."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        options = _options(config)
        self.dense = Linear(config.width, config.width, layer=config.n_layers, site=LORA, bias=options.classifier_bias)
        self.norm = _norm(config)
        self.gelu = options.classifier_gelu

    def forward(self, x: Tensor, context: Context) -> Tensor:
        dense = self.dense(x, context, add_bias=False)
        return self.norm(ops.gelu(dense, in_dtype(self.dense.bias, x.dtype), self.gelu))


class ModernBert(nn.Module):
    """Embeddings, layers, final norm; :meth:`embed`, :attr:`blocks`, :meth:`finish`, :meth:`pooled` in that order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertLayer(config, layer) for layer in range(config.n_layers))
        self.final_norm = _norm(config)
        self.prediction_head = ModernBertPredictionHead(config)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """What has parameters between the last layer and the head."""
        return [self.final_norm, self.prediction_head]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """What has parameters in the embedding, in each layer, and behind them."""
        return [[self.embeddings], *([layer] for layer in self.layers), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Rows before the first layer, shape [total, width]."""
        return self.embeddings(context)

    def finish(self, x: Tensor) -> Tensor:
        """What follows the last layer for each row."""
        return self.final_norm(x)

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """What follows pooling, shape [texts, width]."""
        return self.prediction_head(x, context)
