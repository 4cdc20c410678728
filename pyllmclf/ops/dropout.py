"""Dropout whose mask does not depend on how texts are batched.

The mask is a function of (seed, step, layer, site, example, position, channel or key) by the counter-based generator
Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The 64-bit key is
(seed, step); the counter of a row's channels ``4 i .. 4 i + 3`` is (i, position, example, layer and site), and for
attention probabilities, channels are key positions and the head stands in the upper half of the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import native, reference, triton_backend
from .dispatch import implementation

# Sites of a block at which something is dropped; each has its own mask.
EMBEDDING, ATTENTION, ATTENTION_OUTPUT, MLP_OUTPUT, HEAD, LORA = range(6)
SITES_PER_LAYER = 16  # LORA .. 15: one for each linear layer of a block


@dataclass(frozen=True)
class DropoutKey:
    """What a dropout mask is a function of.

    Attributes
    ----------
    seed, step : int
        32 bits each.
    layer, site : int
        Less than 4096 and 16.
    example_ids : int64 tensor, shape [texts]
    row_example_ids : int64 tensor, shape [rows]
        Example of each row.
    row_positions : int tensor, shape [rows]
        Position of each row in its text.
    """

    seed: int
    step: int
    layer: int
    site: int
    example_ids: torch.Tensor
    row_example_ids: torch.Tensor
    row_positions: torch.Tensor

    @property
    def stream(self) -> int:
        """Layer and site in one number of 16 bits."""
        return self.layer * SITES_PER_LAYER + self.site


def is_rate(p: float) -> bool:
    """Whether a share of elements can be dropped: some are kept, by a mask of 32-bit words."""
    return 0.0 <= p < 1.0 and round(p * 2**32) < 2**32


def check_rate(op: str, p: float) -> None:
    """Raises :class:`UsageError` unless it is a rate."""
    if not is_rate(p):
        raise UsageError(f"{op}: a dropout rate of {p} does not lie in [0, 1 - 2**-32].")


def dropout(x: torch.Tensor, p: float, key: DropoutKey) -> torch.Tensor:
    """Sets each element to zero with probability ``p`` and scales the others by ``1 / (1 - p)``.

    Parameters
    ----------
    x : tensor, shape [rows, channels]
    p : float
        In [0, 1 - 2**-32].
    key : DropoutKey

    Returns
    -------
    tensor, shape [rows, channels]

    Raises
    ------
    UsageError
        If there is no such rate, the key is of another number of rows, or the chosen backend can't compute this.
    """
    check_rate("dropout", p)
    if p == 0.0:
        return x
    if x.dim() != 2 or not len(key.row_example_ids) == len(key.row_positions) == len(x):
        raise UsageError(f"dropout: a key of {len(key.row_positions)} rows doesn't fit x of shape {tuple(x.shape)}.")
    chosen = implementation("dropout", x)
    if chosen in ("native", "triton"):
        return DropoutFunction.apply(x, p, key, native if chosen == "native" else triton_backend)
    return reference.dropout(x, p, key)


class DropoutFunction(torch.autograd.Function):
    """Saves nothing: the mask is computed again."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, p: float, key: DropoutKey, kernels: ModuleType) -> torch.Tensor:
        ctx.p, ctx.key, ctx.kernels = p, key, kernels
        return kernels.dropout_rows(x, p, key)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: torch.Tensor):
        return ctx.kernels.dropout_rows(dy, ctx.p, ctx.key), None, None, None
