"""Fixtures for interleaved comparisons with pytest-benchmark, and the tables of their ratios."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import pytest
import torch

PACKAGES = ("torch", "triton", "transformers", "peft", "numpy", "tiktoken")


@dataclass(frozen=True)
class Work:
    """The work of one round of ours, and the machine's measured peak.

    Attributes
    ----------
    amount : float
        Real tokens, floating-point operations or bytes.
    unit : {"tokens/s", "GFLOP/s", "TFLOP/s", "GB/s"}
    peak : float, optional
        The peak, in ``unit``.
    """

    amount: float
    unit: str
    peak: float | None = None

    def rate(self, seconds: float) -> float:
        return self.amount / seconds / {"t": 1.0, "T": 1e12, "G": 1e9}[self.unit[0]]


@dataclass(frozen=True)
class Row:
    """Medians of one comparison, in seconds."""

    group: str
    name: str
    baseline: str
    plain: float
    ours: float
    rounds: int
    work: Work
    note: str

    @property
    def ratio(self) -> float:
        return self.plain / self.ours


@dataclass(frozen=True)
class Memory:
    """Peak memory of one comparison, in bytes: of model, optimizer and step; and what stays between steps."""

    group: str
    name: str
    baseline: str
    plain: int
    ours: int
    plain_state: int
    ours_state: int

    @property
    def ratio(self) -> float:
        return self.ours / self.plain


ROWS: list[Row] = []
MEMORY: list[Memory] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", default=None, help="folder that receives the ratio table as Markdown and JSON")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Peaks:
    """The machine's measured peak rates of matmuls and of a copy.

    ``gflops`` is the rate of fp32 matmuls, ``tflops16`` that of bf16 ones on a GPU, ``gbytes`` that of a copy in GB/s,
    bytes read and written.
    """

    gflops: float
    gbytes: float
    tflops16: float | None


@pytest.fixture(scope="session")
def peaks(device: torch.device) -> Peaks:
    """Measures an fp32 matmul of 2048 x 2048 matrices, by the faster of torch's libraries, and a copy of 160 MB."""
    a, b = torch.randn(2, 2048, 2048, device=device)
    source = torch.randn(40_000_000, device=device)
    target = torch.empty_like(source)

    def fastest(run: Callable[[], object]) -> float:
        seconds = []
        for _ in range(10):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    matmul = fastest(lambda: torch.mm(a, b))
    if device.type == "cpu":
        from pyllmclf.ops.linear import product

        matmul = min(matmul, fastest(lambda: product(a, b, None)))
    copied = 2 * source.nbytes / fastest(lambda: target.copy_(source)) / 1e9
    tflops16 = None
    if device.type == "cuda":
        wide = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        tflops16 = 2 * 8192**3 / fastest(lambda: torch.mm(wide, wide)) / 1e12
    return Peaks(2 * 2048**3 / matmul / 1e9, copied, tflops16)


@pytest.fixture
def compare(benchmark, device: torch.device) -> Callable[..., Row]:
    """Runs the baseline and ours alternately, so that both see the same state of the machine."""

    def timed(run: Callable[[int], object], index: int) -> float:
        started = time.perf_counter()
        run(index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def measure(
        group: str,
        name: str,
        *,
        ours: Callable[[int], object],
        plain: Callable[[int], object],
        rounds: int,
        warmup: int,
        work: Work,
        baseline: str = "plain PyTorch",
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
            group=group,
            name=name,
            baseline=baseline,
            plain=statistics.median(plain_seconds[warmup:]),
            ours=statistics.median(ours_seconds[warmup:]),
            rounds=rounds,
            work=work,
            note=note,
        )
        benchmark.extra_info.update(asdict(row), ratio=row.ratio)
        ROWS.append(row)
        return row

    return measure


@pytest.fixture
def compare_memory() -> Callable[[Memory], None]:
    return MEMORY.append


def machine(device_name: str) -> dict[str, str]:
    """Facts that the figures depend on: date, hardware and versions."""

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
        "| comparison | baseline | its median | pyllmclf | ratio | rate | of peak | rounds | note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        rate = r.work.rate(r.ours)
        share = "" if r.work.peak is None else f"{rate / r.work.peak:.0%}"
        lines.append(
            f"| {r.name} | {r.baseline} | {_shown(r.plain)} | {_shown(r.ours)} | {r.ratio:.2f} "
            f"| {rate:,.0f} {r.work.unit} | {share} | {r.rounds} | {r.note} |"
        )
    return "\n".join(lines)


def memory_table(rows: list[Memory]) -> str:
    """The memory peaks as a Markdown table."""
    lines = [
        "| peak of memory | baseline | its peak | pyllmclf | ratio | of these parameters and optimizer |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.name} | {r.baseline} | {r.plain / 1e6:,.0f} MB | {r.ours / 1e6:,.0f} MB | {r.ratio:.2f} "
            f"| {r.plain_state / 1e6:,.0f} and {r.ours_state / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def _shown(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{seconds * 1e6:,.0f} µs"


def groups() -> dict[str, tuple[list[Row], list[Memory]]]:
    """Comparisons so far, by group."""
    names = dict.fromkeys(row.group for row in (*ROWS, *MEMORY))
    return {name: ([r for r in ROWS if r.group == name], [m for m in MEMORY if m.group == name]) for name in names}


def tables(rows: list[Row], peaks: list[Memory]) -> str:
    """The Markdown tables of one group."""
    return "\n\n".join([table(rows)] * bool(rows) + [memory_table(peaks)] * bool(peaks))


def write_results(folder: Path) -> None:
    """Writes a Markdown and a JSON file for each group."""
    facts = machine(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu")
    described = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    folder.mkdir(parents=True, exist_ok=True)
    for group, (rows, peaks) in groups().items():
        content = {
            key: [asdict(r) | {"ratio": r.ratio} for r in entries]
            for key, entries in (("rows", rows), ("memory", peaks))
        }
        (folder / f"{group}.json").write_text(json.dumps({"machine": facts} | content, indent=2) + "\n")
        title = f"# {group.capitalize()}: ratios of medians"
        (folder / f"{group}.md").write_text(f"{title}\n\n{described}\n\n{tables(rows, peaks)}\n")


@pytest.fixture(autouse=True)
def keep_results(request: pytest.FixtureRequest) -> Iterator[None]:
    """Writes the results after each comparison, so that an interrupted run keeps what it has measured."""
    before = len(ROWS) + len(MEMORY)
    yield
    folder = request.config.getoption("--results")
    if folder is not None and len(ROWS) + len(MEMORY) > before:
        write_results(Path(folder))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not ROWS and not MEMORY:
        return
    terminalreporter.section("ratios of medians, both sides in one run")
    folder = config.getoption("--results")
    for group, (rows, peaks) in groups().items():
        terminalreporter.write_line(tables(rows, peaks))
        if folder is not None:
            terminalreporter.write_line(f"written to {Path(folder) / group}.md")
