"""Configuration of a model: the fields that all architectures have, and their checks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from reprlib import repr as shortened
from typing import Any

from ..errors import ModelError

# Maximum of every count: token ids are int32.
MOST = 2**31 - 1
# Bounds the lists with an entry per layer, which a configuration's reader makes before weights are checked.
MOST_LAYERS = 10_000
# Name in Hugging Face's configurations -> formula of GELU; see pyllmclf.ops.gelu.
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh", "gelu": "none"}


@dataclass(frozen=True)
class ModelConfig:
    """A model's sizes and rates, under the same names for all architectures.

    Attributes
    ----------
    model_type : str
        Hugging Face's name of the architecture.
    vocab_size, n_positions, width, n_layers, n_heads, inner_width : int
        ``n_positions`` is the maximum number of tokens of a text, ``inner_width`` the MLP's width.
    type_vocab_size : int
        0 without token types.
    gelu : {"tanh", "none"}
        Formula of GELU; see :func:`pyllmclf.ops.gelu`.
    layer_norm_eps, initializer_range : float
    embedding_dropout, attention_dropout, hidden_dropout, head_dropout : float
        Rates that the configuration states, used with ``dropout="config"``.
    scale_attention : bool
        Whether scores are divided by sqrt(head_dim).
    scale_attention_by_layer : bool
        Whether scores of block ``i`` are also divided by ``i + 1``.
    position_offset : int
        Row of the position table for the first token of a text.
    embedding_width : int or None
        Width of the embedding where a projection to ``width`` follows it; ``None`` is ``width``.
    pooling : {"first", "mean"} or None
        Pooling of a classifier, if the configuration names one.
    n_kv_heads : int or None
        Heads of keys and values, where several heads of queries share one; ``None`` means ``n_heads``.
    own_head_dim : int or None
        Width of one attention head, if it is not ``width / n_heads``.
    options : object
        Frozen dataclass of the fields that only this architecture has, declared in its module.
    raw : dict
        Content of the ``config.json`` that was read; checkpoints and exports write it again.
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
    embedding_width: int | None = None
    pooling: str | None = None
    n_kv_heads: int | None = None
    own_head_dim: int | None = None
    options: Any = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.own_head_dim or self.width // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.n_kv_heads or self.n_heads


def canonical_fields(config: ModelConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from their defaults, by which two configurations of one model are compared.

    A field that a later version adds with a default does not change them.

    Parameters
    ----------
    config : ModelConfig or mapping
        A mapping has the names of the fields as keys.

    Returns
    -------
    dict
        Without ``raw``.
    """
    values = asdict(config) if isinstance(config, ModelConfig) else config
    defaults = {f.name: f.default for f in fields(ModelConfig) if f.default is not MISSING}
    return {
        name: value
        for name, value in values.items()
        if name != "raw" and (name not in defaults or value != defaults[name])
    }


def check_config(config: ModelConfig, origin: str) -> ModelConfig:
    """Checks the fields that all architectures have.

    Parameters
    ----------
    config : ModelConfig
    origin : str
        Path of the configuration, for messages.

    Returns
    -------
    ModelConfig
        The argument itself.

    Raises
    ------
    ModelError
        If a field is of the wrong type or out of range.
    """
    for name in ("vocab_size", "n_positions", "width", "n_layers", "n_heads", "inner_width"):
        check_count(name, getattr(config, name), origin)
    if config.embedding_width is not None:
        check_count("embedding_size", config.embedding_width, origin)
    for name in ("layer_norm_eps", "initializer_range"):
        if not is_number(value := getattr(config, name)) or not value > 0:
            raise ModelError(f"{origin}: {name} is {shortened(value)}, not a positive number.")
    for name in ("embedding_dropout", "attention_dropout", "hidden_dropout", "head_dropout"):
        if not is_number(value := getattr(config, name)) or not 0 <= value < 1:
            raise ModelError(f"{origin}: {name} is {shortened(value)}, not a rate in [0, 1).")
    for name in ("scale_attention", "scale_attention_by_layer"):
        check_flag(name, getattr(config, name), origin)
    for name in ("n_kv_heads", "own_head_dim"):
        if getattr(config, name) is not None:
            check_count(name, getattr(config, name), origin)
    if config.n_heads % config.kv_heads:
        raise ModelError(f"{origin}: {config.n_heads} heads are no multiple of {config.kv_heads} of keys and values.")
    if config.own_head_dim is None and config.width % config.n_heads:
        raise ModelError(f"{origin}: the width {config.width} is not a multiple of {config.n_heads} heads.")
    return config


def check_count(name: str, value: Any, origin: str, *, least: int = 1) -> None:
    """Raises :class:`ModelError` unless the value is an integer from ``least`` to :data:`MOST`."""
    if type(value) is not int or not least <= value <= MOST:
        raise ModelError(f"{origin}: {name} is {shortened(value)}, not an integer from {least} to {MOST:,}.")


def layer_count(value: Any, origin: str) -> int:
    """A configuration's number of layers.

    Raises
    ------
    ModelError
        If it is not an integer from 1 to :data:`MOST_LAYERS`.
    """
    if type(value) is not int or not 0 < value <= MOST_LAYERS:
        raise ModelError(f"{origin}: n_layers is {shortened(value)}, not an integer from 1 to {MOST_LAYERS:,}.")
    return value


def check_flag(name: str, value: Any, origin: str) -> None:
    """Raises :class:`ModelError` unless the value is a boolean."""
    if type(value) is not bool:
        raise ModelError(f"{origin}: {name} is {shortened(value)}, not true or false.")


def is_number(value: object) -> bool:
    """Whether a value of a configuration is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def activation(name: str, origin: str) -> str:
    """The formula of GELU (``"tanh"`` or ``"none"``) for an activation's name in a configuration.

    Raises
    ------
    ModelError
        If the activation is not a GELU.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelError(f"{origin}: the activation {name!r} is not supported; {', '.join(ACTIVATIONS)} are.")
    return ACTIVATIONS[name]
