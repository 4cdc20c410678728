"""Storage of an activation cache: device memory, main memory, or a memory-mapped file, chosen by free space."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..data.atomic_folder import MANIFEST, Writer, text_writer, verify_folder
from ..data.disk_cache import find_or_make, remove
from ..data.fetch import cache_dir, cache_dir_if_any
from ..data.json_text import parse_json
from ..errors import ModelError, ResourceError
from ..memory import available_memory

# Share of the free space that a cache takes without a budget.
SHARE = 0.5
ROWS_FILE, KEY_FILE = "rows.bin", "prefix.json"

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Place:
    """Where a cache is stored.

    Attributes
    ----------
    kind : {"device", "memory", "disk"}
    bytes : int
        Most bytes that the cache may take there.
    """

    kind: str
    bytes: int


def choose_place(
    cache: str,
    budget: int | None,
    need: int,
    device: torch.device,
    folder: Path | None,
    reserved: int = 0,
    local_world_size: int = 1,
) -> Place:
    """Chooses the fastest storage that holds ``need`` bytes, or the one that holds most of them.

    Parameters
    ----------
    cache : {"auto", "device", "memory", "disk"}
    budget : int, optional
        Most bytes; half of what is free by default.
    need : int
        Bytes of all rows.
    device : torch.device
    folder : Path, optional
        Folder of a file that later runs share; by default the file is temporary.
    reserved : int
        Bytes of the device's memory that training will need.
    local_world_size : int
        Processes on this machine; they share its memory and its disk, while each has a GPU of its own.
    """
    if cache != "auto":
        kind = "memory" if cache == "device" and device.type == "cpu" else cache
        return Place(
            kind, _share_of_free(kind, device, folder, reserved, local_world_size) if budget is None else budget
        )
    places = []
    for kind in ("device", "memory", "disk") if device.type == "cuda" else ("memory", "disk"):
        if kind == "disk" and folder is None and cache_dir_if_any() is None:  # without a home folder
            continue
        share = _share_of_free(kind, device, folder, reserved, local_world_size)
        places.append(Place(kind, share if budget is None else min(share, budget)))
    return next((place for place in places if place.bytes >= need), max(places, key=lambda place: place.bytes))


def _share_of_free(kind: str, device: torch.device, folder: Path | None, reserved: int, local_world_size: int) -> int:
    if kind == "device":
        free = torch.cuda.mem_get_info(device)[0] - reserved
    elif kind == "memory":
        free = available_memory() // local_world_size - (reserved if device.type == "cpu" else 0)
    else:
        free = shutil.disk_usage(_existing_parent(folder or _default_folder())).free
        if folder is not None:  # older caches are evicted for new ones
            free += sum(map(_folder_bytes, folder.glob("prefix-*")))
        else:
            free //= local_world_size
    return int(max(0, free) * SHARE)


def _default_folder() -> Path:
    return cache_dir() / "frozen_prefix"


def _existing_parent(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    path = Path(os.path.realpath(path))
    while not path.exists():
        path = path.parent
    return path


def in_memory(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, blocks: Blocks) -> Tensor:
    """Stores all rows in one tensor on a device.

    Parameters
    ----------
    shape : (int, int)
        Rows and width.
    dtype : torch.dtype
    device : torch.device
    blocks : callable
        Returns the rows as an iterator over tensors of some rows each, in order.

    Raises
    ------
    ResourceError
        If there is not enough memory.
    """
    try:
        rows = torch.empty(shape, dtype=dtype, device=device)
    except (RuntimeError, MemoryError) as error:
        raise ResourceError(
            f"no memory to cache {shape[0]} rows of frozen layers ({error}); lower cache_budget."
        ) from error
    done = 0
    for block in blocks():
        rows[done : done + len(block)] = block
        done += len(block)
    return rows


def in_temporary_file(shape: tuple[int, int], dtype: torch.dtype, blocks: Blocks) -> Tensor:
    """Stores all rows in an unnamed file, mapped into memory; it ends with the process.

    Parameters are as for :func:`in_memory`.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    folder = _default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _write(file, blocks)
            file.flush()
            return _mapped(file, shape, dtype)
    except OSError as error:
        raise ResourceError(f"the activations of frozen layers can't be written to {folder} ({error}).") from error


def in_shared_file(
    folder: Path, key: dict[str, object], shape: tuple[int, int], dtype: torch.dtype, blocks: Blocks
) -> tuple[Tensor, bool]:
    """Stores all rows in a file for later runs, or maps the file of an earlier one.

    Parameters
    ----------
    folder : Path
    key : dict
        Identity of the rows, with a ``"sha256"``; a damaged file, or one with another key, is replaced.
    shape, dtype, blocks
        As for :func:`in_memory`.

    Returns
    -------
    rows : tensor
    reused : bool
        Whether an intact file was there.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    target = shared_folder(folder, key)

    def make() -> dict[str, Writer]:
        _evict(folder, shape[0] * shape[1] * dtype.itemsize)
        return {ROWS_FILE: write, KEY_FILE: text_writer(json.dumps(key, indent=2, sort_keys=True))}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            _write(file, blocks)

    mapped: list[Tensor] = []

    def is_intact(target: Path) -> bool:
        """Checks and maps the file while its lock is held; another run may evict it later, and the mapping stays."""
        rows = target / ROWS_FILE
        if not _is_intact(target, key) or rows.stat().st_size != shape[0] * shape[1] * dtype.itemsize:
            return False
        with rows.open("rb") as file:
            mapped.append(_mapped(file, shape, dtype))
        return True

    reused = find_or_make(target, is_intact, make)
    if not mapped and not find_or_make(target, is_intact, make):
        raise ResourceError(f"{target}: the activations written there can't be read again; check the disk.")
    return mapped[0], reused


def shared_folder(folder: Path, key: dict[str, object]) -> Path:
    """Folder of the rows with a key, whether it exists or not."""
    return folder / f"prefix-{str(key['sha256'])[:16]}"


def _is_intact(target: Path, key: dict[str, object]) -> bool:
    if not (target / MANIFEST).is_file():
        return False
    try:
        verify_folder(target, [ROWS_FILE, KEY_FILE])
        return parse_json((target / KEY_FILE).read_text(encoding="utf-8")) == key
    except (ModelError, OSError, ValueError):
        return False


def _folder_bytes(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # another run removes it
        total = sum(path.stat().st_size for path in folder.iterdir())
    return total


def _evict(folder: Path, need: int) -> None:
    """Removes the least recently used caches until all, with ``need`` more bytes, fit their share of the disk."""

    def last_used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    stored = sorted(folder.glob("prefix-*"), key=last_used)
    sizes = {path: _folder_bytes(path) for path in stored}
    allowed = int((shutil.disk_usage(folder).free + sum(sizes.values())) * SHARE)
    for path in stored:
        if sum(sizes.values()) + need <= allowed:
            break
        if remove(path, path):
            del sizes[path]


def _write(file: BinaryIO, blocks: Blocks) -> None:
    for block in blocks():
        file.write(block.cpu().contiguous().view(torch.uint8).numpy().data)


def _mapped(file: BinaryIO, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    # torch wants writable memory: mode c copies pages on write, and nothing writes.
    mapped = np.memmap(file, dtype=np.uint8, mode="c") if shape[0] else np.empty(0, np.uint8)
    return torch.from_numpy(mapped).view(dtype).view(shape)
