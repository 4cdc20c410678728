"""The case table: shapes, dtypes and tolerances of every op, shared by tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pyllmclf.ops import BACKENDS

# Relative error max|a - b| / max|b| per tensor against a float64 computation.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = list(TOLERANCE)
# The Triton kernels have separate tests, in the interpreter and on a GPU.
CPU_BACKENDS = [backend for backend in BACKENDS if backend != "triton"]


@dataclass(frozen=True)
class AttentionCase:
    """Rows of each text, heads, head size and mask of an attention call."""

    lengths: tuple[int, ...]
    heads: int
    head_dim: int
    causal: bool
    window: tuple[int, int] | None = None


ATTENTION = [
    AttentionCase((1,), 1, 8, True),
    AttentionCase((1, 1, 1), 2, 16, False),
    AttentionCase((17, 1, 5), 3, 32, True),
    AttentionCase((17, 1, 5), 3, 32, False),
    AttentionCase((128, 3, 64, 65), 2, 64, True),
    AttentionCase((1023,), 1, 64, True),
    AttentionCase((33, 9), 2, 80, False),
    AttentionCase((65, 2), 1, 256, True),
    AttentionCase((25, 200), 1, 7, True),
    AttentionCase((), 2, 16, True),
    AttentionCase((17, 1, 5), 3, 32, False, (3, 1)),
    AttentionCase((200, 3, 129), 2, 16, False, (64, 64)),
    AttentionCase((300, 17), 1, 64, True, (40, 0)),
    AttentionCase((1023,), 1, 64, False, (0, 7)),
]
# (rows, width)
LAYER_NORM = [(1, 8), (17, 384), (1023, 768), (5, 1600), (0, 16)]
GELU = [(1, 1), (17, 3072), (1023, 5), (0, 8)]
# (rows, in, out, rank)
LORA = [(1, 8, 8, 4), (17, 384, 1152, 16), (240, 64, 256, 8), (0, 8, 8, 2)]


def offsets(lengths: tuple[int, ...]) -> torch.Tensor:
    """cu_seqlens of texts with these lengths."""
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max|actual - expected| / max|expected|; 0 for empty tensors."""
    if expected.numel() == 0:
        assert actual.shape == expected.shape
        return 0.0
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp_min(1e-300))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fills torch's fresh memory with NaN, so that reading unwritten elements shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)
