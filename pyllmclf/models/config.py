"""Model configurations: those that Hugging Face writes, and built-in ones by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from reprlib import repr as shortened
from typing import Any

from ..errors import ModelError

SUPPORTED = "GPT-2, BERT, RoBERTa, DistilBERT and ModernBERT"
# Of anything that is counted: token ids are int32.
MOST = 2**31 - 1
# Of ModernBERT, whose configuration says of each layer what it is.
MOST_LAYERS = 10_000
# Name in Hugging Face's configurations -> the approximation of GELU.
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh", "gelu": "none"}


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
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


def _bert(width: int, layers: int, heads: int, vocab_size: int) -> dict[str, Any]:
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


def _roberta(width: int, layers: int, heads: int) -> dict[str, Any]:
    return _bert(width, layers, heads, 50265) | {
        "model_type": "roberta",
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }


def _distilbert(vocab_size: int) -> dict[str, Any]:
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


def _modernbert(width: int, layers: int, heads: int, inner_width: int, pooling: str) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Preset:
    """A built-in configuration and where its pretrained weights are.

    Attributes
    ----------
    config : dict
        As in a Hugging Face config.json.
    hub_id : str or None
        ``None`` where there are no pretrained weights.
    """

    config: dict[str, Any]
    hub_id: str | None


PRESETS: dict[str, Preset] = {
    "gpt2": Preset(_gpt2(768, 12, 12), "openai-community/gpt2"),
    "gpt2-medium": Preset(_gpt2(1024, 24, 16), "openai-community/gpt2-medium"),
    "gpt2-large": Preset(_gpt2(1280, 36, 20), "openai-community/gpt2-large"),
    "gpt2-xl": Preset(_gpt2(1600, 48, 25), "openai-community/gpt2-xl"),
    "bert-base-uncased": Preset(_bert(768, 12, 12, 30522), "google-bert/bert-base-uncased"),
    "bert-base-cased": Preset(_bert(768, 12, 12, 28996), "google-bert/bert-base-cased"),
    "bert-large-uncased": Preset(_bert(1024, 24, 16, 30522), "google-bert/bert-large-uncased"),
    "bert-large-cased": Preset(_bert(1024, 24, 16, 28996), "google-bert/bert-large-cased"),
    "roberta-base": Preset(_roberta(768, 12, 12), "FacebookAI/roberta-base"),
    "roberta-large": Preset(_roberta(1024, 24, 16), "FacebookAI/roberta-large"),
    "distilbert-base-uncased": Preset(_distilbert(30522), "distilbert/distilbert-base-uncased"),
    "distilbert-base-cased": Preset(_distilbert(28996), "distilbert/distilbert-base-cased"),
    "modernbert-base": Preset(_modernbert(768, 22, 12, 1152, "mean"), "answerdotai/ModernBERT-base"),
    "modernbert-large": Preset(_modernbert(1024, 28, 16, 2624, "mean"), "answerdotai/ModernBERT-large"),
    # For tests and the demo; its tokenizer ships with the package.
    "gpt2-nano": Preset(_gpt2(64, 2, 4) | {"vocab_size": 1536, "n_positions": 128}, None),
}


@dataclass(frozen=True)
class ModernBertOptions:
    """What only ModernBERT has.

    Attributes
    ----------
    windows : tuple of (int or None), one for each layer
        Keys on either side of its own that a query sees; ``None``: all.
    rope_theta : tuple of float, one for each layer
        Base of the rotary angles.
    norm_bias, attention_bias, mlp_bias, classifier_bias : bool
    classifier_gelu : {"tanh", "none"}
    """

    windows: tuple[int | None, ...]
    rope_theta: tuple[float, ...]
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    classifier_bias: bool
    classifier_gelu: str


@dataclass(frozen=True)
class ModelConfig:
    """What the engine needs to know of an architecture.

    Attributes
    ----------
    model_type : {"gpt2", "bert", "roberta", "distilbert", "modernbert"}
    vocab_size, n_positions, width, n_layers, n_heads, inner_width : int
    type_vocab_size : int
        0 where there are none.
    gelu : {"tanh", "none"}
    layer_norm_eps, initializer_range : float
    embedding_dropout, attention_dropout, hidden_dropout, head_dropout : float
        As the configuration states them.
    scale_attention : bool
        Whether scores are divided by sqrt(head_dim).
    scale_attention_by_layer : bool
        Whether scores of block ``i`` are divided by ``i + 1`` too.
    position_offset : int
        Row of the position table that a text's first token has.
    pooling : {"first", "mean"} or None
        Which row a classifier reads, where the configuration says so.
    modernbert : ModernBertOptions or None
    raw : dict
        The configuration as it was read, to be written again.
    """

    model_type: str
    vocab_size: int
    n_positions: int
    width: int
    n_layers: int
    n_heads: int
    inner_width: int
    type_vocab_size: int
    gelu: str
    layer_norm_eps: float
    initializer_range: float
    embedding_dropout: float
    attention_dropout: float
    hidden_dropout: float
    head_dropout: float
    scale_attention: bool = True
    scale_attention_by_layer: bool = False
    position_offset: int = 0
    pooling: str | None = None
    modernbert: ModernBertOptions | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head_dim(self) -> int:
        return self.width // self.n_heads

    @property
    def least_parameters(self) -> int:
        """Parameters of the matrices that every architecture has; the model has more."""
        tables = self.vocab_size + self.type_vocab_size + (0 if self.modernbert is not None else self.n_positions)
        return self.width * (tables + self.n_layers * (4 * self.width + 2 * self.inner_width))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], origin: str) -> ModelConfig:
        """Reads a Hugging Face configuration.

        Raises
        ------
        ModelError
            For another architecture, or a variant whose arithmetic differs.
        """
        model_type = raw.get("model_type")
        if model_type == "pyllmclf":  # a classifier that transformers has no class for
            model_type = raw.get("pyllmclf_base_model_type")
        try:
            read = {
                "gpt2": cls._from_gpt2,
                "bert": cls._from_bert,
                "roberta": cls._from_roberta,
                "distilbert": cls._from_distilbert,
                "modernbert": cls._from_modernbert,
            }.get(model_type if isinstance(model_type, str) else "")
            if read is None:
                raise ModelError(f"{origin}: the architecture {model_type!r} is not supported; {SUPPORTED} are.")
            config = read(raw, origin)
        except KeyError as error:
            raise ModelError(f"{origin}: the configuration lacks {error}.") from error
        except (TypeError, AttributeError) as error:
            raise ModelError(f"{origin}: the configuration holds a value of the wrong type ({error}).") from error
        for name in ("vocab_size", "n_positions", "width", "n_layers", "n_heads", "inner_width"):
            if type(value := getattr(config, name)) is not int or not 1 <= value <= MOST:
                raise ModelError(f"{origin}: {name} is {shortened(value)}, not an integer from 1 to {MOST:,}.")
        has_types = config.model_type in ("bert", "roberta")
        if type(value := config.type_vocab_size) is not int or not has_types <= value <= MOST:
            raise ModelError(
                f"{origin}: type_vocab_size is {shortened(value)}, not an integer from {has_types:d} to {MOST:,}."
            )
        for name in ("layer_norm_eps", "initializer_range"):
            if not _is_number(value := getattr(config, name)) or not value > 0:
                raise ModelError(f"{origin}: {name} is {shortened(value)}, not a positive number.")
        for name in ("embedding_dropout", "attention_dropout", "hidden_dropout", "head_dropout"):
            if not _is_number(value := getattr(config, name)) or not 0 <= value < 1:
                raise ModelError(f"{origin}: {name} is {shortened(value)}, not a rate in [0, 1).")
        for name in ("scale_attention", "scale_attention_by_layer"):
            if type(value := getattr(config, name)) is not bool:
                raise ModelError(f"{origin}: {name} is {shortened(value)}, not true or false.")
        if config.width % config.n_heads:
            raise ModelError(f"{origin}: the width {config.width} is not a multiple of {config.n_heads} heads.")
        return config

    @classmethod
    def _from_gpt2(cls, raw: dict[str, Any], origin: str) -> ModelConfig:
        if raw.get("add_cross_attention"):
            raise ModelError(f"{origin}: GPT-2 with cross-attention is not supported.")
        residual = raw.get("resid_pdrop", 0.1)
        return cls(
            model_type="gpt2",
            vocab_size=raw["vocab_size"],
            n_positions=raw.get("n_positions", raw.get("n_ctx", 1024)),
            width=raw["n_embd"],
            n_layers=raw["n_layer"],
            n_heads=raw["n_head"],
            inner_width=raw.get("n_inner") or 4 * raw["n_embd"],
            type_vocab_size=0,
            gelu=_activation(raw.get("activation_function", "gelu_new"), origin),
            layer_norm_eps=raw.get("layer_norm_epsilon", 1e-5),
            initializer_range=raw.get("initializer_range", 0.02),
            embedding_dropout=raw.get("embd_pdrop", 0.1),
            attention_dropout=raw.get("attn_pdrop", 0.1),
            hidden_dropout=residual,
            head_dropout=0.0,  # as GPT2ForSequenceClassification
            scale_attention=raw.get("scale_attn_weights", True),
            scale_attention_by_layer=raw.get("scale_attn_by_inverse_layer_idx", False),
            raw=raw,
        )

    @classmethod
    def _from_bert(cls, raw: dict[str, Any], origin: str) -> ModelConfig:
        if raw.get("position_embedding_type", "absolute") != "absolute":
            raise ModelError(f"{origin}: BERT with {raw['position_embedding_type']} positions is not supported.")
        if raw.get("is_decoder") or raw.get("add_cross_attention"):
            raise ModelError(f"{origin}: BERT as a decoder is not supported.")
        hidden = raw.get("hidden_dropout_prob", 0.1)
        head = raw.get("classifier_dropout")
        return cls(
            model_type="bert",
            vocab_size=raw["vocab_size"],
            n_positions=raw.get("max_position_embeddings", 512),
            width=raw["hidden_size"],
            n_layers=raw["num_hidden_layers"],
            n_heads=raw["num_attention_heads"],
            inner_width=raw["intermediate_size"],
            type_vocab_size=raw.get("type_vocab_size", 2),
            gelu=_activation(raw.get("hidden_act", "gelu"), origin),
            layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
            initializer_range=raw.get("initializer_range", 0.02),
            embedding_dropout=hidden,
            attention_dropout=raw.get("attention_probs_dropout_prob", 0.1),
            hidden_dropout=hidden,
            head_dropout=hidden if head is None else head,
            raw=raw,
        )

    @classmethod
    def _from_roberta(cls, raw: dict[str, Any], origin: str) -> ModelConfig:
        padding = raw.get("pad_token_id", 1)
        if not isinstance(padding, int) or padding < 0:
            raise ModelError(f"{origin}: pad_token_id is {padding!r}; RoBERTa counts positions from behind it.")
        bert = cls._from_bert({"max_position_embeddings": 514, "layer_norm_eps": 1e-12} | raw, origin)
        offset = padding + 1
        return replace(
            bert, model_type="roberta", position_offset=offset, n_positions=bert.n_positions - offset, raw=raw
        )

    @classmethod
    def _from_distilbert(cls, raw: dict[str, Any], origin: str) -> ModelConfig:
        hidden = raw.get("dropout", 0.1)
        return cls(
            model_type="distilbert",
            vocab_size=raw["vocab_size"],
            n_positions=raw.get("max_position_embeddings", 512),
            width=raw["dim"],
            n_layers=raw["n_layers"],
            n_heads=raw["n_heads"],
            inner_width=raw["hidden_dim"],
            type_vocab_size=0,
            gelu=_activation(raw.get("activation", "gelu"), origin),
            layer_norm_eps=1e-12,  # as the architecture has it; its configuration doesn't say
            initializer_range=raw.get("initializer_range", 0.02),
            embedding_dropout=hidden,
            attention_dropout=raw.get("attention_dropout", 0.1),
            hidden_dropout=hidden,
            head_dropout=raw.get("seq_classif_dropout", 0.2),
            raw=raw,
        )

    @classmethod
    def _from_modernbert(cls, raw: dict[str, Any], origin: str) -> ModelConfig:
        pooling = raw.get("classifier_pooling", "cls")
        if pooling not in ("cls", "mean"):
            raise ModelError(f"{origin}: classifier_pooling is {pooling!r}; 'cls' and 'mean' are supported.")
        return cls(
            model_type="modernbert",
            vocab_size=raw["vocab_size"],
            n_positions=raw.get("max_position_embeddings", 8192),
            width=raw["hidden_size"],
            n_layers=raw["num_hidden_layers"],
            n_heads=raw["num_attention_heads"],
            inner_width=raw["intermediate_size"],
            type_vocab_size=0,
            gelu=_activation(raw.get("hidden_activation", "gelu"), origin),
            layer_norm_eps=raw.get("norm_eps", 1e-5),
            initializer_range=raw.get("initializer_range", 0.02),
            embedding_dropout=raw.get("embedding_dropout", 0.0),
            attention_dropout=raw.get("attention_dropout", 0.0),
            hidden_dropout=raw.get("mlp_dropout", 0.0),
            head_dropout=raw.get("classifier_dropout", 0.0),
            pooling="first" if pooling == "cls" else "mean",
            modernbert=_modernbert_options(raw, origin),
            raw=raw,
        )


def _modernbert_options(raw: dict[str, Any], origin: str) -> ModernBertOptions:
    layers = raw["num_hidden_layers"]
    if type(layers) is not int or not 0 < layers <= MOST_LAYERS:
        raise ModelError(f"{origin}: n_layers is {shortened(layers)}, not an integer from 1 to {MOST_LAYERS:,}.")
    every = raw.get("global_attn_every_n_layers", 3)
    if type(every) is not int or every < 1:
        raise ModelError(f"{origin}: global_attn_every_n_layers is {shortened(every)}, not a positive integer.")
    kinds = raw.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    theta = {}
    for kind, old_name, default in (
        ("full_attention", "global_rope_theta", 160000.0),
        ("sliding_attention", "local_rope_theta", 10000.0),
    ):
        # transformers 5 writes rope_parameters, its predecessors a number for each kind.
        parameters = (raw.get("rope_parameters") or {}).get(kind) or {}
        if parameters.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
            raise ModelError(f"{origin}: ModernBERT with scaled rotary positions is not supported.")
        theta[kind] = parameters.get("rope_theta", raw.get(old_name, default))
        if not _is_number(theta[kind]) or not theta[kind] > 0:
            raise ModelError(f"{origin}: the base of {kind}'s rotary positions is {shortened(theta[kind])}.")
    if len(kinds) != layers or not set(kinds) <= set(theta):
        raise ModelError(f"{origin}: layer_types doesn't say of each layer whether it is full or sliding attention.")
    window = raw.get("local_attention", 128)
    if type(window) is not int or window < 2:
        raise ModelError(f"{origin}: local_attention is {shortened(window)}, not a number of tokens.")
    flags = {name: raw.get(name, False) for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")}
    for name, value in flags.items():
        if type(value) is not bool:
            raise ModelError(f"{origin}: {name} is {shortened(value)}, not true or false.")
    return ModernBertOptions(
        windows=tuple(window // 2 if kind == "sliding_attention" else None for kind in kinds),
        rope_theta=tuple(theta[kind] for kind in kinds),
        **flags,
        classifier_gelu=_activation(raw.get("classifier_activation", "gelu"), origin),
    )


def _is_number(value: object) -> bool:
    """Whether it is one that a float can be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _activation(name: str, origin: str) -> str:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelError(f"{origin}: the activation {name!r} is not supported; {', '.join(ACTIVATIONS)} are.")
    return ACTIVATIONS[name]
