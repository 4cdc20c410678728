"""Killed and failing writes, and damaged files: fewer than by the scripts in ``tests/faults``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import LABELS, SHORT, TEXTS

import pyllmclf
from pyllmclf.data import atomic_folder

SCRIPTS = Path(__file__).parent / "faults"
SECONDS = 1200
pytestmark = pytest.mark.real_disk


def run(script: str, folder: Path, *arguments: str) -> str:
    """The last line that a script prints, which works in ``folder``; it must end well, and in time."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(folder)},
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    summary = done.stdout.strip().splitlines()[-1]
    print(summary)
    return summary


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: calls of the C library are replaced")
@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler")
@pytest.mark.parametrize(("kills", "saves", "every"), [(6, 3, 1280), pytest.param(60, 20, 160, marks=pytest.mark.slow)])
def test_trainings_and_saves_that_are_killed_or_fail(tmp_path: Path, kills: int, saves: int, every: int) -> None:
    summary = run("faults.py", tmp_path, "--kills", str(kills), "--saves", str(saves), "--every", str(every))
    assert f"kills while saving {saves}" in summary
    assert "mismatches 0" in summary


def test_killed_while_saving(tmp_path: Path, said: Callable[[str, int, str], None]) -> None:
    """kill -9 just before the new folder takes its place: the older one opens."""
    classifier = pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), weights="random", **SHORT).classifier
    classifier.save(tmp_path / "classifier")
    child = os.fork()
    if child == 0:
        atomic_folder._move_into_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        classifier.save(tmp_path / "classifier")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert pyllmclf.load(tmp_path / "classifier").predict(TEXTS) == classifier.predict(TEXTS)
    said("kill -9 while saving", -9, "the older checkpoint opens")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    assert "accepted 0" in run("damage.py", tmp_path, "--every", "480", "--headers", "200")
