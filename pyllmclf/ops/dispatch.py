"""Which implementation of an op runs.

``"reference"`` runs :mod:`pyllmclf.ops.reference` everywhere. ``"native"`` runs the native core and raises where it
can't; what it leaves to torch on purpose runs there. ``"auto"`` takes, for each op, what the table below names for the
device, by measurement where there is one; what this does not compute, torch does. The environment variable
``PYLLMCLF_BACKEND`` says what ``"auto"`` means; an argument ``backend=`` other than ``"auto"`` has the last word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from ..errors import UsageError
from . import native, native_cuda

BACKENDS = ("auto", "reference", "native")
ENVIRONMENT_VARIABLE = "PYLLMCLF_BACKEND"


@dataclass(frozen=True)
class Choice:
    """What ``"auto"`` runs for an op on a device, and why.

    Attributes
    ----------
    implementation, why : str
    other : str
        Serves the dtypes that ``implementation`` does not compute.
    native : {"yes", "no", "needless"}
        Whether the native core has the op on this device; needless: torch's own is as good.
    """

    implementation: str
    why: str
    other: str = "reference"
    native: str = "yes"


_UNMEASURED = "torch's own kernels; the native one is checked and timed by bench/gpu.sh"
_FEW_ROWS = "one row per text: nothing to gain"

TABLE: dict[str, dict[str, Choice]] = {
    "attention": {
        "cpu": Choice("native", "variable length, any rows, window and dropout in one kernel", other="torch"),
        "cuda": Choice(
            "torch", "fused kernel per text; the reference serves dropout, windows, row subsets", native="no"
        ),
    },
    "cross_entropy": {
        "cpu": Choice("reference", _FEW_ROWS, native="needless"),
        "cuda": Choice("reference", _UNMEASURED),
    },
    "dropout": {
        "cpu": Choice("native", "vectorised generator"),
        "cuda": Choice("reference", "the generator in torch's operations", native="no"),
    },
    "embedding": {
        "cpu": Choice("native", "one pass; its gradient touches the rows of the batch alone"),
        "cuda": Choice("reference", _UNMEASURED),
    },
    "gelu": {
        "cpu": Choice("native", "with the bias and its gradient in one pass"),
        "cuda": Choice("reference", _UNMEASURED),
    },
    "layer_norm": {
        "cpu": Choice("native", "one pass with the residual: on par with torch for short batches, 1.2-1.4 x for long"),
        "cuda": Choice("reference", _UNMEASURED),
    },
    "linear": {
        "cpu": Choice("native", "torch's matmuls; gradients are written into kept memory"),
        "cuda": Choice("reference", "torch's matmuls", native="needless"),
    },
    "lora_linear": {
        "cpu": Choice("native", "torch's matmuls, added up in place"),
        "cuda": Choice("reference", "torch's matmuls", native="needless"),
    },
    "pool": {
        "cpu": Choice("reference", _FEW_ROWS, native="needless"),
        "cuda": Choice("reference", _FEW_ROWS, native="needless"),
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


def kernels(x: Tensor) -> ModuleType:
    """The native core's ops for the device of ``x``."""
    return native_cuda if x.is_cuda else native


def implementation(op: str, first: Tensor, *others: Tensor | None, unless: str | None = None) -> str:
    """Name of the implementation that runs now for ``op`` on these tensors.

    Parameters
    ----------
    op : str
    first, *others : tensor or None
    unless : str, optional
        Why the native core can't compute them, beside dtypes and devices; None: nothing is in the way.

    Raises
    ------
    UsageError
        If ``"native"`` was chosen and does not compute them.
    """
    backend = _active.get() or _resolve("auto")
    if backend == "reference":
        return "reference"
    on_cuda = first.is_cuda
    choice = TABLE[op]["cuda" if on_cuda else "cpu"]
    if backend == "auto" and choice.implementation != "native":
        return choice.implementation
    if choice.native == "needless":
        return choice.implementation
    if choice.native == "yes" and unless is None and kernels(first).serves(first, *others):
        return "native"
    if backend == "auto":
        return choice.other
    if unless is not None:
        raise UsageError(f"backend='native' does not compute {op} with {unless}; choose 'auto'.")
    device = {"cpu": "the CPU", "cuda": "CUDA"}.get(first.device.type, first.device.type)
    if choice.native == "no" or first.device.type not in ("cpu", "cuda"):
        raise UsageError(f"backend='native' does not compute {op} on {device}; choose 'auto'.")
    if on_cuda and not native_cuda.BUILT:
        raise UsageError("backend='native' was built without a CUDA compiler; choose 'auto'.")
    dtypes = "one of float32, bfloat16 and float16" if on_cuda else "float32"
    raise UsageError(f"backend='native' computes {op} in {dtypes} on {device}, without autocast; choose 'auto'.")
