"""Block sizes of the Triton kernels, fixed per kernel, dtype and architecture, so that no user waits for autotuning.

``bench/tune.py`` times the candidates on a GPU and prints new tables; ``bench/lora_rules.py`` does so for the rules at
the end of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class AttentionConfig:
    """Queries and keys per block, warps per program, and stages of the software pipeline."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class ProductConfig:
    """Rows, columns and depth of a matmul's block, warps per program, and stages of the software pipeline."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


# (kernel, bits per element, upper bound on a tile's columns, rows of the owned tile). A program of "forward" and "dq"
# owns a tile of queries, one of "dkdv" a tile of keys.
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
    ("forward", 16, 256, 16): AttentionConfig(16, 16, 4, 1),
    ("forward", 16, 256, 32): AttentionConfig(32, 32, 4, 1),
    ("forward", 16, 256, 64): AttentionConfig(64, 32, 8, 1),
    ("forward", 32, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("forward", 32, 64, 32): AttentionConfig(32, 16, 4, 1),
    ("forward", 32, 64, 64): AttentionConfig(64, 32, 4, 1),
    ("forward", 32, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("forward", 32, 128, 32): AttentionConfig(32, 16, 4, 1),
    ("forward", 32, 128, 64): AttentionConfig(64, 16, 8, 1),
    ("forward", 32, 256, 16): AttentionConfig(16, 16, 4, 1),
    ("forward", 32, 256, 32): AttentionConfig(32, 16, 8, 1),
    ("dq", 16, 64, 16): AttentionConfig(16, 16, 1, 1),
    ("dq", 16, 64, 32): AttentionConfig(32, 32, 2, 1),
    ("dq", 16, 64, 64): AttentionConfig(64, 32, 4, 1),
    ("dq", 16, 64, 128): AttentionConfig(128, 32, 8, 2),
    ("dq", 16, 128, 16): AttentionConfig(16, 16, 2, 1),
    ("dq", 16, 128, 32): AttentionConfig(32, 32, 4, 1),
    ("dq", 16, 128, 64): AttentionConfig(64, 32, 4, 1),
    ("dq", 16, 128, 128): AttentionConfig(128, 16, 8, 1),
    ("dq", 16, 256, 16): AttentionConfig(16, 16, 4, 1),
    ("dq", 16, 256, 32): AttentionConfig(32, 16, 4, 1),
    ("dq", 32, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("dq", 32, 64, 32): AttentionConfig(32, 16, 4, 1),
    ("dq", 32, 64, 64): AttentionConfig(64, 16, 8, 1),
    ("dq", 32, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dq", 32, 128, 32): AttentionConfig(32, 16, 4, 1),
    ("dq", 32, 128, 64): AttentionConfig(64, 16, 8, 1),
    ("dq", 32, 256, 16): AttentionConfig(16, 16, 8, 1),
    ("dkdv", 16, 64, 16): AttentionConfig(16, 16, 1, 1),
    ("dkdv", 16, 64, 32): AttentionConfig(32, 32, 2, 1),
    ("dkdv", 16, 64, 64): AttentionConfig(32, 64, 4, 1),
    ("dkdv", 16, 64, 128): AttentionConfig(32, 128, 8, 1),
    ("dkdv", 16, 128, 16): AttentionConfig(16, 16, 2, 1),
    ("dkdv", 16, 128, 32): AttentionConfig(32, 32, 4, 1),
    ("dkdv", 16, 128, 64): AttentionConfig(32, 64, 4, 1),
    ("dkdv", 16, 128, 128): AttentionConfig(16, 128, 8, 1),
    ("dkdv", 16, 256, 16): AttentionConfig(16, 16, 4, 1),
    ("dkdv", 16, 256, 32): AttentionConfig(32, 32, 8, 1),
    ("dkdv", 32, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("dkdv", 32, 64, 32): AttentionConfig(16, 32, 4, 1),
    ("dkdv", 32, 64, 64): AttentionConfig(16, 64, 8, 1),
    ("dkdv", 32, 128, 16): AttentionConfig(16, 16, 4, 1),
    ("dkdv", 32, 128, 32): AttentionConfig(16, 32, 4, 1),
    ("dkdv", 32, 128, 64): AttentionConfig(16, 64, 8, 1),
    ("dkdv", 32, 256, 16): AttentionConfig(16, 16, 8, 1),
    ("dkdv", 32, 256, 32): AttentionConfig(16, 32, 8, 1),
}
_HOPPER = _AMPERE | {
    ("forward", 16, 64, 16): AttentionConfig(16, 16, 2, 1),
    ("forward", 16, 64, 64): AttentionConfig(64, 64, 4, 1),
    ("forward", 16, 128, 64): AttentionConfig(64, 64, 4, 1),
    ("forward", 16, 128, 128): AttentionConfig(128, 64, 8, 2),
    ("forward", 16, 256, 64): AttentionConfig(64, 16, 8, 1),
    ("dq", 16, 64, 128): AttentionConfig(128, 64, 8, 2),
    ("dq", 16, 128, 128): AttentionConfig(128, 32, 8, 2),
    ("dq", 16, 256, 32): AttentionConfig(32, 32, 8, 1),
    ("dkdv", 16, 64, 128): AttentionConfig(32, 128, 8, 2),
    ("dkdv", 16, 128, 64): AttentionConfig(32, 64, 8, 1),
    ("dkdv", 16, 256, 16): AttentionConfig(16, 16, 8, 1),
}
_BLACKWELL = _HOPPER | {
    ("forward", 16, 64, 128): AttentionConfig(128, 64, 8, 2),
    ("forward", 16, 256, 64): AttentionConfig(64, 32, 8, 1),
    ("dq", 16, 256, 32): AttentionConfig(32, 32, 4, 1),
    ("dq", 16, 256, 64): AttentionConfig(64, 32, 8, 1),
    ("dkdv", 16, 64, 64): AttentionConfig(32, 64, 8, 1),
    ("dkdv", 16, 64, 128): AttentionConfig(32, 128, 8, 1),
}
# Overrides with dropout, a window or a subset of rows as queries, whose masks and positions take registers.
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
# With grouped heads, the loop over query heads takes registers, too.
_AMPERE_GROUPED: dict[AttentionKey, AttentionConfig] = {
    ("dkdv", 16, 128, 32): AttentionConfig(16, 32, 8, 1),
    ("dkdv", 16, 256, 16): AttentionConfig(16, 16, 8, 1),
}
_HOPPER_GROUPED: dict[AttentionKey, AttentionConfig] = {
    ("dkdv", 16, 256, 16): AttentionConfig(32, 16, 8, 1),
}
_BLACKWELL_GROUPED: dict[AttentionKey, AttentionConfig] = {
    ("dkdv", 16, 64, 64): AttentionConfig(16, 64, 4, 1),
    ("dkdv", 16, 128, 32): AttentionConfig(16, 32, 8, 1),
    ("dkdv", 16, 128, 64): AttentionConfig(16, 64, 8, 1),
    ("dkdv", 16, 256, 16): AttentionConfig(16, 16, 4, 1),
}
_AMPERE_SPILLS: frozenset[AttentionKey] = frozenset({("dkdv", 16, 128, 128)})
# (kernel, bits per element, whether rows are few). The kernels process ranks in blocks, so the rank doesn't matter.
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
# Up to this many rows, tiles are small, since there are few programs.
FEW_ROWS = 1024


def _of_keys(
    entries: dict[AttentionKey, AttentionConfig], without: frozenset[AttentionKey] = frozenset()
) -> dict[AttentionKey, AttentionConfig]:
    """A copy of the entries of the kernel of dK and dV."""
    return {key: config for key, config in entries.items() if key[0] == "dkdv" and key not in without}


# Tables by the lowest compute capability that they hold for. They are not tuned yet: these blocks compile without
# spills and fit the shared memory.
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
# Of "dkdv" alone, where query heads share keys and values.
GROUPED: dict[tuple[int, int], dict[AttentionKey, AttentionConfig]] = {
    (8, 0): _of_keys(MASKED[8, 0] | _AMPERE_GROUPED, without=_AMPERE_SPILLS),
    (9, 0): _of_keys(MASKED[9, 0] | _HOPPER_GROUPED),
    (10, 0): _of_keys(MASKED[10, 0] | _BLACKWELL_GROUPED),
}
LORA: dict[tuple[int, int], dict[LoRAKey, ProductConfig]] = {
    (8, 0): _LORA,
    (9, 0): dict(_LORA),
    (10, 0): dict(_LORA),
}
# Blackwell GeForce cards have Ampere's shared memory and matrix instructions.
_GEFORCE_BLACKWELL = 12


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; for the interpreter on the CPU, the newest that has tables."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else max(ATTENTION)


def table(tables: dict, at: tuple[int, int]):
    """The table of the highest capability up to ``at``, or of the lowest for older GPUs and GeForce Blackwell."""
    known = [c for c in tables if c <= at]
    return tables[max(known) if known and at[0] < _GEFORCE_BLACKWELL else min(tables)]


@cache
def attention_configs(
    kernel: str, bits: int, depth: int, at: tuple[int, int], *, masked: bool, grouped: bool
) -> dict[int, AttentionConfig]:
    """Configurations of kernel "forward", "dq" or "dkdv", by the rows of the tile that a program owns.

    Parameters
    ----------
    kernel : str
    bits : int
        Bits per element, 16 or 32.
    depth : int
        Columns of a tile.
    at : (int, int)
        Compute capability.
    masked : bool
        Whether the call has dropout, a window or a subset of rows as queries.
    grouped : bool
        Whether query heads share keys and values.

    Returns
    -------
    dict of int to AttentionConfig
        In rising order. The last one is for long texts.
    """
    entries = table(GROUPED if grouped and kernel == "dkdv" else MASKED if masked else ATTENTION, at)
    keys = sorted(key for key in entries if key[:3] == (kernel, bits, max(64, depth)))
    return {key[3]: entries[key] for key in keys}


def lora_config(kernel: str, bits: int, rows: int, device: torch.device) -> ProductConfig:
    """Configuration of kernel "product" or "thin" for ``bits`` per element and this number of rows."""
    return table(LORA, capability(device))[kernel, bits, rows <= FEW_ROWS]


@dataclass(frozen=True)
class Rule:
    """Sizes for which one way to compute a LoRA product was measured to be the fastest.

    Attributes
    ----------
    way : {"fused", "concatenated", "in place"}
    least_rows, least_width, most_rank : int
        Bounds on the rows, the smaller side of the weight, and the rank.
    """

    way: str
    least_rows: int
    least_width: int
    most_rank: int


# By capability, then by product and bits per element. "expanding": the product has more columns than depth;
# "contracting": as many or fewer; "thin": the two thin gradients. Nothing is measured yet: the library computes all.
LORA_RULES: dict[tuple[int, int], dict[tuple[str, int], tuple[Rule, ...]]] = {(8, 0): {}, (9, 0): {}, (10, 0): {}}


def lora_way(product: str, bits: int, rows: int, width: int, rank: int, device: torch.device) -> str:
    """The fastest way, by measurement, to compute product "expanding", "contracting" or "thin".

    The first rule that holds decides.

    Parameters
    ----------
    product : str
    bits : int
        Bits per element, 16 or 32.
    rows, width, rank : int
        ``width`` is the smaller side of the weight.
    device : torch.device

    Returns
    -------
    {"fused", "concatenated", "in place"}
        "fused": Triton. "concatenated": one library matmul [S | x] [s B | W]ᵀ. "in place": a library matmul, to which
        the low-rank product is added.
    """
    for rule in table(LORA_RULES, capability(device)).get((product, bits), ()):
        if rows >= rule.least_rows and width >= rule.least_width and rank <= rule.most_rank:
            return rule.way
    return "in place"
