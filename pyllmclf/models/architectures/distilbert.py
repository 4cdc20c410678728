"""DistilBERT (Sanh et al. 2019) on packed rows: BERT's layers under other names, without token types and pooler.

One layer, with x of shape [total, width]:

    x = sa_layer_norm(x + out_lin(attention(q_lin(x), k_lin(x), v_lin(x))))
    x = output_layer_norm(x + lin2(gelu(lin1(x))))
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from ... import ops
from ...data.tokenizers import WORDPIECE
from ...ops.philox import EMBEDDING, LORA, MLP_OUTPUT
from ..architecture import Architecture, Preset
from ..attention import pooled_self_attention, self_attention
from ..config import ModelConfig, activation
from ..context import Context, PooledRows
from ..layers import Embedding, LayerNorm, Linear


class DistilBertEmbeddings(nn.Module):
    """norm(word + position embedding)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.width)
        self.position_embeddings = Embedding(config.n_positions, config.width)
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps)

    def forward(self, context: Context) -> Tensor:
        """Embeddings of the batch's tokens, shape [total, width], after dropout."""
        ids, table = self.word_embeddings.read(context.batch)
        x = ops.embedding_layer_norm(
            ids,
            context.batch.positions,
            table,
            self.position_embeddings.weight,
            None,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            self.LayerNorm.eps,
        )
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)


class DistilBertAttention(nn.Module):
    """out_lin(attention(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.q_lin = Linear(config.width, config.width, layer=layer, site=LORA)
        self.k_lin = Linear(config.width, config.width, layer=layer, site=LORA + 1)
        self.v_lin = Linear(config.width, config.width, layer=layer, site=LORA + 2)
        self.out_lin = Linear(config.width, config.width, layer=layer, site=LORA + 3)
        self.projections = self.q_lin, self.k_lin, self.v_lin
        self.heads, self.layer, self.scale = config.n_heads, layer, config.head_dim**-0.5

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        options: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer}
        if pooled is not None:
            return self.out_lin(pooled_self_attention(x, self.projections, context, pooled, **options), pooled.context)
        q, k, v = (linear(x, context) for linear in self.projections)
        return self.out_lin(self_attention((q, k, v), context, **options), context)


class DistilBertFFN(nn.Module):
    """drop(lin2(gelu(lin1(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.lin1 = Linear(config.width, config.inner_width, layer=layer, site=LORA + 4)
        self.lin2 = Linear(config.inner_width, config.width, layer=layer, site=LORA + 5)
        self.gelu, self.layer = config.gelu, layer

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [rows, width], of x [rows, width]."""
        inner = self.lin1(x, context, add_bias=False)
        out = self.lin2.after_gelu(inner, self.lin1.bias, self.gelu, context)
        return context.drop(out, context.rates.hidden, self.layer, MLP_OUTPUT)


class DistilBertLayer(nn.Module):
    """One transformer block: attention, then the MLP."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = DistilBertAttention(config, layer)
        self.sa_layer_norm = LayerNorm(config.width, config.layer_norm_eps)
        self.ffn = DistilBertFFN(config, layer)
        self.output_layer_norm = LayerNorm(config.width, config.layer_norm_eps)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        attended = self.attention(x, context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        x = self.sa_layer_norm.add(attended, x)[0]
        return self.output_layer_norm.add(self.ffn(x, context), x)[0]


class DistilBertTransformer(nn.Module):
    """The list of layers, under Hugging Face's name."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(DistilBertLayer(config, layer) for layer in range(config.n_layers))


class DistilBert(nn.Module):
    """Embeddings and layers; implements :class:`pyllmclf.models.architecture.Backbone`.

    The dense layer before the head belongs to the classifier.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = DistilBertEmbeddings(config)
        self.transformer = DistilBertTransformer(config)
        self.prediction_head = Linear(config.width, config.width, layer=config.n_layers, site=LORA)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.transformer.layer

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last layer and the head."""
        return [self.prediction_head]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each layer, and after the layers."""
        return [[self.embeddings], *([layer] for layer in self.blocks), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first layer, shape [total, width]."""
        return self.embeddings(context)

    def finish(self, x: Tensor) -> Tensor:
        """x itself: the last norm is inside the last layer."""
        return x

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """relu(prediction_head(x)), shape [texts, width], of the pooled rows x [texts, width]."""
        return self.prediction_head(x, context).relu()


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads DistilBERT's ``config.json``; see :attr:`Architecture.read_config`."""
    hidden = raw.get("dropout", 0.1)
    return ModelConfig(
        model_type="distilbert",
        vocab_size=raw["vocab_size"],
        n_positions=raw.get("max_position_embeddings", 512),
        width=raw["dim"],
        n_layers=raw["n_layers"],
        n_heads=raw["n_heads"],
        inner_width=raw["hidden_dim"],
        type_vocab_size=0,
        gelu=activation(raw.get("activation", "gelu"), origin),
        layer_norm_eps=1e-12,  # a constant of the architecture, absent from its configurations
        initializer_range=raw.get("initializer_range", 0.02),
        embedding_dropout=hidden,
        attention_dropout=raw.get("attention_dropout", 0.1),
        hidden_dropout=hidden,
        head_dropout=raw.get("seq_classif_dropout", 0.2),
        raw=raw,
    )


def _sizes(vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "distilbert",
        "vocab_size": vocab_size,
        "max_position_embeddings": 512,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "activation": "gelu",
        "initializer_range": 0.02,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
    }


ARCHITECTURE = Architecture(
    model_type="distilbert",
    title="DistilBERT",
    backbone=DistilBert,
    class_name="DistilBertForSequenceClassification",
    read_config=read_config,
    prefix="distilbert.",
    head="classifier",
    prediction_head="pre_classifier",
    saved_modules=("pre_classifier", "classifier"),
    unneeded=re.compile(r"vocab_(transform|layer_norm|projector)\..*|embeddings\.position_ids"),
    vocabulary=WORDPIECE,
    presets={
        "distilbert-base-uncased": Preset(_sizes(30522), "distilbert/distilbert-base-uncased"),
        "distilbert-base-cased": Preset(_sizes(28996), "distilbert/distilbert-base-cased"),
    },
)
