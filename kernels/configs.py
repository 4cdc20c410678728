"""Block sizes of the Triton kernels: pinned for each kernel, dtype and architecture, so that no user waits for tuning.

``bench/tune.py`` times the candidates on the GPU at hand and prints these tables anew; ``bench/lora_rules.py`` does so
with the rules at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class AttentionConfig:
    """Rows of queries and of keys in a block; warps of a program; blocks that are loaded ahead."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class ProductConfig:
    """Rows, columns and depth of a block of a matrix product; warps of a program; blocks that are loaded ahead."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


# (kernel, bits of an element, columns of a tile at most, rows of the owned tile). The owned tile is of queries in
# "forward" and "dq", of keys in "dkdv".
AttentionKey = tuple[str, int, int, int]
# fmt: off
_AMPERE: dict[AttentionKey, AttentionConfig] = {
    ("forward", 16, 64, 16): AttentionConfig(16, 16, 1, 1),
    ("forward", 16, 64, 32): AttentionConfig(32, 32, 1, 1),
    ("forward", 16, 64, 64): AttentionConfig(64, 32, 4, 1),
    ("forward", 16, 64, 128): AttentionConfig(128, 64, 8, 3),
    ("forward", 16, 128, 16): AttentionConfig(16, 16, 1, 1),
    ("forward", 16, 128, 32): AttentionConfig(32, 32, 2, 1),
    ("forward", 16, 128, 64): AttentionConfig(64, 32, 4, 1),
    ("forward", 16, 128, 128): AttentionConfig(128, 16, 8, 2),
    ("forward", 32, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("forward", 32, 64, 32): AttentionConfig(32, 16, 4, 1),
    ("forward", 32, 64, 64): AttentionConfig(64, 32, 4, 1),
    ("forward", 32, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("forward", 32, 128, 32): AttentionConfig(32, 16, 4, 1),
    ("forward", 32, 128, 64): AttentionConfig(64, 16, 8, 1),
    ("dq", 16, 64, 16): AttentionConfig(16, 16, 1, 1),
    ("dq", 16, 64, 32): AttentionConfig(32, 32, 2, 1),
    ("dq", 16, 64, 64): AttentionConfig(64, 32, 4, 1),
    ("dq", 16, 64, 128): AttentionConfig(128, 32, 8, 2),
    ("dq", 16, 128, 16): AttentionConfig(16, 16, 2, 1),
    ("dq", 16, 128, 32): AttentionConfig(32, 32, 4, 1),
    ("dq", 16, 128, 64): AttentionConfig(64, 32, 4, 1),
    ("dq", 16, 128, 128): AttentionConfig(128, 16, 8, 1),
    ("dq", 32, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("dq", 32, 64, 32): AttentionConfig(32, 16, 4, 1),
    ("dq", 32, 64, 64): AttentionConfig(64, 16, 8, 1),
    ("dq", 32, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dq", 32, 128, 32): AttentionConfig(32, 16, 4, 1),
    ("dq", 32, 128, 64): AttentionConfig(64, 16, 8, 1),
    ("dkdv", 16, 64, 16): AttentionConfig(16, 16, 1, 1),
    ("dkdv", 16, 64, 32): AttentionConfig(32, 32, 2, 1),
    ("dkdv", 16, 64, 64): AttentionConfig(32, 64, 4, 1),
    ("dkdv", 16, 64, 128): AttentionConfig(32, 128, 8, 1),
    ("dkdv", 16, 128, 16): AttentionConfig(16, 16, 2, 1),
    ("dkdv", 16, 128, 32): AttentionConfig(32, 32, 4, 1),
    ("dkdv", 16, 128, 64): AttentionConfig(32, 64, 4, 1),
    ("dkdv", 16, 128, 128): AttentionConfig(16, 128, 8, 1),
    ("dkdv", 32, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("dkdv", 32, 64, 32): AttentionConfig(16, 32, 4, 1),
    ("dkdv", 32, 64, 64): AttentionConfig(16, 64, 8, 1),
    ("dkdv", 32, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dkdv", 32, 128, 32): AttentionConfig(16, 32, 4, 1),
    ("dkdv", 32, 128, 64): AttentionConfig(16, 64, 8, 1),
}
_HOPPER = _AMPERE | {
    ("forward", 16, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("forward", 16, 64, 64): AttentionConfig(64, 64, 4, 1),
    ("forward", 16, 128, 64): AttentionConfig(64, 64, 4, 1),
    ("forward", 16, 128, 128): AttentionConfig(128, 64, 8, 2),
    ("dq", 16, 64, 128): AttentionConfig(128, 64, 8, 2),
    ("dq", 16, 128, 128): AttentionConfig(128, 32, 8, 2),
    ("dkdv", 16, 64, 128): AttentionConfig(32, 128, 8, 2),
    ("dkdv", 16, 128, 64): AttentionConfig(32, 64, 8, 1),
}
_BLACKWELL = _HOPPER | {
    ("forward", 16, 64, 128): AttentionConfig(128, 64, 8, 2),
    ("dkdv", 16, 64, 64): AttentionConfig(32, 64, 8, 1),
    ("dkdv", 16, 64, 128): AttentionConfig(32, 128, 8, 1),
}
# Instead of these with dropout, a window, or queries that are some of the rows: masks and positions take registers.
_AMPERE_MASKED: dict[AttentionKey, AttentionConfig] = {
    ("forward", 16, 64, 32): AttentionConfig(32, 32, 2, 1),
    ("forward", 16, 64, 128): AttentionConfig(128, 16, 8, 3),
    ("forward", 16, 128, 32): AttentionConfig(32, 32, 4, 1),
    ("dq", 16, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("dq", 16, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dq", 16, 128, 64): AttentionConfig(64, 32, 8, 1),
    ("dkdv", 16, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dkdv", 16, 128, 32): AttentionConfig(16, 32, 4, 1),
    ("dkdv", 16, 128, 64): AttentionConfig(32, 64, 8, 1),
}
_HOPPER_MASKED: dict[AttentionKey, AttentionConfig] = {
    ("forward", 16, 64, 32): AttentionConfig(32, 32, 4, 1),
    ("forward", 16, 128, 64): AttentionConfig(64, 32, 4, 1),
    ("forward", 16, 128, 128): AttentionConfig(128, 32, 8, 2),
    ("dq", 16, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("dq", 16, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dkdv", 16, 128, 32): AttentionConfig(16, 32, 4, 1),
    ("dkdv", 16, 128, 64): AttentionConfig(16, 64, 8, 1),
}
_BLACKWELL_MASKED: dict[AttentionKey, AttentionConfig] = {
    ("forward", 16, 64, 32): AttentionConfig(32, 16, 1, 1),
    ("forward", 16, 128, 64): AttentionConfig(64, 64, 8, 1),
    ("dq", 16, 64, 16): AttentionConfig(16, 16, 2, 1),
}
# (kernel, bits of an element, whether there are few rows). Ranks are taken in blocks and don't matter here.
LoRAKey = tuple[str, int, bool]
_LORA: dict[LoRAKey, ProductConfig] = {
    ("product", 16, True): ProductConfig(32, 64, 64, 4, 3),
    ("product", 16, False): ProductConfig(128, 128, 64, 8, 3),
    ("product", 32, True): ProductConfig(32, 32, 32, 4, 2),
    ("product", 32, False): ProductConfig(64, 64, 16, 8, 2),
    ("thin", 16, True): ProductConfig(32, 64, 0, 4, 1),
    ("thin", 16, False): ProductConfig(64, 256, 0, 8, 2),
    ("thin", 32, True): ProductConfig(32, 32, 0, 4, 1),
    ("thin", 32, False): ProductConfig(32, 128, 0, 8, 1),
}
# fmt: on
# Up to this many rows, tiles are small: there are few programs.
FEW_ROWS = 1024

# Compute capability from which an architecture's tables hold.
# Not tuned yet on any of them: the blocks are those that compile without spills and fit the shared memory.
ATTENTION: dict[tuple[int, int], dict[AttentionKey, AttentionConfig]] = {
    (8, 0): _AMPERE,
    (9, 0): _HOPPER,
    (10, 0): _BLACKWELL,
}
MASKED: dict[tuple[int, int], dict[AttentionKey, AttentionConfig]] = {
    (8, 0): _AMPERE | _AMPERE_MASKED,
    (9, 0): _HOPPER | _HOPPER_MASKED,
    (10, 0): _BLACKWELL | _BLACKWELL_MASKED,
}
LORA: dict[tuple[int, int], dict[LoRAKey, ProductConfig]] = {
    (8, 0): _LORA,
    (9, 0): dict(_LORA),
    (10, 0): dict(_LORA),
}
# GeForce cards with Blackwell chips have Ampere's shared memory and matrix instructions.
_GEFORCE_BLACKWELL = 12


@cache
def capability(device: torch.device) -> tuple[int, int]:
    # The interpreter runs on the CPU; there the newest tables are as good as any.
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else max(ATTENTION)


def table(tables: dict, at: tuple[int, int]):
    """The table of a capability: the newest that is not above it; for older GPUs the oldest."""
    known = [c for c in tables if c <= at]
    return tables[max(known) if known and at[0] < _GEFORCE_BLACKWELL else min(tables)]


def attention_config(
    kernel: str, bits: int, depth: int, rows: int, at: tuple[int, int], *, masked: bool
) -> AttentionConfig:
    """Of "forward", "dq" or "dkdv" for tiles of ``depth`` columns of which ``rows`` are owned, at a capability.

    ``masked``: whether there is dropout or a window, or queries are some of the rows.
    """
    return table(MASKED if masked else ATTENTION, at)[kernel, bits, 64 if depth <= 64 else 128, rows]


def lora_config(kernel: str, bits: int, rows: int, device: torch.device) -> ProductConfig:
    """Of "product" or "thin" for so many rows."""
    return table(LORA, capability(device))[kernel, bits, rows <= FEW_ROWS]


@dataclass(frozen=True)
class Rule:
    """Where one way to compute a product with a low-rank one was measured to be the fastest.

    Attributes
    ----------
    way : {"fused", "concatenated", "in place"}
    least_rows, least_width, most_rank : int
        Rows, smaller side of the weight, and rank, within which it is.
    """

    way: str
    least_rows: int
    least_width: int
    most_rank: int


# By capability; then by product and bits of an element. "expanding" has more columns than the weight is deep,
# "contracting" as many or fewer; "thin" are the two thin gradients. Nothing is measured yet: the library computes all.
LORA_RULES: dict[tuple[int, int], dict[tuple[str, int], tuple[Rule, ...]]] = {(8, 0): {}, (9, 0): {}, (10, 0): {}}


def lora_way(product: str, bits: int, rows: int, width: int, rank: int, device: torch.device) -> str:
    """How "expanding", "contracting" or "thin" is computed fastest, by measurement.

    "fused" by Triton; "concatenated" as one library product [S | x] [s B | W]ᵀ; "in place" as the library's product to
    which the low-rank one is added. The first rule that holds decides.
    """
    for rule in table(LORA_RULES, capability(device)).get((product, bits), ()):
        if rows >= rule.least_rows and width >= rule.least_width and rank <= rule.most_rank:
            return rule.way
    return "in place"
