"""The highest rate of requests that each server sustains on one core within a latency.

``python bench/serving/capacity.py RESULTS.jsonl --models FOLDER --model minilm`` starts the servers of ``sides.py`` one
after the other on one core, finds the highest rate at which 99 % of the requests are answered within ``--limit``
milliseconds and none fails, and appends a line for each. The generator (``load.py``) runs on another core. What is
there already for a server, a model and a limit is not repeated. ``--table`` prints the results.

A run with a fixed number of clients warms the server up, and estimates what it can do. From half of that, the rate is
doubled until a run fails, then halved in ratio between the last success and the first failure until they are within 20
per cent. Longer runs go on from there in steps of 5 per cent, up while they succeed or down while they fail. Every run
has arrivals of its own: a burst of one process would decide all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from load import Load, Run, closed_loop, in_loop, mixed_texts, run
from models import MODELS, make
from sides import HOST, SERVED_NAME, SIDES, VENVS, ServerError, Side, cpu_seconds, interpreter, started, versions

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipes import processor

Row = dict[str, Any]
COARSE, STEP = 1.2, 1.05
LOWEST_SHARE = 1 / 16
"""Of the estimate: a server that sustains less is given up."""
CLIENTS = 16
LEAST_REQUESTS, LEAST_CONFIRMED = 100, 300
LONGEST_SECONDS, LONGEST_CONFIRMED = 60.0, 120.0
ATTEMPTS = 3
CONFIRMATIONS = 8
DRAIN_SECONDS = 120.0
COPIED = ("p50", "p90", "p99", "max", "agreement", "achieved", "requests", "cpu_ms", "generator_lag_p99")
STRIDE = 617
"""Texts by which runs are apart, so that a run's texts aren't those of the one before."""


@dataclass
class Search:
    """What is tried on a server, and what comes out.

    Attributes
    ----------
    load : Load
    limit : float
        Seconds.
    seconds : float
        Length of a short run; up to ``LONGEST_SECONDS`` where it would have fewer than ``LEAST_REQUESTS`` requests.
    confirm : float
        Length of a long run; up to ``LONGEST_CONFIRMED`` where it would have fewer than ``LEAST_CONFIRMED``.
    reference : dict
        Labels by text.
    group : int
        The server's process group.
    runs : list of dict
        Every run, as :func:`load.run` returns it.
    """

    load: Load
    limit: float
    seconds: float
    confirm: float
    reference: dict[str, str]
    group: int
    runs: list[Row] = field(default_factory=list)

    def sustains(self, rate: float) -> bool:
        """Whether a short run succeeds."""
        return self._try(rate, max(self.seconds, min(LEAST_REQUESTS / rate, LONGEST_SECONDS)))

    def confirms(self, rate: float) -> bool:
        """Whether a long run succeeds."""
        return self._try(rate, max(self.confirm, min(LEAST_CONFIRMED / rate, LONGEST_CONFIRMED)))

    def _try(self, rate: float, seconds: float) -> bool:
        """Whether a run succeeds; one in which the generator is late is repeated.

        Raises
        ------
        ServerError
            If the generator is late every time, or the server answers no more.
        """
        for _ in range(ATTEMPTS):
            seed, cpu = len(self.runs), cpu_seconds(self.group)
            more = {"seed": seed, "first": STRIDE * seed, "limit": self.limit, "reference": self.reference}
            found = run(self.load, rate, seconds, **more)
            self.drain()
            found["cpu_ms"] = round(1000 * (cpu_seconds(self.group) - cpu) / (found["requests"] + 1), 2)
            self.runs.append(found)
            print(f"    {rate:8.2f}/s  p50 {found['p50']}  p99 {found['p99']}  {found['statuses']}", file=sys.stderr)
            if found["valid"]:
                return self.succeeded(found)
        raise ServerError(f"the generator was late in {ATTEMPTS} runs at {rate:g} requests/s")

    def succeeded(self, found: Row) -> bool:
        """Whether all requests of a run were answered, and 99 % of them within the limit."""
        answered = found["statuses"] == {"200": found["requests"]}
        return answered and not found["aborted"] and found["p99"] <= 1000 * self.limit

    def drain(self) -> None:
        """Waits until the server answers a request alone, and so has none from before."""
        found = in_loop(Run(self.load, [0.0], patience=DRAIN_SECONDS))
        if found.statuses != [200]:
            raise ServerError(f"the server answers no more: {found.statuses[0]}")

    def highest(self, start: float) -> float:
        """Highest rate that is sustained, found from a rate to start at; 0 if there is none."""
        if self.sustains(start):
            low, high = start, 2 * start
            while self.sustains(high):
                low, high = high, 2 * high
        else:
            low, high = start / 2, start
            while not self.sustains(low):
                low, high = low / 2, low
                if low < 2 * LOWEST_SHARE * start:
                    return 0.0
        while high / low > COARSE:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.sustains(middle) else (low, middle)
        return low

    def highest_confirmed(self, rate: float) -> Row:
        """The long run at the highest rate that succeeds, in steps from a rate; empty if none does."""
        if self.confirms(rate):
            best = self.runs[-1]
            while self.confirms(best["rate"] * STEP):
                best = self.runs[-1]
            return best
        for _ in range(CONFIRMATIONS):
            rate /= STEP
            if self.confirms(rate):
                return self.runs[-1]
        return {}


def measure(side: Side, python: Path, model: Path, arguments: argparse.Namespace) -> Row:
    """Starts a server, searches, and ends it."""
    port = free_port()
    load = Load(f"http://{HOST}:{port}/classify", mixed_texts(), SERVED_NAME, as_list=side.as_list)
    reference = json.loads((model / "reference.json").read_text(encoding="utf-8"))
    begun = time.monotonic()
    with started(side, python, model, port, arguments.server_core) as group:
        search = Search(load, arguments.limit / 1000, arguments.seconds, arguments.confirm, reference, group)
        ready = time.monotonic() - begun
        estimate = closed_loop(load, CLIENTS, arguments.warm_up)
        search.drain()
        rate = search.highest(estimate / 2)
        last = search.highest_confirmed(rate) if rate else {}
    return {
        "rate": round(last.get("rate", 0.0), 2),
        **{name: last.get(name) for name in COPIED},
        "closed_loop": round(estimate, 2),
        "start_seconds": round(ready, 1),
        "search_seconds": round(time.monotonic() - begun, 1),
        "load_average": os.getloadavg()[0],
        "runs": [[each["rate"], each["p99"], each["requests"], each["valid"]] for each in search.runs],
    }


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        return bound.getsockname()[1]


def key(row: Row) -> tuple[str, str, float]:
    """What a line of the results is about."""
    return row["server"], row["model"], row["limit"]


def table(rows: list[Row]) -> str:
    """Rates and latencies of each server, model by model."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += ["", f"| {model} | limit of p99 | requests/s | p50 | p99 | labels as in fp32 |", "|---" * 6 + "|"]
        for row in rows:
            if row["model"] == model:
                cells = [SIDES[row["server"]].title, f"{row['limit']:g} ms", f"{row['rate']:.1f}"]
                cells += [
                    shown(row["p50"], "{:.0f} ms"),
                    shown(row["p99"], "{:.0f} ms"),
                    shown(row["agreement"], "{:.2%}"),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("results", type=Path)
    made.add_argument("--models", type=Path, default=VENVS.parent / "serving", help="folder of models (%(default)s)")
    made.add_argument("--model", choices=MODELS, default="minilm")
    chosen = [name for name, side in SIDES.items() if side.default]
    made.add_argument("--servers", nargs="+", choices=SIDES, default=chosen, help=f"default: {', '.join(chosen)}")
    made.add_argument("--venvs", type=Path, default=VENVS, help="folder of the servers' venvs (%(default)s)")
    made.add_argument("--limit", type=float, default=100.0, help="milliseconds of p99 (%(default)g)")
    made.add_argument("--seconds", type=float, default=6.0, help="length of a short run (%(default)g)")
    made.add_argument("--warm-up", type=float, default=4.0, help="seconds with a fixed number of clients (%(default)g)")
    made.add_argument("--confirm", type=float, default=30.0, help="length of a long run (%(default)g)")
    made.add_argument("--server-core", type=int, default=0)
    made.add_argument("--generator-core", type=int, default=1)
    made.add_argument("--install", action="store_true", help="make models and venvs, and end")
    made.add_argument("--table", action="store_true")
    return made


def main() -> int:
    arguments = parser().parse_args()
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    done = [json.loads(each) for each in lines]
    if arguments.table:
        print(table(done))
        return 0
    model = make(arguments.model, arguments.models)
    os.sched_setaffinity(0, {arguments.generator_core})
    keys, failed = {key(row) for row in done}, False
    for name in arguments.servers:
        row = {"server": name, "model": arguments.model, "limit": arguments.limit}
        if key(row) in keys:
            continue
        try:
            python = interpreter(SIDES[name], arguments.venvs)
            if arguments.install:
                continue
            print(SIDES[name].title, file=sys.stderr)
            about = {
                "date": date.today().isoformat(),
                "processor": processor(),
                "versions": versions(SIDES[name], python),
            }
            row |= measure(SIDES[name], python, model, arguments) | about
        except (ServerError, OSError) as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        with arguments.results.open("a") as file:
            print(json.dumps(row), file=file)
        print(f"  {row['rate']:g} requests/s, p99 {row['p99']} ms, {row['search_seconds']} s", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
