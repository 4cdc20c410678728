"""``pyllmclf serve`` as a process: sockets, odd clients, newer checkpoints, signals, several workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served_classifiers import LABELS, QUICK, TEXTS, trained

import pyllmclf
from pyllmclf.cli.main import app, run
from pyllmclf.server import connection
from pyllmclf.server.shared_weights import map_weights

START_SECONDS = 120


class Server:
    """A running ``pyllmclf serve``."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "pyllmclf", "serve", *map(str, arguments), "--port", "0"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {})
        # Not in the repository, whose folder pyllmclf has no native core where the package is installed elsewhere.
        folder = tempfile.gettempdir()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until = time.monotonic() + START_SECONDS
        while not (found := re.search(r"serving at http://127\.0\.0\.1:(\d+)", "".join(self.lines))):
            assert self.process.poll() is None and time.monotonic() < until, "".join(self.lines)
            time.sleep(0.02)
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < until, "".join(self.lines)
            time.sleep(0.02)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    def classify(self, texts: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/classify", json={"input": texts, **more}, timeout=60)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def received(client: socket.socket) -> str:
    """What the server sends until it closes the connection."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


def request_of(content: Any, *headers: str) -> bytes:
    body = json.dumps(content).encode()
    lines = ["POST /classify HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serve") / "tickets"
    trained(pooling="mean", max_length=48).save(path)
    return path


@pytest.fixture(scope="module")
def classifier(folder: Path) -> pyllmclf.Classifier:
    return pyllmclf.load(folder)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(folder, f"again={folder}", "--max-body-mb", 1) as running:
        yield running


def test_answers_equal_predict(server: Server, classifier: pyllmclf.Classifier) -> None:
    texts = [f"{text} {i}" for i in range(30) for text in TEXTS]
    for model in ("tickets", "again"):
        content = server.classify(texts, model=model).json()
        found = np.array([entry["probs"] for entry in content["data"]])
        np.testing.assert_allclose(found, classifier.predict_proba(texts), atol=1e-6)
        assert [entry["label"] for entry in content["data"]] == classifier.predict(texts)


def test_concurrent_clients(server: Server, classifier: pyllmclf.Classifier) -> None:
    wrong: list[int] = []

    def ask(i: int) -> None:
        texts = [f"{text} {i}" for text in TEXTS[: 1 + i % len(TEXTS)]]
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for _ in range(5):
                content = client.post("/classify", json={"input": texts}).json()
                found = np.array([entry["probs"] for entry in content["data"]])
                if not np.allclose(found, classifier.predict_proba(texts), atol=1e-6):
                    wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_the_triton_client(server: Server, classifier: pyllmclf.Classifier) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tickets")
    assert client.get_model_metadata("tickets")["inputs"][0]["datatype"] == "BYTES"
    texts = [*TEXTS, "", "naïve 🙂"]
    for binary in (True, False):
        tensor = http.InferInput("text", [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object), binary_data=binary)
        wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities", "logits")]
        for outputs in (None, wanted):
            answer = client.infer("tickets", [tensor], outputs=outputs, request_id="7")
            assert answer.get_response()["id"] == "7"
            labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")]
            assert labels == classifier.predict(texts)
            np.testing.assert_allclose(answer.as_numpy("probabilities"), classifier.predict_proba(texts), atol=1e-6)
            np.testing.assert_allclose(answer.as_numpy("logits"), classifier.logits(texts), atol=1e-5)
    with pytest.raises(Exception, match="no model 'other'"):
        client.infer("other", [tensor])


# --- odd clients ------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_half_closed_gets_its_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request_of({"input": "a"}))
        client.shutdown(socket.SHUT_WR)
        answer = received(client)
    assert answer.startswith("HTTP/1.1 200") and '"label"' in answer


def test_a_request_that_ends_early(server: Server) -> None:
    whole = request_of({"input": "a"})
    for part in (whole[:-3], whole[:20]):
        with server.connect() as client:
            client.sendall(part)
            client.shutdown(socket.SHUT_WR)
            answer = received(client)
        assert answer.startswith("HTTP/1.1 400") and "before the request was complete." in answer


def test_what_is_no_http(server: Server) -> None:
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        with server.connect() as client:
            client.sendall(junk)
            answer = received(client)
        assert answer.startswith("HTTP/1.1 400") and "not HTTP/1.1." in answer


def test_headers_without_an_end(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for i in range(3000):
                client.sendall(f"X-{i}: {'a' * 60}\r\n".encode())
            answer = received(client)
        except (BrokenPipeError, ConnectionResetError):
            return
    assert answer.startswith("HTTP/1.1 400")


def test_a_large_body_is_refused_before_it_is_sent(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n")
        answer_of_head = received(client)
    assert answer_of_head.startswith("HTTP/1.1 413") and "more than 1,048,576 bytes" in answer_of_head
    with server.connect() as client:  # of a size that isn't told
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            client.sendall(b"8000\r\n" + b"a" * 0x8000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert received(client).startswith("HTTP/1.1 413")
    answer = httpx.post(f"{server.url}/classify", content=b"a" * 10_000_000)
    assert answer.status_code == 413 and answer.headers["connection"] == "close"


def test_requests_in_a_pipeline(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request_of({"input": "a"}) + request_of({"input": "b"}, "Connection: close"))
        assert received(client).count("HTTP/1.1 200") == 2


def test_clients_that_are_gone_leave_nothing_behind(server: Server) -> None:
    for _ in range(20):
        with server.connect() as client:
            client.sendall(request_of({"input": [f"{i} of a client that is gone" for i in range(50)]}))
    until = time.monotonic() + 30
    while "pyllmclf_queued_texts 0.0" not in httpx.get(f"{server.url}/metrics").text:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert server.classify("a").status_code == 200


def test_slow_bodies_and_slow_heads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, so that times can be short."""
    from pyllmclf.server.app import app_of
    from pyllmclf.server.options import ServerOptions
    from pyllmclf.server.process import Serving, server_config
    from pyllmclf.server.run import DrainingServer, open_socket
    from pyllmclf.server.service import Service

    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    options = ServerOptions(body_timeout=0.3, access_log=False)
    service = Service({"tickets": pyllmclf.load(folder)}, options)
    listener = open_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    running = DrainingServer(server_config(Serving({}, options), app_of(service)), service)
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHo")
            assert received(client) == ""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            answer = received(client)
        assert answer.startswith("HTTP/1.1 408") and "not complete after 0.3 s" in answer
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    finally:
        running.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


# --- newer checkpoints and signals ------------------------------------------------------------------------------------


def test_a_newer_checkpoint_is_served_without_losing_a_request(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    arguments: dict[str, Any] = {"weights": "random", "trainable": "all"} | QUICK
    pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=run_folder, **arguments)
    before = pyllmclf.load(run_folder).predict_proba(TEXTS[0])
    with Server(run_folder, "--reload-seconds", "0.1") as server:
        statuses: list[int] = []
        rows: list[list[float]] = []
        ended = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while not ended.is_set():
                    answer = client.post("/classify", json={"input": TEXTS[0]})
                    statuses.append(answer.status_code)
                    rows.append(answer.json()["data"][0]["probs"])

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        more = arguments | {"epochs": 8, "overwrite": True}
        pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=run_folder, **more)
        after = pyllmclf.load(run_folder).predict_proba(TEXTS[0])
        until = time.monotonic() + 60
        while not rows or not np.allclose(rows[-1], after, atol=1e-6):
            assert time.monotonic() < until
            time.sleep(0.05)
        ended.set()
        for thread in threads:
            thread.join(60)
        assert set(statuses) == {200}
        np.testing.assert_allclose(rows[0], before, atol=1e-6)
        assert not np.allclose(before, after, atol=1e-4)
        # A checkpoint that is damaged is not served.
        newest = max(run_folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        (newest / "model.safetensors").write_bytes(b"damaged")
        deadline = time.monotonic() + 60
        while 'result="failed"} 1.0' not in httpx.get(f"{server.url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found = server.classify(TEXTS[0]).json()["data"][0]["probs"]
        np.testing.assert_allclose(found, after, atol=1e-6)
        assert "the newer checkpoint can't be opened" in "".join(server.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_what_it_has_begun(folder: Path, number: int) -> None:
    with Server(folder, "--batch-tokens", 48) as server:
        answers: list[httpx.Response] = []
        texts = [f"{i} of a request that takes a while" for i in range(1000)]
        thread = threading.Thread(target=lambda: answers.append(server.classify(texts)))
        thread.start()
        while not re.search(r"pyllmclf_queued_texts [1-9]", httpx.get(f"{server.url}/metrics").text):
            time.sleep(0.005)
        assert server.stop(number) == 0
        thread.join(30)
        assert answers[0].status_code == 200 and len(answers[0].json()["data"]) == 1000


def test_workers_share_the_weights_and_the_socket(folder: Path, classifier: pyllmclf.Classifier) -> None:
    with Server(folder, "--workers", 2) as server:
        for _ in range(8):
            content = server.classify(TEXTS).json()
            found = np.array([entry["probs"] for entry in content["data"]])
            np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=1e-6)
        # Metrics are those of all processes.
        page = httpx.get(f"{server.url}/metrics").text
        assert f'pyllmclf_texts_total{{model="tickets"}} {8 * len(TEXTS)}.0' in page
        until = time.monotonic() + START_SECONDS
        while Path("/proc/self/maps").exists() and _mapping(server.process.pid) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert server.stop() == 0
        assert not any(".weights" in line for line in server.lines)


def _mapping(pid: int) -> int:
    """Number of child processes that map weights."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    count = 0
    for child in children:
        try:
            count += ".weights" in Path(f"/proc/{child}/maps").read_text()
        except OSError:  # it has ended
            continue
    return count


def test_a_worker_that_dies_is_started_again(folder: Path) -> None:
    with Server(folder, "--workers", 2) as server:
        until = time.monotonic() + START_SECONDS
        while _mapping(server.process.pid) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        dead = next(pid for pid in children if ".weights" in Path(f"/proc/{pid}/maps").read_text())
        os.kill(int(dead), signal.SIGKILL)
        while _mapping(server.process.pid) < 2 or Path(f"/proc/{dead}").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        assert server.classify(TEXTS).status_code == 200
        assert server.stop() == 0


def test_mapped_weights_compute_the_same(tmp_path: Path) -> None:
    classifier = trained(pooling="mean")
    expected = classifier.logits(TEXTS)
    paths = map_weights(classifier.state.model, tmp_path)
    assert len(paths) == classifier.state.model.depth + 1
    np.testing.assert_array_equal(classifier.logits(TEXTS), expected)
    other = trained(pooling="mean")
    assert map_weights(other.state.model, tmp_path) == paths
    for path in set(paths):
        path.unlink()
    np.testing.assert_array_equal(other.logits(TEXTS), expected)
    # Writes stay in the process.
    with np.errstate(all="ignore"):
        other.state.model.head.weight.data.zero_()
    np.testing.assert_array_equal(classifier.logits(TEXTS), expected)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 4, "nowhere"),
        (["a=x", "a=y"], 2, "two classifiers are named 'a'"),
        (["=x"], 2, "NAME=FOLDER"),
        (["FOLDER", "--workers", "0"], 2, "workers=0"),
        (["FOLDER", "--max-texts", "0"], 2, "max_texts=0"),
        (["FOLDER", "--port", "99999"], 2, "port=99999"),
        (["FOLDER", "--host", "192.0.2.1"], 5, "192.0.2.1"),
        (["FOLDER", "--drain-seconds", "-1"], 2, "drain_seconds=-1"),
        (["FOLDER", "--cors-origin", "*"], 2, "every web page"),
        (["FOLDER", "--api-key", ""], 2, "api_key is empty"),
        (["FOLDER", "--max-body-mb", "nan"], 2, "--max-body-mb"),
        (["FOLDER", "--dtype", "int8"], 2, "calibration"),
    ],
)
def test_wrong_arguments(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    given = [str(folder) if each == "FOLDER" else each for each in arguments]
    assert run(app, "pyllmclf", ["serve", *given]) == code
    assert words in capfd.readouterr().err


def test_the_extra_is_named_where_it_is_missing(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "pyllmclf.server" or name.startswith("pyllmclf.server.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(pyllmclf, "server", raising=False)
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert run(app, "pyllmclf", ["serve", str(folder)]) == 2
    assert "needs the package orjson; pip install 'pyllmclf[serve]'." in capfd.readouterr().err


def test_a_port_that_is_taken(folder: Path, capfd: pytest.CaptureFixture[str], server: Server) -> None:
    assert run(app, "pyllmclf", ["serve", str(folder), "--port", str(server.port)]) == 5
    assert "choose another --host or --port" in capfd.readouterr().err


def test_names_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyllmclf.server.run import named_folders

    odd = tmp_path / "a=b"
    odd.mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(named_folders([f"{tmp_path}/out", "x=out", "a=b"])) == ["out", "x", "a=b"]
    assert list(named_folders([f"{odd}/"])) == ["a=b"]
    assert named_folders(["n=~/out"])["n"] == Path.home() / "out"
    shutil.rmtree(odd)
