"""Files and folders that are complete or absent; folders have a manifest of SHA-256 hashes."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path
from typing import TextIO

from ..errors import ModelError, ResourceError, UsageError
from .fetch import sha256
from .json_text import parse_json
from .temporary import close_all, spare_descriptors

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")

Writer = Callable[[Path], object]


def text_writer(content: str) -> Writer:
    """Returns a function that writes ``content`` to a path as UTF-8."""
    return lambda path: path.write_bytes(content.encode("utf-8"))


def write_text(path: Path, content: str) -> None:
    """Writes a file of UTF-8 text; until it is complete, the path is as before.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    with new_file(path) as file:
        file.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Opens a file for UTF-8 text that replaces ``path`` when the context ends; until then, ``path`` is as before.

    A terminal, a pipe or anything else that is no regular file is written to directly.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    with new_path(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """:func:`new_file` for a writer that opens the path itself: the name to write to, and to close before the end."""
    special = path.exists() and not path.is_file()  # asked before resolving: the target of /dev/stdout may not exist
    target = path if special else Path(os.path.realpath(path))  # a link stays a link
    beside = target if special else beside_of(target, "tmp")
    try:
        yield beside
        if beside != target:
            if target.exists():
                shutil.copymode(target, beside)
            _sync(beside)
            beside.replace(target)
    except BaseException as error:
        if beside != target:
            with suppress(OSError):
                beside.unlink()
        if isinstance(error, OSError):
            raise ResourceError(f"{path} can't be written ({error}).") from error
        raise


def check_writable(path: Path) -> None:
    """Raises :class:`ResourceError` if :func:`write_text` could not write this file; leaves everything as it is."""
    beside = beside_of(path, "tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        if path.exists() and not path.is_file():
            return
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise ResourceError(f"{path} can't be written ({error}).") from error


def write_folder(
    target: Path, files: Mapping[str, Writer], need: int = 0, *, keep_others: bool = False, overwrite: bool = False
) -> None:
    """Writes a temporary folder next to the target, syncs every file, and renames the folder to its final name.

    An older folder that this function wrote, and that holds nothing else, is replaced; any other non-empty folder
    raises.

    Parameters
    ----------
    target : Path
    files : mapping of str to callable
        By relative name, a function that takes a path and writes the file there.
    need : int
        Bytes that the files take; the disk must have as many free before anything is written.
    keep_others : bool
        Whether other files in an older folder are copied into the new one, instead of raising.
    overwrite : bool
        Whether an older folder is replaced whatever it holds; the caller has checked it.

    Raises
    ------
    UsageError
        If ``target`` holds other files, or its name is not UTF-8.
    ResourceError
        If the folder can't be written.
    """
    target = Path(os.path.realpath(target))  # not resolve(), which fails where a link leads to itself
    check_name(target)
    others: set[str] = set()
    if target.exists() and not overwrite and not is_replaceable(target):
        if not keep_others or not target.is_dir():
            raise UsageError(f"{target} exists and holds more than a checkpoint; choose another folder.")
        others = _files_in(target) - set(files) - {MANIFEST}
        with suppress(ModelError):
            others -= set(_read_manifest(target))
    beside = beside_of(target, "tmp")
    spare: list[int] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        spare = spare_descriptors()
        if need and (free := shutil.disk_usage(target.parent).free) < need:
            raise ResourceError(
                f"{target} can't be written: it takes {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free."
            )
        beside.mkdir()
        for name, write in files.items():
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            _sync(path)
        for name in others:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target / name, beside / name, follow_symlinks=False)
        manifest = {name: {"sha256": sha256(beside / name), "bytes": (beside / name).stat().st_size} for name in files}
        content = {"pyllmclf_manifest": MANIFEST_VERSION, "files": manifest}
        (beside / MANIFEST).write_text(json.dumps(content, indent=2), encoding="utf-8")
        _sync(beside / MANIFEST)
        for folder in {(beside / name).parent for name in files} | {beside}:
            _sync(folder)
        close_all(spare)
        replace_folder(beside, target)
    except BaseException as error:  # an interrupt must not leave the temporary folder either
        close_all(spare)
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise ResourceError(f"{target} can't be written ({error}).") from error
        raise
    finally:
        close_all(spare)


def check_name(folder: Path) -> None:
    """Raises :class:`UsageError` if a folder's name, or that of one above it, is not UTF-8."""
    try:
        os.path.realpath(folder).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{folder}: its name is not UTF-8, and the libraries that write weights need that; choose another name."
        ) from error


def clean_up(folder: Path) -> None:
    """Removes unfinished files of killed processes from a folder that no other process writes to.

    If a process was killed between two renames, the older content gets its name back.
    """
    for path in folder.glob(".*"):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None:
            continue
        target = folder / match[1]
        if match[2] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or one that :func:`write_folder` made and that holds nothing else."""
    return folder.is_dir() and not files_beside_manifest(folder)


def files_beside_manifest(folder: Path) -> set[str]:
    """Names of a folder's files that its manifest doesn't list; of all files if it has none."""
    present = _files_in(folder)
    if not present:
        return present
    try:
        return present - set(_read_manifest(folder)) - {MANIFEST}
    except ModelError:
        return present


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def verify_folder(folder: Path, covered: Iterable[str]) -> None:
    """Checks every file of a folder against its manifest.

    Parameters
    ----------
    folder : Path
    covered : iterable of str
        Names that the manifest must list if such files exist.

    Raises
    ------
    ModelError
        If the manifest or a file is missing or damaged, or a covered file is not listed.
    """
    expected = _read_manifest(folder)
    for name in covered:
        if name not in expected and (folder / name).exists():
            raise ModelError(f"{folder / name}: the folder's manifest doesn't list it.")
    for name, (digest, size) in expected.items():
        path = folder / name
        try:
            inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
            there = inside and path.is_file()
            intact = there and path.stat().st_size == size and sha256(path) == digest
        except (OSError, ValueError) as error:  # ValueError: no valid file name
            raise ModelError(f"{folder}: its file {name!r} can't be read ({error}).") from error
        if not inside:
            raise ModelError(f"{folder / MANIFEST}: names a file outside the folder ({name}).")
        if not there:
            raise ModelError(f"{folder}: lacks its file {name}.")
        if not intact:
            raise ModelError(f"{path}: damaged; its content is not what the folder's manifest says.")


def _read_manifest(folder: Path) -> dict[str, tuple[str, int]]:
    """SHA-256 and size in bytes of each file, by name."""
    try:
        content = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["pyllmclf_manifest"] != MANIFEST_VERSION:
            raise ValueError(f"version {content['pyllmclf_manifest']!r}")
        return {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{folder / MANIFEST}: the folder's manifest can't be read ({error!r}).") from error


def beside_of(target: Path, suffix: str) -> Path:
    """A temporary name next to ``target`` that no other process or thread uses."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.{suffix}")


def replace_folder(new: Path, target: Path) -> None:
    """Gives a complete folder the name ``target``; an older folder of that name is replaced at once, and removed."""
    _move_into_place(new, target)
    _sync(target.parent)


def _move_into_place(beside: Path, target: Path) -> None:
    if not target.exists():
        beside.rename(target)
        return
    if _exchange(beside, target):
        shutil.rmtree(beside, ignore_errors=True)
        return
    old = beside_of(target, "old")
    target.rename(old)
    try:
        beside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swaps the names of two folders atomically; returns whether the system can (Linux, most file systems)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
