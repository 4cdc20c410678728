"""The Triton kernels in Triton's interpreter; ``test_triton.py`` runs this file with TRITON_INTERPRET=1."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest
import torch
import triton_ops
from cases import ATTENTION, AttentionCase, offsets
from formulas import attention_formula
from models import LABELS, TEXTS, Folders, make_trainer
from pairwise import pairwise
from torch.utils._python_dispatch import TorchDispatchMode

from pyllmclf import UsageError, finetune, ops
from pyllmclf.kernels.tiles import FixedSchedule, Schedule, tile_rows

DTYPES = [torch.float32, torch.float16]
CASES = [
    *ATTENTION,
    AttentionCase((200, 3, 64, 17, 129), 2, 16, True),
    AttentionCase((200, 3, 64, 17, 129), 1, 96, False),
]


# Two layers of two heads: the interpreter is slow.
SMALL = {"gpt2": "long", "bert": "two_layers"}


def product(quick: Collection[tuple], **axes: list) -> list:
    """All combinations, the quick ones by default, the others with ``-m slow``. A GPU computes all of them."""
    return [
        pytest.param(*values, marks=() if values in quick else pytest.mark.slow)
        for values in itertools.product(*axes.values())
    ]


# Each case once, under each schedule and dtype in turn; the long one is slow.
ATTENDED = {"case": CASES, "scheduled": [True, False], "dtype": DTYPES}
WAYS = itertools.cycle(itertools.product(*list(ATTENDED.values())[1:]))
ONCE = [(case, *way) for case, way in zip(CASES, WAYS, strict=False) if sum(case.lengths) < 1000]
GROUPED = {"grouped": triton_ops.GROUPED, "scheduled": [True, False], "dtype": DTYPES}
GROUPED_ONCE = [(case, *way) for case, way in zip(triton_ops.GROUPED, WAYS, strict=False)]
SOME_ROWS = {"window": [None, (20, 3)], "causal": [True, False], "scheduled": [True, False], "dtype": DTYPES}


@pytest.mark.parametrize(("case", "scheduled", "dtype"), product(ONCE, **ATTENDED), ids=str)
def test_attention(case: AttentionCase, scheduled: bool, dtype: torch.dtype) -> None:
    triton_ops.check_attention(case, dtype, "cpu", scheduled=scheduled)


@pytest.mark.parametrize(("grouped", "scheduled", "dtype"), product(GROUPED_ONCE, **GROUPED), ids=str)
def test_grouped_attention(grouped: tuple[AttentionCase, int], scheduled: bool, dtype: torch.dtype) -> None:
    case, kv_heads = grouped
    triton_ops.check_attention(case, dtype, "cpu", scheduled=scheduled, kv_heads=kv_heads)


@pytest.mark.parametrize(("window", "causal", "scheduled", "dtype"), product(pairwise(SOME_ROWS), **SOME_ROWS), ids=str)
def test_attention_of_some_rows(
    window: tuple[int, int] | None, causal: bool, scheduled: bool, dtype: torch.dtype
) -> None:
    triton_ops.check_attention_of_some_rows(causal, dtype, "cpu", scheduled=scheduled, window=window)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "causal", "window"), [(6, 2, True, None), (4, 1, False, (20, 3))], ids=str
)
def test_grouped_attention_of_some_rows(
    heads: int, kv_heads: int, causal: bool, window: tuple[int, int] | None
) -> None:
    options = {"scheduled": causal, "window": window, "heads": heads, "kv_heads": kv_heads}
    triton_ops.check_attention_of_some_rows(causal, torch.float32, "cpu", **options)


def test_a_text_without_keys() -> None:
    """Queries of a text without keys give zeros, as in the reference ops."""
    q, k = torch.randn(3, 1, 8), torch.randn(2, 1, 8)
    cu_q, cu_k = torch.tensor([0, 1, 3], dtype=torch.int32), torch.tensor([0, 2, 2], dtype=torch.int32)
    results = []
    for backend in ("triton", "reference"):
        with ops.use_backend(backend):
            queries = q.clone().requires_grad_()
            at = torch.zeros(3, dtype=torch.int32)
            out = ops.attention(queries, k, k, cu_q, cu_k, 2, 2, causal=False, query_positions=at)
            results.append((out.detach(), *torch.autograd.grad(out.sum(), queries)))
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact)


@pytest.mark.parametrize(
    ("p", "dtype"),
    [
        (0.1, torch.float32),
        pytest.param(0.75, torch.float16, marks=pytest.mark.slow),
        pytest.param(0.1, torch.float16, marks=pytest.mark.slow),
        pytest.param(0.75, torch.float32, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_dropout(p: float, dtype: torch.dtype) -> None:
    triton_ops.check_dropout(p, dtype, "cpu")
    triton_ops.check_dropout_of_attention(p, 2, 2, dtype, "cpu")


def test_dropout_of_grouped_attention() -> None:
    triton_ops.check_dropout_of_attention(0.1, 4, 2, torch.float32, "cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", triton_ops.LORA, ids=str)
def test_lora_linear(shape: tuple[int, int, int, int], bias: bool, dtype: torch.dtype) -> None:
    triton_ops.check_lora(shape, dtype, "cpu", bias=bias)


@pytest.mark.parametrize(
    ("family", "trainable"),
    [
        pytest.param("gpt2", "all", marks=pytest.mark.slow),
        pytest.param("bert", "lora", marks=pytest.mark.slow),
        pytest.param("gpt2", "lora", marks=pytest.mark.slow),
        pytest.param("bert", "all", marks=pytest.mark.slow),
    ],
)
def test_training(model_folder: Folders, family: str, trainable: str) -> None:
    """A whole training has the loss of one on the reference ops."""
    folder = model_folder(family, SMALL[family])
    arguments = {"trainable": trainable, "epochs": 1, "batch_size": 4, "dropout": 0.1, "device": "cpu"}
    actual, expected = (
        finetune(folder, (TEXTS, LABELS), backend=backend, progress=False, **arguments).history[0].train_loss
        for backend in ("triton", "reference")
    )
    assert abs(actual - expected) < 1e-5


class Waits(TorchDispatchMode):
    """Records ops that make the host wait for a GPU: reading numbers back, and making tensors from host memory."""

    NAMES = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "is_nonzero", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.recorded: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.recorded.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("family", "trainable", "changes"),
    [
        ("gpt2", "all", {}),
        pytest.param("gpt2", "all", {"pooling": "mean"}, marks=pytest.mark.slow),
        ("gpt2", "lora", {}),
        ("gpt2", "last_block", {}),
        ("gpt2", "head", {}),
        ("bert", "all", {}),
    ],
    ids=str,
)
def test_fixed_steps(model_folder: Folders, family: str, trainable: str, changes: dict[str, str]) -> None:
    """Steps on static batches have the losses of ordinary steps, and never make the host wait."""
    losses = []
    for fixed in (False, True):
        arguments = {"batch_size": 3, "epochs": 1, "max_grad_norm": 1.0, "backend": "triton"}
        trainer = make_trainer(model_folder(family, SMALL[family]), TEXTS, LABELS, trainable, **arguments | changes)
        trainer._graphed_steps = trainer.make_graphed_steps() if fixed else None
        if trainer._graphed_steps is not None:
            trainer._graphed_steps._can_record = False  # recording needs a GPU
        steps = list(trainer.epoch_steps(0))[:2]  # the second has the weights that the first has changed
        losses.append([trainer.result_of(trainer.queue_step(step))[0] for step in steps])
        if trainer._graphed_steps is None:
            continue
        (shape_steps, *_) = trainer._graphed_steps._steps.values()
        static = shape_steps.static
        if trainable in ("all", "lora"):  # otherwise attention has one query, which is not Triton's on a CPU
            assert static._schedule is not None and static._schedule._made
        ops.drop_gradient_buffers(trainer.model.parameters())  # only CPUs have them
        with Waits() as waits:
            trainer._compute_static(static.batch, static.cached)
        assert not waits.recorded
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_fixed_steps_of_long_texts(model_folder: Folders) -> None:
    """Static batches also hold texts of more than one tile."""
    losses = []
    for fixed in (False, True):
        folder = model_folder("gpt2", "long")
        arguments = {"batch_size": 3, "epochs": 1, "backend": "triton"}
        trainer = make_trainer(folder, ["a" * 150, "b" * 7, "c" * 65, "d" * 64], [0, 1, 2, 0], "all", **arguments)
        trainer._graphed_steps = trainer.make_graphed_steps() if fixed else None
        if trainer._graphed_steps is not None:
            trainer._graphed_steps._can_record = False  # recording needs a GPU
        losses.append([trainer.result_of(trainer.queue_step(step))[0] for step in trainer.epoch_steps(0)])
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-5)


def test_waiting_is_noticed() -> None:
    with Waits() as waits:
        torch.tensor(1.0)
        torch.ones(()).item()
        bool(torch.ones(()) > 0)
    assert waits.recorded == {"lift_fresh", "_local_scalar_dense"}


def test_what_is_refused() -> None:
    cu = torch.tensor([0, 4], dtype=torch.int32)
    with ops.use_backend("triton"):
        wide = torch.zeros(4, 1, 257)
        with pytest.raises(UsageError, match="head_dim of 257"):
            ops.attention(wide, wide, wide, cu, cu, 4, 4, causal=True)
        x = torch.zeros(4, 1, 8)
        schedule = Schedule(cu, cu, torch.device("cpu"))
        with pytest.raises(UsageError, match="schedule is that of another batch"):
            ops.attention(x[:3], x[:3], x[:3], cu - 1, cu - 1, 4, 4, causal=True, schedule=schedule)
        x = x.bfloat16()
        with pytest.raises(UsageError, match="computes float32, float16"):
            ops.attention(x, x, x, cu, cu, 4, 4, causal=True)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1)])
def test_pooled_query(heads: int, kv_heads: int) -> None:
    """Attention with one query per text uses the tiles of keys of the whole batch."""
    lengths = (150, 1, 90, 5, 65)
    cu, generator = offsets(lengths), torch.Generator().manual_seed(3)
    last = cu[1:].long() - 1
    at = torch.tensor(lengths, dtype=torch.int32) - 1
    for causal in (True, False):
        schedule = Schedule(cu, cu, torch.device("cpu")).pooled(causal=causal)

        def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal=causal, schedule=schedule) -> torch.Tensor:
            cu_q = torch.arange(len(lengths) + 1, dtype=torch.int32)
            options = {"causal": causal, "query_positions": at, "schedule": schedule}
            return ops.attention(q, k, v, cu_q, cu, 1, 150, **options)

        def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal=causal) -> torch.Tensor:
            full = torch.zeros(sum(lengths), heads, 16, dtype=torch.float64).index_copy(0, last, q)
            k, v = (triton_ops.repeated(t, heads) for t in (k, v))
            return attention_formula(full, k, v, lengths, causal, None)[last]

        sizes = (5, heads), (sum(lengths), kv_heads), (sum(lengths), kv_heads)
        parts = [torch.randn(*size, 16, generator=generator) for size in sizes]
        triton_ops.compare(run, formula, parts, torch.float32, "cpu")


@pytest.mark.parametrize("long", [32, 64, 128])  # rows per tile of a long text
@pytest.mark.parametrize("longest", [64, 256])
def test_schedule_of_a_shape(longest: int, long: int) -> None:
    """A shape's tables keep their addresses, cover every batch of the shape, and name no other tile of its texts."""
    rows, texts = 512, 9
    schedule = FixedSchedule(texts, rows, longest, torch.device("cpu"))
    tables = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, longest + 1, (texts,), generator=generator)
        while lengths.sum() > rows - 1:
            lengths = (lengths * 3 // 4).clamp(min=1)
        lengths[-1] += min(rows - int(lengths.sum()), longest - int(lengths[-1]))
        cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        schedule.load(cu)
        for side, causal in (("q", True), ("k", True), ("q", False), ("k", False)):
            expected = sorted(
                (int(lengths[text]) > 64, text, first)
                for tiles in Schedule(cu, cu, torch.device("cpu")).tiles(side, long, causal=causal)
                for text, first in tiles.table.tolist()
            )
            launches, entries = schedule.tiles(side, long, causal=causal), []
            for tiles in launches:
                tables.append((side, causal, tiles.rows, tiles.count, tiles.table.data_ptr()))
                used = [entry for entry in tiles.table.tolist() if entry[1] < lengths[entry[0]]]
                assert tiles.table[: len(used)].tolist() == used  # unused entries are at the end
                entries += [(tiles is not launches[-1], *entry) for entry in used]
            assert sorted(entries) == expected
    assert len(set(tables)) == 4 * (1 + (longest > 64))


def test_schedule() -> None:
    """Every row of every text lies in exactly one tile, and tiles with the most work come first."""
    lengths = torch.tensor([3, 0, 300, 64, 65, 17, 128])
    cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    for causal in (True, False):
        schedule = Schedule(cu, cu, torch.device("cpu"))
        for side in ("q", "k"):
            covered = [torch.zeros(n, dtype=torch.int64) for n in lengths.tolist()]
            for tiles in schedule.tiles(side, 128, causal=causal):
                assert tiles.table is not None and len(tiles.table) == tiles.count
                work = []
                for text, first in tiles.table.tolist():
                    covered[text][first : first + tiles.rows] += 1
                    length = int(lengths[text])
                    work.append(
                        length if not causal else min(first + tiles.rows, length) if side == "q" else length - first
                    )
                assert work == sorted(work, reverse=True)
                assert (tiles.rows == 128) is (int(lengths[tiles.table[:, 0].long()].max()) > 64)
            assert all((rows == 1).all() for rows in covered)
        assert schedule.tiles("q", 128, causal=causal) is schedule.tiles("q", 128, causal=causal)
    assert [tile_rows(n, 128) for n in (1, 16, 17, 64, 65)] == [16, 16, 32, 64, 128]
    assert [tile_rows(n, 32) for n in (1, 17, 33, 64, 65)] == [16, 32, 32, 32, 32]
