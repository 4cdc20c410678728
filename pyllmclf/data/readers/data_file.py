"""Files of data: what a path names, and its unpacked content, which can be read several times."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ...errors import DataError
from .compression import read_pieces, unpack, without_packing

# A packed file may hold a packed file.
_MOST_PACKINGS = 3
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/{1,2}", re.IGNORECASE)
_STREAM = re.compile(r"/dev/(stdin|fd/\d+)|/proc/[^/]+/fd/\d+")


@dataclass(frozen=True)
class DataFile:
    """A file of data, unpacked.

    Attributes
    ----------
    origin : str
        Name for messages, as the user wrote it.
    name : str
        Name whose ending tells the format: without the ending of a packing, or that of an archive's member.
    content : Path or bytes
        The file itself, or the content of one that was packed or can be read only once.
    is_stream : bool
        Whether it was named as a stream, such as a pipe or /dev/stdin, whose name may not tell the format.
    """

    origin: str
    name: str
    content: Path | bytes
    is_stream: bool = False

    def __str__(self) -> str:
        return self.origin

    @property
    def ending(self) -> str:
        """Ending of the name, in lower case, with its dot."""
        return Path(self.name).suffix.lower()

    def open(self) -> BinaryIO:
        """Opens the content at its beginning."""
        if isinstance(self.content, Path):
            try:
                return self.content.open("rb")
            except OSError as error:
                raise _unreadable(self.origin, error) from error
        return io.BytesIO(self.content)  # which shares the bytes

    def read(self) -> bytes:
        """The whole content."""
        if isinstance(self.content, bytes):
            return self.content
        with self.open() as file:
            try:
                return file.read()
            except OSError as error:
                raise _unreadable(self.origin, error) from error

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes."""
        with self.open() as file:
            return file.read(size)


def open_data_file(path: Path) -> DataFile:
    """Finds out what a path names; unpacks it, and reads it if it can be read only once.

    Raises
    ------
    DataError
        If there is no such file, or it can't be read or unpacked.
    ResourceError
        If its content does not fit into memory.
    """
    origin = str(path)
    check_no_address(origin)
    kind = _kind(path)
    is_file = stat.S_ISREG(kind)
    # The name of a stream says nothing, unless it is that of a file: /dev/stdin may be one.
    is_stream = not is_file or _STREAM.fullmatch(origin) is not None
    name = (Path(os.path.realpath(path)) if is_stream else path).name if is_file else ""
    content: Path | bytes = path
    try:
        if not is_file:
            with path.open("rb") as stream:
                content = read_pieces(stream, origin, what="holds")
        content, name = _unpacked(content, name, origin)
    except OSError as error:
        raise _unreadable(origin, error) from error
    return DataFile(origin, without_packing(name), content, is_stream)


def data_file_in_memory(content: bytes, name: str, most: int | None = None) -> DataFile:
    """A file whose bytes are at hand, unpacked; ``name`` tells its format, and stands in messages.

    Parameters
    ----------
    content : bytes
    name : str
    most : int, optional
        Most bytes of the unpacked content.

    Raises
    ------
    DataError
        If it can't be unpacked.
    ResourceError
        If its content does not fit into memory, or has more than ``most`` bytes.
    """
    unpacked, inner = _unpacked(content, name, name, most)
    return DataFile(name, without_packing(inner), unpacked)


def _unpacked(content: Path | bytes, name: str, origin: str, most: int | None = None) -> tuple[Path | bytes, str]:
    """Content and name of a file without its packings."""
    for _ in range(_MOST_PACKINGS):
        with _opened(content) as file:
            unpacked = unpack(file, name, origin, most)
        if unpacked is None:
            break
        content, name = unpacked
    return content, name


def data_file_of(data: Path | DataFile) -> DataFile:
    """The data file of a path; a data file as it is."""
    return data if isinstance(data, DataFile) else open_data_file(data)


def check_no_address(name: str) -> None:
    """Raises :class:`DataError` for an address of the web; ``Path`` makes one slash of two."""
    if _ADDRESS.match(name) and not re.match("[a-z]:/[^/]", name, re.IGNORECASE) and not Path(name).exists():
        raise DataError(f"{name}: data are read from files, not from the web; download it, and name the file.")


def _kind(path: Path) -> int:
    """Mode of a file that is no folder.

    Raises
    ------
    DataError
        If there is none.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)
        if code == errno.ELOOP:
            raise DataError(f"{path}: is a symbolic link that leads back to itself; name the file itself.") from error
        if code in (errno.EACCES, errno.EPERM):
            raise _unreadable(str(path), cast(OSError, error)) from error
        raise DataError(f"{path}: there is no such file.") from error
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise DataError(f"{path}: is neither a file nor a pipe.")
    return mode


def _opened(content: Path | bytes) -> BinaryIO:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def _unreadable(origin: str, error: OSError) -> DataError:
    return DataError(f"{origin}: can't be read ({error.strerror or error}).")
