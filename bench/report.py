"""Makes one page of a machine's results: the benchmarks' tables, and plots of ratios and of step times.

``python bench/report.py RESULTS_DIR`` reads the JSON files there and writes ``report.md``, ``ratios.svg`` and
``steps.svg``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from conftest import Memory, Row, Work, memory_table, table

ORDER = (
    "end_to_end",
    "published",
    "training",
    "evaluation",
    "loader",
    "attention",
    "lora",
    "cuda-ops",
    "ops",
    "memory",
)


def groups(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of the benchmarks' files, by group."""
    contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    contents = {name: content for name, content in contents.items() if "rows" in content and "machine" in content}
    return dict(sorted(contents.items(), key=lambda item: (ORDER.index(item[0]) if item[0] in ORDER else 99, item[0])))


def rows_of(content: dict[str, Any]) -> list[Row]:
    return [Row(**{k: Work(**v) if k == "work" else v for k, v in r.items() if k != "ratio"}) for r in content["rows"]]


def memory_of(content: dict[str, Any]) -> list[Memory]:
    return [Memory(**{k: v for k, v in r.items() if k != "ratio"}) for r in content["memory"]]


def plot(rows: list[Row], path: Path) -> None:
    """Plots a bar for each comparison: how many times as fast ours is."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "pyllmclf"  # the same file for the same figures
    names = [f"{row.name} / {row.baseline}" for row in rows]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.32 * len(rows)))
    bars = axes.barh(names, [row.ratio for row in rows], color="#3366aa")
    axes.bar_label(bars, [f"{row.ratio:.1f}" for row in rows], padding=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as the baseline")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


# The sides of a training step in the plot, in order, with their colours.
SIDES = {
    "pyllmclf": "#3366aa",
    "Hugging Face": "#dd9933",
    "Hugging Face, bf16 autocast": "#bb5522",
    "plain PyTorch": "#999999",
}
TRAINED = {"last_block": "last block", "all": "all layers", "lora": "LoRA, rank 16"}


def step_seconds(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Seconds of a training step by side and trained layers; ours are those interleaved with Hugging Face."""
    seconds: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    for row in rows:
        trained = TRAINED.get(row.name.removeprefix("step, "))
        if trained is None or row.baseline not in SIDES:
            continue
        seconds[row.baseline][trained] = row.plain
        if row.baseline == "Hugging Face":
            seconds["pyllmclf"][trained] = row.ours
    return {side: by_trained for side, by_trained in seconds.items() if by_trained}


def plot_steps(rows: list[Row], path: Path) -> None:
    """Plots the seconds of a training step as bars, by side, for each choice of trained layers."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "pyllmclf"
    seconds = step_seconds(rows)
    figure, axes = plt.subplots(figsize=(8, 3.2))
    height = 0.8 / len(seconds)
    for i, (side, by_trained) in enumerate(seconds.items()):
        at = [list(TRAINED.values()).index(trained) + i * height for trained in by_trained]
        bars = axes.barh(at, list(by_trained.values()), height=0.92 * height, color=SIDES[side], label=side)
        axes.bar_label(bars, [f"{value:.2f} s" for value in by_trained.values()], padding=3, fontsize=8)
    axes.set_yticks([i + height * (len(seconds) - 1) / 2 for i in range(len(TRAINED))], list(TRAINED.values()))
    axes.invert_yaxis()
    axes.set_xlabel("seconds of a training step: GPT-2 124M, 8 texts of SMS Spam")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python bench/report.py RESULTS_DIR", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    contents = groups(folder)
    if not contents:
        print(f"{folder}: no results of benchmarks (*.json)", file=sys.stderr)
        return 3
    lines = ["# Results", ""]
    for name, content in contents.items():
        machine = content["machine"]
        lines += [
            f"## {name}",
            "",
            f"{machine['cpu']}; {machine['device']}; torch {machine['torch']}; {machine['date']}",
        ]
        tables = [table(rows_of(content))] * bool(content["rows"])
        tables += [memory_table(memory_of(content))] * bool(content["memory"])
        for shown in tables:
            lines += ["", shown]
        lines.append("")
    whole = [
        row for name in ("end_to_end", "evaluation", "loader") for row in rows_of(contents.get(name, {"rows": []}))
    ]
    if whole:
        plot(whole, folder / "ratios.svg")
        lines[2:2] = ["![How many times as fast as the baselines](ratios.svg)", ""]
    steps = rows_of(contents.get("training", {"rows": []}))
    if step_seconds(steps).keys() > {"pyllmclf"}:
        plot_steps(steps, folder / "steps.svg")
        lines[2:2] = ["![Seconds of a training step](steps.svg)", ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")
    print(f"written to {folder / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
