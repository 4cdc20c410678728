"""A whole training of GPT-2 124M on SMS Spam's balanced split, five epochs, against plain PyTorch and Hugging Face.

Ours runs as a whole where it begins with the frozen layers' rows, which the time includes; where every layer is
trained, and for the baselines, the median step is multiplied by the number of steps, and the note says so. The
baseline's steps are taken before and after ours. Evaluation is off on all sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from conftest import ROWS, Row, Work
from steps import Step, batch_ids, make_step, make_trainer, packer

from pyllmclf.training.frozen_prefix import FrozenPrefix, why_not
from pyllmclf.training.trainer import Trainer

EPOCHS = 5
# Timed of a baseline, in all; of ours where it is not run as a whole.
STEPS = 10
TRAINABLE = ("head", "last_block", "last_2_blocks", "all", "lora")


def timed(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


class Ours:
    """The seconds of a whole training."""

    def __init__(self, trainable: str, device: torch.device) -> None:
        self.trainer: Trainer = make_trainer(trainable, device, epochs=EPOCHS)
        self.device = device
        self.whole = why_not(self.trainer.model, self.trainer.rates, EPOCHS) is None

    def seconds(self) -> float:
        trainer = self.trainer
        if self.whole:
            trainer.prefix = FrozenPrefix(
                trainer.model, [trainer.packer], device=self.device, dtype=trainer.dtype, backend=trainer.backend
            )
            return timed(trainer.fit, self.device)
        steps = list(trainer.epoch_steps(0))
        trainer.train_step(steps[0])
        taken = [timed(lambda step=step: trainer.train_step(step), self.device) for step in steps[1 : STEPS + 1]]
        return statistics.median(taken) * trainer.total_steps


@pytest.mark.parametrize("baseline", ["plain PyTorch", "Hugging Face"])
@pytest.mark.parametrize("trainable", TRAINABLE)
def test_training(trainable: str, baseline: str, benchmark, device: torch.device) -> None:
    theirs: Step = make_step(baseline, trainable, device)
    ours = Ours(trainable, device)
    theirs.run(0)
    half = STEPS // 2
    steps = [timed(lambda i=i: theirs.run(i), device) for i in range(1, half + 1)]
    found: list[float] = []
    benchmark.pedantic(lambda: found.append(ours.seconds()), rounds=1, iterations=1)
    steps += [timed(lambda i=i: theirs.run(i), device) for i in range(half + 1, STEPS + 1)]
    total = len(batch_ids()) * EPOCHS
    how = f"baseline: median of {STEPS} steps x {total}"
    if not ours.whole:
        how += "; ours likewise"
    row = Row(
        group="end_to_end",
        name=f"training, {trainable}, {EPOCHS} epochs",
        baseline=baseline,
        plain=statistics.median(steps) * total,
        ours=found[0],
        rounds=1,
        work=Work(float(packer().real_lengths.sum()) * EPOCHS, "tokens/s"),
        note=how,
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)
