"""``pyllmclf`` and ``pyllmclf-eval``."""

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
from .predict import predict
from .validate import validate

INTERRUPTED = 130
TERMINATED = 143

app = typer.Typer(
    help="Fine-tune GPT-2, BERT and their relatives into text classifiers.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(finetune)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(experiments)
app.command()(validate)
app.command()(export)
app.command()(demo)
app.command()(info)

eval_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
eval_app.command()(evaluate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``pyllmclf``."""
    sys.exit(_entered(app, "pyllmclf", arguments))


def main_eval(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``pyllmclf-eval``."""
    sys.exit(_entered(eval_app, "pyllmclf-eval", arguments))


def _entered(command: Callable[..., object], name: str, arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    return run(command, name, arguments)


def run(command: Callable[..., object], name: str, arguments: Sequence[str] | None = None) -> int:
    """Runs a command; an error is one sentence on standard error, and its class decides the exit code."""
    with warnings.catch_warnings():
        # Users of a command want what is said, not where in the library.
        warnings.showwarning = lambda message, *_, **__: print(f"{name}: warning: {message}", file=sys.stderr)
        return _run(command, name, arguments)


def _run(command: Callable[..., object], name: str, arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        command(args=["--help"], prog_name=name, standalone_mode=False)
        return UsageError.exit_code
    in_main_thread = threading.current_thread() is threading.main_thread()
    # A training that has a folder for checkpoints saves; all else ends, and what it was writing is removed.
    before = signal.signal(signal.SIGTERM, _terminated) if in_main_thread else None
    try:
        # Not standalone: errors of the command line arrive here, to be said in one sentence as all others.
        code = command(args=given, prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # it was closed
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print(f"{name}: terminated.", file=sys.stderr)
        return TERMINATED
    except (BrokenPipeError, SystemExit) as error:  # the reader of our output, as head, has seen enough
        # Typer makes an exit of the former.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _write_no_more()
        return 0
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        found = error
        if not isinstance(error, PyllmclfError):
            found = _command_line(error) or _out_of_memory(error) or _of_the_system(error) or error
        if isinstance(found, PyllmclfError):
            print(f"{name}: {found}", file=sys.stderr)
            return found.exit_code
        print(
            f"{name}: unexpected {type(error).__name__}: {error}; this is a bug, --debug shows where.", file=sys.stderr
        )
        return PyllmclfError.exit_code
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Terminated(BaseException):
    """SIGTERM has arrived; nothing handles it on the way."""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _command_line(error: Exception) -> UsageError | None:
    # Typer brings its own copy of Click, or uses the installed one; both format their errors alike.
    if not hasattr(error, "format_message"):
        return None
    return UsageError(f"{error.format_message().rstrip('.')}; --help lists what there is.")


# What a file system says that is full, failing or read-only.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def _of_the_system(error: Exception) -> ResourceError | None:
    if not isinstance(error, OSError) or error.errno not in _NOT_WRITTEN:
        return None
    if error.filename is None:  # whatever else writes files says which
        _write_no_more()
        return ResourceError(f"the output can't be written ({error}).")
    return ResourceError(f"{error.filename} can't be written ({error.strerror}).")


def _write_no_more() -> None:
    """Lets what is left of standard output go nowhere: Python would try again at its end."""
    sys.stdout = sys.__stdout__
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _out_of_memory(error: Exception) -> ResourceError | None:
    # torch's CPU allocator raises a bare RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return ResourceError("out of memory; use a smaller model, shorter texts (max_length) or smaller batches.")
    return None
