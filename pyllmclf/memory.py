"""Physical and available main memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def physical_memory() -> int:
    """Main memory of the machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int:
    """Main memory that the process can use without swapping, in bytes.

    The least of what /proc/meminfo and the control groups report; half of the physical memory where neither does.
    """
    available = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no limit, or no such file
            available.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(available, default=physical_memory() // 2)


def _control_groups() -> Iterator[tuple[Path, Path]]:
    """Yields (limit file, usage file) of each control group of this process and of the groups above it."""
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
