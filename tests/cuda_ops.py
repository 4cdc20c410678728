"""Cases of the ops in csrc/cuda, for the GPU and for the emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from cases import poisoned_memory, relative_error
from torch import Tensor

from pyllmclf import ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Case:
    """An op on float inputs of the shapes; inputs whose index is in ``frozen`` need no gradient."""

    name: str
    op: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    frozen: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name


IDS = torch.tensor([3, 0, 3, 6, 1, 3, 0, 2, 5])
POSITIONS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 0, 1], dtype=torch.int32)
LABELS = torch.tensor([0, 4, 2, 2, 1, 3, 0])


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.layer_norm(x, weight, bias, 1e-5)


def _add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat(ops.layer_norm(x, weight, bias, 1e-5, residual))


def _embedding(*tables: Tensor) -> Tensor:
    return ops.embedding(IDS.to(tables[0].device), POSITIONS.to(tables[0].device), *tables)


def _embedding_norm(*tensors: Tensor) -> Tensor:
    device = tensors[0].device
    return ops.embedding_layer_norm(IDS.to(device), POSITIONS.to(device), *tensors, 1e-5)


def _cross_entropy(logits: Tensor, *weight: Tensor) -> Tensor:
    loss = ops.cross_entropy(logits, LABELS.to(logits.device), *(w.abs().float() for w in weight))
    return loss.to(logits.dtype)


def _cross_entropy_of_weighted_texts(logits: Tensor, weight: Tensor) -> Tensor:
    return _cross_entropy(logits, torch.ones(5, device=logits.device), weight)


CASES = [
    *(
        Case(f"{op.__name__[1:]} {rows} x {width}", op, (*[(rows, width)] * inputs, (width,), (width,)))
        for rows, width in [(9, 384), (5, 13), (1, 8)]
        for op, inputs in [(_norm, 1), (_add_norm, 2)]
    ),
    Case("frozen norm", _add_norm, ((5, 40), (5, 40), (40,), (40,)), frozen=(2, 3)),
    Case("frozen input", _norm, ((5, 40), (40,), (40,)), frozen=(0,)),
    *(
        Case(
            f"gelu {approximate} {rows} x {width}",
            lambda x, b, a=approximate: ops.gelu(x, b, a),
            ((rows, width), (width,)),
        )
        for approximate in ("tanh", "none")
        for rows, width in [(9, 264), (5, 33)]
    ),
    Case("gelu without bias", lambda x: ops.gelu(x, None, "none"), ((5, 40),)),
    Case("embedding", _embedding, ((7, 24), (4, 24))),
    Case("embedding with types, odd width", _embedding, ((7, 13), (4, 13), (2, 13))),
    Case("embedding and norm", _embedding_norm, ((7, 24), (4, 24), (2, 24), (24,), (24,))),
    Case("cross-entropy", _cross_entropy, ((7, 5),)),
    Case("weighted cross-entropy", _cross_entropy, ((7, 5), (5,)), frozen=(1,)),
    Case("cross-entropy of weighted texts", _cross_entropy_of_weighted_texts, ((7, 5), (7,)), frozen=(1,)),
    Case("cross-entropy, all weighted", _cross_entropy, ((7, 5), (5,), (7,)), frozen=(1, 2)),
]


def results(case: Case, tensors: list[Tensor], backend: str) -> list[Tensor]:
    """The op's output and the gradients of its inputs."""
    inputs = [t.detach().clone().requires_grad_(i not in case.frozen) for i, t in enumerate(tensors)]
    with ops.use_backend(backend):
        out = case.op(*inputs)
        factor = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, out.dtype)
        out.backward(factor)
    return [out.detach(), *(t.grad for t in inputs if t.grad is not None)]


def check(case: Case, dtype: torch.dtype, device: str = "cpu") -> None:
    """Compares native with float64: 1e-5 in fp32; in half precision at most twice the error of the reference ops."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(device, dtype) for shape in case.shapes]
    exact = results(case, [t.double() for t in tensors], "reference")
    with poisoned_memory():
        actual = results(case, tensors, "native")
    plain = results(case, tensors, "reference")
    assert len(actual) == 1 + len(case.shapes) - len(case.frozen)
    for ours, reference, expected in zip(actual, plain, exact, strict=True):
        assert ours.dtype == dtype
        allowed = 1e-5 if dtype == torch.float32 else max(2 * relative_error(reference, expected), 1e-6)
        assert relative_error(ours, expected) <= allowed
