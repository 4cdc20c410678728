"""A whole training of GPT-2 124M on balanced SMS Spam, five epochs, against plain PyTorch and Hugging Face.

Ours runs as a whole where it caches the frozen layers' activations, and its time includes filling the cache. It pauses
at intervals for a step of the baseline, so that both sides see the same state of the machine. Without a cache, and for
the baselines, the time is the median step times the number of steps; the notes say so. Either neither side evaluates,
or both evaluate as the published run does.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROWS, Peaks, Row, Work
from steps import AUTOCAST, BATCH_SIZE, SEED, Step, batch_ids, make_step, make_trainer, multiplies_bf16, packer
from torch import Tensor

from pyllmclf.classifier.inference import predict_logits
from pyllmclf.compute import Compute
from pyllmclf.ops.linear import product
from pyllmclf.training.activation_cache import ActivationCache, why_not
from pyllmclf.training.callbacks import Callback, StepRecord
from pyllmclf.training.records import EpochRecord
from pyllmclf.training.trainer import Trainer

EPOCHS = 5
# Timed steps of a side that does not run as a whole.
STEPS = 12
# Batches and steps of ours between two steps of the baseline.
PAUSE_AFTER_BATCHES, PAUSE_AFTER_STEPS = 2, 80
# The published run's steps between evaluations, and batches that an evaluation reads of each of two splits.
EVALUATE_EVERY, EVALUATED_BATCHES = 50, 5
SPLITS = ("train", "validation", "test")
TRAINABLE = ("head", "last_block", "last_2_blocks", "all", "lora")


class Baseline:
    """Times steps of the baseline and, optionally, its evaluations of batches; sums their seconds."""

    def __init__(self, step: Step, device: torch.device, evaluates: bool) -> None:
        self._step, self._device, self._evaluates = step, device, evaluates
        self._step.run(0)
        self._step.evaluate(0)
        self.steps: list[float] = []
        self.evaluations: list[float] = []

    def pause(self) -> None:
        index = 1 + len(self.steps) % 100
        self.steps.append(timed(self._step.run, index, self._device))
        if self._evaluates:
            self.evaluations.append(timed(self._step.evaluate, index, self._device))

    @property
    def paused(self) -> float:
        return sum(self.steps) + sum(self.evaluations)

    def whole(self, steps: int) -> float:
        """Seconds of a training of so many steps."""
        evaluated = statistics.median(self.evaluations) * evaluated_batches(steps) if self._evaluates else 0.0
        return statistics.median(self.steps) * steps + evaluated


class Evaluation:
    """Evaluates as the published run does.

    Every 50 steps it computes the loss, and after each epoch the accuracy, of five batches of the train split and five
    of the validation split; at the end it computes the accuracy of all splits.
    """

    def __init__(self, trainer: Trainer, cache: ActivationCache | None) -> None:
        self._trainer, self._lookup = trainer, None if cache is None else cache.lookup
        self._random = np.random.default_rng(SEED)

    def some(self) -> None:
        """Evaluates five batches of the train split, drawn anew, and the first five of the validation split."""
        for texts in (self._trainer.packer, packer(split="validation")):
            count = EVALUATED_BATCHES * BATCH_SIZE
            drawn = self._random.choice(len(texts), count, replace=False)
            ids = drawn if texts is self._trainer.packer else np.arange(count)
            batch = texts.batch(ids).to(self._trainer.device)
            cached = None if self._lookup is None else self._lookup(texts, ids)
            with torch.inference_mode():
                logits = self._trainer.model(batch, dtype=self._trainer.dtype, cached=cached)
                torch.stack([F.cross_entropy(logits, batch.labels), (logits.argmax(1) == batch.labels).sum()]).tolist()

    def all(self) -> None:
        """Evaluates every text of every split."""
        for texts in (self._trainer.packer, packer(split="validation"), packer(split="test")):
            predict_logits(self._trainer.model, texts, self._trainer.compute, lookup=self._lookup)


def evaluated_batches(steps: int) -> int:
    """Number of batches that a published run evaluates."""
    some = len(range(0, steps, EVALUATE_EVERY)) + EPOCHS
    sizes = (len(packer(split=split)) for split in SPLITS)
    return some * 2 * EVALUATED_BATCHES + sum(math.ceil(texts / BATCH_SIZE) for texts in sizes)


class PausingCache(ActivationCache):
    """Activation cache that pauses between the batches of its computation."""

    baseline: Baseline

    def _blocks(self, stage: int, begun: tuple[int, Tensor] | None) -> Iterator[Tensor]:
        for i, block in enumerate(super()._blocks(stage, begun)):
            yield block
            if i % PAUSE_AFTER_BATCHES == PAUSE_AFTER_BATCHES - 1:
                self.baseline.pause()


class BetweenSteps(Callback):
    """Callback that pauses for the baseline, and evaluates as the published run does."""

    def __init__(self, baseline: Baseline, evaluation: Evaluation | None) -> None:
        self._baseline, self._evaluation = baseline, evaluation

    def on_step(self, record: StepRecord) -> None:
        if record.step % PAUSE_AFTER_STEPS == 0:
            self._baseline.pause()
        if self._evaluation is not None and record.step % EVALUATE_EVERY == 1:
            self._evaluation.some()

    def on_epoch(self, record: EpochRecord) -> None:
        if self._evaluation is not None:
            self._evaluation.some()


def timed(run, argument: object, device: torch.device) -> float:
    started = time.perf_counter()
    run(argument)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def whole(trainer: Trainer, baseline: Baseline, device: torch.device, evaluates: bool) -> float:
    """Seconds of a training, from filling the activation cache to the last step or the last evaluation."""
    started = time.perf_counter()
    texts = [trainer.packer, packer(split="validation")] if evaluates else [trainer.packer]
    cache = PausingCache(trainer.model, texts, trainer.compute)
    cache.baseline = baseline
    trainer.cache = cache
    evaluation = Evaluation(trainer, cache) if evaluates else None
    trainer.callbacks.append(BetweenSteps(baseline, evaluation))
    trainer.fit()
    if evaluation is not None:
        evaluation.all()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started - baseline.paused


def by_steps(trainer: Trainer, baseline: Baseline, device: torch.device, evaluates: bool) -> float:
    """Seconds of a training: the median step times the number of steps, the median evaluation times theirs, and
    the last evaluation, which runs as a whole.
    """
    steps = list(trainer.epoch_steps(0))
    trainer.train_step(steps[0])
    evaluation = Evaluation(trainer, None)
    seconds, evaluations = [], []
    for step in steps[1 : STEPS + 1]:
        seconds.append(timed(trainer.train_step, step, device))
        if evaluates:
            evaluations.append(timed(lambda _: evaluation.some(), None, device))
        baseline.pause()
    total = statistics.median(seconds) * trainer.total_steps
    if evaluates:
        times = len(range(0, trainer.total_steps, EVALUATE_EVERY)) + EPOCHS
        total += statistics.median(evaluations) * times + timed(lambda _: evaluation.all(), None, device)
    return total


@pytest.mark.parametrize(
    ("trainable", "side", "evaluates"),
    [(trainable, side, False) for trainable in TRAINABLE for side in ("plain PyTorch", "Hugging Face", AUTOCAST)]
    + [(trainable, "plain PyTorch", True) for trainable in ("head", "last_block", "all")],
)
def test_training(trainable: str, side: str, evaluates: bool, benchmark, device: torch.device) -> None:
    if side == AUTOCAST and not multiplies_bf16(device):
        pytest.skip("this processor has no instructions for bf16 matmuls")
    baseline = Baseline(make_step(side, trainable, device), device, evaluates)
    trainer = make_trainer(trainable, Compute.resolve(device), epochs=EPOCHS)
    run = whole if why_not(trainer.model, trainer.rates, EPOCHS) is None else by_steps
    for split in SPLITS:
        packer(split=split)  # neither side's time includes tokenizing
    measured: list[float] = []
    benchmark.pedantic(lambda: measured.append(run(trainer, baseline, device, evaluates)), rounds=1, iterations=1)
    total = len(batch_ids()) * EPOCHS
    note = f"baseline: median of {len(baseline.steps)} steps x {total}"
    if evaluates:
        note += f" and of as many evaluated batches x {evaluated_batches(total)}"
    row = Row(
        group="end_to_end",
        name=f"training, {trainable}, {EPOCHS} epochs" + (", published evaluations" if evaluates else ""),
        baseline=side,
        plain=baseline.whole(total),
        ours=measured[0],
        rounds=1,
        work=Work(float(packer().real_lengths.sum()) * EPOCHS, "tokens/s"),
        note=note if run is whole else f"{note}; ours: median of {STEPS} x {trainer.total_steps}",
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)


def needed_flops(trainer: Trainer, ids: np.ndarray) -> float:
    """Matmul operations of a step that trains all layers.

    A causal block takes 24 width^2 + 2 width length operations per token in the forward pass, and twice that in the
    backward pass. Embeddings, norms and the last block, which computes one row per text, are not counted.
    """
    config = trainer.model.config
    lengths = trainer.packer.real_lengths[ids].astype(np.float64)
    forward = 24.0 * config.width**2 * lengths.sum() + 2.0 * config.width * (lengths**2).sum()
    return 3.0 * (config.n_layers - 1) * float(forward)


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("batch_size", [8, 32])
def test_share_of_the_machine(batch_size: int, dtype: str, benchmark, device: torch.device, peaks: Peaks) -> None:
    """The rate of a step's needed operations, as a share of the rate of a large matmul of torch in the same dtype."""
    compute = Compute.resolve(device, dtype)
    if dtype == "auto" and compute.dtype == torch.float32:
        pytest.skip("this machine computes in float32 by default")
    trainer = make_trainer("all", compute, epochs=EPOCHS, batch_size=batch_size)
    steps = list(trainer.epoch_steps(0))
    trainer.train_step(steps[0])
    square = torch.randn(2048, 2048, device=device, dtype=compute.dtype)
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
        name=f"a step's needed operations, all, {batch_size} texts, {compute.dtype_name}",
        baseline=f"as many in {compute.dtype_name} matmuls of 2048 x 2048 x 2048",
        plain=statistics.median(plain),
        ours=statistics.median(ours),
        rounds=len(ours),
        work=Work(statistics.median(flops), "GFLOP/s", peaks.gflops if compute.dtype == torch.float32 else None),
        note="the ratio is the share of the matmul's rate, measured after each step",
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)
