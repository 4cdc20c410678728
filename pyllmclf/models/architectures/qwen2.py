"""Qwen2 and Qwen2.5 (Yang et al. 2024) on packed rows: Llama's layers, with biases of queries, keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..architecture import Architecture, Preset
from ..config import ModelConfig, check_flag
from ..decoder import DecoderOptions
from ..decoder_config import DECODER, decoder_config, gate_of, kinds_of, rotary_of, sizes, windows_of


def sliding_layers(raw: dict[str, Any], origin: str, config: ModelConfig) -> tuple[int | None, ...]:
    """Windows of Qwen's layers: none unless asked for, then from layer ``max_window_layers`` on."""
    slides = raw.get("use_sliding_window", False)
    check_flag("use_sliding_window", slides, origin)
    first = raw.get("max_window_layers", 28)
    slides = slides and raw.get("sliding_window") is not None
    defaults = ["sliding_attention" if slides and i >= first else "full_attention" for i in range(config.n_layers)]
    return windows_of(raw, origin, kinds_of(raw, origin, config, defaults))


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads Qwen2's ``config.json``, of transformers 4 or 5; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For scaled positions of an unknown kind, and malformed values.
    """
    config = decoder_config(raw, origin, n_positions=32768, kv_heads=32)
    options = DecoderOptions(
        rotary=(rotary_of(raw, origin, config),) * config.n_layers,
        windows=sliding_layers(raw, origin, config),
        activation=gate_of(raw, origin),
        scale=config.head_dim**-0.5,
        attention_bias=True,
    )
    return replace(config, options=options)


def _qwen(*numbers: int) -> dict[str, Any]:
    return sizes("qwen2", *numbers, vocab_size=151936, max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6)


ARCHITECTURE = Architecture(
    model_type="qwen2",
    title="Qwen2",
    class_name="Qwen2ForSequenceClassification",
    read_config=read_config,
    presets={
        "qwen2.5-0.5b": Preset(_qwen(896, 4864, 24, 14, 2), "Qwen/Qwen2.5-0.5B"),
        "qwen2.5-1.5b": Preset(_qwen(1536, 8960, 28, 12, 2), "Qwen/Qwen2.5-1.5B"),
    },
    **DECODER,
)
