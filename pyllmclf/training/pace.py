"""Says early how long a training takes, and whether other processes make its threads wait."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..progress import duration, say

# The estimate comes after this many seconds and steps, the look at other processes after that many seconds.
ESTIMATE_SECONDS, ESTIMATE_STEPS, LOAD_SECONDS = 3.0, 3, 8.0
# Trainings that end sooner need no estimate.
WORTH_SAYING = 20.0
# Threads wait for each other where they get less than this share of a processor each, ...
LEAST_SHARE = 0.8
# ... other processes take at least this many processors, and together they take this share of all.
OTHERS, BUSY = 0.3, 0.85


class Pace:
    """Measures the first steps of a training in this process, and says one line or two.

    Parameters
    ----------
    tokens : int
        Real tokens of the epochs that are left.
    epochs : int
        How many they are.
    device : torch.device
        Only a CPU has threads that wait.
    progress : bool
        Whether anything is said.
    """

    def __init__(self, tokens: int, epochs: int, device: torch.device, progress: bool) -> None:
        self.tokens, self.epochs = tokens, epochs
        self._says_time = progress
        self._looks = progress and device.type == "cpu" and torch.get_num_threads() > 1
        self._steps, self._done, self._started = 0, 0, 0.0
        self._before: _Load | None = None

    @property
    def finished(self) -> bool:
        """Whether everything is said."""
        return not (self._says_time or self._looks)

    def step(self, tokens: int) -> None:
        """Counts a finished step with so many tokens."""
        self._steps += 1
        if self._steps == 1:  # warms up, and is not counted
            self._started = time.perf_counter()
            self._before = _Load.now() if self._looks else None
            self.tokens -= tokens
            return
        self._done += tokens
        seconds = time.perf_counter() - self._started
        if self._says_time and seconds >= ESTIMATE_SECONDS and self._steps > ESTIMATE_STEPS:
            self._says_time = False
            total = seconds * self.tokens / self._done
            if total >= WORTH_SAYING:
                epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
                say(f"about {duration(total)} for {epochs}", True)
        if self._looks and seconds >= LOAD_SECONDS:
            self._looks = False
            assert self._before is not None
            own, others = self._before.until_now()
            threads = torch.get_num_threads()
            if threads_wait(own, others, threads, os.cpu_count() or 1):
                say(
                    f"other processes on this machine make the {threads} threads wait for each other: they got "
                    f"{own:.1f} processors; one thread may be several times faster: OMP_NUM_THREADS=1, or "
                    "torch.set_num_threads(1).",
                    True,
                )


def threads_wait(own: float, others: float, threads: int, processors: int) -> bool:
    """Whether other processes make threads wait.

    Parameters
    ----------
    own, others : float
        Processors that this process and all others took, as means over some seconds.
    threads : int
        Threads of this process that compute together.
    processors : int
        Of the machine.
    """
    return own < LEAST_SHARE * threads and others >= OTHERS and own + others >= BUSY * processors


@dataclass(frozen=True)
class _Load:
    """Seconds on the clock, of this process and of all processes of the machine; ``None`` where that is unknown."""

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> _Load:
        return cls(time.perf_counter(), time.process_time(), _busy_seconds())

    def until_now(self) -> tuple[float, float]:
        """Processors that this process and all others took since then."""
        now = _Load.now()
        wall = max(now.wall - self.wall, 1e-9)
        own = (now.own - self.own) / wall
        if now.all is None or self.all is None:
            return own, os.getloadavg()[0] - own if hasattr(os, "getloadavg") else 0.0
        return own, (now.all - self.all) / wall - own


def _busy_seconds() -> float | None:
    """Seconds that all processors of the machine have computed, on Linux."""
    try:
        name, *jiffies = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq = map(int, jiffies[:7])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") if name == "cpu" else None
    except (OSError, ValueError):
        return None
