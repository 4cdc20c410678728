"""Steps on static batches, as CUDA graphs need them, train as ordinary steps do; the graphs themselves need a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import bert_folder, gpt2_folder, make_trainer

from pyllmclf import NonFiniteError
from pyllmclf.compute import Compute
from pyllmclf.models.layers import DropoutRates
from pyllmclf.training import cuda_graphs
from pyllmclf.training.activation_cache import ActivationCache
from pyllmclf.training.cuda_graphs import ROW_MULTIPLE, BatchShape, GraphedSteps, StaticBatch
from pyllmclf.training.trainer import Trainer

# One to 60 rows, some of the same length.
TEXTS = ["word " * (1 + i * 5 % 12) for i in range(11)] + ["a", "b"]
LABELS = [i % 3 for i in range(len(TEXTS))]
CPU = torch.device("cpu")


class ReplayedLater:
    """Like a recording: what is recorded does not run before it is replayed."""

    made = 0

    def __init__(self, run: Callable[[], None]) -> None:
        ReplayedLater.made += 1
        self.replay = run


def trainer_of(folder: Path, trainable: str, **changes: Any) -> Trainer:
    arguments = {"batch_size": 3, "epochs": 3, "max_grad_norm": 0.5, "scheduler": "linear", "warmup_ratio": 0.3}
    return make_trainer(folder, TEXTS, LABELS, trainable, **(arguments | changes))


def train(trainer: Trainer, *, fixed: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """(losses of all steps, weights at the end)."""
    trainer._graphed_steps = trainer.make_graphed_steps() if fixed else None
    losses = [
        trainer.queue_step(step).result()[0]
        for epoch in range(trainer.settings.epochs)
        for step in trainer.epoch_steps(epoch)
    ]
    return losses, trainer.model.state_dict()


# --- shapes and memory ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 700), min_size=1, max_size=9))
def test_shape(rows: list[int]) -> None:
    shape = BatchShape.of(np.array(rows))
    assert shape.texts == len(rows)
    assert shape.rows % ROW_MULTIPLE == 0
    assert 1 <= shape.rows - sum(rows) <= ROW_MULTIPLE
    assert shape.longest >= max(*rows, shape.rows - sum(rows))
    assert shape.longest == ROW_MULTIPLE or shape.longest < 2 * max(rows)
    assert shape.longest.bit_count() == 1


def test_memory_holds_the_batch_and_a_text_that_fills_it_up(tmp_path: Path) -> None:
    packer = trainer_of(gpt2_folder(tmp_path), "all").packer
    first, second = packer.batch([3, 0, 7]), packer.batch([7, 3, 0])
    shape = BatchShape.of(first.cu_seqlens.diff().numpy())
    memory = StaticBatch(shape, CPU, torch.zeros(0, 5, dtype=torch.float16), one_row=False)
    where = [t.data_ptr() for t in vars(memory.batch).values() if isinstance(t, torch.Tensor)]
    assert all(pointer % 16 == 0 for pointer in where)
    for batch in (first, second):
        total = len(batch.input_ids)
        rows = torch.randn(total, 5).half()
        memory.load(batch, rows)
        held = memory.batch
        for name in ("input_ids", "positions"):
            assert torch.equal(getattr(held, name)[:total], getattr(batch, name))
            assert not getattr(held, name)[total:].any()
        assert held.cu_seqlens.tolist() == [*batch.cu_seqlens.tolist(), shape.rows]
        assert held.lengths.tolist() == [*batch.lengths.tolist(), shape.rows - total]
        assert held.example_ids.tolist() == [*batch.example_ids.tolist(), 0]
        assert held.labels is not None
        assert batch.labels is not None
        assert held.labels.tolist() == batch.labels.tolist()
        assert memory.cached is not None
        assert torch.equal(memory.cached[:total], rows)
        assert not memory.cached[total:].any()
        fields = {name: getattr(held, name).dtype for name in ("input_ids", "positions", "cu_seqlens", "lengths")}
        assert fields == {name: getattr(batch, name).dtype for name in fields}
    assert where == [t.data_ptr() for t in vars(memory.batch).values() if isinstance(t, torch.Tensor)]
    assert StaticBatch(shape, CPU, torch.zeros(3, 5), one_row=True).cached.shape == (4, 5)  # type: ignore[union-attr]
    assert StaticBatch(shape, CPU, None, one_row=False).cached is None


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replayed", [True, False])
@pytest.mark.parametrize(
    ("trainable", "changes", "prefix"),
    [
        ("all", {}, False),
        ("all", {"pooling": "mean"}, False),
        ("all", {"pooling": "first", "causal": True}, False),
        ("all", {"max_grad_norm": 1e9, "batch_tokens": 100}, False),
        ("lora", {}, False),
        ("all", {"class_weights": [1.0, 5.0, 0.5], "label_smoothing": 0.1}, False),
        ("last_block", {}, True),
        ("last_block", {"pooling": "mean"}, True),
        ("head", {}, True),
        ("head", {"pooling": "mean"}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [gpt2_folder, bert_folder])
def test_the_same_training(
    tmp_path: Path,
    make: Callable,
    trainable: str,
    changes: dict[str, Any],
    prefix: bool,
    replayed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses within 1e-6 with a schedule, clipping, kept rows, and batches of every size."""
    monkeypatch.setattr(cuda_graphs, "RecordedGraph", ReplayedLater)
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 64 if replayed else 0)
    monkeypatch.setattr(ReplayedLater, "made", 0)
    folder = make(tmp_path)
    expected, expected_weights = train(trainer_of(folder, trainable, **changes), fixed=False)
    trainer = trainer_of(folder, trainable, **changes)
    if prefix:
        trainer.cache = ActivationCache(trainer.model, [trainer.packer], Compute(CPU))
    else:
        trainer.cache = None
    found, weights = train(trainer, fixed=True)
    assert len(found) >= 9
    assert np.allclose(found, expected, rtol=0, atol=1e-6)
    assert ReplayedLater.made > 0 if replayed else ReplayedLater.made == 0
    if trainable == "head":  # elsewhere AdamW turns the rounding of gradients that are zero into steps
        assert all(torch.allclose(weights[name], w, rtol=0, atol=1e-6) for name, w in expected_weights.items())


