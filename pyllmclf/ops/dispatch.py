"""Which implementation of an op runs.

``"reference"`` runs :mod:`pyllmclf.ops.reference` everywhere. ``"native"`` runs the native core and raises where it
can't. ``"auto"`` takes, for each op, what the table below names for the device: what was measured fastest there; for a
dtype that the native core does not compute, what torch has. The environment variable ``PYLLMCLF_BACKEND`` says what
``"auto"`` means; an argument ``backend=`` other than ``"auto"`` has the last word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from ..errors import UsageError
from . import native

BACKENDS = ("auto", "reference", "native")
ENVIRONMENT_VARIABLE = "PYLLMCLF_BACKEND"


@dataclass(frozen=True)
class Choice:
    """What ``"auto"`` runs for an op on a device, and why; ``other`` serves dtypes that it does not compute."""

    implementation: str
    why: str
    other: str = "reference"


_CUDA = Choice("reference", "torch's own kernels")

TABLE: dict[str, dict[str, Choice]] = {
    "attention": {
        "cpu": Choice("native", "variable length, any rows, window and dropout in one kernel", other="torch"),
        "cuda": Choice("torch", "fused kernel per text; the reference serves dropout, windows, row subsets"),
    },
    "dropout": {"cpu": Choice("native", "vectorised generator"), "cuda": _CUDA},
    "embedding": {"cpu": Choice("native", "one pass; its gradient touches the rows of the batch alone"), "cuda": _CUDA},
    "gelu": {"cpu": Choice("native", "with the bias and its gradient in one pass"), "cuda": _CUDA},
    "layer_norm": {"cpu": Choice("native", "with the residual in one pass"), "cuda": _CUDA},
    "linear": {"cpu": Choice("native", "torch's matmuls; gradients are written into kept memory"), "cuda": _CUDA},
    "lora_linear": {"cpu": Choice("native", "torch's matmuls, added up in place"), "cuda": _CUDA},
    "pool": {
        "cpu": Choice("reference", "one row per text: nothing to gain"),
        "cuda": Choice("reference", "one row per text: nothing to gain"),
    },
}

# Empty outside of use_backend: then the environment is asked each time.
_active: ContextVar[str] = ContextVar("pyllmclf_backend", default="")


def check_backend(name: str) -> str:
    """Returns ``name``, or raises :class:`UsageError` if there is no such backend."""
    if name not in BACKENDS:
        raise UsageError(f"backend={name!r} is not available; choose one of {', '.join(BACKENDS)}.")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the ops inside the block with the given backend."""
    token = _active.set(_resolve(check_backend(name)))
    try:
        yield
    finally:
        _active.reset(token)


def active_backend() -> str:
    """The backend that runs now.

    Raises
    ------
    UsageError
        If the environment variable names no backend.
    """
    return _active.get() or _resolve("auto")


def _resolve(name: str) -> str:
    """What ``"auto"`` means, by the environment."""
    if name != "auto":
        return name
    name = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name not in BACKENDS:
        raise UsageError(f"{ENVIRONMENT_VARIABLE}={name!r} is not available; choose one of {', '.join(BACKENDS)}.")
    return name


def implementation(op: str, first: Tensor, *others: Tensor | None) -> str:
    """Name of the implementation that runs now for ``op`` on these tensors.

    Raises
    ------
    UsageError
        If ``"native"`` was chosen and does not compute them.
    """
    backend = _active.get() or _resolve("auto")
    if backend == "reference":
        return "reference"
    choice = TABLE[op]["cuda" if first.is_cuda else "cpu"]
    if choice.implementation != "native":
        if backend == "native" and TABLE[op]["cpu"].implementation == "native":
            raise UsageError(f"backend='native' computes {op} on the CPU, not on {first.device.type}; choose 'auto'.")
        return choice.implementation
    if native.serves(first, *others):
        return "native"
    if backend == "native":
        raise UsageError(f"backend='native' computes {op} in float32 on the CPU, no other dtype; choose 'auto'.")
    return choice.other
