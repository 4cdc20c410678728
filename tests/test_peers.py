"""The comparison with peers on few texts: what counts as CPU time, the cap, scoring, resuming and the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import recipes

TEXTS = [f"{word} film number {i}" for i in range(60) for word in ("dull", "lively")]
STUB = """
import subprocess, sys, threading, time
import runner

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def train(task):
    {body}
    return lambda texts: ["0" if "dull" in text else None for text in texts]

sys.exit(runner.main(train, ["torch"]))
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    (folder / "mr_subj_cr").mkdir(parents=True)
    lines = [f"{i % 2} {text}" for i, text in enumerate(TEXTS)]
    (folder / "mr_subj_cr/subj.all").write_text("\n".join(lines), encoding="latin-1")
    monkeypatch.setenv("PYLLMCLF_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a peer of the lines that it trains with."""
    monkeypatch.setattr(peers, "RUNNERS", tmp_path / "peer_runners")
    (tmp_path / "peer_runners").mkdir()
    (tmp_path / "peer_runners/runner.py").symlink_to(Path(peers.__file__).parent / "peer_runners/runner.py")

    def make(body: str, **options: Any) -> str:
        (tmp_path / "peer_runners/run_stub.py").write_text(STUB.format(body=body.replace("\n", "\n    ")))
        monkeypatch.setitem(peers.PEERS, "stub", peers.Peer("stub", None, "Stub", options))
        return "stub"

    return make


def run(name: str, data: Path, cap_minutes: float = 1.0) -> dict[str, Any]:
    return peers.run(name, recipes.Draw("subj", "8", 0, data), "the folder", data, cap_minutes)


@pytest.mark.parametrize(
    "body",
    [
        "burn(0.5)",
        "threads = [threading.Thread(target=burn, args=(0.25,)) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]",
        "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.5: pass'])",
    ],
    ids=["itself", "threads", "a child"],
)
def test_cpu_seconds_of_threads_and_children_count(body: str, stub: Any, data: Path) -> None:
    row = run(stub(body), data)
    assert 0.45 < row["cpu_seconds"] < 0.95
    assert row["versions"]["torch"] and row["cap_minutes"] == 1.0


def test_imports_do_not_count(stub: Any, data: Path, tmp_path: Path) -> None:
    burn = "import time\nend = time.thread_time() + 0.5\nwhile time.thread_time() < end:\n    pass\n"
    (tmp_path / "peer_runners/outer_module.py").write_text("import inner_module\n" + burn)
    (tmp_path / "peer_runners/inner_module.py").write_text(burn)
    row = run(stub("import outer_module\nburn(0.2)"), data)
    assert 0.15 < row["cpu_seconds"] < 0.4 and row["wall_seconds"] > 0.15


def test_accuracy_is_that_of_the_test_texts_whose_labels_the_peer_does_not_see(stub: Any, data: Path) -> None:
    body = (
        "import json, pathlib\ndraw = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "assert set(draw) == {'texts', 'labels', 'test', 'model', 'options', 'cap_minutes'}\n"
        "assert draw['model'] == task.model == 'the folder' and task.options == {'rate': 1}\n"
        "assert all(isinstance(each, str) for each in draw['test'])\n"
        "assert not set(draw['test']) & set(task.texts) and len(task.texts) == 16\n"
        "task.progress = lambda: {'steps': 3, 'of': 3}"
    )
    row = run(stub(body, rate=1), data)
    test = [label for text, label in recipes.load("subj", data)[1]]
    assert row["accuracy"] == pytest.approx(test.count("0") / len(test)) and 0 < row["accuracy"] < 1
    assert row["progress"] == {"steps": 3, "of": 3} and "predictions" not in row


def test_a_training_ends_at_the_cap_though_its_library_catches_exceptions(stub: Any, data: Path) -> None:
    body = (
        "task.progress = lambda: {'steps': 5, 'of': 900}\n"
        "while True:\n    try:\n        burn(0.05)\n    except Exception:\n        pass"
    )
    row = run(stub(body), data, cap_minutes=0.5 / 60)
    assert row["accuracy"] is None and row["progress"] == {"steps": 5, "of": 900}
    assert 0.4 < row["cpu_seconds"] < 3


def test_a_peer_that_fails_says_how(stub: Any, data: Path) -> None:
    with pytest.raises(peers.PeerError, match=r"(?s)stub ended with exit code 1:.*ValueError: no such preset"):
        run(stub("raise ValueError('no such preset')"), data)


def test_a_missing_venv_says_how_to_make_it(tmp_path: Path, data: Path) -> None:
    with pytest.raises(peers.PeerError, match=r"pip install -r .*requirements-setfit\.txt$"):
        run("setfit", data)


def test_main_appends_what_is_missing(
    stub: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(peers, "model_folder", lambda: "the folder")

    def main(*arguments: str) -> int:
        given = ["peers.py", str(results), "--sets", "subj", "--sizes", "8", "--peers", stub("burn(1.5)")]
        monkeypatch.setattr(sys, "argv", [*given, *arguments])
        return peers.main()

    short, long = ("--cap-minutes", str(0.2 / 60)), ("--cap-minutes", "1")
    assert main("--seeds", "0", *short) == main("--seeds", "0", *short) == 0
    assert [json.loads(line)["accuracy"] for line in results.read_text().splitlines()] == [None]
    assert main("--seeds", "0", "1", *long) == main("--seeds", "0", "1", *long) == 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(row["seed"], row["accuracy"] is None) for row in rows] == [(0, True), (0, False), (1, False)]
    stub("raise ValueError")
    assert main("--seeds", "1", "2", *long) == 0  # main makes the stub anew
    monkeypatch.setitem(peers.PEERS, "stub", peers.Peer("absent", None, "Absent"))
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-5], "--seeds", "3"])
    assert peers.main() == 1 and "stub ended with exit code 2" in capsys.readouterr().err


