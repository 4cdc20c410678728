"""Qwen3 (Yang et al. 2025) on packed rows: Llama's layers, with norms of each head's queries and keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..architecture import Architecture, Preset
from ..config import ModelConfig, check_flag
from ..decoder import DecoderOptions
from ..decoder_config import DECODER, decoder_config, gate_of, rotary_of, sizes
from .qwen2 import sliding_layers


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads Qwen3's ``config.json``, of transformers 4 or 5; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For scaled positions of an unknown kind, and malformed values.
    """
    bias = raw.get("attention_bias", False)
    check_flag("attention_bias", bias, origin)
    config = decoder_config(raw, origin, n_positions=32768, head_dim=128, kv_heads=32)
    options = DecoderOptions(
        rotary=(rotary_of(raw, origin, config),) * config.n_layers,
        windows=sliding_layers(raw, origin, config),
        activation=gate_of(raw, origin),
        scale=config.head_dim**-0.5,
        attention_bias=bias,
        output_bias=bias,
        head_norms=True,
    )
    return replace(config, options=options)


def _qwen(*numbers: int, positions: int) -> dict[str, Any]:
    more: dict[str, Any] = {"head_dim": 128, "vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6}
    return sizes("qwen3", *numbers, max_position_embeddings=positions, **more)


ARCHITECTURE = Architecture(
    model_type="qwen3",
    title="Qwen3",
    class_name="Qwen3ForSequenceClassification",
    read_config=read_config,
    presets={
        "qwen3-0.6b": Preset(_qwen(1024, 3072, 28, 16, 8, positions=40960), "Qwen/Qwen3-0.6B"),
        "qwen3-0.6b-base": Preset(_qwen(1024, 3072, 28, 16, 8, positions=32768), "Qwen/Qwen3-0.6B-Base"),
        "qwen3-1.7b-base": Preset(_qwen(2048, 6144, 28, 16, 8, positions=32768), "Qwen/Qwen3-1.7B-Base"),
    },
    **DECODER,
)
