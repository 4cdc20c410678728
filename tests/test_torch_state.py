"""Training and prediction do not depend on the caller's settings of torch, and restore them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from models import LABELS, TEXTS, Folders
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import pyllmclf
from pyllmclf import ops
from pyllmclf.torch_state import own_torch_state


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    assert torch.get_default_dtype() == dtype
    torch.set_default_dtype(before)


def train(folder: Path, out: Path | None = None, **changes) -> list[float]:
    arguments = {"epochs": 2, "batch_size": 3, "progress": False, "device": "cpu", "learning_rate": 1e-3}
    result = pyllmclf.finetune(folder, (TEXTS, LABELS), output_dir=out, **arguments, **changes)
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in result.classifier.state.model.parameters())
    return [record.train_loss for record in result.history]


@pytest.mark.parametrize(
    "state",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.no_grad,
        torch.inference_mode,
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.float16),
        lambda: torch.device("meta"),
    ],
    ids=["autocast", "no_grad", "inference_mode", "float64", "float16", "meta"],
)
@pytest.mark.parametrize("trainable", ["all", "last_block", "lora"])
def test_the_callers_state(
    model_folder: Folders, tmp_path: Path, trainable: str, state: Callable[[], AbstractContextManager]
) -> None:
    folder = model_folder("gpt2")
    expected = train(folder, tmp_path / "plain", trainable=trainable)
    logits = pyllmclf.load(tmp_path / "plain").logits(TEXTS)
    with state():
        before = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_device().type
        assert train(folder, tmp_path / "out", trainable=trainable) == expected
        classifier = pyllmclf.load(tmp_path / "out")
        assert np.array_equal(classifier.logits(TEXTS), logits)
        assert classifier.merge_lora().state.model.head.weight.dtype == torch.float32
        assert before == (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_device().type)


def test_rows_kept_under_autocast_are_those_kept_without(model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder("gpt2")
    given = {"trainable": "head", "cache": "disk", "cache_dir": tmp_path / "cache"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = train(folder, **given)
    assert train(folder, **given) == first
    assert np.allclose(first, train(folder, trainable="head", cache="off"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "op",
    [lambda x, w: ops.gelu(x), lambda x, w: ops.linear(x, w), lambda x, w: ops.layer_norm(x, w[0], w[1], 1e-5)],
    ids=["gelu", "linear", "layer_norm"],
)
def test_tensors_without_memory_of_their_own(op: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Of a tracer, or with the sign to be turned: the native core reads addresses."""
    x, weight = torch.randn(3, 8), torch.randn(8, 8)
    assert torch.allclose(op(torch._neg_view(x), weight), op(-x, weight), atol=1e-6)
    with FakeTensorMode() as mode:
        assert op(mode.from_tensor(x), mode.from_tensor(weight)).shape == (3, 8)


def test_the_callers_dtype_in_several_threads() -> None:
    """One that ends first leaves the others with float32."""
    inside, go_on = threading.Barrier(2), threading.Event()
    found = []

    def long() -> None:
        with own_torch_state():
            inside.wait()
            go_on.wait()
            found.append(torch.empty(1).dtype)

    with default_dtype(torch.float64):
        with own_torch_state():
            thread = threading.Thread(target=long)
            thread.start()
            inside.wait()
        go_on.set()
        thread.join()
    assert found == [torch.float32]
