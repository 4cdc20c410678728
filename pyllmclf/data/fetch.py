"""Files of named data sets: where they are looked up, and how they are fetched into the user cache."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError, ResourceError
from ..paths import environment_path

TIMEOUT_SECONDS = 60


def cache_dir() -> Path:
    """The user cache: ``$PYLLMCLF_CACHE_DIR``, else ``$XDG_CACHE_HOME/pyllmclf``, else ``~/.cache/pyllmclf``.

    Raises
    ------
    ResourceError
        If neither variable is set, and there is no home folder.
    """
    if (folder := cache_dir_if_any()) is None:
        raise ResourceError(
            "there is no folder for the user cache: HOME is not set, and the system knows no home folder of this user; "
            "set PYLLMCLF_CACHE_DIR, XDG_CACHE_HOME or HOME to a folder that can be written."
        )
    return folder


def cache_dir_if_any() -> Path | None:
    """:func:`cache_dir`, or ``None`` where there is none: what is not kept needs no cache."""
    if (explicit := environment_path("PYLLMCLF_CACHE_DIR")) is not None:
        return explicit
    if (base := environment_path("XDG_CACHE_HOME")) is None:
        home = os.path.expanduser("~")
        base = None if home == "~" else Path(home) / ".cache"
    return None if base is None else base / "pyllmclf"


def find_local(name: str, filename: str) -> Path | None:
    """The file in ``$PYLLMCLF_DATA_DIR/<name>/``, else in the user cache; ``None`` if it is in neither."""
    cache = cache_dir_if_any()
    for root in (environment_path("PYLLMCLF_DATA_DIR"), None if cache is None else cache / "data"):
        if root is not None and (path := root / name / filename).is_file():
            return path
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: BinaryIO) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raises :class:`DataError` if the SHA-256 of a file is not the expected one."""
    digest = sha256(path)
    if digest != expected:
        raise DataError(f"{path}: the SHA-256 is {digest}, not the pinned {expected}; delete it and fetch it again.")


def download(url: str, *, expected_sha256: str | None, hint: str) -> Path:
    """Fetches ``url`` into a temporary file of the user cache and checks its hash.

    Parameters
    ----------
    url : str
    expected_sha256 : str or None
        ``None`` if the caller checks the hash of a file inside the archive instead.
    hint : str
        What to do without a network, for the message.

    Returns
    -------
    Path
        The temporary file, which the caller removes.

    Raises
    ------
    DataError
        If the file can't be fetched or is not the pinned one.
    ResourceError
        If the user cache can't be written.
    """
    folder = cache_dir() / "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix="download-")
    except OSError as error:
        raise ResourceError(
            f"{folder} can't be written ({error}); set PYLLMCLF_CACHE_DIR to another folder."
        ) from error
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            while block := response.read(1 << 20):
                out.write(block)
        if expected_sha256 is not None:
            check_sha256(path, expected_sha256)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, (OSError, http.client.HTTPException)):  # URLError is an OSError
            raise DataError(f"{url} can't be fetched ({error}); {hint}") from error
        raise
    return path


def write_into_cache(path: Path, content: bytes) -> None:
    """Writes a file of the user cache, which is complete or absent.

    Raises
    ------
    ResourceError
        If it can't be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(f"{path} can't be written ({error}).") from error
