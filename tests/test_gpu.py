"""Results on a CUDA device equal those on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cuda_ops
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import ATTENTION, AttentionCase, offsets, relative_error
from models import LABELS, TEXTS, Folders, make_trainer

from pyllmclf import _C, UsageError, finetune, load, ops
from pyllmclf.ops.backends import triton as triton_backend

pytestmark = pytest.mark.gpu


def test_the_cuda_part_runs_on_this_device() -> None:
    if _C.build_config()["cuda"] is None:
        pytest.skip("the extension was built without a CUDA compiler")
    devices, why_none = _C.cuda_devices()
    assert len(devices) == torch.cuda.device_count(), why_none
    major, minor = torch.cuda.get_device_capability(0)
    assert devices[0]["capability"] == (major, minor)
    assert devices[0]["code_version"] > 0


@pytest.mark.skipif(_C.build_config()["cuda"] is None, reason="the extension was built without a CUDA compiler")
@pytest.mark.parametrize("dtype", cuda_ops.DTYPES, ids=str)
@pytest.mark.parametrize("case", cuda_ops.CASES, ids=str)
def test_native_ops(case: cuda_ops.Case, dtype: torch.dtype) -> None:
    """And the same bits again, without waiting for the device."""
    cuda_ops.check(case, dtype, "cuda")
    tensors = [torch.randn(shape).to("cuda", dtype) for shape in case.shapes]
    first, second = (cuda_ops.results(case, tensors, "native") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.skipif(_C.build_config()["cuda"] is None, reason="the extension was built without a CUDA compiler")
def test_native_ops_do_not_wait_for_the_device() -> None:
    x, weight, bias = (torch.randn(s, device="cuda").requires_grad_() for s in [(64, 768), (768,), (768,)])
    labels = torch.zeros(64, dtype=torch.int64, device="cuda")
    ids = torch.arange(64, dtype=torch.int32, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with ops.use_backend("native"):
            y = ops.embedding(ids, ids, x, x)
            y, _ = ops.layer_norm(y, weight, bias, 1e-5, x)
            ops.cross_entropy(ops.gelu(y, bias), labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_native_refuses_what_it_does_not_have() -> None:
    x = torch.zeros(4, 1, 8, device="cuda")
    cu = offsets((4,)).cuda()
    with ops.use_backend("native"), pytest.raises(UsageError, match="attention on CUDA"):
        ops.attention(x, x, x, cu, cu, 4, 4, causal=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: AttentionCase, backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Within the tolerance in fp32; in half precision at most twice torch's own error."""
    longest = max(case.lengths, default=0)
    shape = (sum(case.lengths), case.heads, case.head_dim)
    q, k, v = (torch.randn(shape, generator=generator).to("cuda", dtype) for _ in range(3))
    cu = offsets(case.lengths).cuda()

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return ops.attention(*tensors, cu, cu, longest, longest, causal=case.causal, window=case.window)

    with ops.use_backend("reference"):
        exact = run(q.double(), k.double(), v.double())
    with ops.use_backend(backend):
        found = run(q, k, v)
    if dtype == torch.float32:
        assert relative_error(found, exact) < 1e-5
        return
    torchs = []
    for text in zip(*(t.split(case.lengths) for t in (q, k, v)), strict=True):
        how: dict[str, Any] = {"is_causal": case.causal}
        if case.window is not None:
            rows = torch.arange(len(text[0]), device="cuda")
            distance = rows[None, :] - rows[:, None]
            seen = (distance >= -case.window[0]) & (distance <= (0 if case.causal else case.window[1]))
            how = {"attn_mask": seen}
        out = F.scaled_dot_product_attention(*(t.transpose(0, 1)[None] for t in text), **how)
        torchs.append(out[0].transpose(0, 1))
    torchs_error = relative_error(torch.cat(torchs), exact) if torchs else 0.0
    assert relative_error(found, exact) <= 2 * torchs_error


needs_triton = pytest.mark.skipif(not triton_backend.installed(), reason="needs the triton package")
TRITON_DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@needs_triton
@pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_triton_attention(case: AttentionCase, scheduled: bool, dtype: torch.dtype) -> None:
    import triton_ops

    triton_ops.check_attention(case, dtype, "cuda", scheduled=scheduled)


@needs_triton
@pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
def test_triton_grouped_attention(dtype: torch.dtype) -> None:
    import triton_ops

    for case, kv_heads in triton_ops.GROUPED:
        triton_ops.check_attention(case, dtype, "cuda", scheduled=True, kv_heads=kv_heads)
    triton_ops.check_attention_of_some_rows(True, dtype, "cuda", scheduled=False, heads=6, kv_heads=2)
    triton_ops.check_dropout_of_attention(0.1, 6, 2, dtype, "cuda")


@needs_triton
@pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, (20, 3)])
def test_triton_attention_of_some_rows(
    window: tuple[int, int] | None, causal: bool, scheduled: bool, dtype: torch.dtype
) -> None:
    import triton_ops

    triton_ops.check_attention_of_some_rows(causal, dtype, "cuda", scheduled=scheduled, window=window)


@needs_triton
@pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.1, 0.75])
def test_triton_dropout(p: float, dtype: torch.dtype) -> None:
    import triton_ops

    triton_ops.check_dropout(p, dtype, "cuda")
    triton_ops.check_dropout_of_attention(p, 2, 2, dtype, "cuda")


