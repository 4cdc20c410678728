"""Bytes of a file to text: gzip, UTF-8, byte order mark."""

from __future__ import annotations

import gzip
import warnings
import zlib
from pathlib import Path

from ...errors import DataError

GZIP_ENDING = ".gz"
_MARK = b"\xef\xbb\xbf"
_REPLACEMENT = "\ufffd"


def is_gzipped(path: Path) -> bool:
    """Whether a file is gzipped, by the ending of its name."""
    return path.suffix.lower() == GZIP_ENDING


def read_text(path: Path, errors: str = "strict") -> str:
    """Content of a file of text, gzipped or not; raises as :func:`read_bytes` and :func:`decode`."""
    return decode(read_bytes(path, compressed=is_gzipped(path)), str(path), errors)


def read_bytes(path: Path, compressed: bool = False) -> bytes:
    """Content of a file, decompressed if it is gzipped.

    Raises
    ------
    DataError
        If the file can't be read or is no complete gzip file.
    """
    try:
        return gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read ({error}).") from error


def decode(raw: bytes, origin: str, errors: str = "strict") -> str:
    """Decodes UTF-8, with or without a byte order mark.

    Parameters
    ----------
    raw : bytes
    origin : str
        File name, for messages.
    errors : {"strict", "replace"}
        Whether invalid bytes raise, or become U+FFFD, with a warning that counts them.

    Raises
    ------
    DataError
        If ``errors`` is ``"strict"`` and a byte is invalid; names its line and offset.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec's offset starts after the byte order mark where it has removed one.
        start = error.start + (len(_MARK) if raw.startswith(_MARK) and len(error.object) < len(raw) else 0)
        line = raw.count(b"\n", 0, start) + 1
        if errors == "strict":
            raise DataError(
                f"{origin}, line {line}: byte {start} (0x{raw[start]:02x}) is not valid UTF-8; convert the file to "
                'UTF-8, or say encoding_errors="replace" (--encoding-errors replace).'
            ) from error
    content = raw.decode("utf-8-sig", errors="replace")
    warn_replaced(origin, content.count(_REPLACEMENT) - raw.count(_REPLACEMENT.encode()))
    return content


def decode_values(raw: list[bytes | None], origin: str) -> list[str | None]:
    """Decodes UTF-8 strings, ``None`` as it is; invalid bytes become U+FFFD, with a warning that counts them."""
    texts = [None if value is None else value.decode(errors="replace") for value in raw]
    count = sum(text.count(_REPLACEMENT) for text in texts if text is not None)
    warn_replaced(origin, count - sum(value.count(_REPLACEMENT.encode()) for value in raw if value is not None))
    return texts


def warn_replaced(origin: str, count: int) -> None:
    """Warns that ``count`` places of a source were replaced."""
    warnings.warn(
        f"{origin}: {count:,} places are not valid UTF-8 and were replaced by U+FFFD.", RuntimeWarning, stacklevel=3
    )
