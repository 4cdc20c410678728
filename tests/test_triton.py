"""The Triton kernels without a GPU: in the interpreter, and compiled ahead of time for each architecture."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from cases import offsets

from pyllmclf import UsageError, finetune, ops

HERE = Path(__file__).parent
if importlib.util.find_spec("triton") is None:
    pytest.skip("needs the triton package, which there is for Linux alone", allow_module_level=True)

import aot  # noqa: E402, needs triton
import tune  # noqa: E402

from pyllmclf.kernels.configs import Faster  # noqa: E402

TRITON, NUMPY = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))


@pytest.mark.skipif(TRITON < (3, 7) and NUMPY >= (2, 4), reason="the interpreter of triton 3.6 needs numpy before 2.4")
def test_triton_kernels_in_the_interpreter() -> None:
    """In a process of its own: the interpreter is chosen when triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", HERE / "interpreted_kernels.py", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,  # not the repository's root, whose source tree has no extension
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 60 and "skipped" not in done.stdout


@pytest.mark.parametrize("variant", aot.selected(), ids=str)
def test_triton_aot(variant: aot.Variant) -> None:
    """No stack, no spills, matrix instructions, and shared memory that there is."""
    assert not aot.complaints(variant, aot.compile_variant(variant))


def test_triton_aot_selection_is_small() -> None:
    chosen = [str(variant) for variant in aot.selected()]
    assert len(set(chosen)) == len(chosen) <= 80


def test_rule_of_what_is_faster() -> None:
    """bench/tune.py --rules: limits within which everything timed is faster, and the most of it."""
    grid = list(itertools.product((240, 2432), (768, 1600), (4, 16)))  # rows, width, rank
    assert tune.rule(dict.fromkeys(grid, True)) == Faster(240, 768, 16)
    assert tune.rule(dict.fromkeys(grid, False)) is None
    assert tune.rule({at: at[0] > 240 and at[2] < 16 for at in grid}) == Faster(2432, 768, 4)
    assert tune.rule({at: at != (2432, 1600, 16) for at in grid}) == Faster(240, 768, 4)
    assert tune.rule({at: at == (240, 768, 4) for at in grid}) is None  # nothing beyond it is


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_triton_refuses_the_cpu() -> None:
    x = torch.zeros(4, 1, 8)
    cu = offsets((4,))
    with ops.use_backend("triton"):
        for call in (
            lambda: ops.attention(x, x, x, cu, cu, 4, 4, causal=True),
            lambda: ops.lora_linear(
                x[:, 0], torch.zeros(3, 8), None, torch.zeros(2, 8), torch.zeros(3, 2), scaling=1.0
            ),
        ):
            with pytest.raises(UsageError, match="needs a CUDA device"):
                call()
        with pytest.raises(UsageError, match="needs a CUDA device"):
            finetune("gpt2-nano", (["a", "b"], [0, 1]), backend="triton", device="cpu", weights="random")
        # An op without a Triton kernel runs as with "auto".
        assert ops.gelu(torch.zeros(1, 1)).item() == 0.0
