"""The activation cache: trainings with and without it are equal, and no stale or damaged activations are used."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import bert_folder, gpt2_folder, make_trainer
from pairwise import pairwise
from torch import Tensor

import pyllmclf
from pyllmclf import ResourceError, UsageError, finetune
from pyllmclf.data.packing import token_budget_batches
from pyllmclf.models.layers import DropoutRates
from pyllmclf.models.sequence_classifier import SequenceClassifier
from pyllmclf.settings import Settings
from pyllmclf.training import activation_cache as frozen_prefix
from pyllmclf.training import activation_storage as prefix_storage
from pyllmclf.training.activation_cache import ActivationCache, Plan, frozen_stages, why_not
from pyllmclf.training.activation_storage import choose_place
from pyllmclf.training.prepare import prepare
from pyllmclf.training.trainer import Trainer

# Of other lengths and of the same ones; two are there twice.
TEXTS = [f"{a} {b * (n + 1)}" for n, a in enumerate(("red", "blue", "green", "an ox")) for b in ("cat ", "dog", "x")]
TEXTS += [TEXTS[4], TEXTS[7]]
LABELS = [int("cat" in text) for text in TEXTS]
LAST_LAYER = {"layers": (2,), "rank": 4, "dropout": 0.2}
TRAINABLE: dict[str, dict[str, Any]] = {
    "head": {"trainable": "head"},
    "last_block": {"trainable": "last_block"},
    "last_2_blocks": {"trainable": "last_2_blocks"},
    "lora": {"trainable": "lora", "lora": LAST_LAYER},
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_folder(tmp_path_factory.mktemp("gpt2"), n_classes=2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"), n_classes=2)


ARGUMENTS: dict[str, Any] = {
    "train": (TEXTS, LABELS),
    "trainable": "last_block",
    "epochs": 5,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "validation": (TEXTS[:5], LABELS[:5]),
    "progress": False,
}


def run(model: Path, **changes: Any) -> pyllmclf.FinetuneResult:
    return finetune(model, **(ARGUMENTS | changes))


def weights(result: pyllmclf.FinetuneResult) -> dict[str, Tensor]:
    return result.classifier.state.model.state_dict()


def losses(result: pyllmclf.FinetuneResult) -> list[float]:
    return [loss for r in result.history for loss in (r.train_loss, r.validation_loss) if loss is not None]


def same_bits(one: pyllmclf.FinetuneResult, other: pyllmclf.FinetuneResult) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return losses(one) == losses(other) and all(torch.equal(a, b) for a, b in pairs)


class Counted:
    """How many rows the embeddings have made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        advance = SequenceClassifier.advance

        def counting(model: SequenceClassifier, x: Tensor | None, batch: Any, start: int, *rest: Any, **named: Any):
            self.rows += len(batch.input_ids) if start == 0 else 0
            return advance(model, x, batch, start, *rest, **named)

        monkeypatch.setattr(SequenceClassifier, "advance", counting)


# --- the same training ----------------------------------------------------------------------------------------------


SAME = {"family": ["gpt2", "bert"], "trainable": list(TRAINABLE), "pooling": ["last", "mean", "first"]}


