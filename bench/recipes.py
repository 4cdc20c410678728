"""Accuracy of candidates, of the default and of simple classifiers, on the data sets from which the rule is derived.

``python bench/recipes.py RESULTS.jsonl --minutes 60`` trains all-MiniLM-L6-v2 on draws of the training parts in
``PYLLMCLF_DATA_DIR`` and appends a line for each training; what is there already is not repeated. ``--table`` prints,
for each data set and size, the mean over the draws of the default, of the candidate that the validation texts choose,
of the best candidate on average, of logistic regression on mean embeddings, and of a bag of words.

Where there is no official split, a text is a test text if the first byte of its SHA-256 is below 51. Validation texts
are drawn from what is left of the training part. ``finetune("minilm", data)`` is trained with nothing else.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[tuple[str, str]]
SETS = ("sms", "mr", "cr", "subj", "ag_news", "banking38", "imdb")
SIZES = ("8", "16", "64", "1000")
VALIDATION, TEST = 400, 1000
DEFAULT, EMBEDDINGS, WORDS = "default", "logistic regression on mean embeddings", "bag of words"
RATES = {"all": (3e-5, 5e-5, 1e-4, 2e-4, 4e-4), "last_block": (2e-4, 6e-4, 1.2e-3), "lora": (5e-4, 1e-3, 2e-3)}
RATES |= {"last_2_blocks": (2e-4, 4e-4, 8e-4), "last_4_blocks": (1e-4, 2e-4, 4e-4)}
LONG = {"all": (5e-5, 1e-4, 2e-4), "last_block": (2e-4, 6e-4), "last_2_blocks": (2e-4,)}
"""Candidates of three times as many steps."""


def candidates(texts: int) -> dict[str, dict[str, Any]]:
    """Arguments of the 24 candidates for so many training texts, by name."""
    epochs = min(40, max(3, -(-100 * 8 // texts)))
    made: dict[str, dict[str, Any]] = {"head": {"trainable": "head"}}
    for trainable, rates in RATES.items():
        for rate in rates:
            made[f"{trainable} {rate:g}"] = {"trainable": trainable, "learning_rate": rate, "epochs": epochs}
    for trainable, rates in LONG.items():
        for rate in rates:
            made[f"{trainable} {rate:g} long"] = {"trainable": trainable, "learning_rate": rate, "epochs": 3 * epochs}
    return made


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
    """A draw of a data set, on which candidates are trained."""

    def __init__(self, name: str, size: str, seed: int, folder: Path) -> None:
        train, test = load(name, folder)
        self.train, validation = draw(train, size, seed)
        random.Random(0).shuffle(test)
        self.data = [text for text, _ in self.train], [label for _, label in self.train]
        self.parts = {"validation": validation, "test": test[:TEST]}

    def accuracies(self, predict: Any) -> dict[str, float]:
        texts = [text for rows in self.parts.values() for text, _ in rows]
        right = [
            a == b
            for a, b in zip(map(str, predict(texts)), (b for r in self.parts.values() for _, b in r), strict=True)
        ]
        count = len(self.parts["validation"])
        return {"validation": float(np.mean(right[:count])), "test": float(np.mean(right[count:]))}

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Trains one candidate; returns its accuracies and seconds."""
        import pyllmclf

        started, cpu = time.perf_counter(), time.process_time()
        extra: dict[str, Any] = {}
        if name == WORDS:
            from pyllmclf.training.baselines import bag_of_words

            accuracies = self.accuracies(bag_of_words(seed).fit(*self.data).predict)
        elif name == EMBEDDINGS:
            accuracies = self._embeddings()
        else:
            arguments = {} if name == DEFAULT else candidates(len(self.train))[name] | {"validation": False}
            result = pyllmclf.finetune("minilm", self.data, test=False, seed=seed, progress=False, **arguments)
            extra = {"trainable": result.classifier.state.settings["trainable"]}
            accuracies = self.accuracies(result.classifier.predict)
        return accuracies | extra | {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}

    def _embeddings(self) -> dict[str, float]:
        texts = [text for each in self.parts.values() for text, _ in each]
        labels = [label for each in self.parts.values() for _, label in each]
        model = logistic_regression().fit(mean_embeddings(*self.data), self.data[1])
        found = mean_embeddings(texts, labels)
        return self.accuracies(lambda _: model.predict(found))


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


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the draws in per cent, with half a 95 % interval of the default's differences over the draws."""
    lines = ["| data | texts | draws | default | chosen by validation | best on average | embeddings | words |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    by_task: dict[tuple[str, str], dict[int, dict[str, dict[str, Any]]]] = {}
    for row in rows:
        by_task.setdefault((row["set"], row["size"]), {}).setdefault(row["seed"], {})[row["candidate"]] = row
    simple = (DEFAULT, EMBEDDINGS, WORDS)
    for (name, size), draws in by_task.items():
        whole = [draw for draw in draws.values() if len(draw) == 24 + len(simple)]
        if not whole:
            continue
        chosen = [
            max((r for n, r in d.items() if n not in simple), key=lambda r: r["validation"])["test"] for d in whole
        ]
        means = {n: statistics.mean(d[n]["test"] for d in whole) for n in whole[0]}
        best = max((n for n in means if n not in simple), key=lambda n: means[n])
        lines.append(
            f"| {name} | {size} | {len(whole)} | {means[DEFAULT]:.1%} | {statistics.mean(chosen):.1%} | "
            f"{means[best]:.1%} ({best}) | {means[EMBEDDINGS]:.1%} | {means[WORDS]:.1%} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
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
    keys = {(row["set"], row["size"], row["seed"], row["candidate"]) for row in done}
    end = time.monotonic() + 60 * arguments.minutes
    folder = Path(os.environ["PYLLMCLF_DATA_DIR"])
    for name, size, seed in tasks(arguments):
        drawn = None
        for candidate in (DEFAULT, EMBEDDINGS, WORDS, *candidates(100)):
            if (name, size, seed, candidate) in keys:
                continue
            if time.monotonic() > end:
                return 0
            drawn = drawn or Draw(name, size, seed, folder)
            row = {"set": name, "size": size, "seed": seed, "candidate": candidate} | drawn.run(candidate, seed)
            with arguments.results.open("a") as file:
                print(json.dumps(row), file=file)
            print(*row.values(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
