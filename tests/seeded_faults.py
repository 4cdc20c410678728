"""Seeded faults: one-line mutations of a copy of the package, each of which a test must catch.

Run as ``python tests/seeded_faults.py``; ``--tree PATH`` takes the package and the tests of another checkout, ``--only
NAME`` some of the faults, ``--list`` names them. A fault is a text that stands in the package once, wherever that is,
and what replaces it; so the same faults fit older and newer trees. The tests that are expected to catch it run until
the first failure, and what failed must pass without the fault. Exit code 1 where one is not caught.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

COPIED = ("pyllmclf", "kernels", "tests", "bench", "docs", "examples", "csrc", "pyproject.toml", "CMakeLists.txt")
SECONDS = 900


@dataclass(frozen=True)
class Fault:
    """A mutation.

    Attributes
    ----------
    name : str
        Begins with its subject.
    old, new : str
        Part of one line, which stands in the package once; and what replaces it.
    tests : tuple of str
        Test files that are expected to catch it; of those that have been renamed, the older names too.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


PACKING = ("test_packing.py",)
LONG = ("test_long_texts.py", "test_training_features.py")
CACHE = ("test_frozen_prefix.py", "test_activation_cache.py")
RESUME = ("test_resume.py",)
FAULTS = [
    Fault("ops: causal mask", 'distance > 0, float("-inf")', 'distance > 1, float("-inf")', ("test_attention.py",)),
    Fault("ops: window", "(distance > window[1])", "(distance >= window[1])", ("test_attention.py",)),
    Fault("ops: dropout's scale", "keep.to(x.dtype) / (1.0 - p)", "keep.to(x.dtype)", ("test_dropout.py",)),
    Fault("ops: Philox's rounds", "_PHILOX_ROUNDS = 10", "_PHILOX_ROUNDS = 9", ("test_dropout.py",)),
    Fault("ops: rotary's sign", "first * c - second * s", "first * c + second * s", ("test_decoder_ops.py",)),
    Fault("ops: norm's offset", "normed * (offset + _wide(weight))", "normed * _wide(weight)",
          ("test_decoder_ops.py",)),
    Fault("ops: heads of a group", "ki.repeat_interleave(group, dim=0)", "ki.repeat(group, 1, 1)",
          ("test_decoder_ops.py",)),
    Fault("ops: LoRA's gradient", "da = dthin.t() @ (x if way.drop is None else way.drop(x))", "da = dthin.t() @ x",
          ("test_dropout.py",)),
    Fault("packing: budget", 'before + budget, side="right"', 'before + budget, side="left"', PACKING),
    Fault("packing: mean over windows", "(sums / np.diff(self.window_bounds)[:, None])", "(sums / 1)", LONG),
    Fault("packing: overlap of windows", "store.windows(room, room // 2)", "store.windows(room, room // 3)", LONG),
    Fault("packing: rows of a shared prefix", "return x.index_select(0, self.of)",
          "return x.index_select(0, self.of.flip(0))", ("test_shared_beginnings.py", "test_shared_prefixes.py")),
    Fault("cache: key without lengths", "digest.update(batch.lengths.numpy().data)", "pass", CACHE),
    Fault("cache: key without weights",
          "digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)", "pass", CACHE),
    Fault("cache: attention's dropout", "max(rates.embedding, rates.attention, rates.hidden)",
          "max(rates.embedding, rates.hidden)", CACHE),
    Fault("cache: rows of a text", "index = np.arange(counts.sum()) +", "index = 0 * np.arange(counts.sum()) +", CACHE),
    Fault("resume: place in the epoch", "self.position = Position(epoch, step)", "self.position = Position(epoch, 0)",
          ("test_loader.py", "test_resume.py")),
    Fault("resume: optimizer", "if not trainer.finished:", "if trainer.finished:", RESUME),
    Fault("resume: last weights", "if best != folder:", "if best is None:", RESUME),
    Fault("resume: temperature", "state.temperature = temperature", "state.temperature = None", RESUME),
    Fault("resume: kept checkpoints", "set(steps[-self.keep_last :])", "set(steps[-1:])", RESUME),
    Fault("labels: order", "if kind == NUMBER else sorted(distinct))",
          "if kind == NUMBER else sorted(distinct, reverse=True))", ("test_labels_splits.py",)),
    Fault("labels: indicator", "encoded[row, class_index] = 1.0", "encoded[row, class_index] = 0.5",
          ("test_multi_label.py",)),
    Fault("labels: types", "return [self.classes[int(i)] for i in indices]",
          "return [self.names[int(i)] for i in indices]", ("test_labels_splits.py",)),
]  # fmt: skip


