"""ModernBERT (Warner et al. 2024) on packed rows.

One layer, with x of shape [total, width]; the first has no attn_norm:

    x = x + Wo(attention(rotary(Wqkv(attn_norm(x)))))
    a, b = halves of Wi(mlp_norm(x))
    x = x + Wo(gelu(a) * b)

In two of three layers a token attends only to a window around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import ModelError
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..architecture import Architecture, Preset
from ..attention import self_attention
from ..config import ModelConfig, activation, check_flag, is_number, layer_count
from ..context import Context, PooledRows
from ..layers import Embedding, LayerNorm, Linear, in_dtype
from ..pooling import POOLINGS
from ..rotary import Rotary, RotaryPositions, base_frequencies


@dataclass(frozen=True)
class ModernBertOptions:
    """The fields of a configuration that only ModernBERT has.

    Attributes
    ----------
    windows : tuple of (int or None), one for each layer
        Number of keys on either side of its own position that a query sees; ``None`` is all.
    rope_theta : tuple of float, one for each layer
        Base of the rotary angles (Su et al. 2021).
    norm_bias, attention_bias, mlp_bias, classifier_bias : bool
    classifier_gelu : {"tanh", "none"}
        Formula of GELU in the classifier's layer.
    """

    windows: tuple[int | None, ...]
    rope_theta: tuple[float, ...]
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    classifier_bias: bool
    classifier_gelu: str


def _options(config: ModelConfig) -> ModernBertOptions:
    assert isinstance(config.options, ModernBertOptions)
    return config.options


def _norm(config: ModelConfig) -> LayerNorm:
    return LayerNorm(config.width, config.layer_norm_eps, bias=_options(config).norm_bias)


class ModernBertEmbeddings(nn.Module):
    """norm(token embedding); positions enter in attention."""

    no_positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tok_embeddings = Embedding(config.vocab_size, config.width)
        self.norm = _norm(config)
        # The op adds a row per position, here always the same row of zeros.
        self.register_buffer("no_positions", torch.zeros(1, config.width), persistent=False)

    def forward(self, context: Context) -> Tensor:
        """Embeddings of the batch's tokens, shape [total, width], after dropout."""
        ids, table = self.tok_embeddings.read(context.batch)
        x = ops.embedding_layer_norm(
            ids,
            torch.zeros_like(ids),
            table,
            self.no_positions,
            None,
            self.norm.weight,
            self.norm.bias,
            self.norm.eps,
        )
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)


