"""A long run of a server: near its capacity with a newer checkpoint midway, then far beyond it, then SIGTERM.

``python bench/serving/soak.py RESULTS.jsonl --models FOLDER --rate 13`` starts ``pyllmclf serve`` on one core and
appends a line for each phase: statuses, latencies, memory, and how far answers are from those of ``predict``. It fails
unless every request near the capacity, and every one that was begun before SIGTERM, is answered; of those beyond the
capacity, some may be refused with status 429. After the overload, memory must be within a tenth of what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from capacity import free_port
from load import Load, Run, mixed_texts, poisson
from models import MODELS, make
from sides import HOST, SERVED_NAME, VENVS, pyllmclf, started

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipes import processor

Row = dict[str, Any]
OVERLOAD = 3.0
# Of probabilities in fp32; of logits in bf16, relative to the largest.
TOLERANCES = {"float32": 1e-6, "bfloat16": 2e-2}
STRIDE = 617


def resident_mb(group: int) -> float:
    """Megabytes of memory of the processes of a group."""
    pages = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                pages += int((path / "statm").read_text().split()[1])
        except OSError:  # it has ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Memory(threading.Thread):
    """Measures the memory of a process group every second."""

    def __init__(self, group: int) -> None:
        super().__init__(daemon=True)
        self.group, self.values = group, list[float]()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(1.0):
            self.values.append(resident_mb(self.group))

    def end(self) -> list[float]:
        self._ended.set()
        self.join()
        return self.values


def phase(load: Load, group: int, rate: float, seconds: float, first: int, expected: np.ndarray, dtype: str) -> Row:
    """Offers requests at a rate; what came back, and the memory meanwhile."""
    memory = Memory(group)
    memory.start()
    run = Run(load, poisson(rate, seconds, seed=first), patience=60.0, first=first)
    found = asyncio.run(run())
    values = memory.end()
    results = enumerate(zip(found.statuses, found.bodies, strict=True))
    answered = [(i, body) for i, (status, body) in results if status == 200]
    taken = np.array([found.seconds[i] for i, _ in answered])
    differences = [_difference(body, expected[(first + i) % len(expected)], dtype) for i, body in answered]
    return {
        "rate": round(rate, 2),
        "requests": len(found.statuses),
        "statuses": dict(Counter(map(str, found.statuses))),
        "p50_ms": round(1000 * float(np.percentile(taken, 50)), 1),
        "p99_ms": round(1000 * float(np.percentile(taken, 99)), 1),
        "memory_mb": [round(values[0]), round(max(values)), round(values[-1])],
        "largest_difference": max(differences) / largest_logit(expected, dtype),
    }


def _difference(body: bytes, expected: np.ndarray, dtype: str) -> float:
    """Largest difference of probabilities in fp32; in bf16 of their logarithms, which are logits up to a constant."""
    found = np.array(json.loads(body)["data"][0]["probs"])
    if dtype == "float32":
        return float(np.abs(found - expected).max())
    return float(np.abs(np.log(found) - np.log(expected)).max())


def largest_logit(expected: np.ndarray, dtype: str) -> float:
    """What differences in bf16 are relative to; 1 in fp32."""
    return 1.0 if dtype == "float32" else float(np.abs(np.log(expected)).max())


def replace_later(folder: Path, seconds: float) -> threading.Timer:
    """Replaces a classifier's folder by one of the same weights, as a training that has ended does."""
    script = "import sys, pyllmclf; pyllmclf.load(sys.argv[1], dtype='float32').save(sys.argv[1])"
    timer = threading.Timer(seconds, lambda: subprocess.run([sys.executable, "-c", script, str(folder)], check=True))
    timer.daemon = True
    timer.start()
    return timer


