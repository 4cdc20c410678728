"""Lines of a file or a pipe, as they arrive."""

from __future__ import annotations

import zlib
from collections import deque
from typing import BinaryIO

from ...errors import DataError
from .encoding import warn_replaced

_CHUNK = 1 << 16
_MARK = b"\xef\xbb\xbf"


class LineStream:
    """Lines of a file of UTF-8, each with its line break; ``ready`` says whether the next one has arrived."""

    def __init__(self, file: BinaryIO, origin: str, errors: str) -> None:
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
                    warn_replaced(self._origin, self.replaced)
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
        try:
            chunk = self._file.read1(_CHUNK) if hasattr(self._file, "read1") else self._file.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self._origin}: can't be read ({error}).") from error
        if not chunk:
            self._ended = True
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
