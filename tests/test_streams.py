"""Standard streams that are broken, closed, full or of another encoding: no training suffers, and JSON stays valid."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyllmclf
from pyllmclf.classifier.checkpoint import find_checkpoint
from pyllmclf.cli.main import app, run
from pyllmclf.cli.streams import print_json
from pyllmclf.progress import STANDARD_ERROR, LenientStream, say, warn

NANO = ("finetune", "--model", "gpt2-nano", "--weights", "random", "--epochs", "1")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("text,label\n" + "The parcel is late.,delivery\nCharged twice!,billing\n" * 8)
    return path


@pytest.fixture
def broken_pipe() -> Iterator[Any]:
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115
    yield stream
    with pytest.raises(BrokenPipeError):  # it still can't be written; nothing is left in the buffer but this
        print("x", file=stream, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    stream.close()


def full() -> Any:
    return open("/dev/full", "w", encoding="utf-8")


# --- standard error ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "closed", "broken", "full"])
def test_a_training_ends_well_whatever_standard_error_is(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_pipe: Any, kind: str
) -> None:
    closed = io.StringIO()
    closed.close()
    stream = {"none": lambda: None, "closed": lambda: closed, "broken": lambda: broken_pipe, "full": full}[kind]()
    monkeypatch.setattr(sys, "stderr", stream)
    arguments: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": True}
    expected = pyllmclf.finetune("gpt2-nano", str(table), **arguments | {"progress": False})
    result = pyllmclf.finetune("gpt2-nano", str(table), **arguments)  # from Python
    assert result.history[0].train_loss == expected.history[0].train_loss
    assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--output-dir", str(tmp_path / "out")]) == 0
    assert find_checkpoint(tmp_path / "out").name == "checkpoint-2"
    # The code of an error stays, although its sentence can't be read.
    assert run(app, "pyllmclf", [*NANO, "--train", str(tmp_path / "nowhere.csv")]) == 3
    assert sys.stderr is stream
    if kind == "full":
        stream.close()  # nothing is left in its buffer that would fail now, or at the end of the process


def test_bars_and_lines_go_to_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    say("a line\x1b[2J", True)
    assert shown.getvalue() == "a line\\x1b[2J\n"
    warn("another", True)
    assert shown.getvalue().endswith("another\n")
    assert STANDARD_ERROR.encoding == "utf-8" and not STANDARD_ERROR.isatty()
    with pytest.raises(TypeError):
        STANDARD_ERROR.write(b"bytes")  # type: ignore[arg-type]
    LenientStream(lambda: None).write("nowhere")
    with pytest.raises(OSError):
        LenientStream(lambda: None).fileno()


def shell(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}"], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("redirected", ["2>&1 | head -n 1", ">&- 2>&- <&-"])
def test_from_a_shell(table: Path, tmp_path: Path, redirected: str) -> None:
    command = " ".join((f'"{sys.executable}" -m pyllmclf', *NANO, f'--train "{table}" --output-dir out'))
    done = shell(f"{command} {redirected}", tmp_path)
    assert done.returncode == 0, done.stdout
    assert find_checkpoint(tmp_path / "out").name == "checkpoint-2"
    assert "Exception ignored" not in done.stdout + done.stderr and "Error" not in done.stdout + done.stderr


# --- standard output --------------------------------------------------------------------------------------------------


def test_broken_output_is_no_success_where_the_work_was_not_done(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")  # of another pipe: standard output is intact

    monkeypatch.setattr("pyllmclf.api.finetune", fail)
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert run(app, "pyllmclf", [*NANO, "--train", str(table), "--no-save"]) == 5
    os.close(reader)
    assert "closed by its reader" in capsys.readouterr().err


VALUES = ["\x9b2J\x1b\u202e", "📦 Übergröße", "naïve café", "日本語", "line\u2028sep", "\udcff", "plain"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "gbk", "utf-8", "utf-16", "cp037", "utf-7"])
def test_json_is_valid_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    for indent in (2, None):
        raw.seek(0)
        raw.truncate()
        print_json({"texts": VALUES, "loss": float("nan"), "rows": [float("inf"), 0.5]}, indent=indent)
        stream.flush()
        content = raw.getvalue()
        assert json.loads(content.decode("utf-8")) == {"texts": VALUES, "loss": None, "rows": [None, 0.5]}
        assert content.isascii() == (encoding != "utf-8")
        assert not set(content.decode()) & set("\x9b\x1b\u202e\u2028")
        assert content.count(b"\n") == (1 if indent is None else content.count(b"\n"))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16", "utf-8"])
@pytest.mark.parametrize("options", [("--format", "csv"), ("--format", "tsv"), ("--label-only",)])
def test_tables_and_labels_are_utf8_in_any_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, options: tuple[str, ...]
) -> None:
    data = [(f"{word} {i}", label) for i in range(8) for word, label in (("gut", "größer"), ("schlecht", "小"))]
    short: dict[str, Any] = {"weights": "random", "trainable": "all", "epochs": 1, "progress": False}
    pyllmclf.finetune("gpt2-nano", tuple(map(list, zip(*data, strict=True))), **short).classifier.save(tmp_path / "c")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
    arguments = ["predict", str(tmp_path / "c"), "--text", "日本語 café", "--no-progress", *options]
    assert run(app, "pyllmclf", arguments) == 0
    sys.stdout.flush()
    content = raw.getvalue().decode("utf-8")
    assert "\\u" not in content and any(label in content for label in ("größer", "小"))
    assert ("日本語 café" in content) == (options[0] == "--format")


def test_json_on_streams_without_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    print_json(VALUES)
    assert json.loads(shown.getvalue()) == VALUES
    monkeypatch.setattr(sys, "stdout", None)
    print_json(VALUES)


@pytest.mark.parametrize("command", ["predict", "eval", "validate", "info"])
def test_every_command_prints_such_json(
    trained: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("📦 too late\nÜber\n", encoding="utf-8")
    odd = tmp_path / "über.csv"
    odd.write_text(table.read_text(), encoding="utf-8")
    arguments = {
        "predict": [trained, lines],
        "eval": [trained, odd, "--json"],
        "validate": [odd, "--json"],
        "info": ["--json"],
    }[command]
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert run(app, "pyllmclf", [command, *map(str, arguments)]) == 0
    sys.stdout.flush()
    content = raw.getvalue().decode("ascii")
    rows = [json.loads(line) for line in content.splitlines()] if command == "predict" else [json.loads(content)]
    if command == "predict":
        assert [row["text"] for row in rows] == ["📦 too late", "Über"]
    elif command != "info":
        assert rows[0]["data"] == str(odd)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    data = (["late parcel", "charged twice"] * 4, ["delivery", "billing"] * 4)
    pyllmclf.finetune("gpt2-nano", data, weights="random", epochs=1, progress=False).classifier.save(folder)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
