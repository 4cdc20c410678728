"""Where the rows of a frozen prefix are kept: on the device, in memory or in a memory-mapped file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..data.atomic_folder import MANIFEST, text_writer, verify_folder, write_folder
from ..data.fetch import cache_dir
from ..errors import ModelError, ResourceError, UsageError

CACHES = ("auto", "device", "memory", "disk", "off")
# Of what is free, this share is taken without asking.
SHARE = 0.5
ROWS_FILE, KEY_FILE = "rows.bin", "prefix.json"
_BESIDE = re.compile(r"\.prefix-[0-9a-f]+\.([0-9]+)\.(tmp|old)")

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Place:
    """A kind of storage, and how many bytes of it may be used."""

    kind: str
    bytes: int


def check_cache(cache: str, budget: int | None) -> None:
    """Raises :class:`UsageError` if the arguments name no cache."""
    if cache not in CACHES:
        raise UsageError(f"cache={cache!r} is unknown; it is one of {', '.join(CACHES)}.")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise UsageError(f"cache_budget={budget!r} must be a number of bytes.")


def choose_place(cache: str, budget: int | None, need: int, device: torch.device, folder: Path | None) -> Place:
    """The fastest place that holds ``need`` bytes, or the one that holds most of them.

    Parameters
    ----------
    cache : {"auto", "device", "memory", "disk"}
    budget : int, optional
        Bytes at most; half of what is free by default.
    """
    if cache != "auto":
        kind = "memory" if cache == "device" and device.type == "cpu" else cache
        return Place(kind, _share_of_free(kind, device, folder) if budget is None else budget)
    places = []
    for kind in ("device", "memory", "disk") if device.type == "cuda" else ("memory", "disk"):
        allowed = _share_of_free(kind, device, folder)
        places.append(Place(kind, allowed if budget is None else min(allowed, budget)))
    return next((place for place in places if place.bytes >= need), max(places, key=lambda place: place.bytes))


def _share_of_free(kind: str, device: torch.device, folder: Path | None) -> int:
    if kind == "device":
        free = torch.cuda.mem_get_info(device)[0]
    elif kind == "memory":
        free = available_memory()
    else:
        free = shutil.disk_usage(_existing(folder or _default_folder())).free
    return int(free * SHARE)


def available_memory() -> int:
    """Bytes of memory that can be used without swapping, as far as the system and its control group say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        found.append(max(0, limit - int((group / "memory.current").read_text())))
    if not found:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(found)


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
    digest = str(key["sha256"])
    target = folder / f"prefix-{digest[:16]}"
    found = _is_intact(target, key)
    if not found:
        _remove_abandoned(folder)
        shutil.rmtree(target, ignore_errors=True)
        with_key = json.dumps(key, indent=2, sort_keys=True)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                _write(file, blocks)

        write_folder(target, {ROWS_FILE: write, KEY_FILE: text_writer(with_key)})
    with (target / ROWS_FILE).open("rb") as file:
        return _mapped(file, shape, dtype), found


def _is_intact(target: Path, key: dict[str, object]) -> bool:
    if not (target / MANIFEST).is_file():
        return False
    try:
        verify_folder(target, [ROWS_FILE, KEY_FILE])
        return json.loads((target / KEY_FILE).read_text(encoding="utf-8")) == key
    except (ModelError, OSError, ValueError):
        return False


def _remove_abandoned(folder: Path) -> None:
    """What processes that were killed while writing have left."""
    for path in folder.glob(".prefix-*"):
        match = _BESIDE.fullmatch(path.name)
        if match is not None and not _is_running(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _write(file: BinaryIO, blocks: Blocks) -> None:
    for block in blocks():
        file.write(block.cpu().contiguous().view(torch.uint8).numpy().data)


def _mapped(file: BinaryIO, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    # Copied on write, so that torch may take it for writable memory; nobody writes.
    mapped = np.memmap(file, dtype=np.uint8, mode="c") if shape[0] else np.empty(0, np.uint8)
    return torch.from_numpy(mapped).view(dtype).view(shape)
