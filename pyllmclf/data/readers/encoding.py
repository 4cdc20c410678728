"""Bytes of a file to text: its encoding, invalid bytes, and how they are reported."""

from __future__ import annotations

import codecs
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from ...errors import DataError
from .data_file import DataFile, data_file_of
from .encoding_guess import FALLBACK, HEAD, MARKS, binary_kind, is_western, mark_of, wide_encoding
from .notes import Notes

AUTO = "auto"
_REPLACEMENT = "\ufffd"
_PIECE = 1 << 20


@dataclass(frozen=True)
class TextFile:
    """A file of text whose encoding is known and whose bytes are valid in it, or are replaced.

    Attributes
    ----------
    file : DataFile
    encoding : str
        Name of the codec, which leaves byte order marks alone.
    mark : int
        Number of bytes of the byte order mark.
    errors : {"strict", "replace"}
    has_quotes : bool
        Whether there is a double quote anywhere.
    """

    file: DataFile
    encoding: str
    mark: int
    errors: str
    has_quotes: bool

    def open(self, newline: str = "") -> TextIO:
        """Opens the text after its mark; ``newline`` as for :func:`open`."""
        raw = self.file.open()
        raw.seek(self.mark)
        return io.TextIOWrapper(raw, self.encoding, self.errors, newline)

    def read(self) -> str:
        """The whole text, line ends as they are."""
        return self.file.read()[self.mark :].decode(self.encoding, self.errors)


def open_text(
    data: Path | DataFile, errors: str = "strict", encoding: str = AUTO, notes: Notes | None = None
) -> TextFile:
    """Finds the encoding of a file of text, and checks all its bytes.

    Parameters
    ----------
    data : Path or DataFile
    errors : {"strict", "replace"}
        Whether invalid bytes raise, or become U+FFFD, with a warning that counts them.
    encoding : str
        Name of a codec of Python. ``"auto"`` is what the byte order mark says; else UTF-16 or UTF-32 where the zero
        bytes say so; else UTF-8; and for bytes that are neither, cp1252 where it is plausible
        (:func:`.encoding_guess.is_western`) and ``errors`` does not replace them.
    notes : Notes, optional
        Gets what was found out; without it, a warning says so.

    Raises
    ------
    DataError
        If the file can't be read, is no text, or if ``errors`` is ``"strict"`` and a byte is invalid; names its line
        and offset.
    """
    file = data_file_of(data)
    head = file.head(HEAD)
    if len(head) < HEAD:  # the whole file, which need not be opened again
        file = replace(file, content=head)
    codec, mark = codec_of(head, encoding, complete=len(head) < HEAD)
    own_notes = Notes(file.origin)
    found = own_notes if notes is None else notes
    result = _check(file, codec, mark)
    if isinstance(result, bool):
        if encoding == AUTO and codec != "utf-8":
            found.add(f"as {codec.upper()}", "encoding")
    elif encoding == AUTO and codec == "utf-8" and errors == "strict" and not mark and is_western(_pieces(file, 0)):
        codec, result = FALLBACK, _check(file, FALLBACK, 0)
        found.add(f"as {FALLBACK}", "encoding")
    if not isinstance(result, bool):
        if errors == "strict":
            raise result.error(file, codec, head, encoding == AUTO)
        result = _count_replaced(file, codec, mark)
    own_notes.say()
    return TextFile(file, codec, mark, errors, result)


def codec_of(head: bytes, encoding: str = AUTO, *, complete: bool) -> tuple[str, int]:
    """Codec of a text and length of its byte order mark, by its first bytes.

    Parameters
    ----------
    head : bytes
    encoding : str
        As for :func:`open_text`; ``"auto"`` is UTF-8 where the bytes show no UTF-16 or UTF-32.
    complete : bool
        Whether that is the whole text.
    """
    if encoding == AUTO:
        return _by_head(head, complete) or ("utf-8", 0)
    name = codecs.lookup(encoding).name
    if name in ("utf-16", "utf-32"):  # the mark decides, or the zero bytes, or else Windows' order
        found = _by_head(head, complete)
        return found if found is not None and found[0].startswith(name) else (f"{name}-le", 0)
    name = name.removesuffix("-sig")
    return name, next((len(mark) for mark, codec in MARKS if codec == name and head.startswith(mark)), 0)


def read_text(data: Path | DataFile, errors: str = "strict", encoding: str = AUTO) -> str:
    """Content of a file of text, packed or not; arguments and errors as for :func:`open_text`."""
    return open_text(data, errors, encoding).read()


