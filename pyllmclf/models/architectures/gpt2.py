"""GPT-2 (Radford et al. 2019) on packed rows.

One block, with x of shape [total, width]:

    x = x + c_proj(attention(c_attn(ln_1(x))))
    x = x + c_proj(gelu(c_fc(ln_2(x))))
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ... import ops
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..config import ModelConfig
from ..layers import Context, Embedding, LayerNorm, Linear, PooledRows, pooled_self_attention, self_attention


class GPT2Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.c_attn = Linear(config.width, 3 * config.width, layer=layer, site=LORA)
        self.c_proj = Linear(config.width, config.width, layer=layer, site=LORA + 1)
        self.heads, self.layer = config.n_heads, layer
        self.scale = config.head_dim**-0.5 if config.scale_attention else 1.0
        if config.scale_attention_by_layer:
            self.scale /= layer + 1

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        how: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer}
        if pooled is None:
            out = self_attention(self.c_attn(x, context), context, **how)
        else:
            out = pooled_self_attention(x, [self.c_attn], context, pooled, **how)
            context = pooled.context
        return context.drop(self.c_proj(out, context), context.rates.hidden, self.layer, ATTENTION_OUTPUT)


class GPT2MLP(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.c_fc = Linear(config.width, config.inner_width, layer=layer, site=LORA + 2)
        self.c_proj = Linear(config.inner_width, config.width, layer=layer, site=LORA + 3)
        self.gelu, self.layer = config.gelu, layer

    def forward(self, x: Tensor, context: Context) -> Tensor:
        hidden = self.c_fc(x, context, add_bias=False)
        out = self.c_proj.after_gelu(hidden, self.c_fc.bias, self.gelu, context)
        return context.drop(out, context.rates.hidden, self.layer, MLP_OUTPUT)


class GPT2Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.width, config.layer_norm_eps)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(config.width, config.layer_norm_eps)
        self.mlp = GPT2MLP(config, layer)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """All rows, or the pooled ones of them."""
        attended = self.attn(self.ln_1(x), context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        normed, x = self.ln_2.add(attended, x)
        return x + self.mlp(normed, context)


class GPT2(nn.Module):
    """Embeddings, blocks, final norm; :meth:`embed`, :attr:`blocks`, :meth:`finish` in that order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.width)
        self.wpe = Embedding(config.n_positions, config.width)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.n_layers))
        self.ln_f = LayerNorm(config.width, config.layer_norm_eps)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.h

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """What has parameters between the last block and the head."""
        return [self.ln_f]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """What has parameters in the embedding, in each block, and behind them."""
        return [[self.wte, self.wpe], *([block] for block in self.h), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Rows before the first block, shape [total, width]."""
        batch = context.batch
        x = ops.embedding(batch.input_ids, batch.positions, self.wte.weight, self.wpe.weight)
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)

    def finish(self, x: Tensor) -> Tensor:
        """What follows the last block for each row."""
        return self.ln_f(x)

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """What follows pooling, shape [texts, width]."""
        return x
