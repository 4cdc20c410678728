"""Rows of the published table of experiments, and an epoch over IMDb: plain PyTorch and ours on the same GPU.

Trains GPT-2 124M and 1558M with random weights on balanced SMS Spam: five epochs, batches of 8, every text padded to
120 tokens on the plain side. The plain side runs in fp32, as published, and under bf16 autocast; ours computes in bf16
with fp32 parameters. A time is that of a whole training, or the median step times the number of steps, as the notes
say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from bench_end_to_end import EPOCHS, STEPS, Baseline, by_steps, needed_flops, whole
from calls import SMALL
from conftest import ROWS, Peaks, Row, Work
from steps import batch_ids, make_plain_step, make_trainer, packer

from pyllmclf.compute import Compute
from pyllmclf.data.packing import Packer
from pyllmclf.training.activation_cache import ActivationCache, why_not

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or SMALL), reason="needs a CUDA device, or TRITON_INTERPRET=1 to check that it runs"
)

TABLE = {
    1: ("gpt2", "last_block"),
    5: ("gpt2", "all"),
    9: ("gpt2-xl", "all"),
    11: ("gpt2", "lora"),
    12: ("gpt2-xl", "lora"),
}
PLAIN = {"plain PyTorch, fp32": None, "plain PyTorch, bf16 autocast": torch.bfloat16}


def compare_trainings(
    name: str,
    side: str,
    *,
    size: str,
    trainable: str,
    texts: Packer,
    data: tuple[str, int] = ("sms_spam", 1024),
    epochs: int,
    device: torch.device,
    peaks: Peaks,
    benchmark,
) -> None:
    """Times both sides; the note gives the rate of a step's needed operations as a share of a large matmul's."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    batches = batch_ids(texts)
    step = make_plain_step(trainable, batches, device, size=size, texts=texts, autocast=PLAIN[side])
    baseline = Baseline(step, device, evaluates=False)
    data_set, max_length = data
    compute = Compute(device, dtype)
    trainer = make_trainer(trainable, compute, epochs=epochs, size=size, data=data_set, max_length=max_length)
    runs_whole = why_not(trainer.model, trainer.rates, epochs) is None and not SMALL
    run: Callable = whole if runs_whole else by_steps
    measured: list[float] = []
    benchmark.pedantic(lambda: measured.append(run(trainer, baseline, device, False)), rounds=1, iterations=1)
    note = f"baseline: median of {len(baseline.steps)} steps x {len(batches) * epochs}"
    if not runs_whole:
        per_step = measured[0] / trainer.total_steps
        rate = statistics.median(needed_flops(trainer, ids) for ids in batches[1 : STEPS + 1]) / per_step / 1e12
        share = rate / (peaks.tflops16 or peaks.gflops / 1e3)
        note += f"; ours: median of {STEPS} x {trainer.total_steps}"
        if trainable == "all":
            note += f"; {rate:,.1f} TFLOP/s of needed operations, {share:.0%} of a large matmul's"
    row = Row(
        group="published",
        name=name,
        baseline=side,
        plain=baseline.whole(len(batches) * epochs),
        ours=measured[0],
        rounds=1,
        work=Work(float(texts.real_lengths.sum()) * epochs, "tokens/s"),
        note=note,
    )
    benchmark.extra_info.update(ratio=row.ratio)
    ROWS.append(row)


@pytest.mark.parametrize("side", PLAIN)
@pytest.mark.parametrize("number", TABLE)
def test_row(number: int, side: str, benchmark, device: torch.device, peaks: Peaks) -> None:
    size, trainable = TABLE[number]
    if SMALL and (number != 1 or PLAIN[side] is not None):
        pytest.skip("too large for a check that it runs")
    name = f"row {number}: {size}, {trainable}, {EPOCHS} epochs"
    compare_trainings(
        name, side, size=size, trainable=trainable, texts=packer(), epochs=EPOCHS, device=device, peaks=peaks,
        benchmark=benchmark,
    )  # fmt: skip


@pytest.mark.parametrize("side", PLAIN)
def test_imdb_epoch(side: str, benchmark, device: torch.device, peaks: Peaks) -> None:
    """Trains all layers on texts truncated to 256 tokens, to which the plain side pads them."""
    if SMALL:
        pytest.skip("too large for a check that it runs")
    texts = packer("imdb", 256)
    compare_trainings(
        "IMDb, gpt2, all, one epoch", side, size="gpt2", trainable="all", texts=texts, data=("imdb", 256), epochs=1,
        device=device, peaks=peaks, benchmark=benchmark,
    )  # fmt: skip


@pytest.mark.parametrize("trainable", ["head", "last_block", "all", "lora"])
def test_graphs(trainable: str, compare: Callable[..., Row], device: torch.device) -> None:
    """Steps of 8 texts, replayed as CUDA graphs, against steps launched one kernel at a time."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    sides = []
    for graphs in (True, False):
        trainer = make_trainer(trainable, Compute(device, torch.bfloat16), cuda_graphs=graphs)
        if why_not(trainer.model, trainer.rates, EPOCHS) is None:
            trainer.cache = ActivationCache(trainer.model, [trainer.packer], trainer.compute)
            trainer.cache.fill()
        # Whole epochs: both sides see the same few shapes, and all of them are recorded.
        for step in list(trainer.epoch_steps(0)) * 2:
            trainer.queue_step(step)
        sides.append(trainer)
    ours, plain = sides
    steps = list(ours.epoch_steps(0))
    tokens = statistics.mean(float(ours.packer.real_lengths[ids].sum()) for (ids,) in steps)
    compare(
        "published",
        f"a step of 8 texts, gpt2, {trainable}",
        baseline="without CUDA graphs",
        ours=lambda i: ours.train_step(steps[i % len(steps)]),
        plain=lambda i: plain.train_step(steps[i % len(steps)]),
        rounds=40,
        warmup=4,
        work=Work(tokens, "tokens/s"),
    )
