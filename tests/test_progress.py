"""Progress on a terminal, in a notebook and elsewhere; estimates of time, and threads that wait."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pyllmclf
from pyllmclf import progress
from pyllmclf.progress import LineProgress, duration, progress_bar, say
from pyllmclf.training import pace
from pyllmclf.training.pace import Pace, threads_wait

NANO: dict[str, Any] = {"weights": "random", "epochs": 1, "validation": False, "test": False}


class Terminal:
    """A pseudo-terminal as standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ours, theirs = pty.openpty()
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        monkeypatch.setattr(sys, "stderr", self.stream)

    def _read(self) -> None:
        while True:
            try:
                self._shown += os.read(self._ours, 1 << 16)
            except OSError:  # the other end is closed
                return

    def shown(self) -> str:
        self.stream.close()
        self._reader.join(10)
        os.close(self._ours)
        return self._shown.decode()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Seconds on the clock of progress and pace, and of the process."""
    now = types.SimpleNamespace(wall=1000.0, own=0.0)
    fake = types.SimpleNamespace(perf_counter=lambda: now.wall, process_time=lambda: now.own)
    monkeypatch.setattr(progress, "time", fake)
    monkeypatch.setattr(pace, "time", fake)
    yield now


# --- terminals and notebooks ------------------------------------------------------------------------------------------


def test_a_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    pyllmclf.finetune("gpt2-nano", "sample", **NANO)
    shown = terminal.shown()
    assert re.search(r"100%\|.*\| 63/63 \[", shown) and "\r" in shown
    assert "loss" in shown and "tokens/s" in shown and "epoch 1/1: loss" in shown
    assert not re.search(r"^\d+/63 steps", shown, re.MULTILINE)


def test_lines_come_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    with progress_bar(10, "text", True) as bar:
        bar.update(5)
        say("a line", True)
    shown = terminal.shown()
    assert "50%" in shown and re.search(r"\r +\ra line\r?\n", shown)


def test_nothing_is_written_without_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(monkeypatch)
    result = pyllmclf.finetune("gpt2-nano", "sample", progress=False, **NANO)
    result.classifier.predict(["a", "b"])
    with progress_bar(10, "text", False) as bar:
        bar.update(10)
    assert terminal.shown() == "" and capsys.readouterr() == ("", "")


def test_a_notebook_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of tqdm.auto where IPython runs a kernel and ipywidgets is there; lines where it is not."""
    import tqdm.auto
    import tqdm.notebook

    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert isinstance(progress_bar(3, "step", True), LineProgress)  # pytest's standard error is no terminal
    made: list[dict[str, Any]] = []

    class Notebook(tqdm.notebook.tqdm_notebook):
        def __init__(self, **options: Any) -> None:
            made.append(options)

        def __del__(self) -> None:
            pass

    monkeypatch.setattr(tqdm.auto, "tqdm", Notebook)
    assert isinstance(progress_bar(3, "step", True, leave=True), Notebook)
    assert made[0]["total"] == 3 and made[0]["leave"] and not made[0].get("disable")
    assert isinstance(progress_bar(3, "step", False), LineProgress) and len(made) == 1


# --- elsewhere --------------------------------------------------------------------------------------------------------


