"""DeBERTa-v2 and v3 (He et al. 2021) on packed rows: BERT's layers with disentangled attention.

Scores have terms of content and position. With b the bucket of the distance of query i and key j, and r the embeddings
of the buckets:

    S[i, j] = (q[i] · k[j] + q[i] · key(r)[b] + k[j] · query(r)[b]) / sqrt(3 head_dim)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...data.tokenizers import SENTENCE_PIECE_FILE, Vocabulary, bert_like_tokenizer
from ...errors import ModelError
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..architecture import Architecture, Preset
from ..config import ModelConfig, activation, check_count, check_flag
from ..context import Context, PooledRows
from ..layers import Embedding, LayerNorm, Linear, in_dtype
from ..relative_attention import Distances, PositionTerms, relative_self_attention, table_context
from .bert import BertIntermediate, BertOutput, sizes
from .bert import read_config as read_bert_config
from .roberta import Roberta

# Terms of the scores beside that of both contents: of the query's content and a position, and of the key's.
CONTENT_TO_POSITION, POSITION_TO_CONTENT = "c2p", "p2c"

# Bounds the table of distances, which is made for any text.
MOST_POSITIONS = 1 << 20


@dataclass(frozen=True)
class DebertaV2Options:
    """The fields of a configuration that only DeBERTa-v2 has.

    Attributes
    ----------
    terms : tuple of {"c2p", "p2c"}
    span : int
        Buckets on either side of distance 0.
    log_buckets : int
        Buckets on either side where they grow as the logarithm of the distance; 0 where each distance has its own.
    farthest : int
        Distance from which on all are in the last bucket.
    shares_projections : bool
        Whether positions have the projections of contents, or some of their own.
    norm : bool
        Whether a norm follows the embeddings of the buckets.
    positions : bool
        Whether positions are also added to the words.
    pooler_gelu : {"tanh", "none"}
        Formula of GELU in the classifier's layer.
    pooler_dropout : bool
        Whether dropout precedes that layer.
    """

    terms: tuple[str, ...]
    span: int
    log_buckets: int
    farthest: int
    shares_projections: bool
    norm: bool
    positions: bool
    pooler_gelu: str
    pooler_dropout: bool


def _options(config: ModelConfig) -> DebertaV2Options:
    assert isinstance(config.options, DebertaV2Options)
    return config.options


def bucket_of(distance: Tensor, options: DebertaV2Options) -> Tensor:
    """Row of the table of each distance, row of the key less that of the query.

    Half of the buckets are single distances, the others grow as the logarithm of the distance (the published code's
    ``make_log_bucket_position``; fp32, and rounded up).
    """
    behind = -distance
    if options.log_buckets:
        single = options.log_buckets // 2
        far = behind.abs().clamp(min=max(single, 1))
        growth = torch.log(torch.tensor((options.farthest - 1) / single, device="cpu"))
        grown = torch.ceil(torch.log(far / single) / growth * (single - 1)) + single
        behind = torch.where(distance.abs() <= single, behind, behind.sign() * grown.long())
    return (behind + options.span).clamp(0, 2 * options.span - 1)


class DebertaV2Embeddings(nn.Module):
    """norm(projected word, position and type embedding), each of which but the word's may be missing."""

    no_positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_width or config.width
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.position_embeddings = Embedding(config.n_positions, width) if _options(config).positions else None
        self.token_type_embeddings = Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.embed_proj: Linear | None = None
        if config.embedding_width is not None:
            # It belongs to no block, whose sites of dropout it would otherwise share.
            self.embed_proj = Linear(width, config.width, layer=config.n_layers, site=LORA + 1, bias=False)
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps)
        # The op adds a row per position, here always the same row of zeros.
        self.register_buffer("no_positions", torch.zeros(1, width), persistent=False)

    def forward(self, context: Context) -> Tensor:
        """Embeddings of the batch's tokens, shape [total, width], after dropout."""
        (ids, words), positions = self.word_embeddings.read(context.batch), context.batch.positions
        table: Tensor = self.no_positions
        if self.position_embeddings is None:
            positions = torch.zeros_like(ids)
        else:
            table = self.position_embeddings.weight
        types = None if self.token_type_embeddings is None else self.token_type_embeddings.weight
        kinds = context.batch.token_types
        if self.embed_proj is None:
            norm = self.LayerNorm.weight, self.LayerNorm.bias, self.LayerNorm.eps
            x = ops.embedding_layer_norm(ids, positions, words, table, types, *norm, kinds)
        else:
            x = ops.embedding(ids, positions, words, table, types, kinds).to(context.dtype)
            x = self.LayerNorm(self.embed_proj(x, context))
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)


