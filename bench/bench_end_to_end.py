"""A whole training of GPT-2 124M on SMS Spam's balanced split, five epochs, against plain PyTorch and Hugging Face.

Ours runs as a whole where it begins with the frozen layers' rows, which its time includes; now and then it pauses for a
step of the baseline, so that both see the same state of the machine. Where every layer is trained, and for the
baselines, the median step is multiplied by the number of steps; the notes say so. Evaluation is off on all sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import ROWS, Peaks, Row, Work
from steps import Step, batch_ids, make_step, make_trainer, packer
from torch import Tensor

from pyllmclf.ops.linear import product
from pyllmclf.training.frozen_prefix import FrozenPrefix, why_not
from pyllmclf.training.trainer import Trainer

EPOCHS = 5
# Timed of a side that is not run as a whole.
STEPS = 12
# Of ours between two steps of the baseline.
PAUSE_AFTER_BATCHES, PAUSE_AFTER_STEPS = 2, 80
TRAINABLE = ("head", "last_block", "last_2_blocks", "all", "lora")


class Baseline:
    """Steps of the other side, each timed, and what they take in all."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device
        self._step.run(0)
        self.seconds: list[float] = []

    def pause(self) -> None:
        self.seconds.append(timed(self._step.run, 1 + len(self.seconds) % 100, self._device))


class PausingPrefix(FrozenPrefix):
    """Pauses between the batches that it is computed in."""

    baseline: Baseline

    def _blocks(self) -> Iterator[Tensor]:
        for i, block in enumerate(super()._blocks()):
            yield block
            if i % PAUSE_AFTER_BATCHES == PAUSE_AFTER_BATCHES - 1:
                self.baseline.pause()


class PausingTrainer(Trainer):
    """Pauses between steps."""

    baseline: Baseline

    def epoch_steps(self, epoch: int) -> Iterator[list[np.ndarray]]:
        for i, step in enumerate(super().epoch_steps(epoch)):
            yield step
            if i % PAUSE_AFTER_STEPS == PAUSE_AFTER_STEPS - 1:
                self.baseline.pause()


def timed(run, argument: object, device: torch.device) -> float:
    started = time.perf_counter()
    run(argument)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def whole(trainer: Trainer, baseline: Baseline, device: torch.device) -> float:
    """Seconds of a training from the frozen layers' rows to the last step."""
    trainer.__class__ = PausingTrainer
    assert isinstance(trainer, PausingTrainer)
    trainer.baseline = baseline
    started = time.perf_counter()
    prefix = PausingPrefix(trainer.model, [trainer.packer], device=device, dtype=trainer.dtype, backend=trainer.backend)
    prefix.baseline = baseline
    trainer.prefix = prefix
    trainer.fit()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started - sum(baseline.seconds)


def by_steps(trainer: Trainer, baseline: Baseline, device: torch.device) -> float:
    """The median step times the number of steps."""
    steps = list(trainer.epoch_steps(0))
    trainer.train_step(steps[0])
    seconds = []
    for step in steps[1 : STEPS + 1]:
        seconds.append(timed(trainer.train_step, step, device))
        baseline.pause()
    return statistics.median(seconds) * trainer.total_steps


@pytest.mark.parametrize("side", ["plain PyTorch", "Hugging Face"])
@pytest.mark.parametrize("trainable", TRAINABLE)
def test_training(trainable: str, side: str, benchmark, device: torch.device) -> None:
    baseline = Baseline(make_step(side, trainable, device), device)
    trainer = make_trainer(trainable, device, epochs=EPOCHS)
    run = whole if why_not(trainer.model, trainer.rates, EPOCHS) is None else by_steps
    found: list[float] = []
    benchmark.pedantic(lambda: found.append(run(trainer, baseline, device)), rounds=1, iterations=1)
    total = len(batch_ids()) * EPOCHS
    note = f"baseline: median of {len(baseline.seconds)} steps x {total}"
    row = Row(
        group="end_to_end",
        name=f"training, {trainable}, {EPOCHS} epochs",
        baseline=side,
        plain=statistics.median(baseline.seconds) * total,
        ours=found[0],
        rounds=1,
        work=Work(float(packer().real_lengths.sum()) * EPOCHS, "tokens/s"),
        note=note if run is whole else f"{note}; ours: median of {STEPS} x {trainer.total_steps}",
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)


def needed_flops(trainer: Trainer, ids: np.ndarray) -> float:
    """Of a step over all layers: a causal block takes 24 width^2 + 2 width length operations per token forward.

    Backward takes twice that. Embeddings, norms and the last block, of which one row per text is computed, are left
    out.
    """
    config = trainer.model.config
    lengths = trainer.packer.real_lengths[ids].astype(np.float64)
    forward = 24.0 * config.width**2 * lengths.sum() + 2.0 * config.width * (lengths**2).sum()
    return 3.0 * (config.n_layers - 1) * float(forward)


@pytest.mark.parametrize("batch_size", [8, 32])
def test_share_of_the_machine(batch_size: int, benchmark, device: torch.device, peaks: Peaks) -> None:
    """The operations that a step needs, over the time it takes, beside the rate of a large matmul."""
    trainer = make_trainer("all", device, epochs=EPOCHS, batch_size=batch_size)
    steps = list(trainer.epoch_steps(0))
    trainer.train_step(steps[0])
    square = torch.randn(2048, 2048, device=device)
    ours, plain, flops = [], [], []
    for step in steps[1 : STEPS // 2 + 1]:
        seconds = timed(trainer.train_step, step, device)
        rate = 2 * 2048**3 / min(timed(lambda _: product(square, square, None), None, device) for _ in range(3))
        ours.append(seconds)
        flops.append(needed_flops(trainer, step[0]))
        plain.append(flops[-1] / rate)
    benchmark.pedantic(lambda: trainer.train_step(steps[-2]), rounds=1, iterations=1)
    row = Row(
        group="end_to_end",
        name=f"a step's needed operations, all, {batch_size} texts",
        baseline="as many in matmuls of 2048 x 2048 x 2048",
        plain=statistics.median(plain),
        ours=statistics.median(ours),
        rounds=len(ours),
        work=Work(statistics.median(flops), "GFLOP/s", peaks.gflops),
        note="the ratio is the share of the matmul's rate, measured after each step",
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)
