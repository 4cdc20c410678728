"""Gaussian error linear unit."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageError
from . import reference


def gelu(x: Tensor, bias: Tensor | None = None, approximate: str = "tanh") -> Tensor:
    """GELU(x + bias) (Hendrycks and Gimpel 2016).

    Parameters
    ----------
    x : tensor, shape [rows, channels]
    bias : tensor, shape [channels], optional
    approximate : {"tanh", "none"}
        GPT-2's tanh formula, or the exact error function of BERT.

    Returns
    -------
    tensor, shape [rows, channels]
    """
    if approximate not in ("tanh", "none"):
        raise UsageError(f"gelu: approximate={approximate!r} is unknown; it is 'tanh' or 'none'.")
    return reference.gelu(x, bias, approximate)