class DebertaV2Positions(nn.Module):
    """Embeddings of the buckets of distances, which all layers share; not registered as a part of any layer."""

    def __init__(self, config: ModelConfig, embeddings: Embedding, norm: LayerNorm | None) -> None:
        super().__init__()
        options = _options(config)
        self.rel_embeddings, self.LayerNorm = embeddings, norm
        self.distances = Distances(config.n_positions, partial(bucket_of, options=options))

    def forward(self, context: Context, layer: int) -> tuple[Tensor, Tensor, Context]:
        """What a layer's projections of positions read.

        Parameters
        ----------
        context : Context
        layer : int

        Returns
        -------
        x : tensor, shape [n_buckets, width]
            Embeddings of the buckets that the batch's distances have, after the layer's dropout.
        buckets : int tensor, shape [2 n_positions - 1]
            Row of ``x`` of each distance.
        context : Context
            Context of these rows.
        """
        buckets, weight = self.distances.buckets, self.rel_embeddings.weight
        # In an exported graph the length is no number.
        rows = range(len(weight)) if context.attention is not None else self.distances.used(context.batch.max_seqlen)
        if len(rows) < len(weight):
            buckets = (buckets - rows.start).clamp(0, len(rows) - 1)
        x = weight[rows.start : rows.stop].to(context.dtype)
        if self.LayerNorm is not None:
            x = self.LayerNorm(x)
        context = table_context(context, rows)
        return context.drop(x, context.rates.hidden, layer, EMBEDDING), buckets, context


