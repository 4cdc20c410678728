"""Writes reports of 2, 6, 38 and 1,000 classes and of several labels, and measures their bytes and seconds.

``python bench/report_pages.py FOLDER`` trains heads of MiniLM on data sets of ``PYLLMCLF_DATA_DIR``; the texts of the
1,000 classes are made up. ``tests/test_report_browser.py`` opens such pages in Chromium.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pyllmclf
from pyllmclf.data.lengths import LengthReport
from pyllmclf.data.readers import TextData
from pyllmclf.evaluation.metrics import evaluate_logits
from pyllmclf.evaluation.report import write_report

Made = tuple[Any, TextData, np.ndarray]


def many_classes(classes: int = 1_000, texts: int = 10_000, seed: int = 0) -> Made:
    """Texts of classes that come in groups of eight alike ones, and logits by the distance to a class's centre."""
    random = np.random.default_rng(seed)
    groups = random.normal(size=(classes // 8 + 1, 16)).repeat(8, axis=0)[:classes]
    centres = groups + 0.5 * random.normal(size=(classes, 16))
    labels = random.integers(0, classes, texts)
    points = centres[labels] + 0.8 * random.normal(size=(texts, 16))
    logits = 2.0 * points @ centres.T - (centres**2).sum(axis=1)
    tokens = random.poisson(20, texts) + 3
    names = [f"group {c // 8}, intent {c % 8}" for c in range(classes)]
    lengths = dict.fromkeys(LengthReport.__dataclass_fields__, 0) | {
        "tokens": int(tokens.sum()),
        "mean": float(tokens.mean()),
        "longest": int(tokens.max()),
        "padding_avoided": float(1 - tokens.mean() / tokens.max()),
    }
    result = evaluate_logits(logits, labels, names, seconds=1.0, lengths=lengths)
    data = TextData([f"a text of {names[c]}" for c in labels], None, "made up", list(range(2, texts + 2)))
    return result, data, tokens


def several_labels(root: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """Two texts of AG News after each other, with the labels of both."""
    names = ("World", "Sports", "Business", "Sci/Tech")
    with (root / "ag_news/test.csv").open(encoding="utf-8", newline="") as file:
        news = [(names[int(number) - 1], f"{title} {text}") for number, title, text in csv.reader(file)]
    order = np.random.default_rng(0).permutation(len(news))[:3_000].reshape(-1, 2).tolist()
    labels = [tuple(sorted({news[a][0], news[b][0]})) for a, b in order]
    return [f"{news[a][1]} {news[b][1]}" for a, b in order], labels


def six_classes(root: Path) -> tuple[list[str], list[str]]:
    """Positive and negative film and product reviews, and subjective and objective sentences."""
    names = {
        "rt-polarity": ("film, negative", "film, positive"),
        "subj": ("subjective", "objective"),
        "custrev": ("product, negative", "product, positive"),
    }
    texts, labels = list[str](), list[str]()
    for name, classes in names.items():
        for line in (root / f"mr_subj_cr/{name}.all").read_bytes().decode("latin-1").strip().split("\n")[::4]:
            label, _, text = line.partition(" ")
            texts.append(text)
            labels.append(classes[int(label)])
    return texts, labels


def trained_pages(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and report of trainings on data sets."""
    root = Path(os.environ["PYLLMCLF_DATA_DIR"])
    banking = root / "banking38"
    sets: dict[str, Any] = {
        "2": {"train": "sms_spam"},
        "6": {"train": six_classes(root)},
        "38": {"train": str(banking / "train.csv"), "test": str(banking / "test.csv")},
        "several": {"train": several_labels(root), "multi_label": True},
    }
    for name, arguments in sets.items():
        out = folder / f"run-{name}"
        options: dict[str, Any] = {"trainable": "head", "validation": 0.2, "report": True, "overwrite": True}
        pyllmclf.finetune("minilm", **arguments, **options, output_dir=out, progress=False)
        yield name, out / "report.html"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in trained_pages(folder):
        print(f"{name} classes: {path.stat().st_size:,} bytes, {path}")
    made, path = many_classes(), folder / "1000.html"
    started = time.perf_counter()
    write_report(path, *made, {"checkpoint": "made up", "data": "made up"}, [])
    print(f"1,000 classes: {path.stat().st_size:,} bytes, {time.perf_counter() - started:.2f} s, {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
