"""A signal while something is downloaded: the training ends as preempted, at once; no library swallows it."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import pyllmclf
from pyllmclf import ModelError, PreemptedError
from pyllmclf.cli.main import app, run
from pyllmclf.training.preemption import Preemption

TEXTS, LABELS = ["late parcel", "charged twice"] * 4, ["delivery", "billing"] * 4


@pytest.fixture
def slow_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A hub that answers with a header and then stops; the callable chooses the signal that it sends meanwhile."""
    number, released = [signal.SIGTERM], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()
            self.wfile.write(b"{")
            self.wfile.flush()
            self.interrupt()

        def answer(self) -> None:
            self.send_response(200)
            self.send_header("X-Repo-Commit", "c0ffee" + "0" * 34)
            self.send_header("ETag", '"0123456789abcdef"')
            self.send_header("Content-Length", "1000")
            self.end_headers()

        def interrupt(self) -> None:
            os.kill(os.getpid(), number[0])
            released.wait(30)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for module in ("constants", "file_download", "hf_api"):
        for name, value in (("ENDPOINT", endpoint), ("HF_HUB_OFFLINE", False)):
            monkeypatch.setattr(f"huggingface_hub.{module}.{name}", value, raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield lambda chosen: number.__setitem__(0, chosen)
    released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("text,label\n" + "late parcel,delivery\ncharged twice,billing\n" * 4)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_download(
    slow_hub: Callable[[int], None],
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    slow_hub(number)
    begun = time.monotonic()
    arguments = ["finetune", "--model", "some/model", "--train", str(table), "--no-progress"]
    assert run(app, "pyllmclf", [*arguments, "--output-dir", "out"]) == 75
    assert "preempted before training began; start it again with resume=True" in capsys.readouterr().err
    assert run(app, "pyllmclf", arguments) == (143 if number == signal.SIGTERM else 130)
    assert "nothing was saved" in capsys.readouterr().err
    assert time.monotonic() - begun < 25  # it waited for no time-out of the hub


def test_signal_while_the_vocabulary_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal should have arrived")

    monkeypatch.setattr("tiktoken.get_encoding", fetch)
    with pytest.raises(PreemptedError, match="before training began"):
        pyllmclf.finetune("gpt2", (TEXTS, LABELS), weights="random", output_dir=tmp_path / "out", progress=False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python reports an ignored exception
@pytest.mark.parametrize("swallows", ["Exception", "BaseException", "another error", "an object's end"])
def test_libraries_that_swallow(swallows: str) -> None:
    class Ends:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def library() -> None:
        if swallows == "an object's end":
            Ends()
            return
        kind = Exception if swallows == "Exception" else BaseException
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except kind as error:
            if swallows == "another error":
                raise ModelError("the library failed") from error

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="why"), Preemption() as preemption, preemption.at_once("why"):
        library()
    assert preemption.requested and signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(PreemptedError, match="again"), preemption.at_once("again"):
        raise AssertionError("a block is not entered after a signal")
    with pytest.raises(ModelError, match="as it is"), Preemption() as quiet, quiet.at_once("why"):
        raise ModelError("as it is")
