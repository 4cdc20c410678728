"""Entry points of ``pyllmclf`` and ``pyllmclf-eval``; errors become one sentence and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

import typer

from ..errors import PyllmclfError, ResourceError, UsageError
from .demo import demo
from .evaluate import evaluate
from .experiments import experiments
from .export import export
from .finetune import finetune
from .info import info
from .options import Version
from .predict import predict
from .usage import command_line_error
from .validate import validate

INTERRUPTED = 130
TERMINATED = 143

app = typer.Typer(
    help="Fine-tune GPT-2, BERT and their relatives into text classifiers.",
    epilog="Example: pyllmclf finetune reviews.csv --model bert-base-uncased --output-dir out",
    pretty_exceptions_enable=False,
)
TRAIN, USE, ABOUT = "Train", "Use a classifier", "Try and inspect"


@app.callback()
def _program(version: Version = False) -> None:
    pass


def _add(command: Callable[..., None], group: str, example: str, name: str | None = None) -> None:
    app.command(name, rich_help_panel=group, epilog=f"Example: {example}")(command)


_add(finetune, TRAIN, "pyllmclf finetune reviews.csv --validation 0.1 --model gpt2 --output-dir out")
_add(validate, TRAIN, "pyllmclf validate reviews.csv --test held_out.csv --model gpt2")
_add(experiments, TRAIN, "pyllmclf experiments --rows 1-5 --output-dir experiments")
_add(evaluate, USE, "pyllmclf eval out held_out.csv --report report.html", "eval")
_add(predict, USE, "pyllmclf predict out reviews.csv --output predictions.csv")
_add(export, USE, "pyllmclf export out graph --format onnx")
_add(demo, ABOUT, "pyllmclf demo --output-dir demo")
_add(info, ABOUT, "pyllmclf info --json")

eval_app = typer.Typer(pretty_exceptions_enable=False)
eval_app.command(epilog="Example: pyllmclf-eval out held_out.csv --report report.html")(evaluate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``pyllmclf``, and exits with its code; ``arguments`` default to those of the process."""
    sys.exit(_enter(app, "pyllmclf", arguments))


def main_eval(arguments: Sequence[str] | None = None) -> None:
    """Runs ``pyllmclf-eval``, and exits with its code; ``arguments`` default to those of the process."""
    sys.exit(_enter(eval_app, "pyllmclf-eval", arguments))


def _enter(command: Callable[..., object], name: str, arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be UTF-8
    return run(command, name, arguments)


def run(command: Callable[..., object], name: str, arguments: Sequence[str] | None = None) -> int:
    """Runs a command; an error is printed as one sentence on standard error.

    Parameters
    ----------
    command : callable
        A Typer application.
    name : str
        Name of the program, for messages.
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit code: 0, or that of the error's class.
    """
    with warnings.catch_warnings():
        # Without the place in the library, of no use to users of a command.
        warnings.showwarning = lambda message, *_, **__: print(f"{name}: warning: {message}", file=sys.stderr)
        return _run(command, name, arguments)


def _run(command: Callable[..., object], name: str, arguments: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args:
        command(args=["--help"], prog_name=name, standalone_mode=False)
        return UsageError.exit_code
    in_main_thread = threading.current_thread() is threading.main_thread()
    # A training with an output folder saves a checkpoint; everything else ends, and removes unfinished files.
    previous = signal.signal(signal.SIGTERM, _terminated) if in_main_thread else None
    try:
        # Not standalone: errors of the command line are raised here, and printed in one sentence as all others.
        code = command(args=args, prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # None: it was closed
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print(f"{name}: terminated.", file=sys.stderr)
        return TERMINATED
    except (BrokenPipeError, SystemExit) as error:  # the reader of the output, such as head, has closed it
        # Typer turns a broken pipe into an exit.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _discard_output()
        return 0
    except Exception as error:
        if "--debug" in args:
            traceback.print_exc()
        reported = error
        if not isinstance(error, PyllmclfError):
            reported = command_line_error(error) or _memory_error(error) or _system_error(error) or error
        if isinstance(reported, PyllmclfError):
            print(f"{name}: {reported}", file=sys.stderr)
            return reported.exit_code
        print(
            f"{name}: unexpected {type(error).__name__}: {error}; this is a bug, --debug shows where.", file=sys.stderr
        )
        return PyllmclfError.exit_code
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


class _Terminated(BaseException):
    """SIGTERM has arrived; a BaseException, so that nothing but :func:`run` handles it."""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated


# Error codes of file systems that are full, failing or read-only.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def _system_error(error: Exception) -> ResourceError | None:
    if not isinstance(error, OSError) or error.errno not in _NOT_WRITTEN:
        return None
    if error.filename is None:  # standard output: all other writers name their file
        _discard_output()
        return ResourceError(f"the output can't be written ({error}).")
    return ResourceError(f"{error.filename} can't be written ({error.strerror}).")


def _discard_output() -> None:
    """Redirects standard output to the null device: Python would flush it again at exit."""
    sys.stdout = sys.__stdout__
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _memory_error(error: Exception) -> ResourceError | None:
    # torch's CPU allocator raises a bare RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return ResourceError("out of memory; use a smaller model, shorter texts (max_length) or smaller batches.")
    return None
