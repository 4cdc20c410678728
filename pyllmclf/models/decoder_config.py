"""Reads the configurations of decoders of the Llama kind, and what their architectures have in common."""

from __future__ import annotations

import re
from reprlib import repr as shortened
from typing import Any

from ..errors import ModelError
from .config import ModelConfig, check_count, is_number, layer_count
from .decoder import Decoder
from .rotary import Rotary, read_rotary

# Hugging Face's name -> that of pyllmclf.ops.gated.
GATES = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu": "gelu"}

# What their classifiers in transformers have in common: the last token's row, and a head without bias.
DECODER: dict[str, Any] = {
    "backbone": Decoder,
    "prefix": "model.",
    "head": "score",
    "saved_modules": ("score",),
    "unneeded": re.compile(r"lm_head\.weight|(layers\.\d+\.self_attn\.)?rotary_emb\..*"),
    "residual_projections": ("o_proj", "down_proj"),
    "position_table": False,
    "causal": True,
    "pooling": "last",
    "head_bias": False,
}

KINDS = ("full_attention", "sliding_attention")


def decoder_config(
    raw: dict[str, Any], origin: str, *, n_positions: int, head_dim: int | None = None, kv_heads: int | None = None
) -> ModelConfig:
    """Reads the fields that all these decoders have; the architecture adds its options.

    Parameters
    ----------
    raw : dict
        Content of a ``config.json``.
    origin : str
        Its path, for messages.
    n_positions, head_dim, kv_heads : int
        Where the configuration does not say; ``None`` are ``hidden_size / num_attention_heads`` and
        ``num_attention_heads``.

    Raises
    ------
    ModelError
        If the number of layers is no count.
    """
    layer_count(raw["num_hidden_layers"], origin)
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    own = raw.get("head_dim", head_dim)
    config = ModelConfig(
        model_type=raw["model_type"],
        vocab_size=raw["vocab_size"],
        n_positions=raw.get("max_position_embeddings", n_positions),
        width=width,
        n_layers=raw["num_hidden_layers"],
        n_heads=heads,
        inner_width=raw["intermediate_size"],
        type_vocab_size=0,
        gelu="none",
        layer_norm_eps=raw.get("rms_norm_eps", 1e-6),
        initializer_range=raw.get("initializer_range", 0.02),
        embedding_dropout=0.0,
        attention_dropout=raw.get("attention_dropout", 0.0),
        hidden_dropout=0.0,
        head_dropout=0.0,
        n_kv_heads=raw.get("num_key_value_heads", kv_heads),
        own_head_dim=own,
        raw=raw,
    )
    for name, value in (("num_attention_heads", heads), ("hidden_size", width), ("head_dim", config.own_head_dim or 2)):
        check_count(name, value, origin)
    if config.head_dim % 2:
        raise ModelError(f"{origin}: heads of the odd width {config.head_dim} have no rotary positions.")
    return config


def gate_of(raw: dict[str, Any], origin: str, name: str = "hidden_act", default: str = "silu") -> str:
    """The activation of the MLP's gate, as :func:`pyllmclf.ops.gated` names it.

    Raises
    ------
    ModelError
        If it is neither SiLU nor a GELU.
    """
    value = raw.get(name, default)
    if not isinstance(value, str) or value not in GATES:
        raise ModelError(f"{origin}: the activation {shortened(value)} is not supported; {', '.join(GATES)} are.")
    return GATES[value]


def rotary_of(raw: dict[str, Any], origin: str, config: ModelConfig, theta: float = 10000.0) -> Rotary:
    """The rotary positions of a decoder with one kind of them, as transformers 4 or 5 writes them."""
    parameters = raw.get("rope_parameters") or {}
    return read_rotary(
        parameters, origin, config.head_dim, theta=raw.get("rope_theta", theta), scaling=raw.get("rope_scaling")
    )


def kinds_of(raw: dict[str, Any], origin: str, config: ModelConfig, defaults: list[str]) -> list[str]:
    """``layer_types``, one of :data:`KINDS` for each layer.

    Raises
    ------
    ModelError
        If the configuration names others, or another number.
    """
    kinds = raw.get("layer_types") or defaults
    if not isinstance(kinds, list) or len(kinds) != config.n_layers or any(kind not in KINDS for kind in kinds):
        raise ModelError(f"{origin}: layer_types must name {' or '.join(KINDS)} for each of {config.n_layers} layers.")
    return kinds


def windows_of(raw: dict[str, Any], origin: str, kinds: list[str]) -> tuple[int | None, ...]:
    """Number of keys before its own position that a query sees, layer by layer; ``None`` is all.

    Raises
    ------
    ModelError
        If there is a sliding window without a size.
    """
    if "sliding_attention" not in kinds:
        return (None,) * len(kinds)
    window: Any = raw.get("sliding_window")
    check_count("sliding_window", window, origin)
    return tuple(window - 1 if kind == "sliding_attention" else None for kind in kinds)


def positive(name: str, value: Any, origin: str) -> float:
    """A number of a configuration that must be positive.

    Raises
    ------
    ModelError
        If it is not.
    """
    if not is_number(value) or not value > 0:
        raise ModelError(f"{origin}: {name} is {shortened(value)}, not a positive number.")
    return float(value)


def sizes(model_type: str, width: int, inner_width: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict:
    """Content of a ``config.json``."""
    return {
        "model_type": model_type,
        "hidden_size": width,
        "intermediate_size": inner_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "initializer_range": 0.02,
    } | more
