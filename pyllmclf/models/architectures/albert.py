"""ALBERT (Lan et al. 2020) on packed rows: one layer of BERT's kind, applied n_layers times, behind a narrow embedding.

x = embedding_hidden_mapping_in(norm(word + position + type embedding))
n_layers times:
    x = norm(x + dense(attention(query(x), key(x), value(x))))
    x = norm(x + ffn_output(gelu(ffn(x))))
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...errors import ModelError
from ...ops.philox import ATTENTION_OUTPUT, LORA
from ..architecture import Architecture, Preset
from ..attention import pooled_self_attention, self_attention
from ..config import ModelConfig
from ..context import Context, PooledRows
from ..layers import LayerNorm, Linear
from .bert import BertEmbeddings, sizes
from .bert import read_config as read_bert_config


def _linear(inputs: int, outputs: int, site: int) -> Linear:
    """A linear layer of the block, at a site of its number 0, to which the context adds the block's."""
    return Linear(inputs, outputs, layer=0, site=LORA + site, reused=True)


class AlbertAttention(nn.Module):
    """norm(x + drop(dense(attention(x))))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (_linear(config.width, config.width, i) for i in range(4))
        self.projections = self.query, self.key, self.value
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps)
        self.heads, self.scale = config.n_heads, config.head_dim**-0.5

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        options: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": 0}
        if pooled is None:
            q, k, v = (linear(x, context) for linear in self.projections)
            attended = self_attention((q, k, v), context, **options)
        else:
            attended = pooled_self_attention(x, self.projections, context, pooled, **options)
            x, context = pooled(x), pooled.context
        out = context.drop(self.dense(attended, context), context.rates.hidden, 0, ATTENTION_OUTPUT)
        return self.LayerNorm.add(out, x)[0]


class AlbertLayer(nn.Module):
    """The layer that all blocks share: attention, then the MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = AlbertAttention(config)
        self.ffn = _linear(config.width, config.inner_width, 4)
        self.ffn_output = _linear(config.inner_width, config.width, 5)
        self.full_layer_layer_norm = LayerNorm(config.width, config.layer_norm_eps)
        self.gelu = config.gelu

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        x = self.attention(x, context, pooled)
        context = context if pooled is None else pooled.context
        inner = self.ffn(x, context, add_bias=False)
        return self.full_layer_layer_norm.add(self.ffn_output.after_gelu(inner, self.ffn.bias, self.gelu, context), x)[
            0
        ]


class AlbertBlock(nn.Module):
    """One application of the shared layer, with dropout masks of its own."""

    def __init__(self, layer: AlbertLayer, number: int) -> None:
        super().__init__()
        self.layer, self.number = layer, number

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        if pooled is not None:
            pooled = replace(pooled, context=pooled.context.at_layer(self.number))
        return self.layer(x, context.at_layer(self.number), pooled)


class AlbertLayerGroup(nn.Module):
    """A list of one layer, under Hugging Face's name."""

    def __init__(self, layer: AlbertLayer) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList([layer])


class AlbertEncoder(nn.Module):
    """The projection of the embedding and the shared layer, under Hugging Face's names."""

    def __init__(self, config: ModelConfig, layer: AlbertLayer) -> None:
        super().__init__()
        # It belongs to no block, whose sites of dropout it would otherwise share.
        options: dict[str, Any] = {"layer": config.n_layers, "site": LORA + 1}
        self.embedding_hidden_mapping_in = Linear(config.embedding_width or config.width, config.width, **options)
        self.albert_layer_groups = nn.ModuleList([AlbertLayerGroup(layer)])


class Albert(nn.Module):
    """Embeddings, the shared layer and pooler; implements :class:`pyllmclf.models.architecture.Backbone`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        layer = AlbertLayer(config)
        self.encoder = AlbertEncoder(config, layer)
        self.pooler = Linear(config.width, config.width, layer=config.n_layers, site=LORA)
        # In a tuple: the parameters have one name each.
        self._blocks = (nn.ModuleList(AlbertBlock(layer, number) for number in range(config.n_layers)),)

    @property
    def blocks(self) -> nn.ModuleList:
        """The applications of the shared layer."""
        return self._blocks[0]

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last block and the head."""
        return [self.pooler]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of the first block alone, and after the blocks."""
        embedding = [self.embeddings, self.encoder.embedding_hidden_mapping_in]
        others: list[list[nn.Module]] = [[] for _ in range(len(self.blocks) - 1)]
        return [embedding, [self.encoder.albert_layer_groups], *others, self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first block, shape [total, width]."""
        return self.encoder.embedding_hidden_mapping_in(self.embeddings(context), context)

    def finish(self, x: Tensor) -> Tensor:
        """x itself: the last norm is inside the last block."""
        return x

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """tanh(pooler(x)), shape [texts, width], of the pooled rows x [texts, width]."""
        return self.pooler(x, context).tanh()


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads ALBERT's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        If there is more than one layer with parameters of its own, and where BERT's reader raises it.
    """
    for name in ("num_hidden_groups", "inner_group_num"):
        if raw.get(name, 1) != 1:
            raise ModelError(f"{origin}: ALBERT with {name}={raw[name]!r} is not supported; 1 is.")
    defaults = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = read_bert_config(defaults | raw, origin)
    return replace(
        bert,
        model_type="albert",
        embedding_width=raw.get("embedding_size", 128),
        head_dropout=raw.get("classifier_dropout_prob", 0.1),
        raw=raw,
    )


def _sizes(width: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    return (
        sizes(width, layers, heads, 30000)
        | {
            "model_type": "albert",
            "embedding_size": 128,
            "hidden_act": "gelu_new",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "classifier_dropout_prob": 0.1,
        }
        | others
    )


ARCHITECTURE = Architecture(
    model_type="albert",
    pretrained_pooler=True,
    shares_layers=True,
    title="ALBERT",
    backbone=Albert,
    class_name="AlbertForSequenceClassification",
    read_config=read_config,
    prefix="albert.",
    head="classifier",
    unneeded=re.compile(r"embeddings\.position_ids|(predictions|sop_classifier)\..*"),
    presets={
        "albert-base-v2": Preset(_sizes(768, 12, 12), "albert/albert-base-v2"),
        "albert-large-v2": Preset(_sizes(1024, 24, 16), "albert/albert-large-v2"),
    },
)
