"""Times candidate configurations of the Triton kernels on this GPU and prints tables for kernels/configs.py.

``python bench/tune.py [--kernels forward,dq,dkdv,product,thin] [--bits 16,32] [--minutes 10]``. It
compiles all candidates first, one or two seconds each, up to 16 at a time, and starts with half precision. With
TRITON_INTERPRET=1 it runs two candidates of each kernel at a small size, as a check that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

import torch
from calls import DEVICE, SMALL
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from pyllmclf.kernels import attention, configs, lora_linear
from pyllmclf.kernels.configs import AttentionConfig, ProductConfig
from pyllmclf.kernels.philox import Dropout
from pyllmclf.kernels.tiles import Schedule

DTYPES = {16: torch.float16 if SMALL else torch.bfloat16, 32: torch.float32}
HEADS = 1 if SMALL else 12
GROUP = 3  # query heads that share keys and values, for the entries of grouped heads
TOKENS = 64 if SMALL else 32768


def microseconds(run: Callable[[], object], *, timed: bool = True) -> float:
    """Median time of a call on the device, in microseconds; infinite if the configuration exceeds its resources."""
    try:
        run()
    except (OutOfResources, CompilationError, PTXASError, RuntimeError):
        return float("inf")
    if not timed:
        return 0.0
    if SMALL:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e6
    return do_bench(run, warmup=5, rep=20, return_mode="median") * 1e3


def attention_candidates(kernel: str, rows: int) -> Iterator[AttentionConfig]:
    """Candidates for tiles of ``rows`` rows; the rows of the other side, warps and stages vary."""
    for other in (16, 32, 64, 128):
        tile = rows * other
        if other > max(rows, 64) or tile > 128 * 128:
            continue
        all_warps = (1, 2) if tile <= 512 else (1, 2, 4) if tile <= 2048 else (4, 8)
        for warps, stages in itertools.product(all_warps, (1, 2) if rows <= 32 else (1, 2, 3)):
            yield (
                AttentionConfig(other, rows, warps, stages)
                if kernel == "dkdv"
                else AttentionConfig(rows, other, warps, stages)
            )


def attention_run(name: str, kernel: str, bits: int, depth: int, rows: int) -> Callable[[], object]:
    """Returns a call of an attention kernel on TOKENS tokens in texts that fill tiles of ``rows`` rows; table "MASKED"
    adds dropout.
    """
    masked, group = name == "MASKED", GROUP if name == "GROUPED" else 1
    at = configs.capability(torch.device(DEVICE))
    long = max(configs.attention_configs(kernel, bits, depth, at, masked=masked, grouped=group > 1))
    length = rows if rows < long else 8 * rows
    total = max(1, TOKENS // length) * length
    cu = torch.arange(0, total + 1, length, dtype=torch.int32)
    heads = (group * HEADS, group * HEADS, HEADS, HEADS)
    q, dout, k, v = (torch.randn(total, n, depth, device=DEVICE).to(DTYPES[bits]) for n in heads)
    on_device = cu.to(DEVICE)
    schedule = Schedule(cu, cu, torch.device(DEVICE))
    ids = torch.arange(len(cu) - 1, device=DEVICE)
    launch = attention.Launch(
        q,
        k,
        on_device,
        on_device,
        length,
        length,
        causal=True,
        scale=depth**-0.5,
        dropout=Dropout.make(0.1, 0, 0, 0, ids) if masked else None,
        schedule=schedule,
    )
    if kernel == "forward":
        return lambda: attention.attention_forward(launch, q, k, v)
    inputs = (q, k, v, *attention.attention_forward(launch, q, k, v))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if kernel == "dq":
        return lambda: attention.backward_dq(launch, inputs, dout, dq)
    delta = attention.backward_dq(launch, inputs, dout, dq)
    return lambda: attention.backward_dkdv(launch, inputs, dout, delta, dk, dv)


def lora_candidates(kernel: str, bits: int, few: bool) -> Iterator[ProductConfig]:
    rows_of_a_tile = (16, 32, 64) if few else (64, 128)
    if kernel == "thin":
        for rows, columns, warps, stages in itertools.product((32, 64), (64, 128, 256), (4, 8), (1, 2, 3)):
            yield ProductConfig(rows, columns, 0, warps, stages)
        return
    depths = (32, 64, 128) if bits == 16 else (16, 32)
    for rows, columns, depth, stages in itertools.product(rows_of_a_tile, (64, 128, 256), depths, (2, 3, 4)):
        if rows * columns <= 128 * 256:
            yield ProductConfig(rows, columns, depth, 8 if rows * columns >= 128 * 128 else 4, stages)


def lora_run(kernel: str, bits: int, few: bool) -> Callable[[], object]:
    """Returns a call of a LoRA kernel for the first MLP layer of GPT-2 124M, at rank 16: on the rows of 8 texts of SMS
    Spam if ``few``, otherwise on those of a batch that fills a GPU.
    """
    rows, width, rank = (24, 32, 4) if SMALL else (240 if few else 16384, 768, 16)
    dtype = DTYPES[bits]
    x, dy = (torch.randn(rows, n, device=DEVICE).to(dtype) for n in (width, 4 * width))
    weight, bias = (
        torch.randn(4 * width, width, device=DEVICE).to(dtype),
        torch.zeros(4 * width, device=DEVICE).to(dtype),
    )
    thin, b = torch.randn(rows, rank, device=DEVICE).to(dtype), torch.randn(4 * width, rank, device=DEVICE).to(dtype)
    if kernel == "thin":
        return lambda: lora_linear.thin_gradients(dy, thin, b, 1.0)
    return lambda: lora_linear.product_with_low_rank(x, weight.t(), bias, thin, b.t(), 1.0)


@dataclass(frozen=True)
class Entry:
    """A key of one of the tables "ATTENTION", "MASKED", "GROUPED" and "LORA"."""

    name: str
    key: tuple

    @property
    def table(self) -> dict:
        """The table for this device, which holds the entry."""
        return configs.table(getattr(configs, self.name), configs.capability(torch.device(DEVICE)))

    def run(self) -> Callable[[], object]:
        """Returns the call to time, which keeps its tensors alive."""
        return lora_run(*self.key) if self.name == "LORA" else attention_run(self.name, *self.key)

    def set(self, config: AttentionConfig | ProductConfig) -> None:
        """Enters a configuration into the table."""
        self.table[self.key] = config
        configs.attention_configs.cache_clear()

    @property
    def candidates(self) -> list[AttentionConfig | ProductConfig]:
        kernel, bits, *rest = self.key
        candidates = (
            lora_candidates(kernel, bits, *rest) if self.name == "LORA" else attention_candidates(kernel, rest[1])
        )
        return list(itertools.islice(candidates, 2) if SMALL else candidates)


def compile_candidate(entry: Entry, candidate: AttentionConfig | ProductConfig) -> None:
    """Runs a candidate once in a worker process, which fills Triton's cache; failures show when it is timed."""
    entry.set(candidate)
    with suppress(RuntimeError):
        microseconds(entry.run(), timed=False)


