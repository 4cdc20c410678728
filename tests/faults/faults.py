"""Kills trainings and saves, or lets their file system fail; resumes each, compares the results and counts.

Usage: ``python tests/faults/faults.py --kills 1000``. The process restarts itself with ``inject.c`` preloaded and forks
a child for each attempt. A child is killed

- at a call that changes a file (before it, or halfway through a write), or
- after a random time,

or such a call fails with ENOSPC, EIO or EROFS. A start with ``resume=True`` follows every kill, and
may be killed again, until one ends. Then weights, history and figures must equal the uninterrupted run's, bit by bit,
and the folder must have the same checkpoints, ``last`` and ``best``, and no unfinished file. An error must be a
``ResourceError`` or harmless. A checkpoint that is complete before a fault must be complete after it.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = "PYLLMCLF_FAULTS_PRELOADED"
KILL_BEFORE, KILL_WITHIN = -1, -2
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
REFUSED, BROKEN = 5, 70
AFTER = 1_000_000  # added to steps of the last training
LIMIT = 600.0  # seconds after which a child that nothing kills counts as hanging
TEXTS = [f"{word} number {i} of {i % 7} {'and more ' * (i % 4)}" for i in range(11) for word in ("parcel", "bill")]
LABELS = ["delivery", "billing"] * 11
NANO: dict[str, Any] = {
    "model": "gpt2-nano",
    "weights": "random",
    "train": (TEXTS, LABELS),
    "validation": (TEXTS[:8], LABELS[:8]),
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 3e-3,
    "save_every_steps": 2,
    "resume": True,
    "progress": False,
}
# Activation cache on disk; dropout, accumulation and a schedule; adapters, the best epoch, and a temperature; two
# trainings, without held-out texts and on all texts.
VARIANTS: dict[str, dict[str, Any]] = {
    "cached": {"trainable": "last_block", "cache": "disk"},
    "all": {
        "trainable": "all",
        "dropout": 0.2,
        "scheduler": "cosine",
        "gradient_accumulation_steps": 2,
        "batch_size": 3,
    },
    "lora": {"trainable": "lora", "early_stopping": 2, "calibrate": True, "keep_last": 2},
    "refit": {"trainable": "auto", "validation": None, "epochs": 2, "save_every_steps": 3},
}


def preload() -> None:
    """Restarts this script with ``inject.c`` preloaded, which intercepts the C library's calls."""
    if PRELOADED in os.environ:
        return
    library = Path(tempfile.mkdtemp(prefix="pyllmclf-faults-")) / "inject.so"
    source = Path(__file__).with_name("inject.c")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    os.environ |= {PRELOADED: str(library), "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not exist in a child
    os.execv(sys.executable, [sys.executable, *sys.argv])


class Attempt:
    """Runs work in a child of this process; holds the outcome."""

    def __init__(self, work: Callable[[], Any], under: Path, *, nth: int = 0, how: int = 0, after: float = 0.0) -> None:
        readable, writable = os.pipe()
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.close(readable)
            _run_child(work, under, nth, how, writable)
        os.close(writable)
        # Readable at the child's end, and not before: it writes its answer last.
        ended, _, _ = select.select([readable], [], [], after or LIMIT)
        if not ended:
            os.kill(child, signal.SIGKILL)
        with os.fdopen(readable) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        self.seconds = time.perf_counter() - start
        self.killed = os.WIFSIGNALED(status)
        self.code = -1 if self.killed else os.WEXITSTATUS(status)
        if not ended and not after:
            self.killed, self.code, answer = False, BROKEN, json.dumps({"message": f"did not end in {LIMIT:.0f} s"})
        outcome = json.loads(answer) if answer else {}
        self.result, self.calls = outcome.get("result"), outcome.get("calls", 0)
        self.message = outcome.get("message", "")


def _run_child(work: Callable[[], Any], under: Path, nth: int, how: int, pipe: int) -> None:
    from pyllmclf import ResourceError

    faults = ctypes.CDLL(os.environ[PRELOADED])
    faults.faults_count.restype = ctypes.c_long
    outcome: dict[str, Any] = {}
    try:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - warnings of damaged checkpoints
        faults.faults_arm(os.fsencode(under), ctypes.c_long(nth), how)
        outcome = {"result": work(), "calls": faults.faults_count()}
        code = 0
    except ResourceError as error:
        outcome, code = {"message": str(error)}, REFUSED
    except BaseException:
        outcome, code = {"message": traceback.format_exc()}, BROKEN
    faults.faults_arm(b"", ctypes.c_long(0), 0)
    with os.fdopen(pipe, "w") as file:
        json.dump(outcome, file)
    os._exit(code)


def train(folder: Path, variant: str) -> str:
    """Trains in ``folder``, resuming if it can; returns the hash of all results."""
    import pyllmclf

    changes = dict(VARIANTS[variant])
    if "cache" in changes:
        changes["cache_dir"] = folder / "cache"
    result = pyllmclf.finetune(**NANO | changes, output_dir=folder / "run")
    digest = hashlib.sha256()
    links = [name for name in ("last", "best") if (folder / "run" / name).exists()]
    saved = [pyllmclf.load(folder / "run" / name, device="cpu") for name in ("", *links)]
    for classifier in (result.classifier, *saved):
        for name, parameter in sorted(classifier.state.model.named_parameters()):
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
        digest.update(repr(classifier.state.temperature).encode())
    names = sorted(path.name for path in (folder / "run").glob("c*-*"))
    digest.update(repr([names, *(os.readlink(folder / "run" / name) for name in links)]).encode())
    for record in result.history:
        figures = {name: v for name, v in record.to_dict().items() if name not in ("seconds", "tokens_per_second")}
        digest.update(json.dumps(figures, sort_keys=True).encode())
    figures = {name: result.metrics["validation"][name] for name in ("accuracy", "log_loss")}
    digest.update(json.dumps([figures, result.calibration], sort_keys=True).encode())
    return digest.hexdigest()


def complete(run: Path) -> set[int]:
    """Steps of the complete checkpoints in a run's folder; those behind a training on held-out texts are larger."""
    from pyllmclf.data.atomic_folder import verify_folder
    from pyllmclf.errors import ModelError

    steps = set()
    for folder in run.glob("**/checkpoint-*"):
        try:
            verify_folder(folder, [])
            steps.add(int(folder.name.removeprefix("checkpoint-")) + (AFTER if folder.parent == run else 0))
        except ModelError:
            continue
    return steps


def leftovers(folder: Path) -> list[str]:
    """Unfinished files under a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name.endswith((".tmp", ".old"))]


class Faults:
    """Causes faults and counts their outcomes."""

    def __init__(self, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self.folder, self.chance, self.say = folder, random.Random(seed), say
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.expected: dict[str, str] = {}
        self.calls: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        train(self._fresh(), next(iter(VARIANTS)))  # imports what every child would import again
        for variant in VARIANTS:
            whole = self._attempt(self._fresh(), variant)
            again = self._attempt(self._fresh(), variant)
            if whole.code or whole.result != again.result:
                raise SystemExit(f"{variant}: the uninterrupted run is not the same twice: {whole.message}")
            self.expected[variant], self.calls[variant] = whole.result, whole.calls
            self.seconds[variant] = again.seconds

    def _fresh(self) -> Path:
        folder = self.folder / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _attempt(self, folder: Path, variant: str, **fault: Any) -> Attempt:
        return Attempt(lambda: train(folder, variant), folder, **fault)

    def _check_resume(self, folder: Path, variant: str, what: str, done: set[int]) -> None:
        """Resumes a run after a fault, and compares its end with the uninterrupted run's."""
        self.counts["resumes"] += 1
        ended = self._attempt(folder, variant)
        problems = []
        if ended.code != 0:
            problems.append(f"ended with {ended.code}: {ended.message}")
        elif ended.result != self.expected[variant]:
            problems.append("other bits")
        if left := leftovers(folder):
            problems.append(f"left {left}")
        for problem in problems:
            self.counts["mismatches"] += 1
            self.wrong.append(f"{variant}, {what}: {problem}")

    def kill(self, count: int) -> None:
        """Kills ``count`` trainings at random points."""
        while self.counts["kills"] < count:
            variant = self.chance.choice(list(VARIANTS))
            folder, what, before = self._fresh(), [], set[int]()
            while True:
                if self.chance.random() < 0.3:
                    fault: dict[str, Any] = {"after": self.chance.uniform(0.0, self.seconds[variant])}
                else:
                    nth = self.chance.randint(1, self.calls[variant])
                    fault = {"nth": nth, "how": self.chance.choice([KILL_BEFORE, KILL_WITHIN])}
                attempt = self._attempt(folder, variant, **fault)
                what.append(str(fault))
                if not attempt.killed:
                    break  # it ended before that point
                self.counts["kills"] += 1
                before = self._check_newest(folder, before, f"{variant}, {what}")
                if self.chance.random() < 0.5:
                    break
            if attempt.code > 0:
                self.counts["mismatches"] += 1
                self.wrong.append(f"{variant}, {what}: ended with {attempt.code}: {attempt.message}")
            self._check_resume(folder, variant, str(what), before)
            if self.counts["kills"] % 50 < 2:
                self.say(self.summary())

    def _check_newest(self, folder: Path, before: set[int], what: str) -> set[int]:
        """Checks that the newest complete checkpoint is not older than before a fault; returns the complete ones."""
        now = complete(folder / "run")
        if before and max(now, default=-1) < max(before):
            self.counts["mismatches"] += 1
            self.wrong.append(f"{what}: checkpoint {max(before)} was complete and is gone")
        return now

    def fail(self, every: int = 1) -> None:
        """Lets every call of each variant fail, or one of ``every`` calls, with each error."""
        for variant in VARIANTS:
            for name, number in ERRORS.items():
                for nth in range(1 + self.chance.randrange(every), self.calls[variant] + 1, every):
                    folder = self._fresh()
                    attempt = self._attempt(folder, variant, nth=nth, how=number)
                    self.counts["errors"] += 1
                    what = f"{variant}, {name} at call {nth}"
                    if attempt.code == 0:
                        self.counts["errors without harm"] += 1
                        if attempt.result != self.expected[variant]:
                            self.counts["mismatches"] += 1
                            self.wrong.append(f"{what}: other bits")
                    elif attempt.code != REFUSED:
                        self.counts["mismatches"] += 1
                        self.wrong.append(f"{what}: ended with {attempt.code}: {attempt.message}")
                    self._check_resume(folder, variant, what, complete(folder / "run"))
                self.say(f"{variant}, {name}: {self.summary()}")

    def saves(self, count: int) -> None:
        """Kills ``count`` saves over an older classifier; afterwards one of the two must be complete."""
        import pyllmclf

        first, second = (
            pyllmclf.finetune(
                **NANO | {"epochs": 1, "save_every_steps": None, "resume": False, "seed": seed}
            ).classifier
            for seed in (1, 2)
        )
        folder = self._fresh()

        def weights(path: Path) -> bytes:
            try:
                loaded = pyllmclf.load(path, device="cpu")
            except pyllmclf.ModelError:
                return b""
            return b"".join(parameter.detach().numpy().tobytes() for parameter in loaded.state.model.parameters())

        first.save(folder / "saved")
        known = [weights(folder / "saved")]
        second.save(folder / "other")
        known.append(weights(folder / "other"))
        calls = Attempt(lambda: second.save(folder / "saved"), folder).calls
        for _ in range(count):
            chosen = self.chance.choice((first, second))
            fault = {"nth": self.chance.randint(1, calls), "how": self.chance.choice([KILL_BEFORE, KILL_WITHIN])}
            attempt = Attempt(lambda chosen=chosen: chosen.save(folder / "saved"), folder, **fault)
            self.counts["kills"] += attempt.killed
            self.counts["kills while saving"] += attempt.killed
            if weights(folder / "saved") not in known:
                self.counts["mismatches"] += 1
                self.wrong.append(f"saving, {fault}: neither the older nor the newer classifier")
                shutil.rmtree(folder / "saved", ignore_errors=True)
                first.save(folder / "saved")

    def summary(self) -> str:
        """The counts in one line."""
        names = ("kills", "kills while saving", "resumes", "errors", "errors without harm", "mismatches")
        return ", ".join(f"{name} {self.counts[name]:,}" for name in names)


def main() -> int:
    """Causes the faults; returns 1 if one did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="number of kills of trainings")
    parser.add_argument("--saves", type=int, default=200, help="number of kills of saves")
    parser.add_argument("--every", type=int, default=1, help="errors at one of so many calls; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    preload()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pyllmclf-faults-") as folder:
        faults = Faults(Path(folder), arguments.seed, lambda line: print(line, file=sys.stderr, flush=True))
        calls = ", ".join(f"{variant} {count}" for variant, count in faults.calls.items())
        print(f"calls that change files in an uninterrupted run: {calls}", flush=True)
        faults.saves(arguments.saves)
        faults.kill(arguments.kills + faults.counts["kills"])
        if arguments.every:
            faults.fail(arguments.every)
    for line in faults.wrong:
        print(line)
    print(f"{faults.summary()}; {time.perf_counter() - start:.0f} s")
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
