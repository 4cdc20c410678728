"""Where the rows of a frozen prefix are kept: on the device, in memory or in a memory-mapped file."""

from __future__ import annotations

import contextlib
import json
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
from ..data.fetch import cache_dir
from ..data.json_text import parse_json
from ..errors import ModelError, ResourceError
from ..memory import available_memory

# Of what is free, this share is taken without asking.
SHARE = 0.5
ROWS_FILE, KEY_FILE = "rows.bin", "prefix.json"

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Place:
    """A kind of storage, and how many bytes of it may be used."""

    kind: str
    bytes: int


def choose_place(
    cache: str,
    budget: int | None,
    need: int,
    device: torch.device,
    folder: Path | None,
    reserved: int = 0,
    sharers: int = 1,
) -> Place:
    """The fastest place that holds ``need`` bytes, or the one that holds most of them.

    Parameters
    ----------
    cache : {"auto", "device", "memory", "disk"}
    budget : int, optional
        Bytes at most; half of what is free by default.
    reserved : int
        Bytes of the device's memory that training will need.
    sharers : int
        ProcessGroup on this machine that choose likewise; the device of each is a GPU of its own.
    """
    if cache != "auto":
        kind = "memory" if cache == "device" and device.type == "cpu" else cache
        return Place(kind, _share_of_free(kind, device, folder, reserved, sharers) if budget is None else budget)
    places = []
    for kind in ("device", "memory", "disk") if device.type == "cuda" else ("memory", "disk"):
        allowed = _share_of_free(kind, device, folder, reserved, sharers)
        places.append(Place(kind, allowed if budget is None else min(allowed, budget)))
    return next((place for place in places if place.bytes >= need), max(places, key=lambda place: place.bytes))


def _share_of_free(kind: str, device: torch.device, folder: Path | None, reserved: int, sharers: int) -> int:
    if kind == "device":
        free = torch.cuda.mem_get_info(device)[0] - reserved
    elif kind == "memory":
        free = available_memory() // sharers - (reserved if device.type == "cpu" else 0)
    else:
        free = shutil.disk_usage(_existing(folder or _default_folder())).free
        if folder is not None:  # older files of rows make room for new ones
            free += sum(map(_bytes_of, folder.glob("prefix-*")))
        else:
            free //= sharers
    return int(max(0, free) * SHARE)


def _default_folder() -> Path:
    return cache_dir() / "frozen_prefix"


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path


def in_memory(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, blocks: Blocks) -> Tensor:
    """All rows in one tensor on a device.

    Raises
    ------
    ResourceError
        If there is not enough memory.
    """
    try:
        kept = torch.empty(shape, dtype=dtype, device=device)
    except (RuntimeError, MemoryError) as error:
        raise ResourceError(f"no memory for {shape[0]} rows of frozen layers ({error}); lower cache_budget.") from error
    done = 0
    for block in blocks():
        kept[done : done + len(block)] = block
        done += len(block)
    return kept


def in_file(shape: tuple[int, int], dtype: torch.dtype, blocks: Blocks) -> Tensor:
    """All rows in a file without a name, which is gone with the process.

    Raises
    ------
    ResourceError
        If it can't be written.
    """
    folder = _default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _write(file, blocks)
            file.flush()
            return _mapped(file, shape, dtype)
    except OSError as error:
        raise ResourceError(f"the rows of frozen layers can't be written to {folder} ({error}).") from error


def in_kept_file(folder: Path, key: dict[str, object], shape: tuple[int, int], dtype: torch.dtype, blocks: Blocks):
    """All rows in a file that later runs find: (rows, whether they were there already).

    Parameters
    ----------
    folder : Path
    key : dict
        What the rows are a function of; a file of another key, or one that is damaged, is made anew.

    Raises
    ------
    ResourceError
        If it can't be written.
    """
    target = kept_file(folder, key)

    def make() -> dict[str, Writer]:
        _make_room(folder, shape[0] * shape[1] * dtype.itemsize)
        return {ROWS_FILE: write, KEY_FILE: text_writer(json.dumps(key, indent=2, sort_keys=True))}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            _write(file, blocks)

    mapped: list[Tensor] = []

    def is_intact(target: Path) -> bool:
        """Mapped while it is there for certain: afterwards another run may remove it, and the rows stay."""
        rows = target / ROWS_FILE
        if not _is_intact(target, key) or rows.stat().st_size != shape[0] * shape[1] * dtype.itemsize:
            return False
        with rows.open("rb") as file:
            mapped.append(_mapped(file, shape, dtype))
        return True

    found = find_or_make(target, is_intact, make)
    if not mapped and not find_or_make(target, is_intact, make):
        raise ResourceError(f"{target}: what was written there can't be read again.")
    return mapped[0], found


def kept_file(folder: Path, key: dict[str, object]) -> Path:
    """Where the rows of a key are, if they are."""
    return folder / f"prefix-{str(key['sha256'])[:16]}"


def _is_intact(target: Path, key: dict[str, object]) -> bool:
    if not (target / MANIFEST).is_file():
        return False
    try:
        verify_folder(target, [ROWS_FILE, KEY_FILE])
        return parse_json((target / KEY_FILE).read_text(encoding="utf-8")) == key
    except (ModelError, OSError, ValueError):
        return False


def _bytes_of(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # another run removes it
        total = sum(path.stat().st_size for path in folder.iterdir())
    return total


def _make_room(folder: Path, need: int) -> None:
    """Removes files of rows, the longest unused first, until all of them fit their share of the disk."""

    def last_used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    kept = sorted(folder.glob("prefix-*"), key=last_used)
    sizes = {path: _bytes_of(path) for path in kept}
    room = int((shutil.disk_usage(folder).free + sum(sizes.values())) * SHARE)
    for path in kept:
        if sum(sizes.values()) + need <= room:
            break
        if remove(path, path):
            del sizes[path]


def _write(file: BinaryIO, blocks: Blocks) -> None:
    for block in blocks():
        file.write(block.cpu().contiguous().view(torch.uint8).numpy().data)


def _mapped(file: BinaryIO, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    # Copied on write, so that torch may take it for writable memory; nobody writes.
    mapped = np.memmap(file, dtype=np.uint8, mode="c") if shape[0] else np.empty(0, np.uint8)
    return torch.from_numpy(mapped).view(dtype).view(shape)
