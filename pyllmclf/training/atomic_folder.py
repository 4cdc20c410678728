"""Folders that are complete or absent, with a manifest of SHA-256 hashes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ..data.fetch import sha256
from ..errors import ModelError, ResourceError, UsageError

MANIFEST = "manifest.json"

Writer = Callable[[Path], object]


def text_writer(content: str) -> Writer:
    """Writes ``content`` as UTF-8."""
    return lambda path: path.write_bytes(content.encode("utf-8"))


def write_folder(target: Path, files: Mapping[str, Writer]) -> None:
    """Writes a folder beside its place, syncs every file, and renames it into place.

    An older folder with a manifest at ``target`` is replaced; any other non-empty folder is left alone.

    Parameters
    ----------
    target : Path
    files : mapping of str to callable
        Relative name to a function that writes the file.

    Raises
    ------
    UsageError
        If ``target`` holds something else.
    ResourceError
        If it can't be written.
    """
    if target.exists() and not is_replaceable(target):
        raise UsageError(f"{target} exists and is no checkpoint; choose another folder.")
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for name, write in files.items():
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            _sync(path)
        manifest = {name: {"sha256": sha256(beside / name), "bytes": (beside / name).stat().st_size} for name in files}
        (beside / MANIFEST).write_text(json.dumps({"files": manifest}, indent=2))
        _sync(beside / MANIFEST)
        for folder in {(beside / name).parent for name in files} | {beside}:
            _sync(folder)
        _move_into_place(beside, target)
        _sync(target.parent)
    except Exception as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise ResourceError(f"{target} can't be written ({error}).") from error
        raise


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty or one that :func:`write_folder` made."""
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


def verify_folder(folder: Path) -> None:
    """Checks every file against the manifest.

    Raises
    ------
    ModelError
        If the manifest or a file is missing or damaged.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        expected = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / MANIFEST}: the checkpoint's manifest can't be read ({error}).") from error
    for name, (digest, size) in expected.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{folder / MANIFEST}: names a file outside the checkpoint ({name}).")
        if not path.is_file():
            raise ModelError(f"{folder}: the checkpoint lacks its file {name}.")
        if path.stat().st_size != size or sha256(path) != digest:
            raise ModelError(f"{path}: damaged; its content is not what the checkpoint's manifest says.")


def _move_into_place(beside: Path, target: Path) -> None:
    if not target.exists():
        beside.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