@pytest.mark.parametrize(("family", "trainable", "pooling"), pairwise(SAME))
def test_the_same_as_without(family: str, trainable: str, pooling: str, request: pytest.FixtureRequest) -> None:
    """Twenty steps: within 1e-6 of computing every layer each time; the same bits wherever the rows lie."""
    folder = request.getfixturevalue(family)
    arguments = TRAINABLE[trainable] | {"pooling": pooling}
    off = run(folder, cache="off", **arguments)
    kept = {cache: run(folder, cache=cache, **arguments) for cache in ("auto", "device", "memory", "disk")}
    assert off.timing["steps"] == 20
    assert all(same_bits(kept["auto"], other) for other in kept.values())
    assert np.allclose(losses(off), losses(kept["auto"]), rtol=0, atol=1e-6)
    # Not the weights: where there is no true gradient, AdamW turns its rounding into steps.
    assert np.allclose(off.classifier.logits(TEXTS), kept["auto"].classifier.logits(TEXTS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("trainable", ["head", "last_block"])
def test_over_the_budget(gpt2: Path, trainable: str, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    """What doesn't fit is computed each time, and that is said once."""
    everything = run(gpt2, trainable=trainable)
    rows = sum(len(text) for text in set(TEXTS)) if trainable == "last_block" else len(set(TEXTS))
    budget = int(rows * share) * 32 * 4
    part = run(gpt2, trainable=trainable, cache="memory", cache_budget=budget, progress=True)
    assert np.allclose(losses(part), losses(everything), rtol=0, atol=1e-6)
    assert capsys.readouterr().err.count("don't fit the budget and are recomputed each time") == 1


def test_each_distinct_text_is_computed_once(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all epochs, with the validation texts, which are among the training texts here.

    Without kept rows there is one pass more, at the end: the statistics of what the head reads.
    """
    counted = Counted(monkeypatch)
    run(gpt2)
    assert counted.rows == sum(len(text) for text in set(TEXTS))
    counted.rows = 0
    run(gpt2, cache="off")
    assert counted.rows == 6 * sum(len(text) for text in TEXTS + TEXTS[:5])
    counted.rows = 0
    run(gpt2, cache_budget=0)
    assert counted.rows == 6 * sum(len(text) for text in TEXTS + TEXTS[:5])


@pytest.mark.parametrize(("model", "trainable", "stages", "rows"), [
    ("gpt2", "head", 5, "one"), ("gpt2", "last_block", 3, "all"), ("gpt2", "last_2_blocks", 2, "all"),
    ("gpt2", "all", 0, "all"), ("bert", "head", 5, "one"), ("bert", "last_block", 3, "all"),
])  # fmt: skip
def test_frozen_stages(model: str, trainable: str, stages: int, rows: str, request: pytest.FixtureRequest) -> None:
    """With the head alone, one row is kept of each text."""
    trainer = stopped(request.getfixturevalue(model), trainable=trainable)
    assert frozen_stages(trainer.model) == stages
    assert (trainer.cache is None) is (stages == 0)
    if trainer.cache is not None:
        distinct = len(set(TEXTS)) if rows == "one" else sum(trainer.packer.row_counts[: len(TEXTS) - 2])
        assert trainer.cache.plan.rows == trainer.cache.plan.distinct_rows == distinct


def stopped(model: Path, **changes: Any) -> Trainer:
    """The trainer before its first step."""
    with prepare(Settings(model=model, **(ARGUMENTS | changes))) as prepared:
        return prepared.trainer


# --- when nothing is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dropout": 0.1}, "dropout changes them in each epoch"),
        ({"cache": "memory", "trainable": "all"}, "the embeddings are trained"),
        ({"cache": "memory", "trainable": "lora"}, "no block is frozen"),
        ({"cache": "memory", "epochs": 1}, "a single epoch reads each text once"),
        ({"cache": "off"}, ""),
        ({"trainable": "all"}, ""),
    ],
    ids=str,
)
def test_nothing_is_kept(gpt2: Path, changes: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it would change results or gain nothing; said where somebody would expect it."""
    assert stopped(gpt2, progress=True, **changes).cache is None
    error = capsys.readouterr().err
    assert (f"activations of frozen layers are not cached: {why}" in error) if why else "frozen layers" not in error


def test_dropout_that_changes_no_frozen_layer(gpt2: Path) -> None:
    model = stopped(gpt2).model
    assert why_not(model, DropoutRates(head=0.5, lora=0.5), epochs=2) is None
    for site in ("embedding", "attention", "hidden"):
        assert why_not(model, DropoutRates(**{site: 0.5}), epochs=2) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"cache": "tape"},
        {"cache_budget": -1},
        {"cache_budget": 1.5},
        {"cache_budget": True},
    ],
    ids=str,
)
def test_bad_arguments(gpt2: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cache"):
        run(gpt2, **arguments)


# --- the plan -------------------------------------------------------------------------------------------------------


def test_plan_keeps_the_longest_texts() -> None:
    first, counts = np.array([0, 1, 0, 3, 4]), np.array([2, 9, 2, 4, 5])
    distinct = np.array([0, 1, 3, 4])

    def together(budget: int) -> Callable[[np.ndarray], list[np.ndarray]]:
        return lambda kept: [kept[chosen] for chosen in token_budget_batches(counts[kept], budget)]

    plan = Plan.make(first, distinct, counts, counts, 16, together(9))
    assert (plan.rows, plan.distinct_rows) == (16, 20)  # the next longest does not fit, and a shorter one does
    assert [batch.tolist() for batch in plan.batches] == [[0, 4], [1]]
    assert plan.starts.tolist() == [0, 7, 0, -1, 2]
    everything = Plan.make(first, distinct, counts, counts, 20, together(11))
    assert [batch.tolist() for batch in everything.batches] == [[0, 3, 4], [1]]
    assert everything.starts.tolist() == [0, 11, 0, 2, 6]
    longest = np.array([1000, *[10] * 500])
    short = Plan.make(np.arange(501), np.arange(501), longest, longest, 999, lambda kept: [kept])
    assert short.rows == 990
    nothing = Plan.make(first, distinct, counts, counts, 0, together(9))
    assert (nothing.rows, nothing.starts.tolist()) == (0, [-1] * 5)


def test_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest that holds all, or that which holds most."""
    free = {"device": 10, "memory": 100, "disk": 1000}
    monkeypatch.setattr(prefix_storage, "_share_of_free", lambda kind, *_: free[kind])
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def place(cache: str, budget: int | None, need: int, device: torch.device) -> tuple[str, int]:
        chosen = choose_place(cache, budget, need, device, None)
        return chosen.kind, chosen.bytes

    assert place("auto", None, 10, cuda) == ("device", 10)
    assert place("auto", None, 11, cuda) == ("memory", 100)
    assert place("auto", None, 10, cpu) == ("memory", 100)
    assert place("auto", None, 101, cpu) == ("disk", 1000)
    assert place("auto", None, 1001, cpu) == ("disk", 1000)
    assert place("auto", 50, 101, cpu) == ("memory", 50)
    assert place("disk", None, 1, cpu) == ("disk", 1000)
    assert place("disk", 5000, 1, cpu) == ("disk", 5000)
    assert place("device", None, 1, cpu) == ("memory", 100)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_goes_with_the_process(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", str(tmp_path))
    trainer = stopped(gpt2, cache="disk")
    assert trainer.cache is not None
    trainer.cache.fill()
    assert trainer.cache.place.kind == "disk"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_kept_file_is_found_again(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same texts and weights alone."""
    first = run(gpt2, cache="disk", cache_dir=tmp_path)
    (folder,) = tmp_path.glob("prefix-*")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "prefix.json", "rows.bin"]
    counted = Counted(monkeypatch)
    assert same_bits(run(gpt2, cache="disk", cache_dir=tmp_path), first)
    assert counted.rows == 0
    for changes in (
        {"max_length": 4},
        {"trainable": "last_2_blocks"},
        {"weights": "random"},
        {"causal": False},
        {"backend": "reference"},
        {"validation": None},  # the validation texts are training texts: the same rows, and the same file
    ):
        counted.rows = 0
        run(gpt2, cache="disk", cache_dir=tmp_path, **changes)
        assert (counted.rows > 0) is ("validation" not in changes)
    assert len(list(tmp_path.glob("prefix-*"))) == 6


@pytest.mark.parametrize("damage", ["a bit", "the end", "no manifest", "no rows", "another key"])
def test_a_damaged_file_is_made_anew(gpt2: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(gpt2, cache="disk", cache_dir=tmp_path)
    (folder,) = tmp_path.glob("prefix-*")
    rows = folder / "rows.bin"
    content = bytearray(rows.read_bytes())
    if damage == "a bit":
        content[1000] ^= 1
        rows.write_bytes(content)
    elif damage == "the end":
        rows.write_bytes(content[:-4])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "no rows":
        rows.unlink()
    else:
        (folder / "prefix.json").write_text("{}")
    counted = Counted(monkeypatch)
    assert same_bits(run(gpt2, cache="disk", cache_dir=tmp_path), expected)
    assert counted.rows > 0
    assert len(rows.read_bytes()) == len(content)


def test_changed_weights_are_noticed(gpt2: Path, tmp_path: Path) -> None:
    """One element of one frozen matrix."""
    trainer = stopped(gpt2, cache="disk", cache_dir=tmp_path)
    assert trainer.cache is not None
    trainer.cache.fill()
    again = stopped(gpt2, cache="disk", cache_dir=tmp_path)
    assert again.cache is not None
    with torch.no_grad():
        again.model.backbone.blocks[1].get_parameter("mlp.c_fc.weight")[0, 0] += 1e-3
    again.cache.fill()
    assert (trainer.cache.reused, again.cache.reused) == (False, False)
    assert len(list(tmp_path.glob("prefix-*"))) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from pyllmclf import finetune
from pyllmclf.training.activation_cache import ActivationCache

compute = ActivationCache._compute
calls = []
def killed(self, texts):
    calls.append(texts)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(self, texts)
ActivationCache._compute = killed
import pyllmclf.training.activation_cache as module
module.TOKEN_BUDGET = {"cpu": 40}
finetune(sys.argv[1], (eval(sys.argv[2]), eval(sys.argv[3])), trainable="last_block", cache="disk",
         cache_dir=sys.argv[4], progress=False)
"""


def test_killed_while_writing(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run finds nothing, writes it all, and removes what the other left."""
    folder = tmp_path / "kept"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(gpt2), repr(TEXTS), repr(LABELS), str(folder)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.suffix for path in folder.iterdir() if "prefix" in path.name] == [".tmp"]
    (folder / ".tokens-0123456789abcdef.ff00.tmp").mkdir()
    counted = Counted(monkeypatch)
    run(gpt2, cache="disk", cache_dir=folder)
    assert counted.rows == sum(len(text) for text in set(TEXTS))
    assert [path.name for path in folder.glob(".*")] == [".locks"]
    (kept,) = folder.glob("prefix-*")
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "prefix.json", "rows.bin"]


