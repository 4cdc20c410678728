"""Matmuls with operands rounded to bf16: products and gradients, and whole models and trainings beside fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import offsets, poisoned_memory, relative_error
from formulas import compare
from models import FAMILIES, LABELS, TEXTS, Folders, make_trainer, some_blocks
from test_native_ops import threads
from torch import Tensor

import pyllmclf
from pyllmclf import UsageError, ops
from pyllmclf.compute import DTYPE_VARIABLE, Compute
from pyllmclf.ops.backends import native_cpu as native
from pyllmclf.ops.backends import reference
from pyllmclf.ops.linear import FEW_ROWS, rounding

BF16 = torch.bfloat16
# A number near the middle of two bf16 numbers may be rounded to either, where the two sides compute it differently.
ONE_ROUNDING = 2e-3
BACKENDS = ["auto", "native", "reference"]


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b in the inputs' dtype with the operands rounded to bf16."""
    return reference.linear(x, weight, bias, operands=rounding(x, BF16))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"),
    [(1, 3, 5), (24, 8, 8), (25, 8, 8), (31, 65, 33), (600, 130, 50), (40, 70, 4200), (2100, 20, 30), (0, 8, 8)],
)
def test_linear(rows: int, outputs: int, inputs: int, backend: str, generator: torch.Generator) -> None:
    x = torch.randn(rows, inputs, generator=generator)
    weight, bias = torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
    with ops.use_backend(backend), poisoned_memory():
        compare(lambda x, w, b: ops.linear(x, w, b, operands=BF16), exact, [x, weight, bias], torch.float32)
        compare(
            lambda x, w: ops.linear(x, w, operands=BF16), lambda x, w: exact(x, w, None), [x, weight], torch.float32
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("queries", [3, 26])
def test_query_key_value(queries: int, backend: str, generator: torch.Generator) -> None:
    x, weight, bias = (torch.randn(size, generator=generator) for size in [(60, 16), (48, 16), (48,)])
    rows = torch.randperm(60, generator=generator)[:queries]

    def formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        q, kv = exact(x[rows], weight[:16], bias[:16]), exact(x, weight[16:], bias[16:])
        return torch.cat([q.flatten(), kv.flatten()])

    def op(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        q, kv = ops.query_key_value(x, rows, weight, bias, operands=BF16)
        return torch.cat([q.flatten(), kv.flatten()])

    with ops.use_backend(backend):
        compare(op, formula, [x, weight, bias], torch.float32)


def results(op: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> list[Tensor]:
    """Output and gradients of an op."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    with ops.use_backend(backend):
        y = op(*inputs)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    return [y.detach(), *(t.grad for t in inputs if t.grad is not None)]


@pytest.mark.parametrize("rows", [7, 90])
@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_linear(rows: int, approximate: str, generator: torch.Generator) -> None:
    inputs = [torch.randn(size, generator=generator) for size in [(rows, 64), (64,), (24, 64), (24,)]]

    def op(x: Tensor, bias: Tensor, weight: Tensor, out_bias: Tensor) -> Tensor:
        return ops.gelu_linear(x, bias, weight, out_bias, approximate, operands=BF16)

    for found, expected in zip(results(op, inputs, "native"), results(op, inputs, "reference"), strict=True):
        assert relative_error(found, expected) < ONE_ROUNDING


@pytest.mark.parametrize("rows", [7, 90])
@pytest.mark.parametrize("rank", [5, 16])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_lora_linear(rows: int, rank: int, p: float, generator: torch.Generator) -> None:
    sizes = [(rows, 64), (24, 64), (24,), (rank, 64), (24, rank)]
    inputs = [torch.randn(size, generator=generator) for size in sizes]
    numbers = torch.arange(rows)
    key = ops.DropoutKey(1, 2, 3, 1, numbers, numbers, numbers) if p else None

    def op(x: Tensor, weight: Tensor, bias: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
        return ops.lora_linear(
            x, weight, bias, lora_a, lora_b, scaling=0.7, dropout_p=p, dropout_key=key, operands=BF16
        )

    found, expected = results(op, inputs, "native"), results(op, inputs, "reference")
    assert len(found) == 6
    for mine, other in zip(found, expected, strict=True):
        assert relative_error(mine, other) < ONE_ROUNDING


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(90, 70, 50), (2100, 40, 100)])
def test_step_of_a_weight(rows: int, outputs: int, inputs: int, generator: torch.Generator) -> None:
    """AdamW's step within the gradient's product is that of torch with the gradient."""
    dy, x = (native.to_bf16(torch.randn(rows, n, generator=generator)) for n in (outputs, inputs))
    weight, mean, square = torch.randn(3, outputs, inputs, generator=generator)
    square = square**2
    settings = {"lr": 1e-2, "eps": 1e-8, "weight_decay": 0.1}
    ours, theirs = ([t.clone() for t in (weight, mean, square)] for _ in range(2))
    native.bf16_adamw(dy, x, *ours, betas=(0.9, 0.99), step=3, **settings)
    gradient = (dy.double().t() @ x.double()).float()
    torch._fused_adamw_(
        *([t] for t in (theirs[0], gradient, *theirs[1:])),
        [],
        [torch.tensor(3.0)],
        beta1=0.9,
        beta2=0.99,
        amsgrad=False,
        maximize=False,
        **settings,
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine, other) < 1e-5


def test_gradients_are_added_to_what_is_there(generator: torch.Generator) -> None:
    dy, x = (native.to_bf16(torch.randn(50, n, generator=generator)) for n in (9, 20))
    total = torch.ones(9, 20)
    native.bf16_weight_gradient(dy, x, total, accumulate=True)
    assert relative_error(total, dy.double().t() @ x.double() + 1) < 1e-6


def attention_of(qkv: Tensor, lengths: tuple[int, ...], causal: bool, operands: torch.dtype | None) -> Tensor:
    cu = offsets(lengths)
    return ops.attention_packed(qkv, cu, max(lengths), heads=2, causal=causal, operands=operands)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_as_exact_as_torch_in_bf16(backend: str, causal: bool, generator: torch.Generator) -> None:
    """Output and gradient are off by at most twice what torch's bf16 attention is off by."""
    lengths = (200, 1, 33, 70)
    qkv = torch.randn(sum(lengths), 3 * 128, generator=generator)
    dy = torch.randn(len(qkv), 128, generator=generator)

    def run(dtype: torch.dtype, name: str, operands: torch.dtype | None) -> list[Tensor]:
        inputs = qkv.to(dtype).requires_grad_()
        with ops.use_backend(name), poisoned_memory():
            out = attention_of(inputs, lengths, causal, operands)
        out.backward(dy.to(dtype))
        assert inputs.grad is not None
        return [out.detach().double(), *inputs.grad.double().chunk(3, dim=1)]

    exact = run(torch.float64, "reference", None)
    # Text by text, as the CPU has no other attention of torch.
    torchs = run(BF16, "auto", None)
    for found, expected, other in zip(run(torch.float32, backend, BF16), exact, torchs, strict=True):
        assert 1e-5 < relative_error(found, expected) <= 2 * relative_error(other, expected)


def test_nan_and_infinity_pass_through(generator: torch.Generator) -> None:
    for number in (float("nan"), float("inf")):
        x, weight = torch.randn(30, 40, generator=generator), torch.randn(50, 40, generator=generator)
        x[3, 7] = number
        found = native.bf16_linear(native.to_bf16(x), weight)
        assert not found[3].isfinite().any() and found[:3].isfinite().all() and found[4:].isfinite().all()
        weight[5, 1] = number
        found = native.bf16_linear(native.to_bf16(x), weight)
        assert not found[:, 5].isfinite().any()


def test_same_bits_for_any_number_of_threads(generator: torch.Generator) -> None:
    x, weight, dy = (torch.randn(size, generator=generator) for size in [(700, 150), (170, 150), (700, 170)])
    found = []
    for count in (1, 2, 3, 1):
        with threads(count):
            rows, up = native.to_bf16(x), native.to_bf16(dy)
            gradient = torch.empty(170, 150)
            native.bf16_weight_gradient(up, rows, gradient)
            qkv = torch.cat([x, x, x[:, :84]], dim=1).requires_grad_()
            out = attention_of(qkv, (600, 100), True, BF16)
            out.backward(dy[:, :128])
            assert qkv.grad is not None
            products = native.bf16_linear(rows, weight), native.bf16_linear(up, weight, transposed=True), gradient
            found.append([*products, out.detach(), qkv.grad])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_few_rows_are_not_rounded(generator: torch.Generator) -> None:
    weight = torch.randn(8, 8, generator=generator)
    for rows in (FEW_ROWS, FEW_ROWS + 1):
        x = torch.randn(rows, 8, generator=generator)
        same = torch.equal(ops.linear(x, weight, operands=BF16), ops.linear(x, weight))
        assert same == (rows == FEW_ROWS)


def test_other_operands_are_refused() -> None:
    with pytest.raises(UsageError, match="float16 is not supported"):
        ops.linear(torch.zeros(2, 2), torch.zeros(2, 2), operands=torch.float16)


@pytest.mark.parametrize("trainable", ["last_block", "all", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_near_those_of_fp32(family: str, trainable: str, model_folder: Folders) -> None:
    """The first 20 losses within 2e-2, and the computation really differs."""
    trainable = some_blocks(family) if trainable == "last_block" else trainable
    trainers = [
        make_trainer(model_folder(family), TEXTS, LABELS, trainable, dtype=dtype) for dtype in ("float32", "bfloat16")
    ]
    single, half = ([t.train_step([np.arange(6)])[0] for _ in range(20)] for t in trainers)
    assert single != half
    assert all(abs(a - b) < 2e-2 * abs(a) for a, b in zip(single, half, strict=True))


def test_backends_agree(model_folder: Folders) -> None:
    losses = {}
    for backend in ("native", "reference"):
        trainer = make_trainer(model_folder("gpt2"), TEXTS, LABELS, "all", dtype="bfloat16", backend=backend)
        losses[backend] = [trainer.train_step([np.arange(6)])[0] for _ in range(5)]
    assert np.allclose(losses["native"], losses["reference"], rtol=1e-3)


def test_transposed_low_rank_factors(generator: torch.Generator) -> None:
    x, weight = torch.randn(40, 16, generator=generator), torch.randn(24, 16, generator=generator)
    lora_a, lora_b = torch.randn(16, 4, generator=generator).t(), torch.randn(4, 24, generator=generator).t()

    def op(*inputs: Tensor) -> Tensor:
        return ops.lora_linear(inputs[0], inputs[1], None, *inputs[2:], scaling=0.5, operands=BF16)

    for a, b in [(lora_a, lora_b), (lora_a.contiguous(), lora_b.contiguous())]:
        inputs = [x, weight, a, b]
        for found, expected in zip(results(op, inputs, "native"), results(op, inputs, "reference"), strict=True):
            assert relative_error(found, expected) < ONE_ROUNDING


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor multiplies bf16 faster; "auto" is its own choice."""
    monkeypatch.delenv(DTYPE_VARIABLE)
    monkeypatch.setattr(native, "multiplies_bf16_faster", lambda: request.param)
    return request.param


def test_auto(processor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = BF16 if processor else torch.float32
    assert Compute.resolve("cpu").dtype == chosen
    assert Compute.resolve("cpu", "float32").dtype == torch.float32
    assert Compute.resolve("cpu", "auto", "reference").dtype == torch.float32
    for value, expected in (("bfloat16", BF16), ("float32", torch.float32), ("", chosen)):
        monkeypatch.setenv(DTYPE_VARIABLE, value)
        assert Compute.resolve("cpu").dtype == expected
    monkeypatch.setenv(DTYPE_VARIABLE, "bf16")
    with pytest.raises(UsageError, match="PYLLMCLF_DTYPE='bf16' is unknown"):
        Compute.resolve("cpu")


RUN: dict[str, Any] = {"trainable": "all", "epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "validation": False}


def test_trainings_and_predictions(processor: bool, model_folder: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    result = pyllmclf.finetune(model_folder("gpt2"), (TEXTS, LABELS), **RUN)
    assert result.classifier.dtype == (BF16 if processor else torch.float32)
    assert ("matmuls in bfloat16" in capsys.readouterr().err) == processor
    exact = pyllmclf.finetune(model_folder("gpt2"), (TEXTS, LABELS), dtype="float32", progress=False, **RUN)
    same = [a.train_loss == b.train_loss for a, b in zip(result.history, exact.history, strict=True)]
    assert not any(same) if processor else all(same)


def test_resuming_on_another_processor(model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DTYPE_VARIABLE)
    fast = [True]
    monkeypatch.setattr(native, "multiplies_bf16_faster", lambda: fast[0])
    folder, arguments = model_folder("gpt2"), RUN | {"progress": False, "resume": True, "output_dir": tmp_path / "run"}
    whole = pyllmclf.finetune(folder, (TEXTS, LABELS), **RUN | {"progress": False})

    class Stop(pyllmclf.Callback):
        def on_epoch(self, record: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pyllmclf.finetune(folder, (TEXTS, LABELS), callbacks=Stop(), save_every_steps=1, **arguments)
    arguments["save_every_steps"] = 1
    fast[0] = False
    with pytest.raises(UsageError, match="begun in bfloat16, which this processor doesn't multiply"):
        pyllmclf.finetune(folder, (TEXTS, LABELS), **arguments)
    fast[0] = True
    resumed = pyllmclf.finetune(folder, (TEXTS, LABELS), **arguments)
    assert resumed.classifier.dtype == BF16
    assert np.array_equal(resumed.classifier.logits(TEXTS), whole.classifier.logits(TEXTS))
    # A finished run computes nothing: it opens anywhere.
    fast[0] = False
    assert pyllmclf.finetune(folder, (TEXTS, LABELS), **arguments).history == resumed.history


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_a_head_alone_is_exact(cache: str, model_folder: Folders) -> None:
    """What the head reads is kept in fp32, so that training it gives the same bits with and without a cache."""
    arguments = RUN | {"trainable": "head", "progress": False, "dtype": "bfloat16", "backend": "native"}
    texts = [text * 4 for text in TEXTS]  # more than FEW_ROWS rows
    result = pyllmclf.finetune(model_folder("bert"), (texts, LABELS), cache=cache, **arguments)
    expected = pyllmclf.finetune(model_folder("bert"), (texts, LABELS), cache="auto", **arguments)
    assert np.allclose(result.classifier.logits(texts), expected.classifier.logits(texts), rtol=0, atol=1e-5)
