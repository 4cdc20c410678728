"""Compiles the Triton kernels ahead of time, without a GPU, and lists their registers, stack and shared memory.

As a program it compiles every configuration of the tables in ``kernels/configs.py`` for each architecture and writes
the list: ``python bench/aot.py RESULTS_DIR``.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyllmclf.kernels import attention, attention_backward, attention_forward, configs, dropout, lora_linear

# Bytes of shared memory that a program may use; sm_80 code also runs on 8.6 and 8.9, which have less than an A100.
SHARED_LIMIT = {80: 101376, 90: 232448, 100: 232448}
MATRIX_INSTRUCTIONS = {80: ("HMMA",), 90: ("HGMMA", "HMMA"), 100: ("UTCHMMA", "HMMA")}
ARCHITECTURES = tuple(SHARED_LIMIT)
DTYPES = ("bf16", "fp16", "fp32")
KERNELS = {
    "forward": attention_forward._attention_forward_kernel,
    "dq": attention_backward._attention_backward_dq_kernel,
    "dkdv": attention_backward._attention_backward_dkdv_kernel,
    "product": lora_linear._lora_linear_product_kernel,
    "thin": lora_linear._lora_linear_thin_kernel,
    "dropout": dropout._dropout_rows_kernel,
}
_OFFSETS = ("cu_seqlens_q", "cu_seqlens_k", "positions", "tiles")
_INPUTS = ("q", "k", "v", "out", "dout", "dq", "dk", "dv", "x", "weight", "bias", "thin", "factor", "y", "dy", "lora_b")
_FLOATS = ("log_sum_exp", "delta", "dthin_shares", "db_shares")
_SCALES = ("scale", "dq_scale", "dk_scale", "factor_scale", "keep_scale")


@dataclass(frozen=True)
class Variant:
    """A kernel, and all its compile-time values.

    Attributes
    ----------
    kernel : str
        One of KERNELS.
    dtype : str
        One of DTYPES.
    architecture : int
    constants : dict
        The kernel's constants; None for pointers that are absent.
    strides : dict
        Strides that are 1 and compiled in.
    """

    kernel: str
    dtype: str
    architecture: int
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    strides: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kernel}-sm_{self.architecture}-{self.dtype}-{'-'.join(self.compiled_in())}".lower()

    def compiled_in(self) -> list[str]:
        """The constants in words, but those that are absent, false, or the group of 1 of ungrouped heads."""
        shown = {name: value for name, value in self.constants.items() if value not in (None, False)}
        return [f"{name}={value}" for name, value in shown.items() if (name, value) != ("GROUP", 1)]


@dataclass(frozen=True)
class Resources:
    """Registers per thread, bytes of stack and of shared memory, and matrix instructions of a compiled kernel."""

    registers: int
    stack: int
    shared: int
    matrix_instructions: tuple[str, ...]


def compile_variant(variant: Variant) -> Resources:
    """Compiles a variant and inspects its code with the tools in the triton package."""
    kernel = KERNELS[variant.kernel]
    constants = variant.constants | variant.strides
    signature, divisible = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in _SCALES:
            signature[name] = "fp32"
        elif name == "example_ids":
            signature[name] = "*i64"
        elif name in _OFFSETS:
            signature[name] = "*i32"
        elif name in _FLOATS:
            signature[name] = "*fp32"
        elif name in _INPUTS:
            signature[name] = f"*{variant.dtype}"
        else:
            signature[name] = "i32"
        # As in a launch: addresses of tensors, widths and strides are multiples of 16.
        is_width = name in ("columns", "depth", "rank") or re.search(r"_(row|head|depth|column|rank)$", name)
        if signature[name].startswith("*") or (signature[name] == "i32" and is_width):
            divisible[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, divisible)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", variant.architecture, 32),
        options={"num_warps": variant.num_warps, "num_stages": variant.num_stages, "enable_fp_fusion": True},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert match is not None, usage
    instructions = tuple(name for name in ("UTCHMMA", "HGMMA", "HMMA") if re.search(rf"\b{name}", code))
    return Resources(int(match[1]), int(match[2]), compiled.metadata.shared, instructions)


def _tool(name: str, *arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"  # cuobjdump calls nvdisasm
    process = subprocess.run(
        [str(folder / name), *arguments], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    return process.stdout


def _bits(dtype: str) -> int:
    return 32 if dtype == "fp32" else 16


def attention_entries(
    kernel: str, architecture: int, dtype: str, head_dim: int, *, masked: bool = False, grouped: bool = False
) -> dict[int, configs.AttentionConfig]:
    """Configurations of a kernel by the rows of a tile, in rising order."""
    depth, at = attention.depth_of(head_dim), (architecture // 10, architecture % 10)
    return configs.attention_configs(kernel, _bits(dtype), depth, at, masked=masked, grouped=grouped)


def attention_variant(
    kernel: str,
    architecture: int,
    dtype: str,
    head_dim: int,
    rows: int,
    *,
    causal: bool = True,
    subset: bool = False,
    window: bool = False,
    tiled: bool = True,
    dropout: bool = False,
    group: int = 1,
) -> Variant:
    """An attention kernel for tiles of ``rows`` rows; ``group`` query heads read a head of keys and values."""
    entries = attention_entries(
        kernel, architecture, dtype, head_dim, masked=subset or window or dropout, grouped=group > 1
    )
    config = entries[rows]
    constants = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "DEPTH": attention.depth_of(head_dim),
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "CAUSAL": causal,
        "SUBSET": subset,
        "WINDOW": window,
        "TILED": tiled,
        "DROPOUT": dropout,
    }
    constants |= {} if subset else {"positions": None}
    constants |= {} if tiled else {"tiles": None}
    constants |= {} if dropout else {"example_ids": None}
    return Variant(kernel, dtype, architecture, constants, config.num_warps, config.num_stages)


def product_variant(
    architecture: int,
    dtype: str,
    few: bool,
    *,
    backward: bool = False,
    rank: int = 16,
    dropout: bool = False,
    even: bool = True,
) -> Variant:
    """The product that starts from the low-rank one: forward (with a bias), or for the gradient of the input."""
    config = configs.table(configs.LORA, (architecture // 10, architecture % 10))["product", _bits(dtype), few]
    constants: dict[str, Any] = {
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "DEPTH": config.depth,
        "RANK": lora_linear.rank_block(rank),
        "GROUP": lora_linear._GROUP,
        "EVEN_DEPTH": even,
        "BIAS": not backward,
        "DROPOUT": dropout,
    }
    constants |= {"bias": None} if backward else {}
    constants |= {} if dropout else {"example_ids": None, "positions": None}
    unit = {"weight_column": 1, "factor_column": 1} if backward else {"weight_depth": 1, "factor_rank": 1}
    return Variant("product", dtype, architecture, constants, config.num_warps, config.num_stages, unit)


def thin_variant(architecture: int, dtype: str, few: bool, rank: int = 16) -> Variant:
    """The kernel that computes both thin gradients in one pass over dY."""
    config = configs.table(configs.LORA, (architecture // 10, architecture % 10))["thin", _bits(dtype), few]
    constants = {"ROWS": config.rows, "COLUMNS": config.columns, "RANK": lora_linear.rank_block(rank)}
    return Variant("thin", dtype, architecture, constants, config.num_warps, config.num_stages)


def dropout_variant(architecture: int, dtype: str) -> Variant:
    constants = {"ROWS": dropout._ROWS, "COLUMNS": dropout._COLUMNS}
    return Variant("dropout", dtype, architecture, constants, dropout._WARPS, 3)


def selected() -> list[Variant]:
    """Variants that every test run compiles: each kernel, dtype, architecture and branch at least once."""
    chosen = []
    for kernel in ("forward", "dq", "dkdv"):
        for architecture in ARCHITECTURES:
            chosen += [attention_variant(kernel, architecture, "bf16", 64, rows) for rows in (32, 128)]
            chosen.append(attention_variant(kernel, architecture, "fp32", 64, 64))
        chosen += [
            attention_variant(kernel, 90, "fp16", 64, 128, causal=False),
            attention_variant(kernel, 90, "bf16", 80, 128),
            attention_variant(kernel, 80, "bf16", 128, 128, tiled=False),
            attention_variant(kernel, 90, "bf16", 64, 128, dropout=True),
            attention_variant(kernel, 90, "bf16", 64, 16, subset=True),
            attention_variant(kernel, 90, "bf16", 64, 128, causal=False, window=True),
        ]
    for architecture in ARCHITECTURES:
        for few, backward in itertools.product((True, False), (True, False)):
            chosen.append(product_variant(architecture, "bf16", few, backward=backward))
        chosen += [thin_variant(architecture, "bf16", few) for few in (True, False)]
        chosen.append(dropout_variant(architecture, "bf16"))
    chosen += [
        product_variant(80, "fp32", False),
        product_variant(90, "fp32", False, backward=True),
        product_variant(90, "bf16", False, backward=True, dropout=True),
        product_variant(90, "fp16", False, rank=256),
        thin_variant(80, "fp32", False),
        product_variant(80, "bf16", False, even=False),
        product_variant(90, "bf16", True, backward=True, dropout=True, even=False),
        attention_variant("forward", 90, "bf16", 64, 16, subset=True, dropout=True),
        thin_variant(90, "bf16", False, rank=64),
        attention_variant("dkdv", 90, "bf16", 64, 128, group=3),
        attention_variant("dkdv", 80, "bf16", 128, 64, group=3, dropout=True),
        attention_variant("forward", 90, "bf16", 256, 64),
        attention_variant("dq", 90, "bf16", 256, 32),
        attention_variant("dkdv", 90, "bf16", 256, 32, group=4),
    ]
    return chosen


def branches(architecture: int) -> Iterator[Variant]:
    """Every attention entry in half precision, with dropout, a window or a subset of queries."""
    for kernel, head_dim in itertools.product(("forward", "dq", "dkdv"), (64, 128, 256)):
        entries = attention_entries(kernel, architecture, "bf16", head_dim, masked=True)
        for rows, causal in itertools.product(entries, (True, False)):
            options: list[dict[str, bool]] = [{"dropout": True}, {"window": True}, {"window": True, "dropout": True}]
            options += [{"subset": True}, {"subset": True, "dropout": True}]
            if kernel == "dkdv" or rows == 16:  # otherwise a text has at most one query
                options.append({"subset": True, "window": True})
            for option in options:
                yield attention_variant(kernel, architecture, "bf16", head_dim, rows, causal=causal, **option)


def grouped(architecture: int) -> Iterator[Variant]:
    """Every entry of dK and dV in half precision for groups of three query heads."""
    for head_dim in (64, 128, 256):
        entries = attention_entries("dkdv", architecture, "bf16", head_dim, grouped=True)
        for rows, causal in itertools.product(entries, (True, False)):
            for option in ({}, {"dropout": True}, {"window": True}, {"subset": True, "dropout": True}):
                yield attention_variant("dkdv", architecture, "bf16", head_dim, rows, causal=causal, group=3, **option)


def everything() -> Iterator[Variant]:
    """Every entry of the tables for every dtype and architecture, with every branch."""
    for architecture in ARCHITECTURES:
        yield from branches(architecture)
        yield from grouped(architecture)
    for architecture, dtype in itertools.product(ARCHITECTURES, DTYPES):
        for kernel, head_dim in itertools.product(("forward", "dq", "dkdv"), (32, 64, 80, 96, 128, 256)):
            for rows, causal in itertools.product(
                attention_entries(kernel, architecture, dtype, head_dim), (True, False)
            ):
                yield attention_variant(kernel, architecture, dtype, head_dim, rows, causal=causal)
        for kernel in ("forward", "dq", "dkdv"):
            long = max(attention_entries(kernel, architecture, dtype, 64))
            yield attention_variant(kernel, architecture, dtype, 64, long, tiled=False)
            yield attention_variant(kernel, architecture, dtype, 64, long, dropout=True)
            yield attention_variant(kernel, architecture, dtype, 64, long, subset=True)
            yield attention_variant(kernel, architecture, dtype, 64, long, subset=True, dropout=True)
        for few, rank in itertools.product((True, False), (4, 16, 64, 256)):
            yield product_variant(architecture, dtype, few, rank=rank)
            yield product_variant(architecture, dtype, few, rank=rank, backward=True)
            yield product_variant(architecture, dtype, few, rank=rank, backward=True, dropout=True)
            yield product_variant(architecture, dtype, few, rank=rank, even=False)
            yield product_variant(architecture, dtype, few, rank=rank, backward=True, dropout=True, even=False)
            if rank <= lora_linear.THIN_RANK:
                yield thin_variant(architecture, dtype, few, rank)
        yield dropout_variant(architecture, dtype)


def complaints(variant: Variant, resources: Resources) -> list[str]:
    """Reasons why a compiled kernel can't be shipped; empty if it can."""
    reasons = []
    if resources.shared > SHARED_LIMIT[variant.architecture]:
        reasons.append(f"{resources.shared} bytes of shared memory")
    if variant.dtype == "fp32":
        return reasons
    if resources.stack:
        reasons.append(f"{resources.stack} bytes of stack")
    if variant.kernel != "dropout" and not set(resources.matrix_instructions) & set(
        MATRIX_INSTRUCTIONS[variant.architecture]
    ):
        reasons.append("no matrix instruction")
    return reasons


