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
    "weighted": {"trainable": "all", "sample_weight": [0.25 + i % 5 for i in range(22)]},
    "one_text_for_two": {"trainable": "last_block", "batch_size": 1, "epochs": 1, "test": VALIDATION},
    "calibrated_best": VARIANTS["calibrated_best"],
}
SHARDED: dict[str, dict[str, Any]] = {
    name: CASES[name] | {"trainable": "all", "strategy": "fsdp"}
    for name in ("all_with_dropout", "accumulated_and_clipped", "calibrated_best")
}
FAMILIES = ("bert", "modernbert")
SHARDED |= {family: SHARDED["all_with_dropout"] | {"validation": VALIDATION} for family in FAMILIES}


# What one of two processes has other than the other, and what it says.
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "validation": (
        {"validation": (TEXTS[:4], VALIDATION[1][:4])},
        "the validation texts or their labels are not those of process 0",
    ),
    "test": ({"test": VALIDATION}, "the test texts or their labels are not those of process 0"),
    "learning_rate": ({"learning_rate": 1.0}, "learning_rate was 0.003 there, and is 1.0"),
    "cache": ({"cache": "off"}, "cache was 'auto' there, and is 'off'"),
}
BFLOAT16 = {"trainable": "all", "dtype": "bfloat16", "validation": VALIDATION}
INTERRUPTED = {"kept_rows": CASES["kept_rows"], "sharded": SHARDED["calibrated_best"] | {"early_stopping": 3}}
PREEMPTED = [("kept_rows", 0), ("sharded", 1)]  # the case, and the rank that gets the signal

Found = dict[int, dict[str, Any]]  # by process


