"""Gemma 3's text model (Gemma Team 2025) on packed rows: windows, norms after attention and MLP, scaled embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import ModelError
from ..architecture import Architecture, Preset
from ..config import ModelConfig, check_count, check_flag
from ..decoder import DecoderOptions
from ..decoder_config import DECODER, KINDS, decoder_config, gate_of, kinds_of, positive, sizes, windows_of
from ..rotary import Rotary, read_rotary


def read_config(raw: dict[str, Any], origin: str) -> ModelConfig:
    """Reads ``config.json`` of Gemma 3's text model, of transformers 4 or 5; see :attr:`Architecture.read_config`.

    Raises
    ------
    ModelError
        For capped logits, bidirectional attention, scaled positions of an unknown kind, and malformed values.
    """
    if raw.get("attn_logit_softcapping") is not None:
        raise ModelError(f"{origin}: Gemma 3 with attn_logit_softcapping is not supported.")
    if raw.get("use_bidirectional_attention"):
        raise ModelError(f"{origin}: Gemma 3 with use_bidirectional_attention is not supported; causal=False is.")
    bias = raw.get("attention_bias", False)
    check_flag("attention_bias", bias, origin)
    config = decoder_config(raw, origin, n_positions=131072, head_dim=256, kv_heads=4)
    every = raw.get("sliding_window_pattern", raw.get("_sliding_window_pattern", 6))
    check_count("sliding_window_pattern", every, origin)
    defaults = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(config.n_layers)]
    kinds = kinds_of(raw, origin, config, defaults)
    rotary = _rotary(raw, origin, config)
    options = DecoderOptions(
        rotary=tuple(rotary[kind] for kind in kinds),
        windows=windows_of({"sliding_window": 4096} | raw, origin, kinds),
        activation=gate_of(raw, origin, "hidden_activation", "gelu_pytorch_tanh"),
        scale=positive("query_pre_attn_scalar", raw.get("query_pre_attn_scalar", 256), origin) ** -0.5,
        attention_bias=bias,
        output_bias=bias,
        head_norms=True,
        norms_after=True,
        norm_offset=1.0,
        embedding_scale=config.width**0.5,
    )
    return replace(config, options=options)


def _rotary(raw: dict[str, Any], origin: str, config: ModelConfig) -> dict[str, Rotary]:
    """Rotary positions of each kind of layer; transformers 4 scales those without a window alone."""
    parameters = raw.get("rope_parameters") or {}
    if not set(parameters) <= set(KINDS):
        raise ModelError(f"{origin}: rope_parameters of Gemma 3 must be of {' and '.join(KINDS)}.")
    old = {
        "full_attention": (raw.get("rope_theta", 1e6), raw.get("rope_scaling")),
        "sliding_attention": (raw.get("rope_local_base_freq", 1e4), None),
    }
    return {
        kind: read_rotary(parameters.get(kind) or {}, origin, config.head_dim, theta=theta, scaling=scaling)
        for kind, (theta, scaling) in old.items()
    }


def _gemma(*numbers: int, window: int) -> dict[str, Any]:
    more: dict[str, Any] = {"head_dim": 256, "vocab_size": 262144, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6}
    more |= {"hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    return sizes("gemma3_text", *numbers, max_position_embeddings=32768, sliding_window=window, **more)


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    title="Gemma 3",
    class_name="Gemma3TextForSequenceClassification",
    read_config=read_config,
    presets={
        "gemma-3-270m": Preset(_gemma(640, 2048, 18, 4, 1, window=512), "google/gemma-3-270m"),
        "gemma-3-1b": Preset(_gemma(1152, 6912, 26, 4, 1, window=512), "google/gemma-3-1b-pt"),
    },
    **DECODER,
)
