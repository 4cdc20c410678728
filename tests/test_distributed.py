"""Several processes compute what one computes, and one that ends ends all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import make_folder
from test_resume import NANO, TEXTS, VALIDATION, VARIANTS, untimed

import pyllmclf
from pyllmclf.distributed import Processes
from pyllmclf.training.strategy import choose_strategy
from pyllmclf.training.trainable import set_trainable

SCRIPT = Path(__file__).parent / "distributed_training.py"
SECONDS = 240
COMMON = {name: value for name, value in NANO.items() if name not in ("train", "progress")} | {"epochs": 4}
CASES: dict[str, dict[str, Any]] = {
    "all_with_dropout": VARIANTS["all_with_dropout"],
    "kept_rows": VARIANTS["kept_rows"] | {"validation": VALIDATION},
    "lora_with_dropout": VARIANTS["lora_with_dropout"],
    "accumulated_and_clipped": VARIANTS["accumulated_and_clipped"] | {"epochs": 5},
    "budget_and_windows": VARIANTS["budget_and_windows"],
    "one_text_for_two": {"trainable": "last_block", "batch_size": 1, "epochs": 1, "test": VALIDATION},
    "calibrated_best": VARIANTS["calibrated_best"],
}
SHARDED: dict[str, dict[str, Any]] = {
    name: CASES[name] | {"trainable": "all", "strategy": "fsdp"}
    for name in ("all_with_dropout", "accumulated_and_clipped", "budget_and_windows", "calibrated_best")
}
for family in ("bert", "modernbert"):
    SHARDED[family] = SHARDED["all_with_dropout"] | {"family": family, "validation": VALIDATION}


def train(folder: Path, processes: int, *, restarts: int = 0, kill: Any = None, **arguments: Any) -> Any:
    """Runs the script; returns (exit code, standard error, what each process found)."""
    folder.mkdir(exist_ok=True)
    given = {"arguments": COMMON | arguments, "out": str(folder), "kill": kill}
    (folder / "arguments.json").write_text(json.dumps(given))
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYLLMCLF_DISTRIBUTED_TIMEOUT": "60"}
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder / "arguments.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    found = {
        rank: torch.load(path, weights_only=False)
        for rank in range(processes)
        if (path := folder / f"{rank}.pt").exists()
    }
    return done.returncode, done.stderr, found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What one process finds, trained once for equal arguments."""
    found: dict[str, dict[str, Any]] = {}

    def one(arguments: dict[str, Any]) -> dict[str, Any]:
        key = json.dumps(arguments, sort_keys=True)
        if key not in found:
            code, err, results = train(tmp_path_factory.mktemp("one"), 1, **arguments)
            assert code == 0, err
            found[key] = results[0]
        return found[key]

    return one


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small models that have no name."""
    path = tmp_path_factory.mktemp("models")
    return {family: str(make_folder(path / family, family)) for family in ("bert", "modernbert")}


def compare(found: dict[int, dict[str, Any]], one: dict[str, Any], *, steps: int = 20, rtol: float = 1e-5) -> None:
    """Each process's losses and metrics with those of one process, and the processes' bits with each other's."""
    for two in found.values():
        assert len(two["losses"]) >= steps
        np.testing.assert_allclose(two["losses"][:20], one["losses"][:20], rtol=rtol)
        assert len(two["history"]) == len(one["history"])
        for part, figures in one["metrics"].items():
            assert two["metrics"][part]["accuracy"] == figures["accuracy"]
            assert two["metrics"][part]["log_loss"] == pytest.approx(figures["log_loss"], rel=10 * rtol)
        for name, weight in found[0]["weights"].items():
            assert torch.equal(weight, two["weights"][name]), name
        assert found[0]["metrics"].keys() == two["metrics"].keys()
        np.testing.assert_array_equal(found[0]["logits"], two["logits"])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_computes(
    alone: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path, case: str
) -> None:
    code, err, found = train(tmp_path / "two", 2, **CASES[case])
    assert code == 0, err
    assert found.keys() == {0, 1}
    compare(found, alone(CASES[case]), steps={"one_text_for_two": 1, "calibrated_best": 5}.get(case, 20))


@pytest.mark.parametrize("case", SHARDED)
def test_processes_with_parts_of_the_model_compute_what_one_computes(
    alone: Callable[[dict[str, Any]], dict[str, Any]], folders: dict[str, str], tmp_path: Path, case: str
) -> None:
    arguments = SHARDED[case]
    if "family" in arguments:
        arguments = {name: value for name, value in arguments.items() if name != "family"} | {"model": folders[case]}
    saves = {"output_dir": str(tmp_path / "run"), "save_every_steps": 3}
    code, err, found = train(tmp_path / "two", 2, **arguments, **saves)
    assert code == 0, err
    assert found.keys() == {0, 1}
    one = alone({name: value for name, value in arguments.items() if name != "strategy"})
    compare(found, one, steps={"calibrated_best": 5}.get(case, 20))
    assert sum(two["held"] for two in found.values()) == one["held"]
    assert max(two["held"] for two in found.values()) < 0.52 * one["held"]
    # What the first process wrote is whole: it opens in one process, with the same answers.
    loaded = pyllmclf.load(tmp_path / "run" / ("best" if "early_stopping" in arguments else "last"), device="cpu")
    np.testing.assert_allclose(loaded.logits(TEXTS), found[0]["logits"], rtol=1e-5, atol=1e-6)


