"""How signals end a command: as BaseExceptions, which nothing but :func:`pyllmclf.cli.main.run` handles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM has arrived; the argument says what that means for the command."""


class Interrupted(BaseException):
    """SIGINT has arrived; unlike KeyboardInterrupt, Typer doesn't turn it into an exit without a word."""


@contextmanager
def interrupts_mean(consequence: str) -> Iterator[None]:
    """Within the block, an interrupt carries a sentence on what it means for the command."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(consequence) from error
    except Terminated as error:
        raise Terminated(consequence) from error
