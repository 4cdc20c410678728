"""GPT-2 (Radford et al. 2019) on packed rows.

One block, with x of shape [total, width]:

    x = x + c_proj(attention(c_attn(ln_1(x))))
    x = x + c_proj(gelu(c_fc(ln_2(x))))
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from ... import ops
from ...data.tokenizers import GPT2_BYTE_PAIRS, TiktokenTokenizer, sample_tokenizer
from ...errors import ModelError
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..architecture import Architecture, Preset
from ..attention import pooled_self_attention, self_attention
from ..config import ModelConfig, activation
from ..context import Context, PooledRows
from ..layers import Embedding, LayerNorm, Linear


class GPT2Attention(nn.Module):
    """drop(c_proj(attention(c_attn(x)))), where c_attn gives queries, keys and values."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.c_attn = Linear(config.width, 3 * config.width, layer=layer, site=LORA)
        self.c_proj = Linear(config.width, config.width, layer=layer, site=LORA + 1)
        self.projections = (self.c_attn,)
        self.heads, self.layer = config.n_heads, layer
        self.scale = config.head_dim**-0.5 if config.scale_attention else 1.0
        if config.scale_attention_by_layer:
            self.scale /= layer + 1

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        options: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer}
        if pooled is None:
            out = self_attention(self.c_attn(x, context), context, **options)
        else:
            out = pooled_self_attention(x, self.projections, context, pooled, **options)
            context = pooled.context
        return context.drop(self.c_proj(out, context), context.rates.hidden, self.layer, ATTENTION_OUTPUT)


class GPT2MLP(nn.Module):
    """drop(c_proj(gelu(c_fc(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.c_fc = Linear(config.width, config.inner_width, layer=layer, site=LORA + 2)
        self.c_proj = Linear(config.inner_width, config.width, layer=layer, site=LORA + 3)
        self.gelu, self.layer = config.gelu, layer

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [rows, width], of x [rows, width]."""
        inner = self.c_fc(x, context, add_bias=False)
        out = self.c_proj.after_gelu(inner, self.c_fc.bias, self.gelu, context)
        return context.drop(out, context.rates.hidden, self.layer, MLP_OUTPUT)


class GPT2Block(nn.Module):
    """One transformer block: attention, then the MLP, each with a norm before it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.width, config.layer_norm_eps)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(config.width, config.layer_norm_eps)
        self.mlp = GPT2MLP(config, layer)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        attended = self.attn(self.ln_1(x), context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        normed, x = self.ln_2.add(attended, x)
        return x + self.mlp(normed, context)


class GPT2(nn.Module):
    """Embeddings, blocks and final norm; implements :class:`pyllmclf.models.architecture.Backbone`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.width)
        self.wpe = Embedding(config.n_positions, config.width)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.n_layers))
        self.ln_f = LayerNorm(config.width, config.layer_norm_eps)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.h

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last block and the head."""
        return [self.ln_f]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each block, and after the blocks."""
        return [[self.wte, self.wpe], *([block] for block in self.h), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first block, shape [total, width]."""
        batch = context.batch
        ids, table = self.wte.read(batch)
        x = ops.embedding(ids, batch.positions, table, self.wpe.weight)
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)

    def finish(self, x: Tensor) -> Tensor:
        """The final norm, shape [rows, width], of x [rows, width]."""
        return self.ln_f(x)

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """x itself: nothing comes between pooling and the head."""
        return x


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads GPT-2's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For cross-attention.
    """
    if raw.get("add_cross_attention"):
        raise ModelError(f"{origin}: GPT-2 with cross-attention is not supported.")
    residual = raw.get("resid_pdrop", 0.1)
    return ModelConfig(
        model_type="gpt2",
        vocab_size=raw["vocab_size"],
        n_positions=raw.get("n_positions", raw.get("n_ctx", 1024)),
        width=raw["n_embd"],
        n_layers=raw["n_layer"],
        n_heads=raw["n_head"],
        inner_width=raw.get("n_inner") or 4 * raw["n_embd"],
        type_vocab_size=0,
        gelu=activation(raw.get("activation_function", "gelu_new"), origin),
        layer_norm_eps=raw.get("layer_norm_epsilon", 1e-5),
        initializer_range=raw.get("initializer_range", 0.02),
        embedding_dropout=raw.get("embd_pdrop", 0.1),
        attention_dropout=raw.get("attn_pdrop", 0.1),
        hidden_dropout=residual,
        head_dropout=0.0,  # GPT2ForSequenceClassification has none
        scale_attention=raw.get("scale_attn_weights", True),
        scale_attention_by_layer=raw.get("scale_attn_by_inverse_layer_idx", False),
        raw=raw,
    )


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
    }


def _hub(name: str, width: int, layers: int, heads: int) -> Preset:
    return Preset(_sizes(width, layers, heads), f"openai-community/{name}", TiktokenTokenizer.gpt2)


ARCHITECTURE = Architecture(
    model_type="gpt2",
    title="GPT-2",
    backbone=GPT2,
    class_name="GPT2ForSequenceClassification",
    read_config=read_config,
    prefix="transformer.",
    head="score",
    saved_modules=("score",),
    unneeded=re.compile(r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight|multiple_choice_head\..*"),
    transposed=re.compile(r"(c_attn|c_proj|c_fc)\.weight$"),
    residual_projections=("c_proj",),
    causal=True,
    pooling="last",
    head_bias=False,
    vocabulary=GPT2_BYTE_PAIRS,
    presets={
        "gpt2": _hub("gpt2", 768, 12, 12),
        "gpt2-medium": _hub("gpt2-medium", 1024, 24, 16),
        "gpt2-large": _hub("gpt2-large", 1280, 36, 20),
        "gpt2-xl": _hub("gpt2-xl", 1600, 48, 25),
        # For tests and the demo.
        "gpt2-nano": Preset(_sizes(64, 2, 4) | {"vocab_size": 1536, "n_positions": 128}, None, sample_tokenizer),
    },
)