def read_bytes(data: Path | DataFile) -> bytes:
    """Content of a file, unpacked.

    Raises
    ------
    DataError
        If the file can't be read or unpacked.
    ResourceError
        If it unpacks to more than fits into memory.
    """
    return data_file_of(data).read()


def decode(raw: bytes, origin: str, errors: str = "strict", encoding: str = AUTO) -> str:
    """Decodes the content of a file; arguments and errors as for :func:`open_text`."""
    return open_text(DataFile(origin, "", raw), errors, encoding).read()


def decode_values(raw: list[bytes | None], origin: str) -> list[str | None]:
    """Decodes UTF-8 strings, ``None`` as it is; invalid bytes become U+FFFD, with a warning that counts them."""
    texts = [None if value is None else value.decode(errors="replace") for value in raw]
    count = sum(text.count(_REPLACEMENT) for text in texts if text is not None)
    warn_replaced(origin, count - sum(value.count(_REPLACEMENT.encode()) for value in raw if value is not None))
    return texts


def warn_replaced(origin: str, count: int, encoding: str = "UTF-8") -> None:
    """Warns that ``count`` places of a source were replaced."""
    warnings.warn(
        f"{origin}: {count:,} places are not valid {encoding} and were replaced by U+FFFD.",
        RuntimeWarning,
        stacklevel=3,
    )


@dataclass(frozen=True)
class _Invalid:
    """The first invalid byte of a file: its offset, its value, and the number of its line."""

    offset: int
    byte: int
    line: int

    def error(self, file: DataFile, codec: str, head: bytes, guessed: bool) -> DataError:
        """The error that names the byte, with advice that helps."""
        kind = binary_kind(head)
        if kind is not None:
            return DataError(f"{file.origin}: not a file of text but {kind}.")
        name = "UTF-8" if codec == "utf-8" else codec
        problem = f"{file.origin}, line {self.line}: byte {self.offset} (0x{self.byte:02x}) is not valid {name}"
        if b"\0" in head and codec == "utf-8":
            return DataError(f"{problem}, and the file holds zero bytes: it is probably no text; save it as CSV, say.")
        replace = 'encoding_errors="replace" (--encoding-errors replace) replaces such bytes'
        if not guessed:
            return DataError(f"{problem}; if the file has another encoding, say that one; {replace}.")
        return DataError(
            f"{problem}; if the file has another encoding, say encoding=... (--encoding), such as cp1251, gb18030 or "
            f"shift_jis; {replace}."
        )


def _by_head(head: bytes, complete: bool) -> tuple[str, int] | None:
    """Codec and length of the mark, where the first bytes tell them."""
    if (marked := mark_of(head)) is not None:
        mark, codec = marked
        return codec, len(mark)
    wide = wide_encoding(head, complete)
    return None if wide is None else (wide, 0)


def _pieces(file: DataFile, start: int) -> Iterator[bytes]:
    with file.open() as content:
        content.seek(start)
        yield from iter(partial(_read, content, file.origin), b"")


def _read(content: BinaryIO, origin: str) -> bytes:
    try:
        return content.read(_PIECE)
    except OSError as error:
        raise DataError(f"{origin}: can't be read ({error.strerror or error}).") from error


def _check(file: DataFile, codec: str, mark: int) -> bool | _Invalid:
    """Whether a text has double quotes, or its first invalid byte."""
    decoder = codecs.getincrementaldecoder(codec)()
    has_quotes, end, lines = False, mark, 1
    for piece in _with_end(_pieces(file, mark)):
        end += len(piece)
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            # The decoder's input begins with what it has kept of the piece before.
            offset = end - len(error.object) + error.start
            lines += error.object[: error.start].decode(codec, "ignore").count("\n")
            return _Invalid(offset, error.object[error.start], lines)
        has_quotes = has_quotes or '"' in text
        lines += text.count("\n")
    return has_quotes


def _with_end(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, and an empty one at the end."""
    yield from pieces
    yield b""


def _count_replaced(file: DataFile, codec: str, mark: int) -> bool:
    """Warns how many places are invalid; whether the text has double quotes."""
    decoder, strict = codecs.getincrementaldecoder(codec)("replace"), codecs.getincrementaldecoder(codec)("ignore")
    has_quotes, replaced = False, 0
    for piece in _with_end(_pieces(file, mark)):
        text = decoder.decode(piece, final=not piece)
        replaced += text.count(_REPLACEMENT) - strict.decode(piece, final=not piece).count(_REPLACEMENT)
        has_quotes = has_quotes or '"' in text
    warn_replaced(file.origin, replaced, "UTF-8" if codec == "utf-8" else codec)
    return has_quotes
