"""Test accuracies of trainings in fp32 and in bf16 on a CPU, over several seeds.

``python bench/dtypes.py RESULTS.jsonl`` trains all-MiniLM-L6-v2 by default settings on 1,000 texts of each data set in
``PYLLMCLF_DATA_DIR``, and the last block of GPT-2 124M from random weights on SMS Spam, and appends a line for each
training. What is there already is not repeated. ``--table`` prints means and standard deviations over the seeds, and
the mean of the differences between the trainings of one seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from recipes import Draw, processor

DTYPES = ("float32", "bfloat16")
GPT2 = {
    "model": "gpt2",
    "weights": "random",
    "trainable": "last_block",
    "learning_rate": 5e-4,
    "epochs": 5,
    "batch_size": 8,
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "pooling": "last",
    "dropout": 0.0,
    "validation": False,
}
# Model, data set, arguments of finetune
TASKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("minilm", "sms", {"model": "minilm"}),
    ("minilm", "mr", {"model": "minilm"}),
    ("minilm", "ag_news", {"model": "minilm"}),
    ("minilm", "banking38", {"model": "minilm"}),
    ("gpt2, random weights", "sms", GPT2),
)


def train(drawn: Draw, arguments: dict[str, Any], dtype: str) -> dict[str, float]:
    """Trains on the draw; returns test accuracy, and wall and CPU seconds of training."""
    import pyllmclf

    started, cpu = time.perf_counter(), time.process_time()
    result = pyllmclf.finetune(
        train=drawn.data, test=False, seed=drawn.seed, dtype=dtype, progress=False, baselines="off", **arguments
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    found = result.classifier.predict(drawn.texts)
    right = [str(label) == given for label, (_, given) in zip(found, drawn.test, strict=True)]
    return {"test": statistics.mean(right), "seconds": seconds, "cpu": cpu}


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracies in per cent; the difference is bf16's minus fp32's, with its standard error."""
    lines = [
        "| model | data | seeds | fp32 | bf16 | difference | seconds, fp32 / bf16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, name, _ in TASKS:
        of_task = [row for row in rows if (row["model"], row["set"]) == (model, name)]
        by_seed = {seed: {r["dtype"]: r for r in of_task if r["seed"] == seed} for seed in {r["seed"] for r in of_task}}
        pairs = [pair for pair in by_seed.values() if len(pair) == len(DTYPES)]
        if len(pairs) < 2:
            continue
        found = {dtype: [100 * pair[dtype]["test"] for pair in pairs] for dtype in DTYPES}
        shown = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in found.values()]
        differences = [b - a for a, b in zip(*found.values(), strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        seconds = " / ".join(f"{statistics.median(pair[dtype]['cpu'] for pair in pairs):.0f}" for dtype in DTYPES)
        cells = [model, name, str(len(pairs)), *shown, f"{statistics.mean(differences):+.2f} ± {error:.2f}", seconds]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    exists = arguments.results.exists()
    done = [json.loads(line) for line in arguments.results.read_text().splitlines()] if exists else []
    if arguments.table:
        print(table(done))
        return 0
    keys = {(row["model"], row["set"], row["seed"], row["dtype"]) for row in done}
    end = time.monotonic() + 60 * arguments.minutes
    for seed in arguments.seeds:
        for model, name, given in TASKS:
            for dtype in DTYPES:
                if (model, name, seed, dtype) in keys:
                    continue
                if time.monotonic() > end:
                    return 0
                drawn = Draw(name, "1000", seed, Path(os.environ["PYLLMCLF_DATA_DIR"]))
                task = {"model": model, "set": name, "seed": seed, "dtype": dtype, "processor": processor()}
                row = task | train(drawn, given, dtype)
                with arguments.results.open("a") as file:
                    print(json.dumps(row), file=file)
                print(*row.values(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
