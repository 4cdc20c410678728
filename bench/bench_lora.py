"""The LoRA layer against PEFT's, the plain module, the frozen layer alone, and other ways to compute it.

Both sides run forward and backward, without the frozen weight's gradient. Rates count the matmul operations of the
large products. Ours is Triton's way, whose products start from the low-rank ones. The other ways call the library for
the large products: "in place" adds the low-rank products to them, "concatenated" computes the forward one as a single
product of width K + r, and "fused thin" computes the thin gradients in one pass of a Triton kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from calls import CAN_RUN_TRITON, DEVICE, ROUNDS, SMALL, WARMUP, calls_for, gradient, leaf
from conftest import Peaks, Work
from torch import Tensor, nn

from pyllmclf import ops
from pyllmclf.ops.lora_linear import LoRALinearFunction, Way

pytestmark = pytest.mark.skipif(not CAN_RUN_TRITON, reason="needs triton, and a CUDA device or TRITON_INTERPRET=1")

WIDTHS = (32,) if SMALL else (768, 1024, 1280, 1600)  # widths of the four GPT-2 sizes; the layer is the MLP's first
RANKS = (4,) if SMALL else (8, 16, 64)
ROWS = (24,) if SMALL else (240, 2432, 16384)
DTYPE = torch.float16 if SMALL else torch.bfloat16
SCALING = 1.0
WAYS = {"in place": Way(), "concatenated": Way(forward="concatenated"), "fused thin": Way(thin="fused")}


class PlainLoRA(nn.Module):
    """The frozen layer plus the product of two thin ones."""

    def __init__(self, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.a, self.b = weight, bias, a, b

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + SCALING * F.linear(F.linear(x, self.a), self.b)


class OneLayer(nn.Module):
    """A module with one linear layer, which PEFT wraps."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.layer.weight, self.layer.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def peft_layer(weight: Tensor, bias: Tensor, rank: int) -> tuple[nn.Module, list[Tensor]]:
    """Returns PEFT's layer around the frozen one, and its trained matrices."""
    peft = pytest.importorskip("peft", reason="needs peft")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"])
    layer = peft.get_peft_model(OneLayer(weight, bias), config).base_model.model.layer.to(DEVICE, DTYPE)
    return layer, [layer.lora_A["default"].weight, layer.lora_B["default"].weight]


@pytest.mark.parametrize("baseline", ["PEFT", "plain module", "frozen layer alone", *WAYS, "auto"])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_lora_linear(rows: int, width: int, rank: int, baseline: str, compare: Callable, peaks: Peaks) -> None:
    inner = 4 * width
    x = leaf(DTYPE, rows, width)
    weight, bias = torch.randn(inner, width, device=DEVICE, dtype=DTYPE), torch.randn(inner, device=DEVICE, dtype=DTYPE)
    a, b = leaf(DTYPE, rank, width), leaf(DTYPE, inner, rank)
    inputs = [x, a, b]

    def ours() -> Tensor:
        return ops.lora_linear(x, weight, bias, a, b, scaling=SCALING)

    backend = "reference"
    if baseline == "PEFT":
        layer, trained = peft_layer(weight, bias, rank)
        plain, theirs = (lambda: layer(x)), [x, *trained]
    elif baseline == "plain module":
        module = PlainLoRA(weight, bias, a, b)
        plain, theirs = (lambda: module(x)), inputs
    elif baseline == "frozen layer alone":
        plain, theirs = (lambda: F.linear(x, weight, bias)), [x]
    elif baseline in WAYS:
        plain, theirs = (lambda: LoRALinearFunction.apply(x, weight, bias, a, b, SCALING, WAYS[baseline])), inputs
    else:
        backend = "auto"
        plain, theirs = ours, inputs
    operations = 4 * rows * width * inner
    calls = calls_for(operations)
    compare(
        "lora",
        f"{rows} x {width} -> {inner}, rank {rank}, {DTYPE}",
        ours=gradient(ours, inputs, "triton", calls),
        plain=gradient(plain, theirs, backend, calls),
        baseline=baseline,
        rounds=ROUNDS,
        warmup=WARMUP,
        work=Work(calls * operations, "TFLOP/s", peaks.tflops16),
    )
