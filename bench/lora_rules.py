"""Times the ways to compute a LoRA layer's products on this GPU and prints LORA_RULES of kernels/configs.py.

``python bench/lora_rules.py`` times Triton's kernels in the tables' configurations, the library's products with the
low-rank ones added in place, and the library's products of a width enlarged by the rank. With TRITON_INTERPRET=1 it
runs at a small size, as a check that it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from calls import DEVICE, SMALL
from tune import DTYPES, microseconds

from pyllmclf.kernels import configs, lora_linear
from pyllmclf.kernels.configs import Rule
from pyllmclf.ops.concatenated import concatenated_product
from pyllmclf.ops.lora_linear import ALIGNED

ROWS = (24,) if SMALL else (240, 1024, 2432, 16384)
WIDTHS = (32,) if SMALL else (768, 1024, 1280, 1600)
RANKS = (4, 8) if SMALL else (4, 8, 16, 64)
# Share of time by which a way must beat the products added in place, which take no memory and no compilation.
MARGIN = 0.02

At = tuple[int, int, int]  # rows, width, rank


def ways(product: str, bits: int, rows: int, width: int, rank: int) -> dict[str, Callable[[], object]]:
    """Each way to compute a product of the MLP's layers.

    "expanding" is the first layer's forward product and the second layer's product for the gradient of its input,
    "contracting" the other two; each covers both orders of a weight in memory.
    """

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=DEVICE).to(DTYPES[bits])

    inner = 4 * width
    if product == "thin":
        dy, thin, b = randn(rows, inner), randn(rows, rank), randn(inner, rank)
        return {
            "fused": lambda: [t.to(dy.dtype) for t in lora_linear.thin_gradients(dy, thin, b, 1.0)],
            "in place": lambda: ((dy @ b).mul_(1.0), (thin.t() @ dy).mul_(1.0).t()),
        }
    depth, columns = (width, inner) if product == "expanding" else (inner, width)
    x, thin, bias = randn(rows, depth), randn(rows, rank), randn(columns)
    first, second = randn(columns, depth).t(), randn(depth, columns)
    up, down = randn(columns, rank).t(), randn(rank, columns)
    both = ((first, bias, up), (second, None, down))

    def in_place() -> None:
        torch.addmm(bias, x, first).addmm_(thin, up)
        (x @ second).addmm_(thin, down)

    candidates: dict[str, Callable[[], object]] = {
        "fused": lambda: [lora_linear.product_with_low_rank(x, w, b, thin, f, 1.0) for w, b, f in both],
        "in place": in_place,
    }
    if rank % ALIGNED == 0:
        candidates["concatenated"] = lambda: [concatenated_product(x, w, b, thin, f, 1.0) for w, b, f in both]
    return candidates


def fastest(times: dict[str, float]) -> str:
    """The fastest way; "in place" where no other is faster by a margin."""
    best = min(times, key=lambda way: times[way])
    return best if times[best] < (1 - MARGIN) * times["in place"] else "in place"


def rules(fastest_ways: dict[At, str]) -> tuple[Rule, ...]:
    """Rules whose first match names the fastest way at every timed size; without a match it is "in place"."""
    left, derived = dict(fastest_ways), []
    axes = [sorted(set(axis)) for axis in zip(*fastest_ways, strict=True)]
    while any(way != "in place" for way in left.values()):
        matches = {}
        for rows, width, rank in itertools.product(*axes):
            within = [at for at in left if at[0] >= rows and at[1] >= width and at[2] <= rank]
            if len({left[at] for at in within}) == 1:
                matches[rows, width, rank] = within
        limits = max(matches, key=lambda limits: len(matches[limits]))
        derived.append(Rule(left[matches[limits][0]], *limits))
        for at in matches[limits]:
            del left[at]
    return tuple(derived)


def main() -> None:
    entries = []
    for bits, product in itertools.product(DTYPES, ("expanding", "contracting", "thin")):
        ways_by_size = {}
        for at in itertools.product(ROWS, WIDTHS, RANKS):
            times = {way: microseconds(run) for way, run in ways(product, bits, *at).items()}
            ways_by_size[at] = fastest(times)
            shown = ", ".join(f"{way} {time:.0f}" for way, time in times.items())
            print(f"# {product}, {bits} bits, rows, width and rank {at}: {shown} us", flush=True)
        if derived := rules(ways_by_size):
            entries.append(f"    {(product, bits)}: {derived},")
    print(f"# capability {configs.capability(torch.device(DEVICE))}")
    print("\n".join(entries) or "# the library's products, added in place, are the fastest everywhere")


if __name__ == "__main__":
    main()
