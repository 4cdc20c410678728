"""Rotary positions: the frequencies that a configuration states, and the angles of a batch's rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ModelError
from .config import is_number
from .context import Context


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021).

    Attributes
    ----------
    frequencies : tuple of float
        Angle per position of each pair of channels: theta^(-2 i / head_dim), or a scaled one.
    factor : float
        Of cosine and sine; YaRN's is not 1.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0


class RotaryPositions(nn.Module):
    """Turns queries and keys by the angles of their positions.

    Parameters
    ----------
    rotary : Rotary
    """

    frequencies: Tensor

    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.rotary = rotary
        self.register_buffer("frequencies", torch.tensor(rotary.frequencies, dtype=torch.float32), persistent=False)

    def angles(self, context: Context) -> tuple[Tensor, Tensor]:
        """Cosine and sine of a context's rows, each fp32, shape [rows, head_dim / 2]; once for all layers."""
        positions, shared = context.batch.positions, context.shared
        # The entry keeps the tensors that its key names, so that no other tensor takes their id.
        key = (self.rotary, id(positions), id(shared))
        if (found := context.memo.get(key)) is None:
            rows = positions if shared is None else shared.computed(positions)
            angles = ops.rotary_angles(rows, self.frequencies, self.rotary.factor)
            found = context.memo[key] = positions, shared, angles
        return found[2]

    def forward(self, x: Tensor, context: Context, heads: int) -> Tensor:
        """A context's rows x [rows, width] with their first ``heads`` heads turned."""
        return ops.rotary(x, *self.angles(context), heads=heads)


def base_frequencies(theta: float, head_dim: int) -> tuple[float, ...]:
    """theta^(-2 i / head_dim) for each pair of channels, rounded to fp32."""
    return tuple(_inverse(theta, head_dim).tolist())


def _inverse(theta: float, head_dim: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim)


def read_rotary(raw: dict[str, Any], origin: str, head_dim: int, *, theta: float, scaling: Any = None) -> Rotary:
    """Reads the rotary positions of a configuration.

    Parameters
    ----------
    raw : dict
        ``rope_parameters`` as transformers 5 writes them; or empty, where ``theta`` and ``scaling`` count.
    origin : str
        Path of the configuration, for messages.
    head_dim : int
    theta : float
        Base of the angles where ``raw`` names none.
    scaling : dict or None
        ``rope_scaling`` as transformers 4 writes it.

    Raises
    ------
    ModelError
        For an unknown kind of scaling, and malformed numbers.
    """
    merged = {"rope_theta": theta} | (scaling or {}) | (raw or {})
    kind = merged.get("rope_type", merged.get("type", "default"))
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise ModelError(
            f"{origin}: rotary positions of type {shortened(kind)} are not supported; {', '.join(SCALINGS)} are."
        )
    if merged.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(f"{origin}: rotary positions of a part of each head are not supported.")
    if head_dim > MOST_HEAD_DIM:
        raise ModelError(f"{origin}: a head_dim of {head_dim:,} is not supported; up to {MOST_HEAD_DIM:,} are.")
    numbers: dict[str, float] = {"truncate": bool(merged.get("truncate", True))}
    for name in ("rope_theta", *NUMBERS.get(kind, ()), *(name for name in OPTIONAL if merged.get(name) is not None)):
        value: Any = merged.get(name)
        if not is_number(value) or not value > 0:
            raise ModelError(f"{origin}: {name} of the rotary positions is {shortened(value)}, not a positive number.")
        numbers[name] = value
    try:
        return SCALINGS[kind](numbers, head_dim)
    except (ArithmeticError, ValueError) as error:
        raise ModelError(f"{origin}: numbers of the rotary positions are out of range ({error}).") from error


# Numbers that a kind of scaling needs beside the base, and those that any may have.
NUMBERS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
OPTIONAL = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
MOST_HEAD_DIM = 4096


def _default(numbers: dict[str, float], head_dim: int) -> Rotary:
    return Rotary(base_frequencies(numbers["rope_theta"], head_dim))


def _linear(numbers: dict[str, float], head_dim: int) -> Rotary:
    """Positions divided by a factor."""
    return Rotary(tuple((_inverse(numbers["rope_theta"], head_dim) / numbers["factor"]).tolist()))


def _llama3(numbers: dict[str, float], head_dim: int) -> Rotary:
    """Llama 3.1's: long waves divided by a factor, short ones kept, a smooth passage between."""
    inverse = _inverse(numbers["rope_theta"], head_dim)
    factor, low, high = numbers["factor"], numbers["low_freq_factor"], numbers["high_freq_factor"]
    context = numbers["original_max_position_embeddings"]
    waves = 2 * math.pi / inverse
    scaled = torch.where(waves > context / low, inverse / factor, inverse)
    smooth = (context / waves - low) / (high - low)
    between = (1 - smooth) * scaled / factor + smooth * scaled
    medium = ~(waves < context / high) & ~(waves > context / low)
    return Rotary(tuple(torch.where(medium, between, scaled).tolist()))


def _yarn(numbers: dict[str, float], head_dim: int) -> Rotary:
    """YaRN (Peng et al. 2023): by parts of the head between scaled and kept frequencies, and hotter attention."""
    theta, factor = numbers["rope_theta"], numbers["factor"]
    context = numbers["original_max_position_embeddings"]

    def dimension(rotations: float) -> float:
        return head_dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(numbers.get("beta_fast", 32.0)), dimension(numbers.get("beta_slow", 1.0))
    if numbers["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    steps = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    ramp = ((steps - low) / (high - low if high > low else 0.001)).clamp(0, 1)
    inverse = _inverse(theta, head_dim)
    frequencies = inverse / factor * ramp + inverse * (1 - ramp)

    def hotter(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = hotter(1.0)
    if "mscale" in numbers and "mscale_all_dim" in numbers:
        attention = hotter(numbers["mscale"]) / hotter(numbers["mscale_all_dim"])
    return Rotary(tuple(frequencies.tolist()), numbers.get("attention_factor", attention))


# "dynamic" scales positions of texts that are longer than n_positions, which are truncated here.
SCALINGS: dict[str, Callable[[dict[str, float], int], Rotary]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
}
