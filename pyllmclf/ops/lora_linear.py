"""A frozen linear layer with a trained low-rank addition."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageError
from . import reference
from .dropout import DropoutKey


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    *,
    scaling: float,
    dropout_p: float = 0.0,
    dropout_key: DropoutKey | None = None,
) -> Tensor:
    """x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ (Hu et al. 2021, equation 3).

    Parameters
    ----------
    x : tensor, shape [rows, in]
    weight : tensor, shape [out, in]
    bias : tensor, shape [out], optional
    lora_a : tensor, shape [rank, in]
    lora_b : tensor, shape [out, rank]
    scaling : float
    dropout_p : float
        Dropout of the input of the low-rank part only.
    dropout_key : DropoutKey, optional
        Needed where ``dropout_p`` is not 0.

    Returns
    -------
    tensor, shape [rows, out]
    """
    if dropout_p > 0.0 and dropout_key is None:
        raise UsageError("lora_linear: dropout needs a dropout_key.")
    return reference.lora_linear(
        x, weight, bias, lora_a, lora_b, scaling=scaling, dropout_p=dropout_p, dropout_key=dropout_key
    )