class DisentangledSelfAttention(nn.Module):
    """Attention whose scores have terms of content and position."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        options = _options(config)
        shared = options.shares_projections

        def projection(site: int, *, reused: bool = False) -> Linear:
            return Linear(config.width, config.width, layer=layer, site=LORA + site, reused=reused)

        self.c2p, self.p2c = (term in options.terms for term in (CONTENT_TO_POSITION, POSITION_TO_CONTENT))
        self.query_proj = projection(0, reused=shared and self.p2c)
        self.key_proj = projection(1, reused=shared and self.c2p)
        self.value_proj = projection(2)
        self.pos_key_proj = projection(6) if self.c2p and not shared else None
        self.pos_query_proj = projection(7) if self.p2c and not shared else None
        self.heads, self.layer = config.n_heads, layer
        self.scale = (config.head_dim * (1 + len(options.terms))) ** -0.5

    def forward(
        self, x: Tensor, positions: DebertaV2Positions, context: Context, pooled: PooledRows | None = None
    ) -> Tensor:
        """Attention of all rows, shape [total, width], or of the pooled rows, shape [texts, width]."""
        q = self.query_proj(x, context) if pooled is None else self.query_proj(pooled(x), pooled.context)
        k, v = self.key_proj(x, context), self.value_proj(x, context)
        embedded, buckets, of_table = positions(context, self.layer)
        terms = PositionTerms(
            buckets,
            keys=(self.pos_key_proj or self.key_proj)(embedded, of_table) if self.c2p else None,
            queries=(self.pos_query_proj or self.query_proj)(embedded, of_table) if self.p2c else None,
        )
        options: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer}
        return relative_self_attention(q, k, v, terms, context, pooled=pooled, **options)


class DebertaV2Attention(nn.Module):
    """norm(x + drop(dense(attention(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self = DisentangledSelfAttention(config, layer)
        self.output = BertOutput(config, config.width, layer, LORA + 3, ATTENTION_OUTPUT)

    def forward(
        self, x: Tensor, positions: DebertaV2Positions, context: Context, pooled: PooledRows | None = None
    ) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        attended = self.self(x, positions, context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        return self.output(self.output.dense(attended, context), x, context)


class DebertaV2Layer(nn.Module):
    """One transformer block: attention, then the MLP."""

    def __init__(self, config: ModelConfig, layer: int, positions: DebertaV2Positions) -> None:
        super().__init__()
        self.attention = DebertaV2Attention(config, layer)
        self.intermediate = BertIntermediate(config, layer)
        self.output = BertOutput(config, config.inner_width, layer, LORA + 5, MLP_OUTPUT)
        self.gelu = config.gelu
        self._shared = (positions,)  # in a tuple: it belongs to all layers

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        x = self.attention(x, self._shared[0], context, pooled)
        context = context if pooled is None else pooled.context
        inner, bias = self.intermediate(x, context), self.intermediate.dense.bias
        return self.output(self.output.dense.after_gelu(inner, bias, self.gelu, context), x, context)


class DebertaV2Encoder(nn.Module):
    """The list of layers and the embeddings of the distances, under Hugging Face's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        options = _options(config)
        self.rel_embeddings = Embedding(2 * options.span, config.width)
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps) if options.norm else None
        positions = DebertaV2Positions(config, self.rel_embeddings, self.LayerNorm)
        # Registered, so that it moves to another device; its other parts are registered above.
        self.distances = positions.distances
        self.layer = nn.ModuleList(DebertaV2Layer(config, layer, positions) for layer in range(config.n_layers))


class DebertaV2(Roberta):
    """Embeddings and layers; the dense layer before the head belongs to the classifier."""

    def _add_layers(self, config: ModelConfig) -> None:
        self.embeddings = DebertaV2Embeddings(config)
        self.encoder = DebertaV2Encoder(config)
        self.options = _options(config)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each layer, and after the layers.

        The embeddings of the distances belong to no layer; they are trained and frozen with those of the words.
        """
        embedding, *others = super().stages
        of_distances = [self.encoder.rel_embeddings, self.encoder.LayerNorm]
        return [[*embedding, *(module for module in of_distances if module is not None)], *others]

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """gelu(prediction_head(drop(x))), shape [texts, width], of the pooled rows x [texts, width]."""
        if self.options.pooler_dropout:
            x = context.drop(x, context.rates.head, self.n_layers, EMBEDDING)
        dense = self.prediction_head(x, context, add_bias=False)
        return ops.gelu(dense, in_dtype(self.prediction_head.bias, x.dtype), self.options.pooler_gelu)


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads DeBERTa-v2's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For a convolution behind the first layer, layers without relative attention, another dropout before the
        classifier's layer than before its head, malformed values of :class:`DebertaV2Options`, and where BERT's reader
        raises it.
    """
    width, types = raw["hidden_size"], raw.get("type_vocab_size", 0)
    check_count("type_vocab_size", types, origin, least=0)
    bert = read_bert_config(
        {"layer_norm_eps": 1e-7} | raw | {"type_vocab_size": max(types, 1), "position_embedding_type": "absolute"},
        origin,
    )
    head = raw.get("cls_dropout")
    head = bert.hidden_dropout if head is None else head
    if raw.get("conv_kernel_size", 0):
        raise ModelError(f"{origin}: DeBERTa with a convolution (conv_kernel_size) is not supported.")
    for name, value in (("hidden_size", width), ("num_attention_heads", bert.n_heads)):
        check_count(name, value, origin)
    if type(bert.n_positions) is int and bert.n_positions > MOST_POSITIONS:
        raise ModelError(f"{origin}: max_position_embeddings is {bert.n_positions:,}, more than {MOST_POSITIONS:,}.")
    if raw.get("attention_head_size", width // bert.n_heads) != width // bert.n_heads:
        raise ModelError(f"{origin}: attention_head_size other than hidden_size / num_attention_heads is unsupported.")
    if raw.get("pooler_hidden_size", width) != width:
        raise ModelError(f"{origin}: pooler_hidden_size other than hidden_size is not supported.")
    if (pooler_dropout := raw.get("pooler_dropout", 0.0)) not in (0, head):
        raise ModelError(
            f"{origin}: pooler_dropout is {shortened(pooler_dropout)}; 0 and the head's ({head}) are supported."
        )
    narrower = raw.get("embedding_size", width)
    return replace(
        bert,
        model_type="deberta-v2",
        type_vocab_size=types,
        embedding_width=None if narrower == width else narrower,
        head_dropout=head,
        options=_read_options(raw, origin, bert.n_positions, pooler_dropout=pooler_dropout > 0),
        raw=raw,
    )


def _read_options(raw: dict[str, Any], origin: str, n_positions: int, *, pooler_dropout: bool) -> DebertaV2Options:
    flags = {"relative_attention": False, "share_att_key": False, "position_biased_input": True}
    flags = {name: raw.get(name, default) for name, default in flags.items()}
    for name, value in flags.items():
        check_flag(name, value, origin)
    terms = raw.get("pos_att_type") or []
    terms = [term.strip() for term in terms.lower().split("|")] if isinstance(terms, str) else terms
    known = (CONTENT_TO_POSITION, POSITION_TO_CONTENT)
    if not flags["relative_attention"] or not terms or not set(terms) <= set(known):
        raise ModelError(
            f"{origin}: pos_att_type is {shortened(raw.get('pos_att_type'))} and relative_attention "
            f"{flags['relative_attention']}; relative attention with {' or '.join(known)} or both is supported."
        )
    farthest, buckets = raw.get("max_relative_positions", -1), raw.get("position_buckets", -1)
    for name, value in (("max_relative_positions", farthest), ("position_buckets", buckets)):
        check_count(name, value, origin, least=-1)
    farthest, buckets = farthest if farthest > 0 else n_positions, max(buckets, 0)
    if buckets and not 4 <= buckets < 2 * (farthest - 1):
        raise ModelError(
            f"{origin}: position_buckets is {buckets}; it must be at least 4, and below twice "
            f"max_relative_positions - 1 ({farthest - 1})."
        )
    norms = raw.get("norm_rel_ebd", "none")
    if not isinstance(norms, str):
        raise ModelError(f"{origin}: norm_rel_ebd is {shortened(norms)}, not a string.")
    return DebertaV2Options(
        terms=tuple(term for term in known if term in terms),
        span=buckets or farthest,
        log_buckets=buckets,
        farthest=farthest,
        shares_projections=flags["share_att_key"],
        norm="layer_norm" in [each.strip() for each in norms.lower().split("|")],
        positions=flags["position_biased_input"],
        pooler_gelu=activation(raw.get("pooler_hidden_act", "gelu"), origin),
        pooler_dropout=pooler_dropout,
    )


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    return sizes(width, layers, heads, 128100) | {
        "model_type": "deberta-v2",
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": True,
        "max_relative_positions": -1,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "pad_token_id": 0,
    }


ARCHITECTURE = Architecture(
    model_type="deberta-v2",
    title="DeBERTa-v2",
    backbone=DebertaV2,
    class_name="DebertaV2ForSequenceClassification",
    read_config=read_config,
    prefix="deberta.",
    head="classifier",
    prediction_head="pooler.dense",
    saved_modules=("pooler", "classifier"),
    unneeded=re.compile(
        r"embeddings\.position_(ids|embeddings\.weight)|(lm_predictions|mask_predictions|cls|lm_head)\..*"
    ),
    vocabulary=Vocabulary((SENTENCE_PIECE_FILE,), bert_like_tokenizer),
    presets={
        "deberta-v3-small": Preset(_sizes(768, 6, 12), "microsoft/deberta-v3-small"),
        "deberta-v3-base": Preset(_sizes(768, 12, 12), "microsoft/deberta-v3-base"),
        "deberta-v3-large": Preset(_sizes(1024, 24, 16), "microsoft/deberta-v3-large"),
    },
)