def test_without_data_main_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYLLMCLF_DATA_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["peers.py", str(tmp_path / "results.jsonl")])
    with pytest.raises(SystemExit, match="2"):
        peers.main()
    assert "set PYLLMCLF_DATA_DIR to" in capsys.readouterr().err


def row(peer: str, name: str, seed: int, accuracy: float | None, cpu: float, **more: Any) -> dict[str, Any]:
    key = {"set": name, "size": "8", "seed": seed, "peer": peer, "progress": {}, "cap_minutes": 2.0}
    return key | {"accuracy": accuracy, "cpu_seconds": cpu} | more


def test_table() -> None:
    rows = [row("pyllmclf", name, seed, 0.8, 10.0) for name in peers.SETS for seed in (0, 1)]
    rows += [row("trainer", name, 0, 0.6 + 0.1 * i, 10.0 * 8**i) for i, name in enumerate(peers.SETS)]
    rows += [row("tfidf", "subj", seed, 0.5 + 0.1 * seed, 1.0 + seed) for seed in (0, 1)]
    rows += [row("setfit", name, 0, 0.9, 20.0) for name in peers.SETS[:2]]
    rows += [row("setfit", "banking38", 0, None, 90.0, progress={"steps": 1000, "of": 5624})]
    lines = peers.table(rows).splitlines()
    assert "| pyllmclf | 80.0% (2) | 80.0% (2) | 80.0% (2) | 80.0% | +0.0 | 10.0 | 1.00 |" in lines
    assert "| Hugging Face Trainer | 60.0% (1) | 70.0% (1) | 80.0% (1) | 70.0% | -10.0 | 243.3 | 8.00 |" in lines
    assert "| TF-IDF, logistic regression |  | 55.0% (2) |  |  |  |  |  |" in lines
    assert "| TF-IDF, logistic regression |  | 1.5 |  |" in lines
    unfinished = "not finished in 2 CPU minutes, 1,000 of 5,624 steps"
    assert f"| SetFit | 90.0% (1) | 90.0% (1) | {unfinished} |  |  | > 43.3 | > 3.30 |" in lines
    again = peers.table([*rows, row("setfit", "banking38", 0, 0.6, 200.0, cap_minutes=5.0)])
    assert "| SetFit | 90.0% (1) | 90.0% (1) | 60.0% (1) | 80.0% | +0.0 | 80.0 | 4.31 |" in again
    assert "16 texts" not in again


def test_each_peer_has_a_runner_and_pinned_requirements() -> None:
    for name, peer in peers.PEERS.items():
        source = (peers.RUNNERS / f"run_{peer.runner}.py").read_text()
        if peer.venv is not None:
            pins = (peers.RUNNERS / f"requirements-{peer.venv}.txt").read_text().splitlines()
            assert all(re.fullmatch(r"[a-z-]+(\[[a-z-]+\])?==[\d.]+", pin) for pin in pins), name
            recorded = re.search(r"runner\.main\(train, (\[.*\])\)", source)
            assert recorded and set(json.loads(recorded[1])) <= {re.split(r"\[|==", pin)[0] for pin in pins}


def test_a_runner_of_this_interpreter(data: Path) -> None:
    row = run("tfidf", data)
    assert row["accuracy"] == 1.0 and set(row["versions"]) == {"python", "scikit-learn"}


def test_other_interpreters_do_not_see_this_ones_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    theirs, ours = peers.environment(peers.PEERS["setfit"]), peers.environment(peers.PEERS["pyllmclf"])
    assert "PYTHONPATH" not in theirs and ours["PYTHONPATH"].split(os.pathsep)[-1] == "somewhere"
    assert {each["OMP_NUM_THREADS"] for each in (theirs, ours)} == {"1"} and theirs["HF_HUB_OFFLINE"] == "1"


def test_embeddings_do_not_depend_on_labels(minilm: Path) -> None:
    one, other = (recipes.mean_embeddings(TEXTS[:8], labels) for labels in (["a", "b"] * 4, list("abcdefgh")))
    assert one.shape == (8, 384) and np.array_equal(one, other)


def test_the_command_runs_as_a_script(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(row("pyllmclf", "subj", 0, 0.75, 2.0)))
    command = [sys.executable, peers.__file__, str(tmp_path / "results.jsonl"), "--table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| pyllmclf |  | 75.0% (1) |" in done.stdout
