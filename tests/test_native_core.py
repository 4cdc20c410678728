"""The tests of the native core that need no Python (``tests/native``), and what nvcc made of the CUDA kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def cmake(*arguments: str | Path) -> str:
    """Runs cmake and returns what it printed."""
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def configure(folder: Path, *definitions: str) -> str:
    return cmake("-S", ROOT, "-B", folder, "-GNinja", "-DCMAKE_BUILD_TYPE=Release", *definitions)


def test_the_core_without_python(tmp_path: Path) -> None:
    """Every CPU op in each SIMD build, every CUDA kernel in the emulator, the token store and the packer."""
    configure(tmp_path, "-DPYLLMCLF_EXTENSION=OFF", "-DPYLLMCLF_TESTS=ON")
    cmake("--build", tmp_path)
    done = subprocess.run(
        ["ctest", "--test-dir", tmp_path, "--output-on-failure"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out of 3" in done.stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_cuda_kernels_for_each_architecture(tmp_path: Path) -> None:
    """Code for sm_80 and sm_90 and PTX, no spills, and accesses of 16 bytes."""
    configure(tmp_path, "-DPYLLMCLF_EXTENSION=OFF", "-DPYLLMCLF_PTXAS_VERBOSE=ON")
    printed = cmake("--build", tmp_path, "--target", "pyllmclf_cuda")
    functions = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(functions) > 200
    assert set(functions) == {("0", "0", "0")}
    for name in ("cross_entropy", "embedding", "gelu", "layer_norm", "sums"):
        code = next(tmp_path.rglob(f"{name}.cu.o")).read_bytes()
        assert b"sm_80" in code and b"sm_90" in code, name
