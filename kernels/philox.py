"""Philox4x32-10 (Salmon et al. 2011) for dropout masks, with the same words as :func:`pyllmclf.ops.philox.philox`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Returns four uint32 words for each counter (c0, c1, c2, c3) under the key (k0, k1), all of one shape."""
    for _ in tl.static_range(10):
        high, low = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c2, c3_next = tl.umulhi(c0, 0xD2511F53) ^ c3 ^ k1, c0 * 0xD2511F53
        c0, c1, c3 = high ^ c1 ^ k0, low, c3_next
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def keep(rows, example, stream, first, seed, step, threshold, COLUMNS: tl.constexpr):
    """Returns whether dropout keeps elements: int1 [len(rows), COLUMNS], from column ``first``, a multiple of 4.

    ``rows`` are positions; ``example`` is one number, or one per row. All integers are 32-bit words.
    """
    k0, k1 = seed.to(tl.uint32), step.to(tl.uint32)
    block = (first // 4 + tl.arange(0, COLUMNS // 4)).to(tl.uint32)
    zero = tl.zeros_like(rows.to(tl.uint32)[:, None] + block[None, :])
    w0, w1, w2, w3 = philox(
        zero + block[None, :],
        zero + rows.to(tl.uint32)[:, None],
        zero + example,
        zero + stream.to(tl.uint32),
        k0,
        k1,
    )
    # A join adds the last axis, so words 0, 1, 2, 3 of a block are adjacent.
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (rows.shape[0], COLUMNS))
    return words >= threshold.to(tl.uint32)


@dataclass(frozen=True)
class Dropout:
    """Determines a dropout mask, in the form that the kernels take.

    Attributes
    ----------
    words : (int, int, int, int)
        Seed, step, stream (layer and site) and threshold. An element is kept if its word is at least the threshold.
    scale : float
        1 / (1 - p).
    example_ids : int64 tensor, shape [texts] for attention, [rows] for rows; or None
    positions : int32 tensor, shape [rows], or None
        Position of each row in its text; attention's kernels compute it.
    """

    words: tuple[int, int, int, int]
    scale: float
    example_ids: torch.Tensor | None
    positions: torch.Tensor | None = None

    @classmethod
    def make(
        cls,
        p: float,
        seed: int,
        step: int,
        stream: int,
        example_ids: torch.Tensor,
        positions: torch.Tensor | None = None,
    ) -> Dropout:
        """The mask that drops each element with probability ``p``."""
        words = (_word(seed), _word(step), _word(stream), _word(round(p * 2**32)))
        return cls(words, 1.0 / (1.0 - p), example_ids, positions)

    @classmethod
    def none(cls) -> Dropout:
        """Placeholder arguments for kernels that are compiled without dropout."""
        return cls((0, 0, 0, 0), 1.0, None)


def _word(x: int) -> int:
    """Converts a 32-bit word to the int32 with the same bits; Triton infers another type for larger integers."""
    x &= 0xFFFFFFFF
    return x - (1 << 32) if x >= 1 << 31 else x