def compile_all(entries: list[Entry], jobs: int, end: float) -> None:
    """Compiles all candidates of some entries, or as many as the time allows."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = [
            pool.submit(compile_candidate, entry, candidate) for entry in entries for candidate in entry.candidates
        ]
        wait(pending, timeout=max(0.0, end - time.monotonic()))
        pool.shutdown(cancel_futures=True)


def tune(entry: Entry) -> None:
    """Prints the fastest configuration of an entry, and the times before and after."""
    original, run = entry.table[entry.key], entry.run()
    before = microseconds(run)
    best, fastest = original, before
    for candidate in entry.candidates:
        entry.set(candidate)
        time_taken = microseconds(run)
        if time_taken < fastest:
            best, fastest = candidate, time_taken
    entry.set(original)
    print(f"    {entry.key}: {best},  # {entry.name}: {before:.0f} -> {fastest:.0f} us", flush=True)


def entries_for(selected: set[tuple[str, int]]) -> list[Entry]:
    """Table entries of the selected (kernel, bits) pairs."""
    capability = configs.capability(torch.device(DEVICE))
    return [
        Entry(name, key)
        for name in ("ATTENTION", "LORA", "MASKED", "GROUPED")
        for key in configs.table(getattr(configs, name), capability)
        if key[:2] in selected and (not SMALL or name == "LORA" or key[2:] == (64, 16))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", default="forward,dq,dkdv,product,thin")
    parser.add_argument("--bits", default="16,32")
    parser.add_argument("--minutes", type=float, default=10.0, help="time after which no further entry is timed")
    parser.add_argument(
        "--jobs",
        type=int,
        default=0 if SMALL else min(16, os.cpu_count() or 1),
        help="number of processes that compile",
    )
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    selected = {(kernel, int(bits)) for kernel in arguments.kernels.split(",") for bits in arguments.bits.split(",")}
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "interpreter"
    print(f"# {device}, capability {configs.capability(torch.device(DEVICE))}")
    for bits in DTYPES:
        entries = entries_for({(kernel, size) for kernel, size in selected if size == bits})
        if arguments.jobs and entries:
            # Compiling may take half of the remaining time.
            compile_all(entries, arguments.jobs, (time.monotonic() + end) / 2)
        for entry in entries:
            if time.monotonic() > end:
                print(f"    {entry.key}: not timed, the {arguments.minutes:g} minutes are over")
            else:
                tune(entry)


if __name__ == "__main__":
    main()
