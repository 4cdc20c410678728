"""Several processes compute the results of one, and the end of one process ends all."""

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
from models import Folders
from test_resume import NANO, TEXTS, VALIDATION, VARIANTS, untimed

import pyllmclf
from pyllmclf.compute import Compute
from pyllmclf.distributed import ProcessGroup
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
FAMILIES = ("bert", "modernbert")
SHARDED |= {family: SHARDED["all_with_dropout"] | {"validation": VALIDATION} for family in FAMILIES}


Found = dict[int, dict[str, Any]]  # by process


def train_all(
    folder: Path,
    processes: int,
    runs: dict[str, dict[str, Any]],
    *,
    restarts: int = 0,
    kill: Any = None,
    of_rank: dict[str, dict[str, Any]] | None = None,
) -> tuple[int, str, dict[str, Found]]:
    """Runs the script; returns (exit code, standard error, what each process found in each run)."""
    folder.mkdir(exist_ok=True)
    given = {"runs": {name: COMMON | run for name, run in runs.items()}, "out": str(folder), "kill": kill}
    given["of_rank"] = of_rank or {}
    (folder / "arguments.json").write_text(json.dumps(given))
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    environment = os.environ | {"PYLLMCLF_DISTRIBUTED_TIMEOUT": "60"}
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder / "arguments.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    found: dict[str, Found] = {name: {} for name in runs}
    for name in runs:
        for rank in range(processes):
            if (path := folder / f"{name}-{rank}.pt").exists():
                found[name][rank] = torch.load(path, weights_only=False)
    return done.returncode, done.stderr, found


def train(
    folder: Path, processes: int, *, restarts: int = 0, kill: Any = None, **arguments: Any
) -> tuple[int, str, Found]:
    """One run."""
    code, err, found = train_all(folder, processes, {"run": arguments}, restarts=restarts, kill=kill)
    return code, err, found["run"]


