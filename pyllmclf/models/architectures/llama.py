"""Llama (Touvron et al. 2023; Llama 3.2, SmolLM2, TinyLlama) on packed rows; see :mod:`pyllmclf.models.decoder`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import ModelError
from ..architecture import Architecture, Preset
from ..config import ModelConfig, check_flag
from ..decoder import DecoderOptions
from ..decoder_config import DECODER, decoder_config, gate_of, rotary_of, sizes


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads Llama's ``config.json``, of transformers 4 or 5; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For weights split as in pretraining, scaled positions of an unknown kind, and malformed values.
    """
    if raw.get("pretraining_tp", 1) != 1:
        raise ModelError(f"{origin}: pretraining_tp={raw['pretraining_tp']!r} is not supported; 1 is.")
    biases = {name: raw.get(name, False) for name in ("attention_bias", "mlp_bias")}
    for name, value in biases.items():
        check_flag(name, value, origin)
    config = decoder_config(raw, origin, n_positions=2048)
    options = DecoderOptions(
        rotary=(rotary_of(raw, origin, config),) * config.n_layers,
        windows=(None,) * config.n_layers,
        activation=gate_of(raw, origin),
        scale=config.head_dim**-0.5,
        attention_bias=biases["attention_bias"],
        output_bias=biases["attention_bias"],
        mlp_bias=biases["mlp_bias"],
    )
    return replace(config, options=options)


def _smollm2(width: int, inner_width: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    more = {"vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0, "rms_norm_eps": 1e-5}
    return sizes("llama", width, inner_width, layers, heads, kv_heads, **more)


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "head_dim": 64,
    "rope_theta": 500000.0,
    "rope_scaling": LLAMA3_SCALING,
    "rms_norm_eps": 1e-5,
}
TINYLLAMA = {"vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5}

ARCHITECTURE = Architecture(
    model_type="llama",
    title="Llama",
    class_name="LlamaForSequenceClassification",
    read_config=read_config,
    presets={
        "smollm2-135m": Preset(_smollm2(576, 1536, 30, 9, 3), "HuggingFaceTB/SmolLM2-135M"),
        "smollm2-360m": Preset(_smollm2(960, 2560, 32, 15, 5), "HuggingFaceTB/SmolLM2-360M"),
        "tinyllama-1.1b": Preset(sizes("llama", 2048, 5632, 22, 32, 4, **TINYLLAMA), "TinyLlama/TinyLlama_v1.1"),
        "llama-3.2-1b": Preset(sizes("llama", 2048, 8192, 16, 32, 8, **LLAMA3), "meta-llama/Llama-3.2-1B"),
    },
    **DECODER,
)