@needs_triton
@pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(17, 96, 160, 16), (70, 64, 200, 5), (1100, 768, 3072, 16), (40, 48, 33, 256)], ids=str
)
def test_triton_lora_linear(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    import triton_ops

    triton_ops.check_lora(shape, dtype, "cuda", bias=True)


@needs_triton
def test_triton_gives_the_same_bits_again(generator: torch.Generator) -> None:
    qkv = torch.randn(400, 3 * 128, generator=generator).to("cuda", torch.bfloat16).requires_grad_()
    weight, a, b = (
        torch.randn(s, generator=generator).to("cuda", torch.bfloat16) for s in [(512, 128), (16, 128), (512, 16)]
    )
    cu = offsets((300, 90, 10)).cuda()

    def results() -> list[torch.Tensor]:
        with ops.use_backend("triton"):
            out = ops.attention_packed(qkv, cu, 300, heads=2, causal=True)
            out = ops.lora_linear(out, weight, None, a.requires_grad_(), b.requires_grad_(), scaling=1.0)
        return [out, *torch.autograd.grad(out.sum(), (qkv, a, b))]

    assert all(torch.equal(x, y) for x, y in zip(results(), results(), strict=True))


@needs_triton
@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize(
    ("trainable", "changes"),
    [
        ("all", {"dropout": 0.1}),
        ("lora", {"dropout": 0.1}),
        ("last_block", {"dropout": 0.1}),
        ("last_block", {"cache": "device"}),
        ("last_block", {"cache": "memory"}),
        ("last_block", {"cache": "device", "cache_budget": 2000}),
        ("head", {}),
        ("all", {"pooling": "mean"}),
    ],
    ids=str,
)
def test_a_step_does_not_wait_for_the_device(model_folder: Folders, family: str, trainable: str, changes: dict) -> None:
    trainer = make_trainer(model_folder(family), TEXTS, LABELS, trainable, device="cuda", dtype="bfloat16", **changes)
    ids = [np.arange(4)]
    trainer.queue_step(ids)  # kernels are compiled and loaded here
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.queue_step(ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("trainable", ["all", "lora", "last_block"])
def test_training_equals_the_cpu(model_folder: Folders, tmp_path: Path, family: str, trainable: str) -> None:
    folder = model_folder(family)
    arguments = {"trainable": trainable, "epochs": 4, "batch_size": 3, "progress": False, "dropout": 0.1}
    on_cpu = finetune(folder, (TEXTS, LABELS), device="cpu", **arguments)
    on_gpu = finetune(folder, (TEXTS, LABELS), device="cuda", dtype="float32", **arguments)
    # Triton's kernels, and csrc/cuda's around them.
    on_own = finetune(folder, (TEXTS, LABELS), device="cuda", dtype="float32", backend="triton", **arguments)
    for one, *others in zip(on_cpu.history, on_gpu.history, on_own.history, strict=True):
        assert all(abs(one.train_loss - other.train_loss) < 1e-4 for other in others)
    bf16 = finetune(folder, (TEXTS, LABELS), device="cuda", dtype="bfloat16", **arguments)
    assert abs(bf16.history[0].train_loss - on_cpu.history[0].train_loss) < 0.05
    fp16 = finetune(folder, (TEXTS, LABELS), device="cuda", dtype="float16", **arguments)
    assert abs(fp16.history[0].train_loss - on_cpu.history[0].train_loss) < 0.05
    on_gpu.classifier.save(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu").logits(TEXTS)
    found = torch.from_numpy(on_gpu.classifier.logits(TEXTS))
    assert relative_error(found, torch.from_numpy(again)) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("trainable", ["head", "last_block"])
def test_kept_rows_change_nothing(model_folder: Folders, family: str, trainable: str) -> None:
    """Wherever they lie, and where some are computed each time."""
    folder = model_folder(family)
    arguments = {"trainable": trainable, "epochs": 3, "batch_size": 3, "progress": False, "device": "cuda"}

    def losses(**changes) -> list[float]:
        history = finetune(folder, (TEXTS, LABELS), dtype="float32", **arguments, **changes).history
        return [record.train_loss for record in history]

    expected = losses(cache="off")
    for cache in ("auto", "device", "memory", "disk"):
        assert np.allclose(losses(cache=cache), expected, rtol=0, atol=1e-5)
        assert np.allclose(losses(cache=cache, cache_budget=2000), expected, rtol=0, atol=1e-5)


@needs_triton
@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("trainable", ["head", "last_block", "all", "lora"])
@pytest.mark.parametrize("tables", [True, False])
def test_replayed_steps_change_nothing(
    model_folder: Folders, family: str, trainable: str, tables: bool, monkeypatch
) -> None:
    """Against launching each kernel, over 20 steps with clipping and a schedule; and they are replayed, with tables of
    tiles and without.
    """
    if tables:  # with so few texts all tiles run at once, and no table is read
        from pyllmclf.kernels import attention

        monkeypatch.setattr(attention, "processors", lambda device: 0)
    arguments = {"batch_size": 3, "epochs": 10, "max_grad_norm": 0.5, "scheduler": "linear", "device": "cuda"}
    losses = {}
    for dtype in ("float32", "bfloat16"):
        for graphs in (False, True):
            trainer = make_trainer(
                model_folder(family), TEXTS, LABELS, trainable, dtype=dtype, cuda_graphs=graphs, **arguments
            )
            if trainer.cache is not None:
                trainer.cache.fill()
            steps = [step for epoch in range(10) for step in trainer.epoch_steps(epoch)]
            losses[graphs] = [trainer.queue_step(step).result()[0] for step in steps]
            assert (trainer._graphed_steps is not None) == graphs
            if trainer._graphed_steps is not None:
                assert trainer._graphed_steps.recorded > 0
                torch.cuda.set_sync_debug_mode("error")
                try:
                    trainer.queue_step(steps[0])
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        assert len(losses[True]) == 20
        tolerance = 1e-5 if dtype == "float32" else 0.02
        assert np.allclose(losses[True], losses[False], rtol=0, atol=tolerance)
