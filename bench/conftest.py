"""Interleaved comparisons on top of pytest-benchmark, and the table of their ratios."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import pytest
import torch

PACKAGES = ("torch", "triton", "transformers", "numpy", "tiktoken")


@dataclass(frozen=True)
class Row:
    """Medians of one comparison, in seconds, and the real tokens that one round trains on."""

    name: str
    plain: float
    ours: float
    rounds: int
    tokens: float
    note: str

    @property
    def ratio(self) -> float:
        return self.plain / self.ours


ROWS: list[Row] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", default=None, help="folder that receives the ratio table as Markdown and JSON")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def compare(benchmark, device: torch.device) -> Callable[..., Row]:
    """Runs the baseline and ours in turns, so that both see the same state of the machine."""

    def timed(run: Callable[[int], object], index: int) -> float:
        started = time.perf_counter()
        run(index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def measure(
        name: str,
        *,
        ours: Callable[[int], object],
        plain: Callable[[int], object],
        rounds: int,
        warmup: int,
        tokens: float,
        note: str = "",
    ) -> Row:
        plain_seconds: list[float] = []
        ours_seconds: list[float] = []

        def setup() -> tuple[tuple[int], dict]:
            plain_seconds.append(timed(plain, len(plain_seconds)))
            return (len(plain_seconds) - 1,), {}

        def target(index: int) -> None:
            ours_seconds.append(timed(ours, index))

        for _ in range(warmup):
            target(*setup()[0])
        benchmark.pedantic(target, setup=setup, rounds=rounds, iterations=1)
        row = Row(
            name=name,
            plain=statistics.median(plain_seconds[warmup:]),
            ours=statistics.median(ours_seconds[warmup:]),
            rounds=rounds,
            tokens=tokens,
            note=note,
        )
        benchmark.extra_info.update(asdict(row), ratio=row.ratio)
        ROWS.append(row)
        return row

    return measure


def machine(device_name: str) -> dict[str, str]:
    """What the figures depend on."""

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name,
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    } | {package: version(package) for package in PACKAGES}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows: list[Row]) -> str:
    """The comparisons as a Markdown table."""
    lines = [
        "| comparison | plain PyTorch | pyllmclf | ratio | tokens/s | rounds | note |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.plain:.3f} s | {r.ours:.3f} s | {r.ratio:.2f} | {r.tokens / r.ours:,.0f} | {r.rounds} "
        f"| {r.note} |"
        for r in rows
    ]
    return "\n".join(lines)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not ROWS:
        return
    terminalreporter.section("ratios of medians, both sides in one run")
    terminalreporter.write_line(table(ROWS))
    if (folder := config.getoption("--results")) is None:
        return
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    facts = machine(name)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    rows = [asdict(row) | {"ratio": row.ratio} for row in ROWS]
    (path / "training.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n")
    described = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    (path / "training.md").write_text(f"# Training, ours against plain PyTorch\n\n{described}\n\n{table(ROWS)}\n")
    terminalreporter.write_line(f"written to {path}")
