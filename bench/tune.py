"""Times the candidate configurations of the Triton kernels on the GPU at hand and prints tables for kernels/configs.py.

``python bench/tune.py [--kernels forward,dq,dkdv,product,thin] [--bits 16,32] [--minutes 10]``; a candidate is compiled
first, about a second, and half precision comes first. With ``--rules`` it times the fused low-rank kernels, as the
tables have them, against the library's products instead, and prints where they win: ``LORA_FASTER``. With
TRITON_INTERPRET=1 it runs two candidates of each kernel at a size that says nothing but that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator

import torch
from calls import DEVICE, SMALL
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from pyllmclf.kernels import attention, configs, lora_linear
from pyllmclf.kernels.configs import AttentionConfig, Faster, LoRAConfig
from pyllmclf.kernels.tiles import Schedule

DTYPES = {16: torch.float16 if SMALL else torch.bfloat16, 32: torch.float32}
HEADS = 1 if SMALL else 12
TOKENS = 64 if SMALL else 32768


def microseconds(run: Callable[[], object]) -> float:
    """Median time on the device; infinite where the configuration does not fit it."""
    try:
        run()
    except (OutOfResources, CompilationError, PTXASError, RuntimeError):
        return float("inf")
    if SMALL:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e6
    return do_bench(run, warmup=5, rep=20, return_mode="median") * 1e3


def attention_candidates(kernel: str, rows: int) -> Iterator[AttentionConfig]:
    """The owned side is fixed; the other side, warps and stages vary."""
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
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if kernel == "dq":
        return lambda: attention.backward_dq(launch, inputs, dout, dq)
    delta = attention.backward_dq(launch, inputs, dout, dq)
    return lambda: attention.backward_dkdv(launch, inputs, dout, delta, dk, dv)


def lora_candidates(kernel: str, bits: int, few: bool) -> Iterator[LoRAConfig]:
    rows_of_a_tile = (16, 32, 64) if few else (64, 128)
    if kernel == "thin":
        for rows, columns, warps, stages in itertools.product((32, 64), (64, 128, 256), (4, 8), (1, 2, 3)):
            yield LoRAConfig(rows, columns, 0, warps, stages)
        return
    depths = (32, 64, 128) if bits == 16 else (16, 32)
    for rows, columns, depth, stages in itertools.product(rows_of_a_tile, (64, 128, 256), depths, (2, 3, 4)):
        if rows * columns <= 128 * 256:
            yield LoRAConfig(rows, columns, depth, 8 if rows * columns >= 128 * 128 else 4, stages)


def lora_run(kernel: str, bits: int, few: bool) -> Callable[[], object]:
    """The MLP's first layer of GPT-2 124M; rank 16, the rows of 8 texts of SMS Spam or of a batch that fills a GPU."""
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


LORA_ROWS = (24,) if SMALL else (240, 1024, 2432, 16384)
LORA_WIDTHS = (32,) if SMALL else (768, 1024, 1280, 1600)
LORA_RANKS = (4,) if SMALL else (4, 8, 16, 64)


def lora_sides(kernel: str, bits: int, rows: int, width: int, rank: int) -> list[Callable[[], object]]:
    """What a layer of the MLP runs: with the fused kernel, with the library and, of the product, as one of width K + r.

    The product is the forward one and the input's gradient, for which one rule decides.
    """

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=DEVICE).to(DTYPES[bits])

    inner = 4 * width
    x, dy, thin, dthin = made(rows, width), made(rows, inner), made(rows, rank), made(rows, rank)
    weight, bias, a, b = made(inner, width), made(inner), made(rank, width), made(inner, rank)
    if kernel == "thin":
        return [
            lambda: [t.to(dy.dtype) for t in lora_linear.thin_gradients(dy, thin, b, 1.0)],
            lambda: (dy @ b, (thin.t() @ dy).t()),
        ]
    wide = torch.cat([b, weight], dim=1)

    def fused() -> object:
        lora_linear.product_with_low_rank(x, weight.t(), bias, thin, b.t(), 1.0)
        return lora_linear.product_with_low_rank(dy, weight, None, dthin, a, 1.0)

    def in_place() -> object:
        torch.addmm(bias, x, weight.t()).addmm_(thin, b.t())
        return (dy @ weight).addmm_(dthin, a)

    def concatenated() -> object:
        wide[:, :rank] = b
        torch.addmm(bias, torch.cat([thin, x], dim=1), wide.t())
        return (dy @ weight).addmm_(dthin, a)

    return [fused, in_place, concatenated]


