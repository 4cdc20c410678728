"""Entry points of ``pyllmclf`` and ``pyllmclf-eval``; errors become one sentence and an exit code."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

import typer

from ..errors import PyllmclfError, ResourceError, UsageError
from ..printable import printable
from .demo import demo
from .evaluate import evaluate
from .experiments import experiments
from .export import export
from .finetune import finetune
from .info import info
from .interrupts import INTERRUPTED, TERMINATED, Interrupted, Terminated
from .predict import predict
from .streams import discard_output, flush_output, lenient_standard_error, output_is_broken, prepare_streams
from .validate import validate

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
    """Runs ``pyllmclf``, and exits with its code; ``arguments`` default to those of the process."""
    sys.exit(_enter(app, "pyllmclf", arguments))


def main_eval(arguments: Sequence[str] | None = None) -> None:
    """Runs ``pyllmclf-eval``, and exits with its code; ``arguments`` default to those of the process."""
    sys.exit(_enter(eval_app, "pyllmclf-eval", arguments))


def _enter(command: Callable[..., object], name: str, arguments: Sequence[str] | None) -> int:
    prepare_streams()
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
    with warnings.catch_warnings(), lenient_standard_error():
        # Without the place in the library, of no use to users of a command.
        warnings.showwarning = lambda message, *_, **__: _tell(name, f"warning: {message}")
        try:
            return _run(command, name, arguments)
        finally:
            flush_output()


def _tell(name: str, sentence: str) -> None:
    print(f"{name}: {printable(sentence)}", file=sys.stderr)


def _run(command: Callable[..., object], name: str, arguments: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args:
        command(args=["--help"], prog_name=name, standalone_mode=False)
        return UsageError.exit_code
    in_main_thread = threading.current_thread() is threading.main_thread()
    # A training with an output folder saves a checkpoint; everything else ends, and removes unfinished files.
    previous, stdout = signal.signal(signal.SIGTERM, _terminated) if in_main_thread else None, sys.stdout
    try:
        # Not standalone: errors of the command line are raised here, and printed in one sentence as all others.
        code = command(args=args, prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # None: it was closed
            sys.stdout.flush()
        if code == INTERRUPTED:  # from Typer, which has handled a KeyboardInterrupt
            _tell(name, "interrupted.")
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, Interrupted, typer.Abort) as error:
        _tell(name, f"interrupted{_consequence(error)}.")
        return INTERRUPTED
    except Terminated as error:
        _tell(name, f"terminated{_consequence(error)}.")
        return TERMINATED
    except SystemExit as error:  # Typer turns a broken pipe into an exit, and replaces the streams
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        sys.stdout = stdout
        return _report(error.__context__, name, debug="--debug" in args)
    except Exception as error:
        return _report(error, name, debug="--debug" in args)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _report(error: Exception, name: str, *, debug: bool) -> int:
    """Prints an error as one sentence, and returns its exit code."""
    if isinstance(error, BrokenPipeError) and output_is_broken():
        # Output is printed when the work is done: its reader, such as head, has seen enough.
        discard_output()
        return 0
    if debug:
        traceback.print_exception(error)
    reported = error
    if not isinstance(error, PyllmclfError):
        reported = _command_line_error(error) or _memory_error(error) or _system_error(error) or error
    if isinstance(reported, PyllmclfError):
        _tell(name, str(reported))
        return reported.exit_code
    _tell(name, f"unexpected {type(error).__name__}: {error}; this is a bug, --debug shows where.")
    return PyllmclfError.exit_code


def _consequence(error: BaseException) -> str:
    return f"; {error.args[0]}" if error.args else ""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _command_line_error(error: Exception) -> UsageError | None:
    # Typer vendors Click, or uses the installed one; the errors of both have this method.
    if not hasattr(error, "format_message"):
        return None
    return UsageError(f"{error.format_message().rstrip('.')}; --help lists the commands and options.")


# Error codes of file systems that are full, failing or read-only.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def _system_error(error: Exception) -> ResourceError | None:
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceError(f"too many files are open ({error}); raise the limit, as by ulimit -n 4096.")
    if error.errno == errno.EPIPE:
        return ResourceError(f"a pipe was closed by its reader ({error}).")
    if error.errno not in _NOT_WRITTEN:
        return None
    if error.filename is None:  # standard output: all other writers name their file
        discard_output()
        return ResourceError(f"the output can't be written ({error}).")
    return ResourceError(f"{error.filename} can't be written ({error.strerror}).")


def _memory_error(error: Exception) -> ResourceError | None:
    # torch's CPU allocator raises a bare RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return ResourceError("out of memory; use a smaller model, shorter texts (max_length) or smaller batches.")
    return None
