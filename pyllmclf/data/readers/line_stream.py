"""Lines of a file or a pipe, as they arrive."""

from __future__ import annotations

import codecs
import threading
import zlib
from collections import deque
from typing import BinaryIO

from ...errors import DataError
from .encoding import codec_of, warn_replaced

_CHUNK = 1 << 16
_MARK = b"\xef\xbb\xbf"
_counts = threading.local()
_COUNTED = "pyllmclf.replace"


def _replace_and_count(error: UnicodeError) -> tuple[str | bytes, int]:
    _counts.replaced += 1
    return codecs.replace_errors(error)


codecs.register_error(_COUNTED, _replace_and_count)


class LineStream:
    """Lines of a file, each with its line break; ``ready`` says whether the next one has arrived.

    Text of another encoding than UTF-8 becomes UTF-8 as it arrives; its first bytes, or ``encoding``, tell which it is.
    """

    def __init__(self, file: BinaryIO, origin: str, errors: str, encoding: str = "auto") -> None:
        self._encoding = encoding
        self._decoder: codecs.IncrementalDecoder | None = None
        self._codec = "UTF-8"
        self._invalid: UnicodeDecodeError | None = None
        self._begun = False
        self.number, self.replaced = 0, 0
        self._file, self._origin, self._errors = file, origin, errors
        self._arrived: deque[bytes] = deque()
        self._pieces: list[bytes] = []  # of a line that has not ended
        self._offset, self._ended = 0, False

    @property
    def ready(self) -> bool:
        return bool(self._arrived)

    def __iter__(self) -> LineStream:
        return self

    def __next__(self) -> str:
        while not self._arrived:
            if self._ended:
                if self.replaced:
                    warn_replaced(self._origin, self.replaced, self._codec)
                    self.replaced = 0
                raise StopIteration
            self._read()
        raw = self._arrived.popleft()
        self.number += 1
        if self.number == 1 and raw.startswith(_MARK):
            raw, self._offset = raw[len(_MARK) :], len(_MARK)
        text = self._decoded(raw)
        self._offset += len(raw)
        return text

    def _read(self) -> None:
        if self._invalid is not None:  # the lines before are read
            raise DataError(
                f"{self._origin}: after line {self.number}, bytes are not valid {self._codec}; say the "
                'encoding (--encoding), or encoding_errors="replace" (--encoding-errors replace).'
            ) from self._invalid
        try:
            chunk = self._file.read1(_CHUNK) if hasattr(self._file, "read1") else self._file.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self._origin}: can't be read ({error}).") from error
        chunk = self._as_utf8(chunk)
        if self._ended:
            self._pieces += [chunk] if chunk else []  # what the decoder has kept back
            if self._pieces:
                self._arrived.append(b"".join(self._pieces))
            return
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._pieces, whole[0]])
            self._pieces = []
            self._arrived.extend(line + b"\n" for line in whole)
        if rest:
            self._pieces.append(rest)

    def _as_utf8(self, chunk: bytes) -> bytes:
        """The chunk in UTF-8; an empty one ends the file."""
        self._ended = not chunk
        if not self._begun:
            self._begun = True
            codec, mark = codec_of(chunk, self._encoding, complete=False)
            if codec != "utf-8":
                errors = _COUNTED if self._errors == "replace" else self._errors
                self._decoder, self._codec = codecs.getincrementaldecoder(codec)(errors), codec
                chunk = chunk[mark:]
        if self._decoder is None:
            return chunk
        _counts.replaced = 0
        state = self._decoder.getstate()
        try:
            text = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            # Lines before the bytes are read; the error comes with the line that has them.
            self._invalid, self._ended = error, False
            kept_back = len(error.object) - len(chunk)
            self._decoder.setstate(state)
            text = self._decoder.decode(chunk[: max(0, error.start - kept_back)])
        self.replaced += _counts.replaced
        return text.encode("utf-8", "surrogatepass")

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            if self._errors == "strict":
                raise DataError(
                    f"{self._origin}, line {self.number}: byte {self._offset + error.start} "
                    f"(0x{raw[error.start]:02x}) is not valid UTF-8; convert the file to UTF-8, or say "
                    'encoding_errors="replace" (--encoding-errors replace).'
                ) from error
        text = raw.decode(errors="replace")
        self.replaced += text.count("\ufffd") - raw.count("\ufffd".encode())
        return text
