"""Exceptions of the public interface; each class has an exit code for the command line."""

from __future__ import annotations


class PyllmclfError(Exception):
    """Base class. The message is one sentence that names the file, line or argument, and says what to do."""

    exit_code = 1


class UsageError(PyllmclfError, ValueError):
    """An argument or a combination of arguments is invalid."""

    exit_code = 2


class UnknownArgumentError(UsageError, TypeError):
    """A call has a keyword that the function doesn't have; the message names the argument that is meant."""


class DataError(PyllmclfError, ValueError):
    """Data can't be read, or don't fit the classifier."""

    exit_code = 3


class ModelError(PyllmclfError, ValueError):
    """A model, tokenizer or checkpoint is missing, damaged, unsupported, or doesn't fit."""

    exit_code = 4


class ResourceError(PyllmclfError, RuntimeError):
    """Memory, disk space, a device or another process is unavailable."""

    exit_code = 5


class NonFiniteError(PyllmclfError, ArithmeticError):
    """A loss, gradient or parameter is not a finite number.

    Attributes
    ----------
    step : int or None
        The optimizer step, counted from 1.
    """

    exit_code = 6

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class PreemptedError(PyllmclfError, RuntimeError):
    """A signal has ended a training; ``resume=True`` resumes it from the checkpoint that was saved."""

    exit_code = 75
