"""The functional operations that the models are made of. They know no model."""

from .attention import attention
from .dispatch import BACKENDS, use_backend
from .dropout import DropoutKey, dropout
from .embedding import embedding
from .gelu import gelu
from .layer_norm import layer_norm
from .lora_linear import lora_linear
from .pooling import pool

__all__ = [
    "BACKENDS",
    "DropoutKey",
    "attention",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "lora_linear",
    "pool",
    "use_backend",
]
