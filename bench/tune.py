"""Times the candidate configurations of the Triton kernels on the GPU at hand and prints tables for kernels/configs.py.

``python bench/tune.py [--kernels forward,dq,dkdv,product,thin]``; some minutes. With TRITON_INTERPRET=1 it runs two
candidates of each kernel at a size that says nothing but that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from calls import DEVICE, SMALL
from triton.runtime.errors import OutOfResources

from pyllmclf.kernels import attention, configs, lora_linear
from pyllmclf.kernels.configs import AttentionConfig, LoRAConfig
from pyllmclf.kernels.tiles import Schedule

WARPS = (1, 2, 4, 8)
DTYPES = {16: torch.float16 if SMALL else torch.bfloat16, 32: torch.float32}
HEADS = 1 if SMALL else 12
TOKENS = 64 if SMALL else 32768


def seconds(run: Callable[[], object]) -> float:
    """Median of a few calls; infinite where the configuration does not fit the device."""
    try:
        run()
    except OutOfResources:
        return float("inf")
    times = []
    for _ in range(2 if SMALL else 10):
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def attention_candidates(kernel: str, rows: int) -> Iterator[AttentionConfig]:
    """The owned side is fixed; the other side, warps and stages vary."""
    others = [size for size in (16, 32, 64, 128) if size <= max(rows, 64)]
    for other, warps, stages in itertools.product(others, WARPS, (1, 2, 3, 4)):
        yield (
            AttentionConfig(other, rows, warps, stages)
            if kernel == "dkdv"
            else AttentionConfig(rows, other, warps, stages)
        )


def attention_run(kernel: str, bits: int, depth: int, rows: int) -> Callable[[], object]:
    """Texts that fill tiles of ``rows`` rows, as many as TOKENS."""
    length = rows if rows <= 64 and not (bits == 32 and rows == 64) else 8 * rows
    total = max(1, TOKENS // length) * length
    cu = torch.arange(0, total + 1, length, dtype=torch.int32)
    q, k, v, dout = (torch.randn(total, HEADS, depth, device=DEVICE).to(DTYPES[bits]) for _ in range(4))
    on_device = cu.to(DEVICE)
    schedule = Schedule(cu, cu, torch.device(DEVICE))
    launch = attention.Launch(
        q, on_device, on_device, length, length, causal=True, scale=depth**-0.5, schedule=schedule
    )
    if kernel == "forward":
        return lambda: attention.attention_forward(launch, q, k, v)
    inputs = (q, k, v, *attention.attention_forward(launch, q, k, v))
    gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    return lambda: attention.attention_backward(launch, inputs, dout, gradients)


def lora_candidates(kernel: str) -> Iterator[LoRAConfig]:
    sizes = (32, 64, 128, 256)
    if kernel == "thin":
        for rows, columns, warps, stages in itertools.product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
            yield LoRAConfig(rows, columns, 0, warps, stages)
        return
    for rows, columns, depth, warps, stages in itertools.product(sizes[:3], sizes, (32, 64), (4, 8), (2, 3, 4)):
        yield LoRAConfig(rows, columns, depth, warps, stages)


def lora_run(kernel: str, bits: int, few: bool, wide: bool) -> Callable[[], object]:
    """The MLP's first layer of GPT-2 124M; rank 16 or 256, the rows of 8 texts of SMS Spam or of a batch that fills."""
    rows, width, rank = (24, 32, 4) if SMALL else (240 if few else 16384, 768, 256 if wide else 16)
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


def best(table: dict, key: tuple, candidates: Iterator, run: Callable[[], object]):
    """The fastest configuration of one entry, and its time beside that of the entry as it is."""
    kept = table[key]
    before = seconds(run)
    found, fastest = kept, before
    for candidate in itertools.islice(candidates, 2) if SMALL else candidates:
        table[key] = candidate
        taken = seconds(run)
        if taken < fastest:
            found, fastest = candidate, taken
    table[key] = kept
    return found, before, fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", default="forward,dq,dkdv,product,thin")
    wanted = parser.parse_args().kernels.split(",")
    capability = configs.capability(torch.device(DEVICE))
    tables = configs.table(configs.ATTENTION, capability), configs.table(configs.LORA, capability)
    print(f"# {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'interpreter'}, capability {capability}")
    for key in tables[0]:
        kernel, _, depth, rows = key
        if kernel not in wanted or (SMALL and (depth, rows) != (64, 16)):
            continue
        found, before, after = best(tables[0], key, attention_candidates(kernel, rows), attention_run(*key))
        print(f"    {key}: {found},  # {before * 1e6:.0f} -> {after * 1e6:.0f} us", flush=True)
    for lora_key in tables[1]:
        if lora_key[0] not in wanted:
            continue
        found, before, after = best(tables[1], lora_key, lora_candidates(lora_key[0]), lora_run(*lora_key))
        print(f"    {lora_key}: {found},  # {before * 1e6:.0f} -> {after * 1e6:.0f} us", flush=True)


if __name__ == "__main__":
    main()
