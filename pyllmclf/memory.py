"""How much main memory there is, and how much of it is free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int:
    """Bytes of memory that can be used without swapping, as far as the system and its control group say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no limit, or no such file
            found.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(found, default=physical_memory() // 2)


def _control_groups() -> Iterator[tuple[Path, Path]]:
    """Files with the limit and the use of memory, of this process's control groups and those above them."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":  # version 2
            base, limit, used = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / name.lstrip("/")
        for level in (group, *group.parents):
            if level.is_relative_to(base):
                yield level / limit, level / used
