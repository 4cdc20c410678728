"""Forked processes: the thread pools of OpenMP and of the tokenizers library don't survive a fork.

libgomp keeps the threads of a parallel region for the next one. A child has none of these threads, and its first
region would wait for them for ever, in torch, its matmuls and the native core alike. The pool is released before the
fork; the next region, on either side, starts new threads.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

# OpenMP 5.0: omp_pause_resource_all(omp_pause_hard) releases the threads of the calling thread's pool.
_PAUSE_HARD = 2
_LIBRARY = re.compile(r"\S*/libgomp[^/\s]*\.so[^/\s]*$")
_released = True


def make_forks_safe() -> None:
    """Registers the handlers of forks; called once, where torch is imported."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_release_threads, after_in_child=_in_child)


def _release_threads() -> None:
    """Releases the pools of every loaded libgomp; LLVM's and Intel's runtimes handle forks themselves."""
    global _released
    _released = True
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux, whose torch has another runtime
        return
    for library in {match[0].strip() for line in maps.splitlines() if (match := _LIBRARY.search(line))}:
        try:
            # Within a parallel region it refuses.
            _released &= ctypes.CDLL(library).omp_pause_resource_all(_PAUSE_HARD) == 0
        except (OSError, AttributeError):  # libgomp before GCC 9
            _released = False


def _in_child() -> None:
    # A pool that was not released is not used by a single thread.
    if not _released and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    if "tokenizers" in sys.modules:
        # Its pool has no such call. It would warn, and with "true" wait for ever.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