def test_a_shape_is_recorded_at_its_second_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "RecordedGraph", ReplayedLater)
    monkeypatch.setattr(ReplayedLater, "made", 0)
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    trainer = trainer_of(gpt2_folder(tmp_path), "all")
    steps = trainer.make_graphed_steps()
    trainer._graphed_steps = steps
    counts = []
    for ids in ([0, 1], [1, 0], [0, 1], [11], [12], [2, 3, 4], [3, 2, 4]):
        trainer.queue_step([np.array(ids)])
        counts.append((steps.recorded, ReplayedLater.made))
    assert counts == [(0, 0), (1, 1), (1, 1), (1, 1), (2, 2), (2, 2), (2, 2)]


def test_what_can_t_be_recorded_is_run_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "RecordedGraph", fails)
    folder = gpt2_folder(tmp_path)
    expected, _ = train(trainer_of(folder, "all"), fixed=False)
    with pytest.warns(RuntimeWarning, match="can't be recorded .* not permitted") as said:
        found, _ = train(trainer_of(folder, "all"), fixed=True)
    assert len(said) == 1
    assert np.allclose(found, expected, rtol=0, atol=1e-6)


def test_a_step_that_is_not_finite_holds_back_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In replayed steps, too, and though nobody has looked at the result."""
    monkeypatch.setattr(cuda_graphs, "RecordedGraph", ReplayedLater)
    trainer = trainer_of(gpt2_folder(tmp_path), "all")
    trainer._graphed_steps = trainer.make_graphed_steps()
    for _ in range(2):
        trainer.queue_step([np.array([0, 1])])
    with torch.no_grad():
        kept = trainer.model.head.weight.clone()
        trainer.model.head.weight[0, 0] = torch.nan
    before = {name: w.clone() for name, w in trainer.model.state_dict().items()}
    queued = [trainer.queue_step([np.array([0, 1])])]
    with torch.no_grad():
        trainer.model.head.weight.copy_(kept)
    queued.append(trainer.queue_step([np.array([0, 1])]))
    before["head.weight"] = kept
    assert all(torch.equal(before[name], w) for name, w in trainer.model.state_dict().items())
    with pytest.raises(NonFiniteError, match="step 3"):
        queued[0].result()


def test_which_steps_are_taken(tmp_path: Path) -> None:
    shapes = GraphedSteps(768, CPU, lambda *_: torch.zeros(2), lambda: None)
    most = int(cuda_graphs.LAUNCH_BOUND / 768**2)
    assert shapes.is_launch_bound(np.array([most - 1, 1]))
    assert not shapes.is_launch_bound(np.array([most, 1]))
    assert not shapes.is_launch_bound(np.array([], dtype=np.int64))
    # On CPUs none; a kernel is a call there.
    trainer = trainer_of(gpt2_folder(tmp_path), "all")
    assert trainer._graphed_steps is None
    assert trainer.optimizer.param_groups[0]["capturable"] is False


class DisabledScaler:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def is_enabled(self) -> bool:
        return False


@pytest.mark.parametrize("changes", [
    {"cuda_graphs": False}, {"rates": DropoutRates(hidden=0.1)}, {"dtype": torch.float16},
], ids=str)  # fmt: skip
def test_what_turns_graphs_off(tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer_of(gpt2_folder(tmp_path), "all")
    monkeypatch.setattr(Trainer, "make_graphed_steps", lambda _: "made")
    # There is no such device here.
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.amp, "GradScaler", DisabledScaler)
    gpu = Compute(torch.device("cuda"), torch.bfloat16)
    on = Trainer(made.model, made.packer, made.settings, gpu)
    settings = replace(made.settings, cuda_graphs=changes.get("cuda_graphs", True))
    compute = replace(gpu, dtype=changes.get("dtype", gpu.dtype))
    off = Trainer(made.model, made.packer, settings, compute, rates=changes.get("rates"))
    assert (on._graphed_steps, off._graphed_steps) == ("made", None)


def test_no_memory_for_graphed_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing holds theirs any more when the step is computed without them; the training is the same."""
    folder = gpt2_folder(tmp_path)
    expected, _ = train(trainer_of(folder, "all"), fixed=False)
    trainer = trainer_of(folder, "all")
    trainer._graphed_steps = trainer.make_graphed_steps()
    held = weakref.ref(trainer._graphed_steps)
    alive = []
    compute = Trainer._compute_with_retry

    def noticed(self: Trainer, *given: Any) -> torch.Tensor:
        alive.append(held() is not None)
        return compute(self, *given)

    def full(self: GraphedSteps, *_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Trainer, "_compute_with_retry", noticed)
    monkeypatch.setattr(GraphedSteps, "_run", full)
    steps = [step for epoch in range(trainer.settings.epochs) for step in trainer.epoch_steps(epoch)]
    with pytest.warns(RuntimeWarning, match="recorded as CUDA graphs"):
        losses = [trainer.queue_step(step).result()[0] for step in steps]
    assert not any(alive) and len(alive) == len(steps)
    assert losses == pytest.approx(expected, abs=1e-6)
