"""Timed calls of an op for the GPU benchmarks: several in a row, so that waiting for the device counts little.

With TRITON_INTERPRET=1 and no GPU, the benchmarks of the Triton kernels run at small sizes, as a check that they run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyllmclf import ops
from pyllmclf.ops.backends import triton as triton_backend

SMALL = triton_backend.interpreted()
CALLS = 1 if SMALL else 20
ROUND_OPERATIONS = 4e12
ROUNDS = 2 if SMALL else 15
WARMUP = 1 if SMALL else 3
DEVICE = "cpu" if SMALL else "cuda"
CAN_RUN_TRITON = triton_backend.installed() and (SMALL or torch.cuda.is_available())

# Quantiles (32) of the numbers of GPT-2 tokens: of SMS Spam's balanced train split (1,045 texts, the longest has 120),
# and of IMDb's official one, truncated to GPT-2's 1,024 positions.
QUANTILES = {
    "SMS": (
        *(5, 7, 8, 9, 10, 11, 12, 13, 15, 17, 19, 21, 23, 26, 29, 32),
        *(33, 35, 37, 38, 40, 41, 43, 44, 45, 47, 48, 50, 51, 53, 56, 60),
    ),
    "IMDb": (
        *(58, 79, 101, 124, 138, 145, 151, 157, 162, 168, 175, 182, 190, 198, 207, 217),
        *(228, 240, 253, 268, 286, 305, 327, 351, 380, 414, 454, 503, 567, 654, 789, 1024),
    ),
}

Function = Callable[[], Tensor | tuple[Tensor, ...]]


def leaf(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random tensor that requires a gradient."""
    return torch.randn(shape, device=DEVICE, dtype=dtype).requires_grad_()


def calls_for(operations: float) -> int:
    """Number of calls, each of ``operations``, that keep a large GPU busy for about 10 ms; at most CALLS."""
    return max(1, min(CALLS, round(ROUND_OPERATIONS / operations)))


def forward(function: Function, backend: str, calls: int = CALLS) -> Callable[[int], None]:
    """Returns ``calls`` forward passes, which save tensors for the backward pass, as in training."""

    def run(_: int) -> None:
        with ops.use_backend(backend):
            for _ in range(calls):
                function()

    return run


def gradient(function: Function, inputs: list[Tensor], backend: str, calls: int = CALLS) -> Callable[[int], None]:
    """Returns ``calls`` forward and backward passes, whose gradients are not added to ``.grad``."""
    with ops.use_backend(backend):
        result = function()
    factors = [torch.randn_like(t) for t in (result if isinstance(result, tuple) else (result,))]

    def run(_: int) -> None:
        with ops.use_backend(backend):
            for _ in range(calls):
                torch.autograd.grad(function(), inputs, factors)

    return run
