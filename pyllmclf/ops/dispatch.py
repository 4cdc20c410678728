"""Chooses the implementation of each op.

- ``"reference"`` runs :mod:`pyllmclf.ops.backends.reference` everywhere.
- ``"native"`` runs the native core and raises where it can't; ops that are best left to torch stay torch's.
- ``"triton"`` runs the Triton kernels and raises where they can't; ops without a kernel run in the native core, and ops
  that neither has run as with ``"auto"``.
- ``"auto"`` runs what :data:`TABLE` names for the op and the device, by measurement where there is one; torch computes
  the rest.

The environment variable ``PYLLMCLF_BACKEND`` sets what ``"auto"`` means; an argument ``backend=`` other than ``"auto"``
takes precedence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ..choices import Backend, words
from ..errors import UsageError
from .backends import native_cpu, native_cuda
from .backends import triton as triton_backend

BACKENDS = words(Backend)
ENVIRONMENT_VARIABLE = "PYLLMCLF_BACKEND"


@dataclass(frozen=True)
class Choice:
    """The implementation of an op that ``"auto"`` runs on a device, and the reason.

    Attributes
    ----------
    implementation, why : str
    other : str
        Implementation for the dtypes and calls that ``implementation`` does not compute.
    native : {"yes", "no", "needless"}
        Whether the native core has the op on this device. Needless: torch's own is as good.
    triton : bool
        Whether Triton has a kernel for the op.
    """

    implementation: str
    why: str
    other: str = "reference"
    native: str = "yes"
    triton: bool = False

    @property
    def installed(self) -> str:
        """The implementation that ``"auto"`` runs in this installation, which may lack triton."""
        return self.other if self.implementation == "triton" and not triton_backend.installed() else self.implementation


UNMEASURED = "torch's own kernels; the native one is checked and timed by bench/gpu.sh"

# By op, then by device type ("cpu", "cuda"). Each op's module enters its row by choices().
TABLE: dict[str, dict[str, Choice]] = {}


def choices(op: str, *, cpu: Choice, cuda: Choice) -> None:
    """Enters an op into :data:`TABLE`."""
    TABLE[op] = {"cpu": cpu, "cuda": cuda}


# Empty outside use_backend, where each call reads the environment variable.
_active: ContextVar[str] = ContextVar("pyllmclf_backend", default="")


def check_backend(name: str, device: torch.device | None = None) -> str:
    """Returns ``name``; raises :class:`UsageError` if the backend is unknown or does not run on the device."""
    if name not in BACKENDS:
        raise UsageError(f"backend={name!r} is not available; choose one of {', '.join(BACKENDS)}.")
    if name == "triton" and device is not None and (obstacle := triton_backend.missing(device)) is not None:
        raise UsageError(f"backend='triton' {obstacle}; choose 'auto'.")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the ops inside the block with backend ``name``."""
    token = _active.set(_resolve(check_backend(name)))
    try:
        yield
    finally:
        _active.reset(token)


def active_backend() -> str:
    """The backend of :func:`use_backend`, or that of the environment variable.

    Raises
    ------
    UsageError
        If the environment variable names an unknown backend.
    """
    return _active.get() or _resolve("auto")


def _resolve(name: str) -> str:
    """Replaces ``"auto"`` by the environment variable's backend, if it is set."""
    if name != "auto":
        return name
    name = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name not in BACKENDS:
        raise UsageError(f"{ENVIRONMENT_VARIABLE}={name!r} is not available; choose one of {', '.join(BACKENDS)}.")
    return name


def check_operands(operands: torch.dtype | None) -> None:
    """Raises :class:`UsageError` unless the dtype that a product's operands are rounded to is bfloat16 or ``None``."""
    if operands not in (None, torch.bfloat16):
        raise UsageError(f"operands={operands} is not supported; it is torch.bfloat16 or None.")


def kernels(x: Tensor) -> ModuleType:
    """The native core's ops for the device of ``x``."""
    return native_cuda if x.is_cuda else native_cpu


def implementation(
    op: str, first: Tensor, *others: Tensor | None, unless: Mapping[str, str | None] | None = None
) -> str:
    """Name of the implementation that the active backend runs for ``op`` on these tensors.

    Parameters
    ----------
    op : str
    first, *others : tensor or None
    unless : mapping, optional
        For ``"native"`` and ``"triton"``, an obstacle other than dtypes and devices, or ``None``.

    Returns
    -------
    str
        ``"native"``, ``"triton"``, ``"torch"`` or ``"reference"``.

    Raises
    ------
    UsageError
        If the active backend is ``"native"`` or ``"triton"`` and does not compute the op on these tensors.
    """
    backend = active_backend()
    if backend == "reference":
        return "reference"
    choice = TABLE[op]["cuda" if first.is_cuda else "cpu"]
    chosen = choice.implementation if backend == "auto" else backend
    if chosen == "triton" and not choice.triton:
        if choice.native == "yes" and kernels(first).serves(first, *others):
            return "native"
        chosen, backend = choice.implementation, "auto"
    elif chosen == "native" and choice.native == "needless":
        chosen, backend = choice.implementation, "auto"
    if chosen not in ("native", "triton"):
        return chosen
    obstacle = unless[chosen] if unless is not None else None
    if obstacle is None:
        if chosen == "triton" and triton_backend.serves(first, *others):
            return chosen
        if chosen == "native" and choice.native == "yes" and kernels(first).serves(first, *others):
            return chosen
    if backend == "auto":
        return choice.other
    if obstacle is not None:
        raise UsageError(f"backend={chosen!r} does not compute {op} with {obstacle}; choose 'auto'.")
    if chosen == "triton":
        raise UsageError(f"backend='triton' {triton_backend.why_not(first)}; choose 'auto'.")
    raise UsageError(f"backend='native' {_why_not_native(op, choice, first)}; choose 'auto'.")


def _why_not_native(op: str, choice: Choice, first: Tensor) -> str:
    """Why the native core does not compute an op on these tensors, for an error message."""
    kind = first.device.type
    device = {"cpu": "the CPU", "cuda": "CUDA"}.get(kind, kind)
    if choice.native == "no" or kind not in ("cpu", "cuda"):
        return f"does not compute {op} on {device}"
    if first.is_cuda and not native_cuda.BUILT:
        return "was built without a CUDA compiler"
    dtypes = "one of float32, bfloat16 and float16" if first.is_cuda else "float32"
    return f"computes {op} in {dtypes} on {device}, without autocast"