class ModernBertAttention(nn.Module):
    """drop(Wo(attention(rotary(Wqkv(x))))), in a window or on the whole text."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        options = _options(config)
        bias = options.attention_bias
        self.Wqkv = Linear(config.width, 3 * config.width, layer=layer, site=LORA, bias=bias)
        self.Wo = Linear(config.width, config.width, layer=layer, site=LORA + 1, bias=bias)
        self.projections = (self.Wqkv,)
        self.heads, self.layer, self.scale = config.n_heads, layer, config.head_dim**-0.5
        side = options.windows[layer]
        self.window = None if side is None else (side, side)
        self.rotary = RotaryPositions(Rotary(base_frequencies(options.rope_theta[layer], config.head_dim)))

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        options: dict[str, Any] = {
            "heads": self.heads,
            "scale": self.scale,
            "layer": self.layer,
            "window": self.window,
        }
        if pooled is None:
            qkv = self.rotary(self.Wqkv(x, context), context, 2 * self.heads)
            out = self_attention(qkv, context, **options)
        else:
            q, kv = self.Wqkv.query_key_value(x, context, pooled)
            q = self.rotary(q, pooled.context, self.heads)
            k, v = self.rotary(kv, context, self.heads).chunk(2, dim=1)
            out = self_attention((q, k, v), context, pooled=pooled, **options)
            context = pooled.context
        return context.drop(self.Wo(out, context), context.rates.attention, self.layer, ATTENTION_OUTPUT)


class ModernBertMLP(nn.Module):
    """Wo(drop(gelu(a) * b)), where a and b are the halves of Wi(x) (GeGLU, Shazeer 2020)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        bias = _options(config).mlp_bias
        self.Wi = Linear(config.width, 2 * config.inner_width, layer=layer, site=LORA + 2, bias=bias)
        self.Wo = Linear(config.inner_width, config.width, layer=layer, site=LORA + 3, bias=bias)
        self.activation = {"tanh": "gelu_tanh", "none": "gelu"}[config.gelu]
        self.layer = layer

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [rows, width], of x [rows, width]."""
        a, b = self.Wi(x, context).chunk(2, dim=1)
        if context.rates.hidden == 0.0:
            return self.Wo.after_gate(a, b, self.activation, context)
        inner = ops.gated(a, b, self.activation)
        return self.Wo(context.drop(inner, context.rates.hidden, self.layer, MLP_OUTPUT), context)


class ModernBertLayer(nn.Module):
    """One transformer block: attention, then the MLP, each after a norm; the first block's attention has none."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = _norm(config) if layer > 0 else nn.Identity()
        self.attn = ModernBertAttention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = ModernBertMLP(config, layer)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        attended = self.attn(self.attn_norm(x), context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        normed, x = self.mlp_norm.add(attended, x)
        return x + self.mlp(normed, context)


class ModernBertPredictionHead(nn.Module):
    """norm(gelu(dense(x))) on the pooled rows; belongs to the classifier."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        options = _options(config)
        self.dense = Linear(config.width, config.width, layer=config.n_layers, site=LORA, bias=options.classifier_bias)
        self.norm = _norm(config)
        self.gelu = options.classifier_gelu

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [texts, width], of x [texts, width]."""
        dense = self.dense(x, context, add_bias=False)
        return self.norm(ops.gelu(dense, in_dtype(self.dense.bias, x.dtype), self.gelu))


class ModernBert(nn.Module):
    """Embeddings, layers and final norm; implements :class:`pyllmclf.models.architecture.Backbone`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertLayer(config, layer) for layer in range(config.n_layers))
        self.final_norm = _norm(config)
        self.prediction_head = ModernBertPredictionHead(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.layers

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last layer and the head."""
        return [self.final_norm, self.prediction_head]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each layer, and after the layers."""
        return [[self.embeddings], *([layer] for layer in self.layers), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first layer, shape [total, width]."""
        return self.embeddings(context)

    def finish(self, x: Tensor) -> Tensor:
        """The final norm, shape [rows, width], of x [rows, width]."""
        return self.final_norm(x)

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """The prediction head's output, shape [texts, width], of the pooled rows x [texts, width]."""
        return self.prediction_head(x, context)


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads ModernBERT's ``config.json``, of transformers 4 or 5; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For scaled rotary positions, an unknown pooling, and malformed values of :class:`ModernBertOptions`.
    """
    pooling = raw.get("classifier_pooling", "cls")
    poolings = {each.huggingface: each.name for each in POOLINGS.values() if each.huggingface is not None}
    if not isinstance(pooling, str) or pooling not in poolings:
        raise ModelError(
            f"{origin}: classifier_pooling is {shortened(pooling)}; {' and '.join(map(repr, poolings))} are supported."
        )
    return ModelConfig(
        model_type="modernbert",
        vocab_size=raw["vocab_size"],
        n_positions=raw.get("max_position_embeddings", 8192),
        width=raw["hidden_size"],
        n_layers=raw["num_hidden_layers"],
        n_heads=raw["num_attention_heads"],
        inner_width=raw["intermediate_size"],
        type_vocab_size=0,
        gelu=activation(raw.get("hidden_activation", "gelu"), origin),
        layer_norm_eps=raw.get("norm_eps", 1e-5),
        initializer_range=raw.get("initializer_range", 0.02),
        embedding_dropout=raw.get("embedding_dropout", 0.0),
        attention_dropout=raw.get("attention_dropout", 0.0),
        hidden_dropout=raw.get("mlp_dropout", 0.0),
        head_dropout=raw.get("classifier_dropout", 0.0),
        pooling=poolings[pooling],
        options=_read_options(raw, origin),
        raw=raw,
    )


def _read_options(raw: dict[str, Any], origin: str) -> ModernBertOptions:
    layers = layer_count(raw["num_hidden_layers"], origin)
    every = raw.get("global_attn_every_n_layers", 3)
    if type(every) is not int or every < 1:
        raise ModelError(f"{origin}: global_attn_every_n_layers is {shortened(every)}, not a positive integer.")
    kinds = raw.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    theta = {}
    for kind, old_name, default in (
        ("full_attention", "global_rope_theta", 160000.0),
        ("sliding_attention", "local_rope_theta", 10000.0),
    ):
        # transformers 5 writes rope_parameters; version 4 writes a number for each kind of attention.
        parameters = (raw.get("rope_parameters") or {}).get(kind) or {}
        if parameters.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
            raise ModelError(f"{origin}: ModernBERT with scaled rotary positions is not supported.")
        theta[kind] = parameters.get("rope_theta", raw.get(old_name, default))
        if not is_number(theta[kind]) or not theta[kind] > 0:
            raise ModelError(
                f"{origin}: the base of {kind}'s rotary positions is {shortened(theta[kind])}, not a positive number."
            )
    if len(kinds) != layers or not set(kinds) <= set(theta):
        raise ModelError(
            f"{origin}: layer_types must name full_attention or sliding_attention for each of {layers} layers."
        )
    window = raw.get("local_attention", 128)  # tokens in all, both sides together
    if type(window) is not int or window < 2:
        raise ModelError(f"{origin}: local_attention is {shortened(window)}, not a number of tokens.")
    flags = {name: raw.get(name, False) for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")}
    for name, value in flags.items():
        check_flag(name, value, origin)
    return ModernBertOptions(
        windows=tuple(window // 2 if kind == "sliding_attention" else None for kind in kinds),
        rope_theta=tuple(theta[kind] for kind in kinds),
        **flags,
        classifier_gelu=activation(raw.get("classifier_activation", "gelu"), origin),
    )


def _sizes(width: int, layers: int, heads: int, inner_width: int, pooling: str) -> dict[str, Any]:
    return {
        "model_type": "modernbert",
        "vocab_size": 50368,
        "max_position_embeddings": 8192,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner_width,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "initializer_range": 0.02,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "classifier_pooling": pooling,
    }


ARCHITECTURE = Architecture(
    model_type="modernbert",
    title="ModernBERT",
    backbone=ModernBert,
    class_name="ModernBertForSequenceClassification",
    read_config=read_config,
    prefix="model.",
    head="classifier",
    prediction_head="head",
    saved_modules=("head", "classifier"),
    unneeded=re.compile(r"decoder\..*"),
    residual_projections=("Wo",),
    position_table=False,
    poolings=("first", "mean"),
    configures_pooling=True,
    presets={
        "modernbert-base": Preset(_sizes(768, 22, 12, 1152, "mean"), "answerdotai/ModernBERT-base"),
        "modernbert-large": Preset(_sizes(1024, 28, 16, 2624, "mean"), "answerdotai/ModernBERT-large"),
    },
)
