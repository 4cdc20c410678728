"""Accuracy of the default beside a grid that validation texts choose from, and beside simple classifiers.

``python bench/recipes.py RESULTS.jsonl --minutes 60`` trains all-MiniLM-L6-v2 on draws of the training parts in
``PYLLMCLF_DATA_DIR`` and appends a line for each of: ``finetune("minilm", data)`` with nothing else; ``tune`` over 24
candidates, which 400 further texts choose from; logistic regression on mean embeddings; a bag of words. What is there
already is not repeated. ``--table`` prints the means over the draws for each data set and size.

Where there is no official split, a text is a test text if the first byte of its SHA-256 is below 51. Validation texts
are drawn from what is left of the training part; the rule and the grid see no test text.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import platform
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[tuple[str, str]]
Found = tuple[Any, dict[str, Any]]
"""Predictions of the test texts, and what else is recorded."""
SETS = ("sms", "mr", "cr", "subj", "ag_news", "banking38", "imdb")
SIZES = ("8", "16", "64", "1000")
VALIDATION, TEST = 400, 1000
DEFAULT, GRID = "default", "grid"
EMBEDDINGS, WORDS = "logistic regression on mean embeddings", "bag of words"
WHATS = (DEFAULT, GRID, EMBEDDINGS, WORDS)
RATES = {
    "all": (3e-5, 5e-5, 1e-4, 2e-4, 4e-4),
    "last_block": (2e-4, 6e-4, 1.2e-3),
    "last_2_blocks": (2e-4, 4e-4, 8e-4),
    "last_4_blocks": (1e-4, 2e-4, 4e-4),
    "lora": (5e-4, 1e-3, 2e-3),
}
LONG = {"all": (1e-4,), "last_block": (2e-4, 6e-4), "last_4_blocks": (1e-4,)}
"""Candidates of three times as many steps."""


def candidates(texts: int) -> list[dict[str, Any]]:
    """The 24 candidates' arguments for so many training texts."""
    epochs = min(40, max(3, -(-100 * 8 // texts)))
    short = [(kind, rate, epochs) for kind, rates in RATES.items() for rate in rates]
    long = [(kind, rate, 3 * epochs) for kind, rates in LONG.items() for rate in rates]
    trained = [{"trainable": t, "learning_rate": rate, "epochs": count} for t, rate, count in short + long]
    contrastive = {"trainable": "all", "loss": "contrastive"}
    return [{"trainable": "head"}, {"trainable": "head", "pooling": "first"}, contrastive, *trained]


def processor() -> str:
    """Name of the processor; with its family and model where the system says them, since a virtual one has no name."""
    try:
        found = dict(re.findall(r"(.+?)\s*: (.+)", Path("/proc/cpuinfo").read_text().split("\n\n")[0]))
        return f"{found['model name']}, family {found['cpu family']}, model {found['model']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def is_test(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] < 51


def load(name: str, folder: Path) -> tuple[Rows, Rows]:
    """Training and test part of a data set."""
    if name == "banking38":
        parts = []
        for split in ("train", "test"):
            with (folder / f"banking38/{split}.csv").open(encoding="utf-8", newline="") as file:
                parts.append([(row["text"], row["label"]) for row in csv.DictReader(file)])
        return parts[0], parts[1]
    if name == "imdb":
        with gzip.open(folder / "imdb/imdb_50k.csv.gz") as packed:
            rows = list(csv.DictReader(io.TextIOWrapper(packed, encoding="utf-8")))
        train, test = ([(r["text"], r["label"]) for r in rows if r["split"] == split] for split in ("train", "test"))
        return train, test
    if name == "ag_news":
        with (folder / "ag_news/test.csv").open(encoding="utf-8", newline="") as file:
            labelled = [(f"{title} {text}", label) for label, title, text in csv.reader(file)]
    elif name == "sms":
        lines = (folder / "sms_spam/SMSSpamCollection").read_text(encoding="utf-8").splitlines()
        labelled = [(text, label) for label, text in (line.split("\t", 1) for line in lines)]
    else:
        file = {"mr": "rt-polarity.all", "cr": "custrev.all", "subj": "subj.all"}[name]
        lines = (folder / "mr_subj_cr" / file).read_text(encoding="latin-1").split("\n")  # not at U+0085
        labelled = [(line[2:].strip(), line[0]) for line in lines if line.strip()]
    return [row for row in labelled if not is_test(row[0])], [row for row in labelled if is_test(row[0])]


def draw(rows: Rows, size: str, seed: int) -> tuple[Rows, Rows]:
    """Training texts, so many of each class or 1,000 in all, and validation texts."""
    shuffled = list(dict(rows).items())
    random.Random(seed).shuffle(shuffled)
    if size == "1000":
        return shuffled[:1000], shuffled[1000 : 1000 + VALIDATION]
    seen: Counter[str] = Counter()
    train, rest = [], []
    for text, label in shuffled:
        seen[label] += 1
        (train if seen[label] <= int(size) else rest).append((text, label))
    return train, rest[:VALIDATION]


class Draw:
    """A draw of a data set."""

    def __init__(self, name: str, size: str, seed: int, folder: Path) -> None:
        train, test = load(name, folder)
        self.train, self.validation = draw(train, size, seed)
        random.Random(0).shuffle(test)
        self.test, self.seed = test[:TEST], seed
        self.data = [text for text, _ in self.train], [label for _, label in self.train]

    def run(self, name: str) -> dict[str, Any]:
        """Trains; returns the test accuracy, which test texts are right, and seconds."""
        started, cpu = time.perf_counter(), time.process_time()
        predictions, extra = {
            DEFAULT: self._default,
            GRID: self._grid,
            EMBEDDINGS: self._embeddings,
            WORDS: self._words,
        }[name]()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        right = [str(found) == label for found, (_, label) in zip(predictions, self.test, strict=True)]
        bits = "".join("01"[each] for each in right)
        return {"test": statistics.mean(right), "seconds": seconds, "cpu": cpu} | extra | {"right": bits}

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.test]

    def _default(self) -> Found:
        import pyllmclf

        result = pyllmclf.finetune("minilm", self.data, test=False, seed=self.seed, progress=False)
        return result.classifier.predict(self.texts), {"trainable": result.classifier.state.settings["trainable"]}

    def _grid(self) -> Found:
        """The candidate that the validation texts choose, and the validation accuracy of each."""
        import pyllmclf

        listed = candidates(len(self.train))
        validation = [text for text, _ in self.validation], [label for _, label in self.validation]
        result = pyllmclf.tune(
            "minilm", self.data, validation=validation, candidates=listed, seed=self.seed, progress=False
        )
        accuracies = {str(row["number"]): row["accuracy"] for row in result.leaderboard}
        number = result.leaderboard[0]["number"]
        return result.classifier.predict(self.texts), {"chosen": listed[number - 1], "validation": accuracies}

    def _words(self) -> Found:
        from pyllmclf.training.baselines import bag_of_words

        return bag_of_words(self.seed).fit(*self.data).predict(self.texts), {}

    def _embeddings(self) -> Found:
        model = logistic_regression().fit(mean_embeddings(*self.data), self.data[1])
        return model.predict(mean_embeddings(self.texts, [label for _, label in self.test])), {}


def logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def mean_embeddings(texts: list[str], labels: list[str]) -> np.ndarray:
    """Mean over its tokens of the frozen model's output for each text; float, shape [texts, width]."""
    from pyllmclf.settings import Settings
    from pyllmclf.training.prepare import prepare
    from pyllmclf.training.solve import pooled_rows

    settings = Settings(
        model="minilm", train=(texts, labels), trainable="head", validation=False, test=False, progress=False
    )
    with prepare(settings) as run:
        ids = np.arange(len(run.packers["train"]))
        return pooled_rows(run.trainer, run.packers["train"], ids).cpu().numpy()


def tasks(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for seed in range(arguments.seeds):
        for size in arguments.sizes:
            for name in arguments.sets:
                if not (name == "imdb" and size == "1000"):  # an hour for each draw
                    yield name, size, seed


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> str:
    """Mean difference of two classifiers' test accuracies in points, with half its 95 % interval over the texts."""
    right, other = (np.array([each == "1" for row in rows for each in row["right"]], dtype=float) for rows in (a, b))
    of_text = right - other
    half = 1.96 * of_text.std() / len(of_text) ** 0.5
    return f"{100 * of_text.mean():+.1f} ± {100 * half:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the draws, their number in brackets: accuracies in per cent, differences of the default in points."""
    by_task: dict[tuple[str, str], dict[int, dict[str, dict[str, Any]]]] = {}
    for row in rows:
        by_task.setdefault((row["set"], row["size"]), {}).setdefault(row["seed"], {})[row["what"]] = row
    lines = ["| data | texts | default | grid | embeddings | words | default - grid | default - embeddings |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (name, size), draws in sorted(by_task.items()):
        with_default = [draw for draw in draws.values() if DEFAULT in draw]

        def beside(what: str, draws: list[dict[str, dict[str, Any]]] = with_default) -> str:
            both = [draw for draw in draws if what in draw]
            return difference([d[DEFAULT] for d in both], [d[what] for d in both]) if both else "–"

        means = []
        for what in WHATS:
            found = [draw[what]["test"] for draw in with_default if what in draw]
            means.append(f"{100 * statistics.mean(found):.1f} ({len(found)})" if found else "–")
        texts = size if size == "1000" else f"{size} a class"
        lines.append("| " + " | ".join([name, texts, *means, beside(GRID), beside(EMBEDDINGS)]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--what", nargs="+", choices=WHATS, default=(WORDS, EMBEDDINGS, DEFAULT, GRID))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    done = (
        [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    )
    if arguments.table:
        print(table(done))
        return 0
    keys = {(row["set"], row["size"], row["seed"], row["what"]) for row in done}
    end = time.monotonic() + 60 * arguments.minutes
    folder = Path(os.environ["PYLLMCLF_DATA_DIR"])
    for name, size, seed in tasks(arguments):
        drawn = None
        for what in arguments.what:
            if (name, size, seed, what) in keys:
                continue
            if time.monotonic() > end:
                return 0
            drawn = drawn or Draw(name, size, seed, folder)
            task = {"set": name, "size": size, "seed": seed, "what": what, "processor": processor()}
            row = task | drawn.run(what)
            with arguments.results.open("a") as file:
                print(json.dumps(row), file=file)
            print(*list(row.values())[:-1], file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