class Copy:
    """A copy of a tree in a temporary folder, whose package is mutated and restored."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            if (tree / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "results")
                shutil.copytree(tree / name, folder / name, symlinks=True, ignore=ignored)
            elif (tree / name).is_file():
                shutil.copy(tree / name, folder / name)
        if not list((folder / "pyllmclf").glob("_C*.so")):
            raise SystemExit(f"{tree} has no built extension beside its package.")
        if not (folder / "pyllmclf/kernels").exists():
            (folder / "pyllmclf/kernels").symlink_to("../kernels")

    def find(self, fault: Fault) -> Path:
        """The file that holds the fault's old text.

        Raises
        ------
        LookupError
            If it stands nowhere, or more than once.
        """
        files = (self.folder / "pyllmclf").rglob("*.py")
        found = [file for file in files for _ in range(file.read_text(encoding="utf-8").count(fault.old))]
        if len(found) != 1:
            raise LookupError(f"{fault.old!r} stands {len(found)} times in the package")
        return found[0]

    def tests_of(self, fault: Fault) -> list[str]:
        """Those that there are."""
        return [f"tests/{name}" for name in fault.tests if (self.folder / "tests" / name).exists()]

    def run(self, tests: list[str], cache: Path, *options: str) -> int:
        """pytest's exit code: 0 passed, 1 failed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-o", f"cache_dir={cache}", *options, *tests],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        return done.returncode

    def outcome(self, fault: Fault) -> str:
        """``"caught"``, or why it is not."""
        try:
            file = self.find(fault)
        except LookupError as error:
            return f"NOT FOUND: {error}"
        tests = self.tests_of(fault)
        if not tests:
            return "NO TESTS"
        original = file.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="pyllmclf-cache-") as cache:
            file.write_text(original.replace(fault.old, fault.new), encoding="utf-8")
            try:
                code = self.run(tests, Path(cache))
            except subprocess.TimeoutExpired:
                return f"NOT CAUGHT in {SECONDS} s"
            finally:
                file.write_text(original, encoding="utf-8")
            if code == 0:
                return "NOT CAUGHT"
            if code == 1 and self.run(tests, Path(cache), "--last-failed") == 0:
                return "caught"
        return "the tests fail without it, too"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parent.parent, help="a checkout, built in place")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of the faults to try")
    parser.add_argument("--list", action="store_true", help="name the faults and where they stand, run nothing")
    arguments = parser.parse_args()
    chosen = [f for f in FAULTS if not arguments.only or any(part in f.name for part in arguments.only)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pyllmclf-seeded-faults-") as folder:
        copy = Copy(arguments.tree.resolve(), Path(folder))
        for fault in chosen:
            if arguments.list:
                try:
                    where = str(copy.find(fault).relative_to(folder))
                except LookupError as error:
                    where, failed = str(error), 1
                print(f"{fault.name}: {where}; {', '.join(copy.tests_of(fault)) or 'no tests'}")
                continue
            begun = time.perf_counter()
            outcome = copy.outcome(fault)
            failed |= outcome != "caught"
            print(f"{outcome:<12} {fault.name} ({time.perf_counter() - begun:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
