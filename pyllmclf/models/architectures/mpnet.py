"""MPNet (Song et al. 2020) on packed rows: BERT's layers, and a bias of each distance that all layers share.

One layer, with x of shape [total, width] and a bias for each head and bucket of distances:

    x = LayerNorm(x + o(softmax(q(x) k(x)ᵀ / sqrt(head_dim) + bias) v(x)))
    x = LayerNorm(x + dense(gelu(dense(x))))
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...data.tokenizers import LibraryTokenizer, Vocabulary, as_library_tokenizer
from ...errors import ModelError
from ...ops.philox import ATTENTION_OUTPUT, EMBEDDING, LORA, MLP_OUTPUT
from ..architecture import Architecture, Preset
from ..config import ModelConfig, check_count
from ..context import Context, PooledRows
from ..layers import Embedding, LayerNorm, Linear, in_dtype
from ..relative_attention import Distances, PositionTerms, relative_self_attention
from .bert import BertIntermediate, BertOutput, sizes
from .bert import read_config as read_bert_config
from .roberta import Roberta

# Buckets and the distance from which on they are all one: constants of the architecture, whatever its configuration
# says of the table's size.
BUCKETS, FARTHEST = 32, 128
# Positions are counted from the row behind the padding token's, whatever its id is.
OFFSET = 2


@dataclass(frozen=True)
class MPNetOptions:
    """The field of a configuration that only MPNet has: the number of rows of the table of biases."""

    bias_rows: int


def bucket_of(distance: Tensor) -> Tensor:
    """Bucket of each distance, as T5 has them (Raffel et al. 2020, section 2.1): half for keys behind the query.

    Of each half, one half are single distances, and the others grow as the logarithm of the distance.
    """
    half, single = BUCKETS // 2, BUCKETS // 4
    far = distance.abs()
    # In fp32 and truncated: the bits of the published models' buckets.
    steps = torch.log(far.clamp(min=1).float() / single) / math.log(FARTHEST / single) * (half - single)
    grown = (single + steps.long()).clamp(max=half - 1)
    return torch.where(far < single, far, grown) + half * (distance > 0)


class MPNetEmbeddings(nn.Module):
    """norm(word + position embedding)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.width)
        self.position_embeddings = Embedding(config.n_positions + OFFSET, config.width)
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps)

    def forward(self, context: Context) -> Tensor:
        """Embeddings of the batch's tokens, shape [total, width], after dropout."""
        ids, table = self.word_embeddings.read(context.batch)
        x = ops.embedding_layer_norm(
            ids,
            context.batch.positions + OFFSET,
            table,
            self.position_embeddings.weight,
            None,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            self.LayerNorm.eps,
        )
        return context.drop(x.to(context.dtype), context.rates.embedding, 0, EMBEDDING)


