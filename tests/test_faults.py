"""Killed and failing writes, and damaged files: a small run of the scripts in ``tests/faults``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "faults"


def run(script: str, *arguments: str) -> str:
    """The last line that a script prints; it must end well."""
    memory = Path("/dev/shm")  # a file system whose writes wait for no disk
    folder = {"TMPDIR": str(memory)} if os.access(memory, os.W_OK) else {}
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | folder,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    summary = done.stdout.strip().splitlines()[-1]
    print(summary)
    return summary


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: calls of the C library are replaced")
@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler")
def test_trainings_and_saves_that_are_killed_or_fail() -> None:
    summary = run("faults.py", "--kills", "60", "--saves", "20", "--every", "160")
    assert "kills while saving 20" in summary
    assert "mismatches 0" in summary


def test_damaged_files_are_refused() -> None:
    assert "accepted 0" in run("damage.py", "--every", "60", "--headers", "200")