def test_a_line_every_so_often(clock: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(200, "step", True)
    for _ in range(200):
        clock.wall += 0.5
        bar.set_postfix_str("loss 0.5", refresh=False)
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9  # each tenth but the last, which the epoch's line follows
    assert lines[0] == "20/200 steps (10%), loss 0.5, 10 s, about 2 min left"
    assert lines[-1] == "180/200 steps (90%), loss 0.5, 2 min, about 10 s left"
    bar = progress_bar(10_000, "text", True, initial=5_000)
    for _ in range(100):
        clock.wall += 1.0
        bar.update()
    assert capsys.readouterr().err.splitlines()[0] == "5,030/10,000 texts (50%), 30 s, about 1 h 23 min left"
    bar = progress_bar(None, "text", True)
    clock.wall += 31
    bar.update(5)
    assert capsys.readouterr().err == "5 texts, 31 s\n"


def test_short_work_writes_no_lines(clock: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(100, "text", True) as bar:
        for _ in range(100):
            clock.wall += 0.005
            bar.update()
    assert capsys.readouterr().err == ""


def test_a_training_writes_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    pyllmclf.finetune("gpt2-nano", "sample", **NANO)
    err = capsys.readouterr().err
    lines = re.findall(
        r"^(\d+)/63 steps \(\d+%\), epoch 1, loss \d\.\d{4}, [\d,]+ tokens/s, .* left$", err, re.MULTILINE
    )
    assert list(map(int, lines)) == [7, 14, 21, 28, 35, 42, 49, 56]
    assert "\r" not in err and "%|" not in err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_standard_error_that_breaks_ends_nothing(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("gone")

        def flush(self) -> None:
            raise OSError("gone")

        def isatty(self) -> bool:
            return terminal

    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    for stream in (Broken(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        result = pyllmclf.finetune("gpt2-nano", "sample", **NANO)
        assert len(result.history) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (90, "2 min"), (3569, "59 min"), (3600, "1 h"),
        (12_000, "3 h 20 min"), (86_400, "24 h"), (200_000, "2 days 7 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# --- how long, and who else -------------------------------------------------------------------------------------------


def test_the_time_is_estimated_early(clock: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ours = Pace(100_000, 5, torch.device("cuda"), True)
    for _ in range(100):
        clock.wall += 1.0
        ours.step(100)
    assert capsys.readouterr().err == "about 17 min for 5 epochs\n" and ours.finished
    for tokens, epochs, enabled in ((1_000, 5, True), (100_000, 5, False)):  # soon over; not to be said
        ours = Pace(tokens, epochs, torch.device("cuda"), enabled)
        for _ in range(10):
            clock.wall += 1.0
            ours.step(100)
        assert capsys.readouterr().err == "" and ours.finished


@pytest.mark.parametrize(
    ("own", "others", "threads", "processors", "expected"),
    [
        (1.3, 0.7, 2, 2, True),  # a busy process beside two threads
        (1.0, 1.0, 2, 2, True),
        (1.9, 0.1, 2, 2, False),  # an idle machine
        (1.0, 0.05, 2, 2, False),  # a small model: its threads wait for Python
        (1.9, 2.1, 2, 4, False),  # others have processors of their own
        (1.1, 1.0, 2, 4, False),  # and processors are free
        (20.0, 44.0, 32, 64, True),
        (20.0, 20.0, 32, 64, False),
    ],
)
def test_threads_that_wait(own: float, others: float, threads: int, processors: int, expected: bool) -> None:
    assert threads_wait(own, others, threads, processors) is expected


@pytest.mark.parametrize(("share", "said"), [(0.65, True), (1.0, False)])
def test_other_processes_are_named_once(
    clock: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, share: float, said: bool
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(pace, "_busy_seconds", lambda: 2 * clock.wall)
    ours = Pace(10_000, 1, torch.device("cpu"), True)
    for _ in range(30):
        clock.wall, clock.own = clock.wall + 0.5, clock.own + 0.5 * 2 * share
        ours.step(10)
    err = capsys.readouterr().err
    assert err.count("other processes") == said and ours.finished
    assert not said or ("they got 1.3 processors" in err and "OMP_NUM_THREADS=1" in err)


def test_one_thread_and_gpus_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not Pace(1, 1, torch.device("cpu"), True)._looks
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not Pace(1, 1, torch.device("cuda"), True)._looks
    assert Pace(1, 1, torch.device("cpu"), True)._looks
    assert Pace(1, 1, torch.device("cpu"), False).finished


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/stat")
def test_the_load_of_this_machine() -> None:
    before = pace._Load.now()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    own, others = before.until_now()
    assert own > 0 and others > -os.cpu_count()  # type: ignore[operator]
