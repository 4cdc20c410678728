"""The ways to compute a LoRA layer's products, of which a rule chooses, give the same results."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from cases import DTYPES
from formulas import compare
from torch import Tensor

from pyllmclf import ops
from pyllmclf.ops import concatenated
from pyllmclf.ops.backends import triton as triton_backend
from pyllmclf.ops.lora_linear import LoRALinearFunction, Way, _way

LIBRARY = ("in place", "concatenated")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("input_gradient", LIBRARY)
@pytest.mark.parametrize("forward", LIBRARY)
@pytest.mark.parametrize("rows", [0, 1, 17])
def test_ways(
    rows: int, forward: str, input_gradient: str, bias: bool, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Against the formula in float64, with all and with some of the weight's outputs."""
    frozen = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    way = Way(forward, input_gradient)
    for part in (slice(None), slice(8, 24)):
        outputs = len(frozen[part])
        sizes = [(rows, 24), (8, 24), (outputs, 8), *([(outputs,)] if bias else [])]
        tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]

        def run(x: Tensor, a: Tensor, b: Tensor, *bias: Tensor, part: slice = part) -> Tensor:
            weight = frozen.to(x.dtype)[part]
            return LoRALinearFunction.apply(x, weight, bias[0] if bias else None, a, b, 0.5, way)

        def formula(x: Tensor, a: Tensor, b: Tensor, *bias: Tensor, part: slice = part) -> Tensor:
            out = x @ (frozen[part] + 0.5 * b @ a).T
            return out + bias[0] if bias else out

        compare(run, formula, tensors, dtype)


def test_copies_with_spare_rows_are_cached() -> None:
    """Until the weight is written to, and no longer than the weight; of each part and each rank its own."""
    weight = torch.randn(6, 4)
    turned = concatenated.with_spare_rows(weight.t(), 8)
    assert turned.shape == (12, 6) and torch.equal(turned[8:], weight.t())
    assert turned.stride() == (1, 12)  # as the weight lies
    assert concatenated.with_spare_rows(weight.t(), 8) is turned
    straight, other_rank, part = (
        concatenated.with_spare_rows(weight, 8),
        concatenated.with_spare_rows(weight.t(), 16),
        concatenated.with_spare_rows(weight[2:].t(), 8),
    )
    assert straight.stride() == (4, 1) and torch.equal(straight[8:], weight)
    assert torch.equal(other_rank[16:], weight.t()) and torch.equal(part[8:], weight[2:].t())
    assert concatenated.with_spare_rows(weight[2:].t(), 8) is part
    with torch.inference_mode():
        assert concatenated.with_spare_rows(weight[2:].t(), 8) is part
    weight[3, 1] = 7.0
    assert float(concatenated.with_spare_rows(weight.t(), 8)[9, 3]) == 7.0
    assert float(concatenated.with_spare_rows(weight[2:].t(), 8)[9, 1]) == 7.0
    gone = weakref.ref(turned)
    del turned, weight, straight, other_rank, part
    gc.collect()
    assert gone() is None


def test_the_low_rank_part_is_taken_anew(generator: torch.Generator) -> None:
    """B changes in training, under the same frozen weight."""
    x, weight, a, b = (torch.randn(s, generator=generator) for s in ((3, 24), (40, 24), (8, 24), (40, 8)))
    for _ in range(2):
        found = LoRALinearFunction.apply(x, weight, None, a, b, 0.5, Way("concatenated"))
        assert torch.allclose(found, x @ (weight + 0.5 * b @ a).T, atol=1e-4)
        b.add_(1.0)


@pytest.mark.parametrize(
    ("measured", "rank", "trained", "p", "expected"),
    [
        (("concatenated", "concatenated", "fused"), 8, False, 0.0, ("concatenated", "concatenated", "fused")),
        (("concatenated", "fused", "in place"), 8, False, 0.1, ("concatenated", "fused", "in place")),
        # Dropout is of the low-rank part of the input's gradient alone.
        (("concatenated", "concatenated", "fused"), 8, False, 0.1, ("concatenated", "in place", "fused")),
        # A trained weight changes in each step.
        (("concatenated", "concatenated", "fused"), 8, True, 0.0, ("in place", "in place", "fused")),
        (("concatenated", "concatenated", "fused"), 4, False, 0.0, ("in place", "in place", "fused")),
    ],
)
def test_what_cannot_be_concatenated_is_added_in_place(
    measured: tuple[str, str, str], rank: int, trained: bool, p: float, expected: tuple[str, str, str], monkeypatch
) -> None:
    monkeypatch.setattr(triton_backend, "lora_ways", lambda *_, forced: measured)
    monkeypatch.setattr(triton_backend, "row_dropout", lambda p, key: "mask")
    x, weight, a = torch.randn(3, 24), torch.randn(40, 24).requires_grad_(trained), torch.randn(rank, 24)
    ids = torch.arange(3)
    key = ops.DropoutKey(1, 2, 3, 0, ids, ids, ids) if p else None
    way = _way("triton", x, weight, a, p, key)
    assert (way.forward, way.input_gradient, way.thin) == expected
    assert way.mask == ("mask" if p and way.input_gradient == "fused" else None)
