"""Dropout masks that don't depend on how texts are batched: their keys, their sites, and the random number generator.

A mask is a function of (seed, step, layer, site, example, position, channel or key) by the counter-based generator
Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The 64-bit key is (seed, step).
The counter of a row's channels ``4 i .. 4 i + 3`` is (i, position, example, layer and site). For attention
probabilities, channels are key positions, and the upper half of the last word holds the head.

``csrc/cpu/philox.h`` and ``kernels/philox.py`` compute the same words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import is_rate
from ..errors import UsageError

# Sites of dropout in a block; each has a mask of its own.
EMBEDDING, ATTENTION, ATTENTION_OUTPUT, MLP_OUTPUT, HEAD, LORA = range(6)
SITES_PER_LAYER = 16  # LORA .. 15: a site for each linear layer of a block


@dataclass(frozen=True)
class DropoutKey:
    """Determines a dropout mask, together with the rate.

    Attributes
    ----------
    seed, step : int
        32 bits each.
    layer, site : int
        Below 4096 and 16.
    example_ids : int64 tensor, shape [texts]
        Example of each text.
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
        """Layer and site as one 16-bit number."""
        return self.layer * SITES_PER_LAYER + self.site


_WORD = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUNDS = 10


def check_rate(op: str, p: float) -> None:
    """Raises :class:`UsageError` unless ``p`` lies in [0, 1 - 2**-32]."""
    if not is_rate(p):
        raise UsageError(f"{op}: a dropout rate of {p} does not lie in [0, 1 - 2**-32].")


def row_mask(key: DropoutKey, channels: int, p: float) -> Tensor:
    """Bool tensor, shape [rows, channels]: True where dropout keeps an element."""
    device = key.row_positions.device
    blocks = torch.arange(-(-channels // 4), device=device)
    words = philox(
        (
            blocks[None, :],
            key.row_positions.long()[:, None],
            key.row_example_ids.long()[:, None],
            torch.tensor([[key.stream]], device=device),
        ),
        (key.seed, key.step),
    )
    return (torch.stack(words, dim=-1).flatten(1) >= _threshold(p))[:, :channels]


def attention_mask(key: DropoutKey, text: int, query_positions: Tensor, heads: int, keys: int, p: float) -> Tensor:
    """Bool tensor, shape [heads, queries, keys]: True where dropout keeps a probability of text ``text``."""
    return padded_attention_mask(key, key.example_ids[text].reshape(1), query_positions[None], heads, keys, p)[0]


def padded_attention_mask(
    key: DropoutKey, example_ids: Tensor, query_positions: Tensor, heads: int, keys: int, p: float
) -> Tensor:
    """Bool tensor, shape [texts, heads, queries, keys]: True where dropout keeps a probability.

    Parameters
    ----------
    key : DropoutKey
    example_ids : int tensor, shape [texts]
    query_positions : int tensor, shape [texts, queries]
    heads, keys : int
    p : float
    """
    device = query_positions.device
    blocks = torch.arange(-(-keys // 4), device=device)
    head_streams = (torch.arange(heads, device=device) << 16) | key.stream
    words = philox(
        (
            blocks[None, None, None, :],
            query_positions.long()[:, None, :, None],
            example_ids.long()[:, None, None, None],
            head_streams[None, :, None, None],
        ),
        (key.seed, key.step),
    )
    return (torch.stack(words, dim=-1).flatten(3) >= _threshold(p))[..., :keys]


def _threshold(p: float) -> int:
    return round(p * 2**32)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Computes Philox 4x32-10 on int64 tensors that hold 32-bit words.

    Parameters
    ----------
    counter : four int64 tensors
        Of shapes that broadcast.
    key : (int, int)

    Returns
    -------
    four int64 tensors
        With values in [0, 2**32), of the broadcast shape.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*(c & _WORD for c in counter))
    k0, k1 = key[0] & _WORD, key[1] & _WORD
    for _ in range(_PHILOX_ROUNDS):
        # The 64-bit products wrap to the right bits; the mask undoes the sign extension of the shift.
        low, high = c0 * _PHILOX_MULTIPLIERS[0], c2 * _PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((high >> 32) & _WORD) ^ c1 ^ k0,
            high & _WORD,
            ((low >> 32) & _WORD) ^ c3 ^ k1,
            low & _WORD,
        )
        k0, k1 = (k0 + _PHILOX_KEY_STEPS[0]) & _WORD, (k1 + _PHILOX_KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3
