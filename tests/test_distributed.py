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
from test_resume import NANO, VALIDATION, VARIANTS, untimed

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


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_computes(tmp_path: Path, case: str) -> None:
    code, err, alone = train(tmp_path / "one", 1, **CASES[case])
    assert code == 0, err
    code, err, found = train(tmp_path / "two", 2, **CASES[case])
    assert code == 0, err
    (one,) = alone.values()
    assert found.keys() == {0, 1}
    for two in found.values():
        assert len(two["losses"]) >= 20 or case in ("one_text_for_two", "calibrated_best")
        np.testing.assert_allclose(two["losses"][:20], one["losses"][:20], rtol=1e-5)
        assert len(two["history"]) == len(one["history"])
        for part, figures in one["metrics"].items():
            assert two["metrics"][part]["accuracy"] == figures["accuracy"]
            assert two["metrics"][part]["log_loss"] == pytest.approx(figures["log_loss"], rel=1e-4)
    # The processes have the same bits.
    for name, weight in found[0]["weights"].items():
        assert torch.equal(weight, found[1]["weights"][name]), name
    assert found[0]["metrics"].keys() == found[1]["metrics"].keys()
    np.testing.assert_array_equal(found[0]["logits"], found[1]["logits"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    code, err, found = train(tmp_path_factory.mktemp("whole"), 2, **CASES["kept_rows"])
    assert code == 0, err
    return found[0]


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name
    assert [untimed(r) for r in found["history"]] == [untimed(r) for r in expected["history"]]


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_process_that_ends_is_begun_again_and_goes_on(
    uninterrupted: dict[str, Any], tmp_path: Path, how: str
) -> None:
    folder = {"output_dir": str(tmp_path / "run"), "resume": True, "save_every_steps": 2}
    kill = {"rank": 1, "step": 8, "how": how, "once": str(tmp_path / "once")}
    code, err, found = train(tmp_path / "out", 2, restarts=1, kill=kill, **CASES["kept_rows"], **folder)
    assert code == 0, err
    assert (tmp_path / "once").exists()
    assert found.keys() == {0, 1}
    for two in found.values():
        same(two, uninterrupted)
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


@pytest.mark.parametrize("rank", [0, 1])
def test_preempted_processes_save_and_go_on(uninterrupted: dict[str, Any], tmp_path: Path, rank: int) -> None:
    """The signal reaches one of them alone."""
    folder = {"output_dir": str(tmp_path / "run"), "resume": True}
    kill = {"rank": rank, "step": 7, "how": "term", "once": str(tmp_path / "once")}
    code, err, found = train(tmp_path / "out", 2, kill=kill, **CASES["kept_rows"], **folder)
    assert code != 0
    assert "PreemptedError: preempted after step" in err
    assert not found
    code, err, found = train(tmp_path / "out", 2, **CASES["kept_rows"], **folder)
    assert code == 0, err
    same(found[0], uninterrupted)
    # The same folder with another number of processes would end with other bits.
    code, err, _ = train(tmp_path / "out", 1, **CASES["kept_rows"], **folder)
    assert code == 2
    assert "processes was 2 there, and is 1" in err
