"""Launches the Triton kernels without a GPU: compiles them for sm_90 and skips the launch itself.

``test_triton.py`` runs it in a separate process. The interpreter calls kernels without compiling them, and does not
distinguish launches by types, alignments and constants. Here each launch goes through Triton's just-in-time compiler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from cases import offsets
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton_ops import dropout_key

from pyllmclf import ops
from pyllmclf.kernels import attention, configs
from pyllmclf.kernels.tiles import Schedule
from pyllmclf.ops.backends import triton as triton_backend

HEADS, WIDTH = 2, 128
COMPILED: Counter[str] = Counter()


class Utilities:
    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, *_: object) -> tuple[int, ...]:
        return 0, 0, 0, 0, 1024

    def unload_module(self, *_: object) -> None:
        pass


class NoDevice:
    """A driver that names the target to compile for, and whose launches do nothing."""

    utils = Utilities()

    def launcher_cls(self, *_: object) -> Callable[..., None]:
        return lambda *_, **__: None

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compiled(*_: object, fn: object, **__: object) -> None:
    COMPILED[getattr(fn, "name", "")] += 1


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_backend, "missing", lambda device: None)
    monkeypatch.setitem(triton_backend.DTYPES, "cpu", triton_backend.DTYPES["cuda"])
    for module in (configs, attention):
        monkeypatch.setattr(module, "capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "processors", lambda device: 0)  # kernels read the tables of tiles
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", compiled)
    driver.set_active(NoDevice())
    COMPILED.clear()
    with ops.use_backend("triton"):
        yield


def newly_compiled(run: Callable[[], object]) -> dict[str, int]:
    before = COMPILED.copy()
    run()
    return dict(COMPILED - before)


def attend(lengths: tuple[int, ...], *, dtype: torch.dtype = torch.bfloat16, p: float = 0.0) -> None:
    """Runs attention on the fused projection of a batch, forward and backward."""
    cu = offsets(lengths)
    qkv = torch.randn(sum(lengths), 3 * WIDTH).to(dtype).requires_grad_()
    dropout = {"dropout_p": p, "dropout_key": dropout_key(lengths, "cpu")} if p else {}
    schedule = Schedule(cu, cu, torch.device("cpu"))
    out = ops.attention_packed(qkv, cu, max(lengths), heads=HEADS, causal=True, schedule=schedule, **dropout)
    out.sum().backward()


KERNELS = {f"_attention_{name}_kernel": 1 for name in ("forward", "backward_dq", "backward_dkdv")}


def test_a_kind_of_batch_is_compiled_once() -> None:
    """Batches of other sizes, or at other addresses, compile nothing new."""
    assert newly_compiled(lambda: attend((5, 12))) == KERNELS
    assert newly_compiled(lambda: attend((100, 200))) == KERNELS
    for lengths in ((16,), (1, 2, 3), (65,), (300, 129, 70), (5, 100), (13, 7, 400, 90, 1)):
        assert newly_compiled(lambda lengths=lengths: attend(lengths)) == {}
    with_dropout = newly_compiled(lambda: attend((5, 12), p=0.1))
    assert with_dropout == KERNELS
    assert newly_compiled(lambda: attend((16, 3, 1), p=0.25)) == {}


def test_the_pooled_query_is_compiled_once() -> None:
    def pooled(lengths: tuple[int, ...]) -> None:
        cu = offsets(lengths)
        q, k, v = (torch.randn(n, HEADS, 64).bfloat16().requires_grad_() for n in (len(lengths), cu[-1], cu[-1]))
        schedule = Schedule(cu, cu, torch.device("cpu")).pooled(causal=True)
        cu_q = torch.arange(len(lengths) + 1, dtype=torch.int32)
        at = torch.tensor(lengths, dtype=torch.int32) - 1
        options = {"causal": True, "query_positions": at, "schedule": schedule}
        ops.attention(q, k, v, cu_q, cu, 1, max(lengths), **options).sum().backward()

    assert newly_compiled(lambda: pooled((70, 150, 90))) == KERNELS
    for lengths in ((65,), (200, 66), (99, 98, 97, 96, 500)):
        assert newly_compiled(lambda lengths=lengths: pooled(lengths)) == {}


def test_low_rank_layers_are_compiled_once() -> None:
    """Few rows and many compile once each, forward and backward; dropout compiles the backward product again."""

    def layer(rows: int, p: float = 0.0) -> None:
        x, weight = torch.randn(rows, 64).bfloat16().requires_grad_(), torch.randn(256, 64).bfloat16()
        a, b = (torch.randn(shape).bfloat16().requires_grad_() for shape in ((16, 64), (256, 16)))
        dropout = {"dropout_p": p, "dropout_key": dropout_key((rows,), "cpu")} if p else {}
        ops.lora_linear(x, weight, torch.zeros(256).bfloat16(), a, b, scaling=1.0, **dropout).sum().backward()

    kernels = {"_lora_linear_product_kernel": 2, "_lora_linear_thin_kernel": 1}
    assert newly_compiled(lambda: layer(240)) == kernels
    assert newly_compiled(lambda: layer(2432)) == kernels
    for rows in (1, 17, 239, 1024, 1025, 4096):
        assert newly_compiled(lambda rows=rows: layer(rows)) == {}
    assert newly_compiled(lambda: layer(240, p=0.1)) == {
        "_lora_linear_product_kernel": 1,
        "_dropout_rows_kernel": 1,
    }
    assert newly_compiled(lambda: layer(33, p=0.5)) == {}