def drained(load: Load, group: int, rate: float) -> Row:
    """Sends SIGTERM while requests are under way; those that were sent before are answered."""
    times = poisson(rate, 4.0, seed=7)
    sent_until = 2.0
    run = Run(load, times, patience=30.0)
    threading.Timer(sent_until + 0.05, lambda: os.kill(group, signal.SIGTERM)).start()
    found = asyncio.run(run())
    statuses = [found.statuses[i] for i, due in enumerate(found.due) if due < sent_until - 0.1]
    _, status = os.waitpid(group, 0)
    return {"before_signal": dict(Counter(map(str, statuses))), "exit_code": os.waitstatus_to_exitcode(status)}


def soak(arguments: argparse.Namespace) -> list[Row]:
    """All phases."""
    import pyllmclf as library

    made = make(arguments.model, arguments.models)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / arguments.model
        shutil.copytree(made / "pyllmclf", folder / "pyllmclf")
        classifier = library.load(folder / "pyllmclf", dtype=arguments.dtype)
        texts, port = mixed_texts(), free_port()
        expected = classifier.predict_proba(texts)
        load = Load(f"http://{HOST}:{port}/classify", texts, SERVED_NAME)
        side = pyllmclf(arguments.dtype)
        rows: list[Row] = []
        with started(side, Path(sys.executable), folder, port, arguments.server_core) as group:
            phase(load, group, arguments.rate / 2, 10.0, 0, expected, arguments.dtype)
            replaced = replace_later(folder / "pyllmclf", 30 * arguments.minutes)
            steady = 60 * arguments.minutes
            row = phase(load, group, 0.8 * arguments.rate, steady, STRIDE, expected, arguments.dtype)
            replaced.join()
            rows.append({"phase": "80 % of capacity, a newer checkpoint midway", **row})
            print(rows[-1], file=sys.stderr)
            beyond = 60 * arguments.overload_minutes
            row = phase(load, group, OVERLOAD * arguments.rate, beyond, 2 * STRIDE, expected, arguments.dtype)
            rows.append({"phase": f"{OVERLOAD:g} times the capacity", **row})
            print(rows[-1], file=sys.stderr)
            row = phase(load, group, arguments.rate / 2, 20.0, 3 * STRIDE, expected, arguments.dtype)
            rows.append({"phase": "half of the capacity", **row})
            rows.append({"phase": "SIGTERM", **drained(load, group, arguments.rate)})
            print(rows[-1], file=sys.stderr)
    return rows


def faults(rows: list[Row], dtype: str) -> list[str]:
    """What is not as it must be."""
    near, beyond, after, ended = rows
    found = []
    for row in (near, after):
        if set(row["statuses"]) != {"200"}:
            found.append(f"{row['phase']}: {row['statuses']}")
    if not set(beyond["statuses"]) <= {"200", "429"}:
        found.append(f"{beyond['phase']}: {beyond['statuses']}")
    for row in (near, beyond, after):
        if row["largest_difference"] > TOLERANCES[dtype]:
            found.append(f"{row['phase']}: answers differ by {row['largest_difference']:.2g}")
    if after["memory_mb"][2] > 1.1 * near["memory_mb"][2]:
        found.append(f"memory: {near['memory_mb']}, {after['memory_mb']}")
    if set(ended["before_signal"]) != {"200"} or ended["exit_code"] != 0:
        found.append(f"SIGTERM: {ended}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rate", type=float, required=True, help="the capacity, requests/s")
    parser.add_argument("--models", type=Path, default=VENVS.parent / "serving", help="folder of models (%(default)s)")
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--dtype", choices=TOLERANCES, default="bfloat16")
    parser.add_argument("--minutes", type=float, default=10.0, help="near the capacity (%(default)g)")
    parser.add_argument("--overload-minutes", type=float, default=2.0, help="beyond it (%(default)g)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.generator_core})
    rows = soak(arguments)
    about = {"date": date.today().isoformat(), "processor": processor(), "dtype": arguments.dtype}
    with arguments.results.open("a") as file:
        for row in rows:
            print(json.dumps(row | about), file=file)
    problems = faults(rows, arguments.dtype)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
