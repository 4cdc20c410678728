"""Functional ops on packed rows, of which the models are made; they know no model."""

from .attention import attention, attention_packed
from .backends.torch_relative_attention import relative_scores
from .cross_entropy import cross_entropy
from .dispatch import BACKENDS, use_backend
from .dropout import dropout
from .embedding import embedding, embedding_layer_norm
from .gated_linear import gated, gated_linear
from .gelu import gelu
from .gelu_linear import gelu_linear
from .gradients import drop_gradient_buffers, use_gradient_buffers
from .int8_linear import Int8Weight, int8_linear
from .layer_norm import layer_norm
from .linear import linear
from .lora_linear import lora_linear
from .philox import DropoutKey
from .pooled_attention import avoids_keys, pooled_attention
from .pooling import first_rows, last_positions, last_rows, mean_rows
from .query_key_value import query_key_value
from .relative_attention import relative_attention
from .rms_norm import rms_norm
from .rotary import rotary, rotary_angles

__all__ = [
    "BACKENDS",
    "DropoutKey",
    "Int8Weight",
    "attention",
    "attention_packed",
    "avoids_keys",
    "cross_entropy",
    "drop_gradient_buffers",
    "dropout",
    "embedding",
    "embedding_layer_norm",
    "first_rows",
    "gated",
    "gated_linear",
    "gelu",
    "gelu_linear",
    "int8_linear",
    "last_positions",
    "last_rows",
    "layer_norm",
    "linear",
    "lora_linear",
    "mean_rows",
    "pooled_attention",
    "query_key_value",
    "relative_attention",
    "relative_scores",
    "rms_norm",
    "rotary",
    "rotary_angles",
    "use_backend",
    "use_gradient_buffers",
]
