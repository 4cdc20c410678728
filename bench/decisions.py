"""What abstaining, label sets and distances promise and keep, on random splits of texts that no training has seen.

``python bench/decisions.py RESULTS.jsonl`` trains the head of all-MiniLM-L6-v2 on 1,000 texts of each data set in
``PYLLMCLF_DATA_DIR`` (``load`` and ``draw`` of ``bench/recipes.py``), scores up to 4,000 others, and splits these 20
times into held-out texts, which thresholds are chosen on, and test texts. A line for each data set, number of held-out
texts and rule: what was promised, and the means over the splits of what was reached. ``--table`` prints tables.

Beside the score of label sets that pyllmclf uses (LAC) stand APS (Romano, Sesia and Candès 2020) and RAPS (Angelopoulos
et al. 2021), each randomised, and none with an empty set. Distances are compared by the area under the ROC curve of
telling a data set's own texts from another's, or from those of classes that are left out of training, beside the
Mahalanobis distance of rows that are not scaled, and the one relative to all training rows (Ren et al. 2021).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from recipes import draw, load, processor

import pyllmclf
from pyllmclf.evaluation.conformal import class_quantiles, conformal_quantile, coverage, label_scores, label_sets
from pyllmclf.evaluation.metrics import softmax
from pyllmclf.evaluation.selective import answered_from, threshold_of_accuracy, threshold_of_share
from pyllmclf.evaluation.unlike import RowStatistics

SETS = ("sms", "ag_news", "banking38")
SPLITS, FEW = 20, 200
MOST_TEXTS = 4_000  # that are scored
NEAR_AND_FAR = 600  # test texts whose distances are compared
TARGETS, SHARES, ERRORS = (0.95, 0.98, 0.99), (0.8, 0.9), (0.05, 0.1, 0.2)
RAPS_PENALTY, RAPS_FREE = 0.01, 5

Row = dict[str, Any]
Scores = Callable[[np.ndarray], np.ndarray]
"""Takes probabilities [texts, classes]; returns the nonconformity of each label, of the same shape."""


def adaptive(drawn: np.random.Generator, *, regularised: bool) -> Scores:
    """Scores of APS, or RAPS: the probability of all more probable labels, and a random part of the label's own."""

    def scores(probabilities: np.ndarray) -> np.ndarray:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        ordered = np.take_along_axis(probabilities, order, axis=1)
        sums = np.cumsum(ordered, axis=1) - drawn.random((len(ordered), 1)) * ordered
        if regularised:
            sums += RAPS_PENALTY * np.maximum(np.arange(1, ordered.shape[1] + 1) - RAPS_FREE, 0)
        found = np.empty_like(sums)
        np.put_along_axis(found, order, sums, axis=1)
        return found

    return scores


