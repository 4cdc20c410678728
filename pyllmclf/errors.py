"""Exceptions of the public interface; each carries the exit code of the command line."""

from __future__ import annotations


class PyllmclfError(Exception):
    """Base class. The message is one sentence that names the file, line or argument, and says what to do."""

    exit_code = 1


class UsageError(PyllmclfError, ValueError):
    """An argument, or a combination of arguments, that makes no sense."""

    exit_code = 2


class DataError(PyllmclfError, ValueError):
    """Data that can't be read, or that don't fit the classifier."""

    exit_code = 3


class ModelError(PyllmclfError, ValueError):
    """A model, tokenizer or checkpoint that is missing, damaged, unsupported or doesn't fit."""

    exit_code = 4


class ResourceError(PyllmclfError, RuntimeError):
    """Memory, disk space or a device that is not to be had."""

    exit_code = 5


class NonFiniteError(PyllmclfError, ArithmeticError):
    """A loss, gradient or parameter that is not a finite number.

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
    """A signal has ended a training; a checkpoint was saved, from which ``resume=True`` goes on."""

    exit_code = 75
