"""Which implementation of an op runs.

``"reference"`` runs :mod:`pyllmclf.ops.reference` everywhere. ``"auto"`` takes, for each op, the fastest implementation
that the table below names for it, where more than one was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ..errors import UsageError

BACKENDS = ("auto", "reference")


@dataclass(frozen=True)
class Choice:
    """What ``"auto"`` runs for an op, and why."""

    implementation: str
    why: str


TABLE: dict[str, Choice] = {
    "attention": Choice(
        "torch", "fused kernel per text: 1.6 times the reference; it serves dropout, windows, row subsets"
    ),
    "dropout": Choice("reference", "the only implementation"),
    "embedding": Choice("reference", "the only implementation"),
    "gelu": Choice("reference", "calls torch's own kernel"),
    "layer_norm": Choice("reference", "calls torch's own kernel"),
    "lora_linear": Choice("reference", "the only implementation"),
    "pool": Choice("reference", "the only implementation"),
}

_active: ContextVar[str] = ContextVar("pyllmclf_backend", default="auto")


def check_backend(name: str) -> str:
    """Returns ``name``, or raises :class:`UsageError` if there is no such backend."""
    if name not in BACKENDS:
        raise UsageError(f"backend={name!r} is not available; choose one of {', '.join(BACKENDS)}.")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the ops inside the block with the given backend."""
    token = _active.set(check_backend(name))
    try:
        yield
    finally:
        _active.reset(token)


def implementation(op: str) -> str:
    """Name of the implementation that runs now for ``op``."""
    return "reference" if _active.get() == "reference" else TABLE[op].implementation
