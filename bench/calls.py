"""Calls of an op as the GPU benchmarks time them: several in a row, so that the wait for the device counts little.

With TRITON_INTERPRET=1 and no GPU, the benchmarks of the Triton kernels run at sizes that say nothing but that they
run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyllmclf import ops
from pyllmclf.ops import triton_backend

SMALL = triton_backend.interpreted()
CALLS = 1 if SMALL else 20
ROUNDS = 2 if SMALL else 15
WARMUP = 1 if SMALL else 3
DEVICE = "cpu" if SMALL else "cuda"
CAN_RUN_TRITON = triton_backend.installed() and (SMALL or torch.cuda.is_available())

Function = Callable[[], Tensor | tuple[Tensor, ...]]


def leaf(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random numbers whose gradient is asked for."""
    return torch.randn(shape, device=DEVICE, dtype=dtype).requires_grad_()


def forward(function: Function, backend: str) -> Callable[[int], None]:
    """CALLS times forward, as in training: with what the backward pass needs."""

    def run(_: int) -> None:
        with ops.use_backend(backend):
            for _ in range(CALLS):
                function()

    return run


def gradient(function: Function, inputs: list[Tensor], backend: str) -> Callable[[int], None]:
    """CALLS times forward and backward; gradients are returned, not added to ``.grad``."""
    with ops.use_backend(backend):
        made = function()
    factors = [torch.randn_like(t) for t in (made if isinstance(made, tuple) else (made,))]

    def run(_: int) -> None:
        with ops.use_backend(backend):
            for _ in range(CALLS):
                torch.autograd.grad(function(), inputs, factors)

    return run
