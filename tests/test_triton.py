"""The Triton kernels without a GPU: in the interpreter, and compiled ahead of time for each architecture."""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
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
import lora_rules  # noqa: E402

from pyllmclf.kernels import configs  # noqa: E402

TRITON, NUMPY = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))


def passed_in(file: str, *options: str, **environment: str) -> int:
    """How many tests of a file pass, in a process of its own; none may fail or be skipped."""
    # Not the outer run's: its options, and its worker's name.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", HERE / file, "-p", "no:cacheprovider", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,  # not the repository's root, whose source tree has no extension
        env=outer | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and "skipped" not in done.stdout
    return int(passed[1])


needs_the_interpreter = pytest.mark.skipif(
    TRITON < (3, 7) and NUMPY >= (2, 4), reason="the interpreter of triton 3.6 needs numpy before 2.4"
)


@needs_the_interpreter
def test_triton_kernels_in_the_interpreter() -> None:
    """The interpreter is chosen when triton is imported."""
    assert passed_in("interpreted_kernels.py", TRITON_INTERPRET="1") > 45


@needs_the_interpreter
@pytest.mark.slow
def test_more_of_the_triton_kernels_in_the_interpreter() -> None:
    assert passed_in("interpreted_kernels.py", "-m", "slow", TRITON_INTERPRET="1") > 60


def test_triton_kernels_as_they_are_launched() -> None:
    """Compiled at the first launch of each kind, and never again."""
    assert passed_in("launched_kernels.py") == 3


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Iterator[Callable[[aot.Variant], aot.Resources]]:
    """Compiles the selected tests' variants, two at a time where xdist does not already run tests beside each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield aot.compile_variant
        return
    items = [item for item in request.session.items if getattr(item, "originalname", "") == "test_triton_aot"]
    variants = [item.callspec.params["variant"] for item in items]  # type: ignore[attr-defined]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = {str(variant): pool.submit(aot.compile_variant, variant) for variant in variants}
        yield lambda variant: found[str(variant)].result()
        pool.shutdown(cancel_futures=True)


def variants() -> list:
    """One of each kernel and dtype for sm_90, and of each kernel for the other architectures; others are slow."""
    seen: set[tuple[str, ...]] = set()
    params = []
    for variant in aot.selected():
        kernel, architecture, dtype, *_ = str(variant).split("-")
        kind = (kernel, architecture, dtype) if architecture == "sm_90" else (kernel, architecture)
        again = kind in seen
        seen.add(kind)
        params.append(pytest.param(variant, marks=pytest.mark.slow if again else ()))
    return params


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_triton_aot(variant: aot.Variant, compiled: Callable[[aot.Variant], aot.Resources]) -> None:
    """No stack, no spills, matrix instructions, and no more shared memory than there is."""
    assert not aot.complaints(variant, compiled(variant))


def test_triton_aot_selection_is_small() -> None:
    chosen = [str(variant) for variant in aot.selected()]
    assert len(set(chosen)) == len(chosen) <= 80


GRID = list(itertools.product((240, 2432), (768, 1600), (4, 16)))  # rows, width, rank


@pytest.mark.parametrize(
    ("fastest", "count"),
    [
        (lambda at: "in place", 0),
        (lambda at: "fused", 1),
        (lambda at: "fused" if at[0] > 240 and at[2] < 16 else "in place", 1),
        (lambda at: "concatenated" if at[0] > 240 else "fused", 2),
        (lambda at: "in place" if at[0] > 240 else "fused", 2),
        (lambda at: "fused" if at == (240, 768, 4) else "in place", 3),
    ],
)
def test_rules_of_what_is_fastest(fastest: Callable[[tuple], str], count: int, monkeypatch) -> None:
    """bench/lora_rules.py derives rules that give what was the fastest, everywhere, and no more than it takes."""
    found = {at: fastest(at) for at in GRID}
    rules = lora_rules.rules(found)
    assert len(rules) == count
    monkeypatch.setitem(configs.LORA_RULES, configs.capability(torch.device("cpu")), {("expanding", 16): rules})
    for at, way in found.items():
        assert configs.lora_way("expanding", 16, *at, torch.device("cpu")) == way
        assert configs.lora_way("contracting", 16, *at, torch.device("cpu")) == "in place"


def test_products_added_in_place_are_preferred() -> None:
    assert lora_rules.fastest({"fused": 99.0, "in place": 100.0, "concatenated": 120.0}) == "in place"
    assert lora_rules.fastest({"fused": 90.0, "in place": 100.0, "concatenated": 80.0}) == "concatenated"


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
