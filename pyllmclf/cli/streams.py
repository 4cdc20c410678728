"""Standard output and standard error of a command: closed, full, and of any encoding."""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import select
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..progress import LenientStream

_TERMINAL = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def prepare_streams() -> None:
    """Opens the null device for standard streams that are closed, and lets names that aren't UTF-8 be printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file that is opened, perhaps a checkpoint, would receive what libraries print.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def lenient_standard_error() -> Iterator[None]:
    """Within the block, nothing that is written to standard error raises."""
    before = sys.stderr
    sys.stderr = LenientStream(lambda: before)
    try:
        yield
    finally:
        sys.stderr = before


def output_is_broken() -> bool:
    """Whether the reader of standard output, such as ``head``, has closed it."""
    try:
        # rich redirects a broken output to the null device.
        if os.path.samestat(os.fstat(sys.stdout.fileno()), os.stat(os.devnull)):
            return True
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no descriptor, or a system without poll
        return True


def flush_output() -> None:
    """Writes what standard output still holds, or drops it: Python would try again at exit, and fail."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        discard_output()


def discard_output() -> None:
    """Redirects standard output to the null device."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        sys.stdout.flush()


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Prints JSON on standard output that is valid whatever the stream's encoding.

    Numbers that are not finite become null. Each row of a confusion matrix is a line: a line for each number would be
    slow to write and to read. Characters stay as they are where the stream is UTF-8; elsewhere they are
    escaped, and ASCII is written.

    Parameters
    ----------
    value : object
        Consists of types that JSON has.
    indent : int, optional
        As for :func:`json.dumps`; ``None`` prints a single line.
    """
    stream = sys.stdout
    if stream is None:
        return
    escape = not _is_utf8(stream)
    matrices: dict[str, str] = {}
    if indent is not None:
        value = _without_matrices(value, matrices)
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=escape, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=escape)
    for place, matrix in matrices.items():
        text = text.replace(json.dumps(place), matrix, 1)
    # The same JSON, without characters that a terminal obeys; json itself escapes those below U+0020.
    text = _TERMINAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(f"{text}\n")
        return
    stream.flush()
    # backslashreplace: lone surrogates become JSON's own escapes.
    buffer.write(f"{text}\n".encode("utf-8", "backslashreplace"))


def utf8_output(stream: Any) -> Any:
    """The stream itself if it is UTF-8 or has no bytes below; otherwise one that writes UTF-8 to these bytes.

    Tables and labels for programs are UTF-8 as in files: another encoding lacks characters, and neither has escapes.
    """
    buffer = getattr(stream, "buffer", None)
    return stream if buffer is None or _is_utf8(stream) else _Utf8(stream, buffer)


class _Utf8:
    """Text for the bytes below a stream, as UTF-8."""

    def __init__(self, stream: Any, buffer: Any) -> None:
        stream.flush()  # what was written before comes first
        self._buffer = buffer

    def write(self, text: str) -> int:
        self._buffer.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        self._buffer.flush()


def _without_matrices(value: Any, matrices: dict[str, str]) -> Any:
    """The value with a unique string for each confusion matrix, by which ``matrices`` then has the matrix's JSON."""
    if isinstance(value, list):
        return [_without_matrices(each, matrices) for each in value]
    if not isinstance(value, dict):
        return value
    content = {}
    for key, each in value.items():
        if key == "confusion_matrix" and isinstance(each, list):
            content[key] = uuid.uuid4().hex
            matrices[content[key]] = "[\n" + ",\n".join(map(json.dumps, each)) + "\n]"
        else:
            content[key] = _without_matrices(each, matrices)
    return content


def _is_utf8(stream: Any) -> bool:
    try:
        return codecs.lookup(stream.encoding).name in ("utf-8", "utf-8-sig")
    except (LookupError, TypeError, AttributeError):  # a stream of text without an encoding
        return getattr(stream, "buffer", None) is None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