class MPNetSelfAttention(nn.Module):
    """o(attention(q(x), k(x), v(x))) with the bias of the distances."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.q = Linear(config.width, config.width, layer=layer, site=LORA)
        self.k = Linear(config.width, config.width, layer=layer, site=LORA + 1)
        self.v = Linear(config.width, config.width, layer=layer, site=LORA + 2)
        self.o = Linear(config.width, config.width, layer=layer, site=LORA + 3)
        self.heads, self.layer, self.scale = config.n_heads, layer, config.head_dim**-0.5

    def forward(self, x: Tensor, terms: PositionTerms, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        q = self.q(x, context) if pooled is None else self.q(pooled(x), pooled.context)
        options: dict[str, Any] = {"heads": self.heads, "scale": self.scale, "layer": self.layer, "pooled": pooled}
        out = relative_self_attention(q, self.k(x, context), self.v(x, context), terms, context, **options)
        return self.o(out, context if pooled is None else pooled.context)


class MPNetAttention(nn.Module):
    """norm(x + drop(attention(x)))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn = MPNetSelfAttention(config, layer)
        self.LayerNorm = LayerNorm(config.width, config.layer_norm_eps)
        self.layer = layer

    def forward(self, x: Tensor, terms: PositionTerms, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        out = self.attn(x, terms, context, pooled)
        if pooled is not None:
            x, context = pooled(x), pooled.context
        return self.LayerNorm.add(context.drop(out, context.rates.hidden, self.layer, ATTENTION_OUTPUT), x)[0]


class MPNetLayer(nn.Module):
    """One transformer block: attention, then the MLP."""

    def __init__(self, config: ModelConfig, layer: int, distances: Distances, bias: Embedding) -> None:
        super().__init__()
        self.attention = MPNetAttention(config, layer)
        self.intermediate = BertIntermediate(config, layer)
        self.output = BertOutput(config, config.inner_width, layer, LORA + 5, MLP_OUTPUT)
        self.gelu = config.gelu
        # In a tuple: they belong to all layers.
        self._shared = distances, bias

    def forward(self, x: Tensor, context: Context, pooled: PooledRows | None = None) -> Tensor:
        """The block's output, shape [total, width], or [texts, width] with ``pooled``, of x [total, width]."""
        distances, bias = self._shared
        terms = PositionTerms(distances.buckets, in_dtype(bias.weight, torch.float32).t())
        x = self.attention(x, terms, context, pooled)
        context = context if pooled is None else pooled.context
        inner = self.intermediate(x, context)
        return self.output(
            self.output.dense.after_gelu(inner, self.intermediate.dense.bias, self.gelu, context), x, context
        )


class MPNetEncoder(nn.Module):
    """The list of layers and their bias of the distances, under Hugging Face's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.relative_attention_bias = Embedding(config.options.bias_rows, config.n_heads)
        self.distances = Distances(config.n_positions, bucket_of)
        shared = self.distances, self.relative_attention_bias
        self.layer = nn.ModuleList(MPNetLayer(config, layer, *shared) for layer in range(config.n_layers))


class MPNet(Roberta):
    """Embeddings and layers; the dense layer before the head belongs to the classifier."""

    def _add_layers(self, config: ModelConfig) -> None:
        self.embeddings = MPNetEmbeddings(config)
        self.encoder = MPNetEncoder(config)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each layer, and after the layers.

        The bias of the distances belongs to no layer; it is trained and frozen with the embedding.
        """
        embedding, *others = super().stages
        return [[*embedding, self.encoder.relative_attention_bias], *others]


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads MPNet's ``config.json``; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        If there are fewer buckets of distances than the architecture has, and where BERT's reader raises it.
    """
    bert = read_bert_config(raw, origin)
    rows = raw.get("relative_attention_num_buckets", BUCKETS)
    check_count("relative_attention_num_buckets", rows, origin, least=BUCKETS)
    if type(bert.n_positions) is not int or bert.n_positions <= OFFSET:
        raise ModelError(f"{origin}: max_position_embeddings is {bert.n_positions!r}; it must be above {OFFSET}.")
    return replace(
        bert,
        model_type="mpnet",
        type_vocab_size=0,
        n_positions=bert.n_positions - OFFSET,
        position_offset=OFFSET,
        head_dropout=bert.hidden_dropout,
        options=MPNetOptions(rows),
        raw=raw,
    )


def _wordpiece(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    """BERT's rules with RoBERTa's special tokens, from a ``vocab.txt``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    path = folder / "vocab.txt"
    try:
        vocab = models.WordPiece.read_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path}: not a WordPiece vocabulary ({error}).") from error
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    if missing := [token for token in special if token not in vocab]:
        raise ModelError(f"{path}: the vocabulary lacks {missing[0]}.")
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*special[:-1], AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]))
    return as_library_tokenizer(tokenizer, folder, {"pad_token": "<pad>"} | config, **rules)


BASE = sizes(768, 12, 12, 30527) | {
    "model_type": "mpnet",
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-5,
    "relative_attention_num_buckets": 32,
    "pad_token_id": 1,
}

ARCHITECTURE = Architecture(
    model_type="mpnet",
    title="MPNet",
    backbone=MPNet,
    class_name="MPNetForSequenceClassification",
    read_config=read_config,
    prefix="mpnet.",
    head="classifier.out_proj",
    prediction_head="classifier.dense",
    unneeded=re.compile(r"embeddings\.position_ids|lm_head\..*|pooler\..*"),
    vocabulary=Vocabulary(("vocab.txt",), _wordpiece),
    presets={
        "mpnet-base": Preset(BASE, "microsoft/mpnet-base"),
        "all-mpnet-base-v2": Preset(BASE, "sentence-transformers/all-mpnet-base-v2"),
    },
)
