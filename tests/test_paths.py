"""``~`` in paths is the home folder everywhere; a home folder is needed only where something is kept in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import pyllmclf
from pyllmclf import ResourceError
from pyllmclf.cli.main import app, run
from pyllmclf.data.fetch import cache_dir, cache_dir_if_any, find_local
from pyllmclf.models.hub import find_model
from pyllmclf.paths import environment_path, user_path
from pyllmclf.settings import Settings

NANO = ("--model", "gpt2-nano", "--weights", "random", "--epochs", "1", "--no-progress")
SHORT: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a table; the current folder is another."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "table.csv").write_text("text,label\n" + "late parcel,delivery\ncharged twice,billing\n" * 4)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(elsewhere)
    yield folder
    assert [path.name for path in elsewhere.iterdir() if path.name != "run.toml"] == []


def test_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_path("~/a b") == f"{home}/a b"
    assert user_path(Path("~/a")) == home / "a" and isinstance(user_path(Path("~")), Path)
    assert user_path("~root/x").endswith("/x") and "~" not in user_path("~root/x")
    for other in ("sms_spam", "org/name", "a~", "./~", "~nobody-has-this-name", "~ a text", None, 0.25, ["~/a"], b"~"):
        assert user_path(other) == other
    monkeypatch.setenv("PYLLMCLF_DATA_DIR", "~/data")
    assert environment_path("PYLLMCLF_DATA_DIR") == home / "data"
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", "~/kept")
    assert cache_dir() == home / "kept"
    settings = Settings(model="~/m", train="~/t", validation="~/v", test="~/e", cache_dir="~/c", output_dir=Path("~/o"))
    paths = (settings.model, settings.train, settings.validation, settings.test, settings.cache_dir)
    assert paths == tuple(f"{home}/{name}" for name in "mtvec"[:4] + "c")
    assert settings.output_dir == home / "o"
    assert Settings(train=(["~/a text"], ["x"])).train == (["~/a text"], ["x"])


def test_in_python(home: Path) -> None:
    result = pyllmclf.finetune(
        "gpt2-nano", "~/table.csv", test="~/table.csv", output_dir="~/out", cache_dir="~/tokens", **SHORT
    )
    result.classifier.save("~/saved")
    result.classifier.export("~/exported")
    assert {"out", "saved", "exported", "tokens"} <= set(os.listdir(home))
    assert pyllmclf.load("~/saved").classes_ == ["billing", "delivery"]
    assert pyllmclf.evaluate("~/out", "~/table.csv").to_dict()["texts"] == 8
    assert find_model("~/exported", "pretrained").folder == home / "exported"
    runs = pyllmclf.finetune_seeds("gpt2-nano", "~/table.csv", seeds=1, output_dir="~/seeds", **SHORT)
    assert runs.results[0].output_dir == home / "seeds/seed-123"


def test_on_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert run(app, "pyllmclf", list(arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    call("finetune", *NANO, "--train=~/table.csv", "--output-dir=~/out")
    assert (home / "out/last").is_dir()
    Path("run.toml").write_text('train = "~/table.csv"\noutput-dir = "~/toml"\ncache-dir = "~/tokens"\n')
    (home / "run.toml").write_text(Path("run.toml").read_text())
    call("finetune", *NANO, "--config=~/run.toml")
    assert {"toml", "tokens"} <= set(os.listdir(home))
    options = ("--predictions=~/p.csv", "--report=~/r.html", "--compare=~/toml", "--json")
    assert json.loads(call("eval", "~/out", "~/table.csv", *options, "--no-progress"))["texts"] == 8
    assert {"p.csv", "r.html"} <= set(os.listdir(home))
    call("predict", "~/out", "~/table.csv", "--no-progress")
    call("export", "~/out", "~/exported")
    call("validate", "~/table.csv", "--test=~/table.csv", "--model=~/exported")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has neither HOME nor an entry in /etc/passwd."""
    for name in ("HOME", "PYLLMCLF_CACHE_DIR", "XDG_CACHE_HOME", "PYLLMCLF_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_without_a_home_folder(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "late parcel,delivery\ncharged twice,billing\n" * 4)
    assert cache_dir_if_any() is None and find_local("sms_spam", "x") is None
    # As always: two epochs cache the frozen layers' activations, in memory.
    result = pyllmclf.finetune("gpt2-nano", table, weights="random", trainable="last_block", epochs=2, progress=False)
    assert len(result.history) == 2
    capsys.readouterr()
    needed = [
        ["--train", "sms_spam"],
        ["--train", str(table), "--cache", "disk"],
        ["--train", str(table), "--output-dir", "~/out"],
    ]
    for arguments in needed:
        code = run(app, "pyllmclf", ["finetune", *NANO, "--trainable", "last_block", "--epochs", "2", *arguments])
        error = capsys.readouterr().err
        assert code == 5 and "HOME" in error and "bug" not in error, error
    with pytest.raises(ResourceError, match="PYLLMCLF_CACHE_DIR, XDG_CACHE_HOME or HOME"):
        cache_dir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(ResourceError, match="HF_HOME"):
        find_model("nobody/nothing", "pretrained")
    assert not list(tmp_path.glob("~*"))