def test_no_room(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear sentence."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_storage, "_write", full)
    for folder in (None, tmp_path):
        with pytest.raises(ResourceError, match="No space left"):
            run(gpt2, cache="disk", cache_dir=folder)
    assert not list(tmp_path.glob("prefix-*"))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("cache", ["disk", "memory"])
def test_no_budget(gpt2: Path, tmp_path: Path, cache: str, folder: bool) -> None:
    """Nothing is kept, and that is said, also without progress."""
    expected = run(gpt2, cache="off")
    with pytest.warns(RuntimeWarning, match="don't fit the budget .* none is cached"):
        found = run(gpt2, cache=cache, cache_budget=100, cache_dir=tmp_path if folder else None)
    assert np.allclose(losses(found), losses(expected), rtol=0, atol=1e-6)


def test_the_plan_does_not_depend_on_what_the_file_takes(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk with room for one file, and little beside it: the second run finds the first one's."""
    need = sum(len(text) for text in set(TEXTS)) * 32 * 4
    disk = int(2.6 * need)

    def usage(_: Path) -> Any:
        used = sum(path.stat().st_size for path in tmp_path.glob("prefix-*/rows.bin"))
        return SimpleNamespace(free=disk - used)

    monkeypatch.setattr(prefix_storage.shutil, "disk_usage", usage)
    counted = Counted(monkeypatch)
    rows = []
    for _ in range(3):
        counted.rows = 0
        run(gpt2, cache="disk", cache_dir=tmp_path)
        rows.append(counted.rows)
    assert rows == [need // 128, 0, 0]
    # Rows of other weights take the place of those that were not used for longest.
    run(gpt2, cache="disk", cache_dir=tmp_path, weights="random")
    assert len(list(tmp_path.glob("prefix-*"))) == 1


def test_a_single_epoch_reads_what_is_kept(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    run(gpt2, epochs=1, cache_dir=tmp_path)
    assert not list(tmp_path.glob("prefix-*"))
    run(gpt2, cache="disk", cache_dir=tmp_path)
    counted.rows = 0
    run(gpt2, epochs=1, cache_dir=tmp_path)
    assert counted.rows == 0


def test_padding_that_looks_like_a_text(gpt2: Path, tmp_path: Path) -> None:
    """The same tokens and rows, but of other real lengths: another row is read."""
    arguments = {"trainable": "head", "padding": 8, "pooling": "last", "cache": "disk", "cache_dir": tmp_path}
    prefixes = []
    for texts in (["hi", "yo", "hello"], ["hi!", "yo!", "hello!"]):
        trainer = make_trainer(gpt2, texts, [0, 1, 0], epochs=3, **arguments)  # type: ignore[arg-type]
        trainer.packer.row_options["pad_token"] = ord("!")
        assert trainer.cache is not None
        trainer.cache._all.row_options["pad_token"] = ord("!")
        trainer.cache._key_of_state = None  # that of other padding
        trainer.cache.fill()
        prefixes.append(trainer.cache)
    assert not prefixes[1].reused
    assert not torch.equal(prefixes[0]._rows, prefixes[1]._rows)


@pytest.mark.parametrize("what", ["backend", "precision", "mkldnn"])
def test_arithmetic_is_part_of_the_key(gpt2: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(gpt2, cache="disk", cache_dir=tmp_path)
    if what == "backend":
        monkeypatch.setenv("PYLLMCLF_BACKEND", "reference")
    elif what == "mkldnn":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    else:
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    counted = Counted(monkeypatch)
    run(gpt2, cache="disk", cache_dir=tmp_path)
    assert counted.rows > 0


MANY = """
import sys
from pathlib import Path
import torch
from pyllmclf.training.activation_storage import in_shared_file

(Path(sys.argv[1]) / sys.argv[2]).touch()
while len(list(Path(sys.argv[1]).iterdir())) < 4:
    pass
folder = Path(sys.argv[1]) / "kept"
for i in range(30):
    blocks = lambda: iter([torch.full((5, 4), float(i))])
    rows, found = in_shared_file(folder, {"sha256": f"{i:016x}"}, (5, 4), torch.float32, blocks)
    assert rows.eq(i).all()
"""


def test_runs_at_the_same_time_share_a_folder(tmp_path: Path) -> None:
    """Each finds what another has made, or makes it; none is in another's way."""
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), f"ready-{n}"], stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(list((tmp_path / "kept").glob("prefix-*"))) == 30


@pytest.mark.parametrize("make", [gpt2_folder, bert_folder])
def test_bf16_rows_take_half_the_memory(make: Callable, tmp_path: Path) -> None:
    trainer = stopped(make(tmp_path, n_classes=2), dtype="bfloat16", cache="disk", cache_dir=tmp_path / "kept")
    assert trainer.cache is not None
    ids = np.arange(4)
    known = trainer.cache.lookup(trainer.packer, ids)
    assert known is not None and known[1].dtype == torch.bfloat16
    batch = trainer.packer.batch(ids)
    computed = trainer.model.advance(None, batch, 0, 3, dtype=torch.bfloat16)
    assert computed.dtype == torch.float32  # on a CPU, matmuls alone are in bf16
    assert torch.allclose(known[1].float(), computed, rtol=2**-8, atol=1e-4)
    found, expected = (trainer.model(batch, dtype=torch.bfloat16, cached=rows) for rows in (known, (3, computed)))
    assert torch.allclose(found, expected, rtol=0, atol=2**-7)


def test_other_texts_are_not_known(gpt2: Path) -> None:
    trainer, other = stopped(gpt2), stopped(gpt2)
    assert isinstance(trainer.cache, ActivationCache)
    assert trainer.cache.lookup(other.packer, np.arange(3)) is None
    assert frozen_prefix.frozen_stages(trainer.model) == 3