def splits(count: int, held_out: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(count)
        yield order[:held_out], order[held_out:]


def summary(values: list[float]) -> Row:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def abstaining(probabilities: np.ndarray, labels: np.ndarray, held_out: int) -> Iterator[Row]:
    """Accuracy and share of the answered test texts, for each target."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    for rule, value in [*(("accuracy", t) for t in TARGETS), *(("answered", s) for s in SHARES)]:
        found, shares = [], []
        for own, test in splits(len(labels), held_out):
            if rule == "answered":
                threshold = threshold_of_share(confidence[own], value)
            else:
                chosen = threshold_of_accuracy(confidence[own], right[own], value)
                if chosen is None:
                    continue
                threshold = chosen.threshold
            counts = answered_from(confidence[test], right[test], threshold)
            shares.append(counts.share)
            found.append(counts.accuracy if counts.accuracy is not None else 1.0)
        row: Row = {"rule": f"{rule}={value:g}", "possible": len(found), "all": float(right.mean())}
        if found:
            row |= {"accuracy": summary(found), "answered": summary(shares), "lowest": min(found)}
            row |= {"reached": sum(each >= value for each in found)} if rule == "accuracy" else {}
        yield row


def sets_of(probabilities: np.ndarray, labels: np.ndarray, held_out: int) -> Iterator[Row]:
    """Coverage and size of label sets, by error rate and score."""
    classes = probabilities.shape[1]
    for error in ERRORS:
        for kind in ("LAC", "LAC by class", "APS", "RAPS"):
            covered, sizes, worst = [], [], []
            for seed, (own, test) in enumerate(splits(len(labels), held_out)):
                if kind.startswith("LAC"):
                    scores = label_scores(probabilities[own], labels[own])
                    by_class = kind == "LAC by class"
                    quantiles: Any = conformal_quantile(scores, error)
                    quantiles = class_quantiles(scores, labels[own], classes, error) if by_class else quantiles
                    sets = label_sets(probabilities[test], quantiles)
                else:
                    scores_of = adaptive(np.random.default_rng(seed), regularised=kind == "RAPS")
                    own_scores = scores_of(probabilities[own])[np.arange(len(own)), labels[own]]
                    sets = scores_of(probabilities[test]) <= conformal_quantile(own_scores, error)
                    empty = ~sets.any(axis=1)
                    sets[empty, probabilities[test][empty].argmax(axis=1)] = True
                covered.append(coverage(sets, labels[test]))
                sizes.append(float(sets.sum(axis=1).mean()))
                hits = sets[np.arange(len(test)), labels[test]]
                worst.append(np.bincount(labels[test], hits, classes) / np.bincount(labels[test], minlength=classes))
            row = {"rule": f"conformal={error:g}", "score": kind, "coverage": summary(covered)}
            yield row | {"labels": summary(sizes), "worst_class": float(np.nanmean(worst, axis=0).min())}


def area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve of telling texts outside by larger numbers."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.r_[np.zeros(len(inside)), np.ones(len(outside))], np.r_[inside, outside]))


def nearest(x: np.ndarray, means: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of rows to the nearest mean."""
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    return (((x @ root)[:, None] - means @ root) ** 2).sum(axis=2).min(axis=1)


def others_measured(rows: np.ndarray, labels: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """Distances by other formulas: without scaling, and relative to all training rows (Ren et al. 2021)."""
    from sklearn.covariance import ledoit_wolf

    means = np.stack([rows[labels == c].mean(axis=0) for c in np.unique(labels)])
    index = np.unique(labels, return_inverse=True)[1]
    found = nearest(x, means, ledoit_wolf(rows - means[index], assume_centered=True)[0])
    overall = nearest(x, rows.mean(axis=0)[None], ledoit_wolf(rows)[0])
    return {"unscaled": found, "relative": found - overall}


def compared(rows: np.ndarray, labels: np.ndarray, own: np.ndarray, other: np.ndarray) -> Row:
    """Areas under ROC curves, and the share of other texts beyond the distance of 99 % of the own ones."""
    statistics = RowStatistics.fit(rows, labels)
    inside, outside = statistics.distances(own), statistics.distances(other)
    plain, foreign = (others_measured(rows, labels, x) for x in (own, other))
    beyond = float((outside > np.quantile(inside, 0.99)).mean())
    return {"area": area(inside, outside), "beyond": beyond} | {
        name: area(plain[name], foreign[name]) for name in plain
    }


def unlike(sets: list[str], folder: Path) -> Iterator[Row]:
    """Texts of other data sets, and of classes that training lacks: each of four, and half of 38."""
    parts = {name: load(name, folder) for name in sets}
    train = {name: draw(part[0], "1000", 0)[0] for name, part in parts.items()}
    test = {name: list(dict(part[1]).items())[:NEAR_AND_FAR] for name, part in parts.items()}
    frozen = pyllmclf.finetune(
        "minilm", tuple(zip(*train[sets[0]], strict=True)), trainable="head", validation=False, progress=False
    ).classifier
    rows = {name: (read(frozen, train[name]), read(frozen, test[name])) for name in sets}
    labels = {
        name: tuple(np.array([label for _, label in part]) for part in (train[name], test[name])) for name in sets
    }
    for name in sets:
        for other in sets:
            if other != name:
                found = compared(rows[name][0], labels[name][0], rows[name][1], rows[other][1])
                yield {"rule": "unlike", "data": name, "other": other} | found
        classes = np.unique(labels[name][0])
        if len(classes) < 3:
            continue
        halves = [np.random.default_rng(seed).permutation(classes)[: len(classes) // 2] for seed in range(4)]
        for number, left in enumerate(halves if len(classes) > 10 else [[each] for each in classes]):
            known, own = (~np.isin(each, left) for each in labels[name])
            found = compared(rows[name][0][known], labels[name][0][known], rows[name][1][own], rows[name][1][~own])
            title = f"{len(left)} of its classes, {number + 1}" if len(left) > 1 else f"its class {left[0]}"
            yield {"rule": "unlike", "data": name, "other": title} | found


def read(classifier: Any, labelled: list[tuple[str, str]]) -> np.ndarray:
    from pyllmclf.classifier.inference import read_rows

    packer = classifier.packer([text for text, _ in labelled])
    return read_rows(classifier.state.model, packer, classifier.compute, np.arange(len(packer))).cpu().numpy()


def measure(name: str, folder: Path) -> Iterator[Row]:
    parts = load(name, folder)
    train, _ = draw(parts[0], "1000", 0)
    seen = {text for text, _ in train}
    rest = [row for row in dict(parts[0] + parts[1]).items() if row[0] not in seen]
    random.Random(0).shuffle(rest)
    rest = rest[:MOST_TEXTS]
    data = [text for text, _ in train], [label for _, label in train]
    result = pyllmclf.finetune("minilm", data, trainable="head", validation=False, seed=0, progress=False)
    classifier, texts = result.classifier, [text for text, _ in rest]
    labels = np.array([classifier.classes_.index(label) for _, label in rest])
    probabilities = softmax(classifier.logits(texts))
    common = {"data": name, "texts": len(rest), "classes": len(classifier.classes_)}
    for held_out in (FEW, len(rest) // 2):
        for row in (*abstaining(probabilities, labels, held_out), *sets_of(probabilities, labels, held_out)):
            yield common | {"held_out": held_out} | row


def table(rows: list[Row]) -> None:
    """Prints Markdown tables."""

    def of(found: Row, digits: int = 1) -> str:
        return f"{100 * found['mean']:.{digits}f}" + (f" ± {100 * found['sd']:.{digits}f}" if found["sd"] else "")

    print("| data | held-out texts | promise | possible | answered, % | of these right, % | reached | without, % |")
    print("|---|---|---|---|---|---|---|---|")
    for row in (row for row in rows if row["rule"].startswith(("accuracy", "answered"))):
        cells = [of(row["answered"]), of(row["accuracy"], 2)] if row["possible"] else ["", ""]
        reached = f"{row['reached']} of {row['possible']}" if "reached" in row else ""
        cells = [row["data"], f"{row['held_out']:,}", row["rule"], f"{row['possible']} of {SPLITS}", *cells, reached]
        print(f"| {' | '.join(cells)} | {100 * row['all']:.1f} |")
    print("\n| data | held-out texts | promised, % | score | covered, % | worst class, % | labels |")
    print("|---|---|---|---|---|---|---|")
    for row in (row for row in rows if row["rule"].startswith("conformal")):
        promised = f"{100 * (1 - float(row['rule'].partition('=')[2])):g}"
        cells = [row["data"], f"{row['held_out']:,}", promised, row["score"], of(row["coverage"], 2)]
        print(f"| {' | '.join(cells)} | {100 * row['worst_class']:.1f} | {row['labels']['mean']:.2f} |")
    print("\n| data | other texts | scaled | unscaled | relative | beyond 99 %, % |")
    print("|---|---|---|---|---|---|")
    for row in (row for row in rows if row["rule"] == "unlike"):
        areas = " | ".join(f"{row[name]:.3f}" for name in ("area", "unscaled", "relative"))
        print(f"| {row['data']} | {row['other']} | {areas} | {100 * row['beyond']:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table([json.loads(line) for line in options.results.read_text().splitlines()])
        return
    folder = Path(os.environ["PYLLMCLF_DATA_DIR"])
    source = {"processor": processor(), "version": pyllmclf.__version__, "date": date.today().isoformat()}
    with options.results.open("a") as file:
        found = (row for name in options.sets for row in measure(name, folder))
        for row in itertools.chain(found, unlike(options.sets, folder)):
            file.write(json.dumps(row | source) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