def write_table(rows: list[tuple[Variant, Resources]], folder: Path) -> None:
    """Writes ``resources.md``, with a line per variant."""
    lines = [
        "# Triton kernels, compiled ahead of time",
        "",
        f"triton {triton.__version__}; registers of a thread, bytes of stack and of shared memory of a program.",
        "",
        "| kernel | architecture | dtype | compiled in | warps | stages | registers | stack | shared | instructions |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, resources in rows:
        lines.append(
            f"| {variant.kernel} | sm_{variant.architecture} | {variant.dtype} "
            f"| {', '.join(variant.compiled_in()).lower()} "
            f"| {variant.num_warps} | {variant.num_stages} | {resources.registers} | {resources.stack} "
            f"| {resources.shared:,} | {' '.join(resources.matrix_instructions)} |"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resources.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    rows, failed = [], 0
    variants = list(everything())
    with ProcessPoolExecutor() as pool:
        for variant, resources in zip(variants, pool.map(compile_variant, variants, chunksize=4), strict=True):
            rows.append((variant, resources))
            reasons = complaints(variant, resources)
            failed += bool(reasons)
            print(variant, asdict(resources), *(["WRONG:", *reasons] if reasons else []), flush=True)
    write_table(rows, Path(sys.argv[1]))
    print(f"{len(rows)} compiled, {failed} not fit to ship")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/aot.py RESULTS_DIR")
    sys.exit(main())
