"""Steps and epochs of training GPT-2 124M on SMS Spam, against plain PyTorch, Hugging Face and our reference ops.

Ours computes in the dtype that "auto" takes; the environment variable PYLLMCLF_DTYPE changes it.

``steps.py`` defines the sides. ``-k step`` runs the steps alone; an epoch of the baseline takes minutes. In fp32 the
notes give the shares of matrix products and of the optimizer in one of our steps, by torch's profiler.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import steps
import torch
from conftest import Memory, Work
from steps import SIDES, TRAINABLE, make_step, packer
from torch.profiler import ProfilerActivity, profile

from pyllmclf.compute import Compute

STEP_ROUNDS = 7
MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "matmul", "linear", "_linear_pointwise", "gemm")
NOTES = {
    "last_block": "block 12, final norm, head",
    "all": "every parameter",
    "lora": "rank 16, every linear layer; plain: q, k, v apart, and the head, as published",
}


def shares(run: Callable[[int], float], index: int, device: torch.device) -> str:
    """Shares of matrix products and of the optimizer in the time of a step, as text."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        run(index)
    seconds = {}
    for event in profiler.key_averages():
        seconds[event.key] = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    total = sum(seconds.values())
    products = sum(t for name, t in seconds.items() if name.split("::")[-1] in MATRIX_PRODUCTS or "gemm" in name)
    optimizer = sum(t for name, t in seconds.items() if "adam" in name.lower())
    return f"matrix products {products / total:.0%}, optimizer {optimizer / total:.0%}"


@pytest.mark.parametrize("baseline", SIDES[1:])
@pytest.mark.parametrize("trainable", TRAINABLE)
def test_step(trainable: str, baseline: str, compare: Callable, device: torch.device) -> None:
    if baseline == steps.AUTOCAST and not steps.multiplies_bf16(device):
        pytest.skip("this processor has no instructions for bf16 matmuls")
    ours, theirs = make_step("pyllmclf", trainable, device), make_step(baseline, trainable, device)
    # Before the first update both sides compute the same function; otherwise the comparison is void.
    rounds = baseline == steps.AUTOCAST or Compute.resolve(device).dtype != torch.float32
    assert abs(ours.run(0) - theirs.run(0)) < (0.1 if rounds else 1e-3)
    real = packer().real_lengths
    tokens = sum(int(real[ids].sum()) for ids in steps.batch_ids()[1 : STEP_ROUNDS + 1]) / STEP_ROUNDS
    note = NOTES[trainable]
    if Compute.resolve(device).dtype == torch.float32:  # in bf16 a weight's product and its step are one kernel
        note += f"; {shares(ours.run, STEP_ROUNDS + 1, device)}"
    compare(
        "training",
        f"step, {trainable}",
        ours=ours.run,
        plain=theirs.run,
        baseline=baseline,
        rounds=STEP_ROUNDS,
        warmup=1,
        work=Work(tokens, "tokens/s"),
        note=note,
    )


@pytest.mark.parametrize("baseline", ["plain PyTorch", "Hugging Face", steps.FP32])
@pytest.mark.parametrize("trainable", TRAINABLE)
def test_step_memory(trainable: str, baseline: str, compare_memory: Callable[[Memory], None]) -> None:
    """Measures each side in a separate process."""

    def measure(side: str) -> dict[str, int]:
        command = [sys.executable, Path(__file__).with_name("steps.py"), side, trainable]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    theirs, ours = measure(baseline), measure("pyllmclf")
    compare_memory(
        Memory("memory", f"step, {trainable}", baseline, theirs["peak"], ours["peak"], theirs["state"], ours["state"])
    )


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_epoch(trainable: str, compare: Callable, device: torch.device) -> None:
    sides = make_step("pyllmclf", trainable, device), make_step("plain PyTorch", trainable, device)
    count = len(steps.batch_ids())
    ours, plain = (lambda _, run=side.run: [run(i) for i in range(count)] for side in sides)
    compare(
        "epochs",
        f"epoch, {trainable}",
        ours=ours,
        plain=plain,
        rounds=1,
        warmup=0,
        work=Work(float(packer().real_lengths.sum()), "tokens/s"),
        note=NOTES[trainable],
    )