def test_three_processes_of_which_some_have_no_part_of_a_parameter(
    alone: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    """The head has two rows."""
    arguments = SHARDED["all_with_dropout"]
    code, err, found = train(tmp_path, 3, **arguments)
    assert code == 0, err
    assert found.keys() == {0, 1, 2}
    compare(found, alone({name: value for name, value in arguments.items() if name != "strategy"}))


class TwoHere(Processes):
    """Two processes of one machine, as the first sees them."""

    count = local_count = 2


@pytest.mark.parametrize(
    ("asked", "trainable", "dtype", "free", "chosen"),
    [
        ("auto", "all", torch.float32, 16.1, "ddp"),
        ("auto", "all", torch.float32, 15.9, "fsdp"),
        ("auto", "all", torch.bfloat16, 16.1, "fsdp"),
        ("auto", "last_block", torch.float32, 1.0, "ddp"),
        ("ddp", "all", torch.float32, 1.0, "ddp"),
        ("fsdp", "all", torch.float32, 99.0, "fsdp"),
    ],
)
def test_strategy_is_chosen_by_memory(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked: str,
    trainable: str,
    dtype: torch.dtype,
    free: float,
    chosen: str,
) -> None:
    """12 bytes for each parameter, of three quarters of what is free: 16."""
    model = pyllmclf.load(make_folder(tmp_path / "model", "gpt2"), device="cpu").state.model
    set_trainable(model, trainable, None, torch.Generator())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr("pyllmclf.training.strategy.available_memory", lambda: int(2 * free * parameters))
    assert choose_strategy(asked, model, TwoHere(), torch.device("cpu"), dtype) == chosen
    assert choose_strategy(asked, model, Processes(), torch.device("cpu"), dtype) == "ddp"


def test_parts_of_the_model_in_bfloat16(tmp_path: Path) -> None:
    """Blocks get their weights in the dtype in which they compute: the same numbers as cast later."""
    arguments = {"trainable": "all", "dtype": "bfloat16", "validation": VALIDATION}
    results = {}
    for strategy in ("ddp", "fsdp"):
        code, err, results[strategy] = train(tmp_path / strategy, 2, strategy=strategy, **arguments)
        assert code == 0, err
    compare(results["fsdp"], results["ddp"][0])
    assert results["fsdp"][0]["held"] < 0.52 * results["ddp"][0]["held"]


INTERRUPTED = {"kept_rows": CASES["kept_rows"], "sharded": SHARDED["calibrated_best"] | {"early_stopping": 3}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}

    def whole(case: str) -> dict[str, Any]:
        if case not in results:
            code, err, found = train(tmp_path_factory.mktemp("whole"), 2, **INTERRUPTED[case])
            assert code == 0, err
            results[case] = found[0]
        return results[case]

    return whole


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name
    assert [untimed(r) for r in found["history"]] == [untimed(r) for r in expected["history"]]


@pytest.mark.parametrize(("case", "how"), [("kept_rows", "kill"), ("kept_rows", "raise"), ("sharded", "kill")])
def test_a_process_that_ends_is_begun_again_and_goes_on(
    uninterrupted: Callable[[str], dict[str, Any]], tmp_path: Path, case: str, how: str
) -> None:
    folder = {"output_dir": str(tmp_path / "run"), "resume": True, "save_every_steps": 2}
    kill = {"rank": 1, "step": 8, "how": how, "once": str(tmp_path / "once")}
    code, err, found = train(tmp_path / "out", 2, restarts=1, kill=kill, **INTERRUPTED[case], **folder)
    assert code == 0, err
    assert (tmp_path / "once").exists()
    assert found.keys() == {0, 1}
    for two in found.values():
        same(two, uninterrupted(case))
        assert len(two["losses"]) < 20  # not begun anew


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_process_that_ends_ends_all_in_time(tmp_path: Path, said: Callable[[str, int, str], None], how: str) -> None:
    begun = time.perf_counter()
    kill = {"rank": 1, "step": 3, "how": how, "once": str(tmp_path / "once")}
    code, err, found = train(tmp_path / "out", 2, kill=kill, **CASES["kept_rows"])
    assert code != 0
    lines = [line for line in err.splitlines() if "Error" in line and ("process" in line or "injected" in line)]
    said({"kill": "one rank dies", "raise": "an exception on one rank only"}[how], code, lines[0] if lines else "")
    assert not found
    assert time.perf_counter() - begun < 120  # torchrun itself waits for up to 30 s


@pytest.mark.parametrize(("case", "rank"), [("kept_rows", 0), ("kept_rows", 1), ("sharded", 1)])
def test_preempted_processes_save_and_go_on(
    uninterrupted: Callable[[str], dict[str, Any]], tmp_path: Path, case: str, rank: int
) -> None:
    """The signal reaches one of them alone."""
    folder = {"output_dir": str(tmp_path / "run"), "resume": True}
    kill = {"rank": rank, "step": 7, "how": "term", "once": str(tmp_path / "once")}
    code, err, found = train(tmp_path / "out", 2, kill=kill, **INTERRUPTED[case], **folder)
    assert code != 0
    assert "PreemptedError: preempted after step" in err
    assert not found
    code, err, found = train(tmp_path / "out", 2, **INTERRUPTED[case], **folder)
    assert code == 0, err
    same(found[0], uninterrupted(case))
    # The same folder with another number of processes would end with other bits.
    code, err, _ = train(tmp_path / "out", 1, **INTERRUPTED[case], **folder)
    assert code == 2
    assert "processes was 2 there, and is 1" in err