@pytest.fixture(scope="module")
def sharded_cases(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """With folders for checkpoints, and for the models that have no name."""
    path = tmp_path_factory.mktemp("sharded")
    cases = {}
    for case, arguments in SHARDED.items():
        model = {"model": str(model_folder(case))} if case in FAMILIES else {}
        cases[case] = arguments | model | {"output_dir": str(path / f"{case}-run"), "save_every_steps": 3}
    return cases


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, sharded_cases: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What one process finds in each case."""
    several = ("strategy", "output_dir", "save_every_steps")
    plain = {
        f"sharded_{case}": {name: value for name, value in arguments.items() if name not in several}
        for case, arguments in sharded_cases.items()
    }
    code, err, found = train_all(tmp_path_factory.mktemp("one"), 1, CASES | plain)
    assert code == 0, err
    return {case: one[0] for case, one in found.items()}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, sharded_cases: dict[str, dict[str, Any]]) -> dict[str, Found]:
    """What two processes find in each case."""
    runs = CASES | {f"sharded_{case}": arguments for case, arguments in sharded_cases.items()}
    code, err, found = train_all(tmp_path_factory.mktemp("two"), 2, runs)
    assert code == 0, err
    return found


def compare(found: Found, one: dict[str, Any], *, steps: int = 20) -> None:
    """Each process's losses and metrics with those of one process, and the processes' bits with each other's."""
    for two in found.values():
        assert len(two["losses"]) >= steps
        np.testing.assert_allclose(two["losses"][:20], one["losses"][:20], rtol=1e-5)
        assert len(two["history"]) == len(one["history"])
        assert two["metrics"].keys() == one["metrics"].keys()
        for part, figures in one["metrics"].items():
            assert two["metrics"][part]["accuracy"] == figures["accuracy"]
            assert two["metrics"][part]["log_loss"] == pytest.approx(figures["log_loss"], rel=1e-4)
        for name, weight in found[0]["weights"].items():
            assert torch.equal(weight, two["weights"][name]), name
        np.testing.assert_array_equal(found[0]["logits"], two["logits"])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_computes(
    alone: dict[str, dict[str, Any]], together: dict[str, Found], case: str
) -> None:
    assert together[case].keys() == {0, 1}
    compare(together[case], alone[case], steps={"one_text_for_two": 1, "calibrated_best": 5}.get(case, 20))


@pytest.mark.parametrize("case", SHARDED)
def test_processes_with_parts_of_the_model_compute_what_one_computes(
    alone: dict[str, dict[str, Any]],
    together: dict[str, Found],
    sharded_cases: dict[str, dict[str, Any]],
    case: str,
) -> None:
    found, one = together[f"sharded_{case}"], alone[f"sharded_{case}"]
    assert found.keys() == {0, 1}
    compare(found, one, steps={"calibrated_best": 5}.get(case, 20))
    assert sum(two["held"] for two in found.values()) == one["held"]
    assert max(two["held"] for two in found.values()) < 0.52 * one["held"]
    # What the first process wrote is whole: it opens in one process, with the same answers.
    newest = "best" if "early_stopping" in SHARDED[case] else "last"
    loaded = pyllmclf.load(Path(sharded_cases[case]["output_dir"]) / newest, device="cpu")
    np.testing.assert_allclose(loaded.logits(TEXTS), found[0]["logits"], rtol=1e-5, atol=1e-6)


def test_three_processes_of_which_some_have_no_part_of_a_parameter(
    alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The head has two rows."""
    code, err, found = train(tmp_path, 3, **SHARDED["all_with_dropout"])
    assert code == 0, err
    assert found.keys() == {0, 1, 2}
    compare(found, alone["sharded_all_with_dropout"])


class TwoHere(ProcessGroup):
    """Two processes of one machine, as the first sees them."""

    world_size = local_world_size = 2


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
    model_folder: Folders,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    trainable: str,
    dtype: torch.dtype,
    free: float,
    chosen: str,
) -> None:
    """12 bytes for each parameter, of three quarters of what is free: 16."""
    model = pyllmclf.load(model_folder("gpt2"), device="cpu").state.model
    set_trainable(model, trainable, None, torch.Generator())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr("pyllmclf.training.strategy.available_memory", lambda: int(2 * free * parameters))
    compute = Compute(torch.device("cpu"), dtype)
    assert choose_strategy(asked, model, TwoHere(), compute) == chosen
    assert choose_strategy(asked, model, ProcessGroup(), compute) == "ddp"


def test_parts_of_the_model_in_bfloat16(tmp_path: Path) -> None:
    """Blocks get their weights in the dtype in which they compute: the same numbers as cast later."""
    arguments = {"trainable": "all", "dtype": "bfloat16", "validation": VALIDATION}
    code, err, found = train_all(tmp_path, 2, {name: arguments | {"strategy": name} for name in ("ddp", "fsdp")})
    assert code == 0, err
    compare(found["fsdp"], found["ddp"][0])
    assert found["fsdp"][0]["held"] < 0.52 * found["ddp"][0]["held"]


INTERRUPTED = {"kept_rows": CASES["kept_rows"], "sharded": SHARDED["calibrated_best"] | {"early_stopping": 3}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    code, err, found = train_all(tmp_path_factory.mktemp("whole"), 2, INTERRUPTED)
    assert code == 0, err
    return {case: two[0] for case, two in found.items()}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name
    assert [untimed(r) for r in found["history"]] == [untimed(r) for r in expected["history"]]


@pytest.mark.parametrize(("case", "how"), [("kept_rows", "kill"), ("kept_rows", "raise"), ("sharded", "kill")])
def test_a_process_that_ends_is_begun_again_and_goes_on(
    uninterrupted: dict[str, dict[str, Any]], tmp_path: Path, case: str, how: str
) -> None:
    folder = {"output_dir": str(tmp_path / "run"), "resume": True, "save_every_steps": 2}
    kill = {"rank": 1, "step": 8, "how": how, "once": str(tmp_path / "once")}
    code, err, found = train(tmp_path / "out", 2, restarts=1, kill=kill, **INTERRUPTED[case], **folder)
    assert code == 0, err
    assert (tmp_path / "once").exists()
    assert found.keys() == {0, 1}
    for two in found.values():
        same(two, uninterrupted[case])
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


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"validation": (TEXTS[:4], VALIDATION[1][:4])},
            "the validation texts or their labels are not those of process 0",
        ),
        ({"test": VALIDATION}, "the test texts or their labels are not those of process 0"),
        ({"learning_rate": 1.0}, "learning_rate was 0.003 there, and is 1.0"),
        ({"cache": "off"}, "cache was 'auto' there, and is 'off'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_processes_that_are_given_other_things(tmp_path: Path, given: dict[str, Any], sentence: str) -> None:
    """All refuse, instead of training two models or waiting for each other."""
    runs = {"run": CASES["kept_rows"]}
    code, err, found = train_all(tmp_path / "out", 2, runs, of_rank={"1": given})
    assert code != 0
    assert f"process 1: {sentence}" in err
    assert "process 0: another process has other data, settings or another model" in err
    assert not found["run"]


@pytest.mark.parametrize(("case", "rank"), [("kept_rows", 0), ("kept_rows", 1), ("sharded", 1)])
def test_preempted_processes_save_and_go_on(
    uninterrupted: dict[str, dict[str, Any]], tmp_path: Path, case: str, rank: int
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
    same(found[0], uninterrupted[case])
    # The same folder with another number of processes would end with other bits.
    code, err, _ = train(tmp_path / "out", 1, **INTERRUPTED[case], **folder)
    assert code == 2
    assert "processes was 2 there, and is 1" in err


def test_a_run_goes_on_with_the_other_strategy(uninterrupted: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """A checkpoint holds whole tensors, whoever had which part."""
    arguments = INTERRUPTED["sharded"] | {"output_dir": str(tmp_path / "run"), "resume": True}
    kill = {"rank": 0, "step": 7, "how": "term", "once": str(tmp_path / "once")}
    code, err, _ = train(tmp_path / "out", 2, kill=kill, **arguments)
    assert code != 0
    assert "PreemptedError: preempted after step" in err
    code, err, found = train(tmp_path / "out", 2, **arguments | {"strategy": "ddp"})
    assert code == 0, err
    assert "strategy changed since; results may differ in their last bits" in err
    assert found[0]["held"] > 1.9 * uninterrupted["sharded"]["held"]
    losses = [record["train_loss"] for record in uninterrupted["sharded"]["history"]]
    assert [record["train_loss"] for record in found[0]["history"]] == pytest.approx(losses, rel=1e-4)