def rule(faster: dict[tuple[int, int, int], bool]) -> Faster | None:
    """The limits of (rows, width, rank) within which all that was timed is faster, and the most of it."""
    within = {
        (rows, width, rank): [is_so for (r, w, k), is_so in faster.items() if r >= rows and w >= width and k <= rank]
        for rows, width, rank in faster
    }
    best = max(within, key=lambda limits: len(within[limits]) if all(within[limits]) else 0)
    return Faster(*best) if all(within[best]) else None


def derive_rules(wanted: set[tuple[str, int]]) -> None:
    """Prints the times, and entries of LORA_FASTER."""
    entries = []
    for kernel, bits in sorted(
        wanted & {(k, b) for k in ("product", "thin") for b in DTYPES}, key=lambda w: (w[1], w[0])
    ):
        faster = {}
        for at in itertools.product(LORA_ROWS, LORA_WIDTHS, LORA_RANKS):
            times = [microseconds(run) for run in lora_sides(kernel, bits, *at)]
            faster[at] = times[0] <= min(times[1:])
            print(f"# {kernel}, {bits} bits, rows, width and rank {at}: fused, in place, concatenated "
                  f"{', '.join(f'{t:.0f}' for t in times)} us", flush=True)  # fmt: skip
        if (found := rule(faster)) is not None:
            entries.append(f"    {(kernel, bits)}: {found},")
    print("\n".join(entries) or "# the library is faster, or as fast, everywhere")


def tune(table: dict, key: tuple, candidates: Iterator, run: Callable[[], object]) -> None:
    """Prints the fastest configuration of one entry, and its time beside that of the entry as it is."""
    kept = table[key]
    before = microseconds(run)
    found, fastest = kept, before
    for candidate in itertools.islice(candidates, 2) if SMALL else candidates:
        table[key] = candidate
        taken = microseconds(run)
        if taken < fastest:
            found, fastest = candidate, taken
    table[key] = kept
    print(f"    {key}: {found},  # {before:.0f} -> {fastest:.0f} us", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", default="forward,dq,dkdv,product,thin")
    parser.add_argument("--bits", default="16,32")
    parser.add_argument("--minutes", type=float, default=10.0, help="no entry is begun after that")
    parser.add_argument(
        "--rules", action="store_true", help="time fused low-rank kernels against the library's products"
    )
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    wanted = {(kernel, int(bits)) for kernel in given.kernels.split(",") for bits in given.bits.split(",")}
    capability = configs.capability(torch.device(DEVICE))
    tables = configs.table(configs.ATTENTION, capability), configs.table(configs.LORA, capability)
    print(f"# {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'interpreter'}, capability {capability}")
    if given.rules:
        derive_rules(wanted)
        return
    keys = [key for table in tables for key in table if key[:2] in wanted]
    for key in sorted(keys, key=lambda key: key[1]):
        kernel, bits, *rest = key
        if time.monotonic() > end:
            print(f"    {key}: not timed, the {given.minutes:g} minutes are over")
        elif kernel in ("product", "thin"):
            tune(tables[1], key, lora_candidates(kernel, bits, *rest), lora_run(kernel, bits, *rest))
        elif not SMALL or rest == [64, 16]:
            tune(tables[0], key, attention_candidates(kernel, rest[1]), attention_run(kernel, bits, *rest))


if __name__ == "__main__":
    main()