class Launch:
    """One call of the script: its exit code, standard error, and each process's results of each run."""

    def __init__(self, folder: Path, processes: int, runs: dict[str, dict[str, Any]], *, restarts: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        for spec in runs.values():
            spec["arguments"] = COMMON | spec["arguments"]
        (folder / "arguments.json").write_text(json.dumps({"runs": runs, "out": str(folder)}))
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
            command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        done = subprocess.run(
            [*command, str(SCRIPT), str(folder / "arguments.json")],
            env=os.environ | {"PYLLMCLF_DISTRIBUTED_TIMEOUT": "60"},
            capture_output=True,
            text=True,
            timeout=SECONDS + 30 * len(runs),
        )
        self.code, self.err = done.returncode, done.stderr
        self._folder, self._processes = folder, processes

    def __getitem__(self, run: str) -> Found:
        """A run's results by process, of those that have some."""
        paths = {rank: self._folder / f"{run}-{rank}.pt" for rank in range(self._processes)}
        return {rank: torch.load(path, weights_only=False) for rank, path in paths.items() if path.exists()}

    def all_of(self, run: str) -> Found:
        """A run's results, of every process."""
        found = self[run]
        assert found.keys() == set(range(self._processes)), self.err
        return found


def launch(folder: Path, processes: int, *, restarts: int = 0, kill: Any = None, **arguments: Any) -> Launch:
    """One run, named ``"run"``."""
    return Launch(folder, processes, {"run": {"arguments": arguments, "kill": kill}}, restarts=restarts)


@pytest.fixture(scope="module")
def sharded_cases(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """With folders for checkpoints, and for the models that have no name."""
    path = tmp_path_factory.mktemp("sharded")
    cases = {}
    for case, arguments in SHARDED.items():
        model = {"model": str(model_folder(case))} if case in FAMILIES else {}
        every = {"save_every_steps": 3} if case == "all_with_dropout" else {}
        cases[case] = arguments | model | {"output_dir": str(path / f"{case}-run")} | every
    return cases


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, sharded_cases: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """One process's results of each case."""
    several = ("strategy", "output_dir", "save_every_steps")
    plain = {
        f"sharded_{case}": {name: value for name, value in arguments.items() if name not in several}
        for case, arguments in sharded_cases.items()
    }
    runs = {name: {"arguments": arguments} for name, arguments in (CASES | plain).items()}
    one = Launch(tmp_path_factory.mktemp("one"), 1, runs)
    assert one.code == 0, one.err
    return {name: one[name][0] for name in runs}


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the preempted runs of ``together`` have their folders."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, sharded_cases: dict[str, dict[str, Any]], runs_folder: Path
) -> Launch:
    """Two processes' results of each run in which no process ends; they take long to start, and do so once."""
    sharded = {f"sharded_{case}": arguments for case, arguments in sharded_cases.items()}
    in_bfloat16 = {f"bfloat16_{name}": BFLOAT16 | {"strategy": name} for name in ("ddp", "fsdp")}
    whole = {f"whole_{case}": arguments for case, arguments in INTERRUPTED.items()}
    runs = {name: {"arguments": given} for name, given in (CASES | sharded | in_bfloat16 | whole).items()}
    for name, (given, _) in OTHERS.items():
        runs[f"other_{name}"] = {"arguments": CASES["kept_rows"], "of_rank": {"1": given}, "may_fail": True}
    for name, rank in [*PREEMPTED, ("other_strategy", 0)]:
        arguments = INTERRUPTED["sharded" if name == "other_strategy" else name]
        arguments = arguments | {"output_dir": str(runs_folder / name), "resume": True}
        kill = {"rank": rank, "step": 7, "how": "term"}
        runs[f"preempted_{name}"] = {"arguments": arguments, "kill": kill, "may_fail": True}
        changes = {"strategy": "ddp"} if name == "other_strategy" else {}
        runs[f"resumed_{name}"] = {"arguments": arguments | changes}
    two = Launch(tmp_path_factory.mktemp("two"), 2, runs)
    assert two.code == 0, two.err
    return two


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
def test_two_processes_compute_what_one_computes(alone: dict[str, dict[str, Any]], together: Launch, case: str) -> None:
    steps = {"one_text_for_two": 1, "calibrated_best": 5}.get(case, 20)
    compare(together.all_of(case), alone[case], steps=steps)


@pytest.mark.parametrize("case", SHARDED)
def test_processes_with_parts_of_the_model_compute_what_one_computes(
    alone: dict[str, dict[str, Any]], together: Launch, sharded_cases: dict[str, dict[str, Any]], case: str
) -> None:
    found, one = together.all_of(f"sharded_{case}"), alone[f"sharded_{case}"]
    compare(found, one, steps={"calibrated_best": 5}.get(case, 20))
    assert sum(two["held"] for two in found.values()) == one["held"]
    assert max(two["held"] for two in found.values()) < 0.52 * one["held"]
    # What the first process wrote is whole: it opens in one process, with the same answers.
    newest = "best" if "early_stopping" in SHARDED[case] else "last"
    loaded = pyllmclf.load(Path(sharded_cases[case]["output_dir"]) / newest, device="cpu")
    np.testing.assert_allclose(loaded.logits(TEXTS), found[0]["logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_three_processes_of_which_some_have_no_part_of_a_parameter(
    alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The head has two rows."""
    three = launch(tmp_path, 3, **SHARDED["all_with_dropout"])
    assert three.code == 0, three.err
    compare(three.all_of("run"), alone["sharded_all_with_dropout"])


class TwoHere(ProcessGroup):
    """Two processes of one machine, as the first sees them."""

    world_size = local_world_size = 2


@pytest.mark.parametrize(
    ("asked", "trainable", "dtype", "free", "chosen"),
    [
        ("auto", "all", torch.float32, 16.1, "ddp"),
        ("auto", "all", torch.float32, 15.9, "fsdp"),
        ("auto", "all", torch.float16, 16.1, "fsdp"),
        ("auto", "all", torch.bfloat16, 16.1, "ddp"),  # on a CPU, no copy is kept
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "deepspeed"}, "strategy='deepspeed' is unknown; it is one of auto, ddp, fsdp"),
        ({"strategy": "fsdp", "trainable": "last_block"}, "strategy='fsdp' needs trainable='all', not 'last_block'"),
    ],
)
def test_strategies_that_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(pyllmclf.UsageError, match=said):
        pyllmclf.finetune(**NANO | changes)


def test_parts_of_the_model_in_bfloat16(together: Launch) -> None:
    """Blocks get their weights in the dtype in which they compute: the same numbers as cast later."""
    ddp, fsdp = (together.all_of(f"bfloat16_{name}") for name in ("ddp", "fsdp"))
    compare(fsdp, ddp[0])
    assert fsdp[0]["held"] < 0.52 * ddp[0]["held"]


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name
    assert [untimed(r) for r in found["history"]] == [untimed(r) for r in expected["history"]]


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("sharded", "kill"),
        pytest.param("kept_rows", "raise", marks=pytest.mark.slow),
        pytest.param("kept_rows", "kill", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_ends_is_begun_again_and_goes_on(together: Launch, tmp_path: Path, case: str, how: str) -> None:
    folder = {"output_dir": str(tmp_path / "run"), "resume": True, "save_every_steps": 2}
    kill = {"rank": 1, "step": 8, "how": how, "once": str(tmp_path / "once")}
    restarted = launch(tmp_path / "out", 2, restarts=1, kill=kill, **INTERRUPTED[case], **folder)
    assert restarted.code == 0, restarted.err
    assert (tmp_path / "once").exists()
    for two in restarted.all_of("run").values():
        same(two, together.all_of(f"whole_{case}")[0])
        assert len(two["losses"]) < 20  # not begun anew


@pytest.mark.parametrize("how", ["kill", pytest.param("raise", marks=pytest.mark.slow)])
def test_a_process_that_ends_ends_all_in_time(tmp_path: Path, said: Callable[[str, int, str], None], how: str) -> None:
    begun = time.perf_counter()
    kill = {"rank": 1, "step": 3, "how": how}
    ended = launch(tmp_path / "out", 2, kill=kill, **CASES["kept_rows"])
    assert ended.code != 0
    lines = [line for line in ended.err.splitlines() if "Error" in line and ("process" in line or "injected" in line)]
    said(
        {"kill": "one rank dies", "raise": "an exception on one rank only"}[how], ended.code, lines[0] if lines else ""
    )
    assert not ended["run"]
    assert time.perf_counter() - begun < 120  # torchrun itself waits for up to 30 s


@pytest.mark.parametrize("other", OTHERS)
def test_processes_that_are_given_other_things(together: Launch, other: str) -> None:
    """All refuse, instead of training two models or waiting for each other."""
    first, second = (two["error"] for two in together.all_of(f"other_{other}").values())
    assert f"process 1: {OTHERS[other][1]}" in second
    assert "process 0: another process has other data, settings or another model" in first


def is_preempted(two: Found) -> bool:
    return all(one.get("error", "").startswith("PreemptedError: preempted after step") for one in two.values())


@pytest.mark.parametrize("case", [case for case, _ in PREEMPTED])
def test_preempted_processes_save_and_go_on(together: Launch, runs_folder: Path, case: str) -> None:
    """The signal reaches one of them alone."""
    assert is_preempted(together.all_of(f"preempted_{case}"))
    same(together.all_of(f"resumed_{case}")[0], together.all_of(f"whole_{case}")[0])
    one_process_is_refused(INTERRUPTED[case] | {"output_dir": str(runs_folder / case), "resume": True})


def one_process_is_refused(arguments: dict[str, Any]) -> None:
    """The same folder with another number of processes would end with other bits."""
    with pytest.raises(pyllmclf.UsageError, match="processes was 2 there, and is 1") as refused:
        pyllmclf.finetune(**NANO | COMMON | arguments)
    assert refused.value.exit_code == 2


@pytest.mark.slow
def test_preempted_processes_end_and_are_started_again(together: Launch, tmp_path: Path) -> None:
    """As by a scheduler: nothing is left of the first start but its folder."""
    arguments = INTERRUPTED["kept_rows"] | {"output_dir": str(tmp_path / "run"), "resume": True}
    ended = launch(tmp_path / "first", 2, kill={"rank": 1, "step": 7, "how": "term"}, **arguments)
    assert ended.code != 0
    assert "PreemptedError: preempted after step" in ended.err
    assert not ended["run"]
    again = launch(tmp_path / "second", 2, **arguments)
    assert again.code == 0, again.err
    same(again.all_of("run")[0], together.all_of("whole_kept_rows")[0])
    one_process_is_refused(arguments)


def test_a_run_goes_on_with_the_other_strategy(together: Launch) -> None:
    """A checkpoint holds whole tensors, whoever had which part."""
    assert is_preempted(together.all_of("preempted_other_strategy"))
    resumed, whole = together.all_of("resumed_other_strategy")[0], together.all_of("whole_sharded")[0]
    assert "strategy changed since; results may differ in their last bits" in together.err
    assert resumed["held"] > 1.9 * whole["held"]
    losses = [record["train_loss"] for record in whole["history"]]
    assert [record["train_loss"] for record in resumed["history"]] == pytest.approx(losses, rel=1e-4)
