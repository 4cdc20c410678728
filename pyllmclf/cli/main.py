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
from .explain import explain
from .export import export
from .finetune import finetune
from .info import info
from .interrupts import INTERRUPTED, TERMINATED, Interrupted, Terminated
from .options import Version
from .predict import predict
from .serve import serve
from .streams import discard_output, flush_output, lenient_standard_error, output_is_broken, prepare_streams
from .tune import tune
from .usage import command_line_error
from .validate import validate

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
_add(tune, TRAIN, "pyllmclf tune reviews.csv --model minilm --time-limit 10m --output-dir out")
_add(validate, TRAIN, "pyllmclf validate reviews.csv --test held_out.csv --model gpt2")
_add(experiments, TRAIN, "pyllmclf experiments --rows 1-5 --output-dir experiments")
_add(evaluate, USE, "pyllmclf eval out held_out.csv --report report.html", "eval")
_add(predict, USE, "pyllmclf predict out reviews.csv --output predictions.csv")
_add(explain, USE, "pyllmclf explain out reviews.csv --output explanations.html")
_add(serve, USE, "pyllmclf serve out --port 8000")
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
        reported = command_line_error(error) or _memory_error(error) or _system_error(error) or error
    if isinstance(reported, PyllmclfError):
        _tell(name, str(reported))
        return reported.exit_code
    _tell(name, f"unexpected {type(error).__name__}: {error}; this is a bug, --debug shows where.")
    return PyllmclfError.exit_code


def _consequence(error: BaseException) -> str:
    return f"; {error.args[0]}" if error.args else ""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


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
