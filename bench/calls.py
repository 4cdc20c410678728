"""Calls of an op as the GPU benchmarks time them: several in a row, so that the wait for the device counts little.

With TRITON_INTERPRET=1 and no GPU, the benchmarks of the Triton kernels run at sizes that say nothing but that they
run.
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

# GPT-2 tokens of texts, 32 quantiles each: SMS Spam's balanced training part (1,045 texts, the longest has 120), and
# IMDb's official one, cut to GPT-2's 1,024 positions.
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
    """Random numbers whose gradient is asked for."""
    return torch.randn(shape, device=DEVICE, dtype=dtype).requires_grad_()


def calls_for(operations: float) -> int:
    """Calls of so many operations each that keep a large GPU busy for some 10 ms; CALLS at most."""
    return max(1, min(CALLS, round(ROUND_OPERATIONS / operations)))


def forward(function: Function, backend: str, calls: int = CALLS) -> Callable[[int], None]:
    """So many times forward, as in training: with what the backward pass needs."""

    def run(_: int) -> None:
        with ops.use_backend(backend):
            for _ in range(calls):
                function()

    return run


def gradient(function: Function, inputs: list[Tensor], backend: str, calls: int = CALLS) -> Callable[[int], None]:
    """So many times forward and backward; gradients are returned, not added to ``.grad``."""
    with ops.use_backend(backend):
        made = function()
    factors = [torch.randn_like(t) for t in (made if isinstance(made, tuple) else (made,))]

    def run(_: int) -> None:
        with ops.use_backend(backend):
            for _ in range(calls):
                torch.autograd.grad(function(), inputs, factors)

    return run
