"""Names that don't exist: what is meant, and model and data in the wrong order."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import pyllmclf
from pyllmclf import DataError, ModelError, UsageError
from pyllmclf.cli.main import app, eval_app, run
from pyllmclf.settings import ARGUMENTS
from pyllmclf.sklearn import LLMClassifier
from pyllmclf.suggestions import OTHER_NAMES, did_you_mean, meant


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suggestions") / "reviews.csv"
    pd.DataFrame({"text": ["a", "b"] * 4, "label": ["x", "y"] * 4}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Path:
    path = tmp_path_factory.mktemp("suggestions") / "classifier"
    pyllmclf.finetune("gpt2-nano", table, weights="random", epochs=1, progress=False).classifier.save(path)
    return path


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("lr", "learning_rate"), ("num_epochs", "epochs"), ("num_train_epochs", "epochs"), ("batch", "batch_size"),
        ("per_device_train_batch_size", "batch_size"), ("output", "output_dir"), ("patience", "early_stopping"),
        ("max_seq_length", "max_length"), ("random_state", "seed"), ("verbose", "progress"), ("dataset", "train"),
        ("learning_rates", "learning_rate"), ("Epochs", "epochs"), ("labelcolumn", "label_column"),
    ],
)  # fmt: skip
def test_other_names_of_an_argument(name: str, argument: str) -> None:
    with pytest.raises(UsageError, match=f"no argument {name}; {argument} is meant") as raised:
        pyllmclf.finetune("gpt2-nano", "sample", **{name: 1})  # type: ignore[arg-type]
    assert isinstance(raised.value, TypeError)
    assert meant(name, ARGUMENTS) == argument


def test_arguments_that_nothing_is_like() -> None:
    with pytest.raises(TypeError, match=r"finetune\(\) has no argument zzz; help\(pyllmclf.finetune\) lists them"):
        pyllmclf.finetune("gpt2-nano", "sample", zzz=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="epochs is meant, which the call has, too"):
        pyllmclf.finetune("gpt2-nano", "sample", num_epochs=1, epochs=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="learning_rate is meant"):
        pyllmclf.finetune_seeds("gpt2-nano", "sample", seeds=1, lr=1)
    with pytest.raises(UsageError, match="device is meant"):
        pyllmclf.load("out", device_map="cpu")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="text_column is meant"):
        pyllmclf.evaluate("out", "sample", text_col="body")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"LLMClassifier\(\) has no argument seed; random_state is meant"):
        LLMClassifier("gpt2-nano", seed=1)  # type: ignore[call-arg]


def test_signatures_stay_whole() -> None:
    assert list(inspect.signature(pyllmclf.finetune).parameters)[:3] == ["model", "train", "validation"]
    assert pyllmclf.finetune.__name__ == "finetune" and "Fine-tunes" in (pyllmclf.finetune.__doc__ or "")
    assert "lr" not in inspect.signature(pyllmclf.finetune).parameters
    assert LLMClassifier("gpt2-nano").get_params()["learning_rate"] == "auto"


def test_other_names_are_those_of_arguments_and_of_none_twice() -> None:
    assert set(OTHER_NAMES) <= set(ARGUMENTS) | {"random_state"}
    names = [name for argument, others in OTHER_NAMES.items() if argument != "random_state" for name in others]
    assert len(names) == len(set(names)) and not set(names) & set(ARGUMENTS)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("finetune", "a.csv", "--lr", "1"), "--learning-rate"),
        (("finetune", "a.csv", "--num-epochs", "1"), "--epochs"),
        (("finetune", "a.csv", "--learning_rate", "1"), "--learning-rate"),
        (("finetune", "a.csv", "--output", "o"), "--output-dir"),
        (("finetune", "a.csv", "--no-progres"), "--no-progress"),
        (("predict", "out", "--label-olny"), "--label-only"),
        (("finetun", "a.csv"), "finetune"),
        (("evaluate", "a.csv"), "eval"),
    ],
)
def test_options_and_commands(capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], suggestion: str) -> None:
    assert run(app, "pyllmclf", arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and f"(did you mean {suggestion}?)" in err and len(err.splitlines()) == 1 and err.endswith(".\n")


def test_options_of_a_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("lr = 1e-3")
    assert run(app, "pyllmclf", ["finetune", "a.csv", "--config", str(path)]) == 2
    assert "'learning_rate' is meant" in capfd.readouterr().err


def test_names_of_models_data_and_columns(table: Path) -> None:
    nano: dict[str, Any] = {"weights": "random", "progress": False}
    with pytest.raises(ModelError, match=r"bert-base-uncase.*\(did you mean 'bert-base-uncased'\?\)\.$"):
        pyllmclf.finetune("bert-base-uncase", table, progress=False)
    with pytest.raises(DataError, match=r"smsspam.*\(did you mean 'sms_spam'\?\)\.$"):
        pyllmclf.finetune("gpt2-nano", "smsspam", **nano)
    with pytest.raises(UsageError, match=r"\(did you mean 'published'\?\)\.$"):
        pyllmclf.load_dataset("imdb", "publish")
    with pytest.raises(DataError, match=r"no column 'txt'; did you mean 'text'\? The columns are"):
        pyllmclf.finetune("gpt2-nano", table, text_column="txt", **nano)
    with pytest.raises(DataError, match=r"no column 'TEXTS'; did you mean 'text'\? The columns are"):
        pyllmclf.finetune("gpt2-nano", table, text_column="TEXTS", **nano)
    assert did_you_mean("zzz", ["text"]) == did_you_mean("text", ["text"]) == ""


def test_data_by_position(
    capfd: pytest.CaptureFixture[str], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a run may leave its output there
    nano = ["--model", "gpt2-nano", "--weights", "random", "--epochs", "1", "--no-progress", "--json"]
    assert run(app, "pyllmclf", ["finetune", str(table), *nano]) == 0
    config = tmp_path / "run.toml"
    config.write_text('train = "nowhere.csv"')
    assert run(app, "pyllmclf", ["finetune", str(table), "--config", str(config), *nano]) == 0
    capfd.readouterr()
    assert run(app, "pyllmclf", ["finetune", str(table), "--train", "b.csv"]) == 2
    assert "named twice" in capfd.readouterr().err
    assert run(app, "pyllmclf", ["finetune", "--epochs", "1"]) == 2
    assert "--train" in capfd.readouterr().err


# --- the wrong order --------------------------------------------------------------------------------------------------


def test_model_and_data_that_are_swapped(
    capfd: pytest.CaptureFixture[str], table: Path, folder: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(table)
    for model, train in ((str(table), "gpt2"), ("nowhere.csv", "gpt2"), ("sms_spam", "gpt2-nano"), (frame, "gpt2")):
        with pytest.raises(UsageError, match="swapped"):
            pyllmclf.finetune(model, train)
    with pytest.raises(UsageError, match=r"swapped.*finetune\('.*classifier', 'nowhere.csv'\)"):
        pyllmclf.finetune("nowhere.csv", folder)
    with pytest.raises(UsageError, match="is data, not a model"):
        pyllmclf.finetune(table, table)
    with pytest.raises(UsageError, match="is a model, not data"):
        pyllmclf.finetune("gpt2-nano", "gpt2")
    assert run(app, "pyllmclf", ["finetune", "--model", str(table), "--train", "gpt2"]) == 2
    assert "swapped" in capfd.readouterr().err


def test_classifier_and_data_that_are_swapped(capfd: pytest.CaptureFixture[str], table: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="swapped; the classifier comes first"):
        pyllmclf.evaluate(table, folder)
    for command, name, arguments in (
        (app, "pyllmclf", ["eval", str(table), str(folder)]),
        (app, "pyllmclf", ["predict", str(table), str(folder)]),
        (eval_app, "pyllmclf-eval", ["sms_spam", str(folder)]),
    ):
        assert run(command, name, arguments) == 2
        out, err = capfd.readouterr()
        assert out == "" and "swapped" in err and len(err.splitlines()) == 1


# --- version, help and completion -------------------------------------------------------------------------------------


def test_versions(capfd: pytest.CaptureFixture[str]) -> None:
    for command, name in ((app, "pyllmclf"), (eval_app, "pyllmclf-eval")):
        assert run(command, name, ["--version"]) == 0
        assert capfd.readouterr() == (f"pyllmclf {pyllmclf.__version__}\n", "")


def test_every_command_has_an_example(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert run(app, "pyllmclf", ["--help"]) == 0
    shown = capfd.readouterr().out
    assert all(f" {name} " in shown for name in names) and all(
        group in shown for group in ("Train", "Use a classifier")
    )
    for name in names:
        assert run(app, "pyllmclf", [name, "--help"]) == 0
        assert f"Example: pyllmclf {name}" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["pyllmclf", "pyllmclf-eval"])
def test_completion(name: str, tmp_path: Path) -> None:
    function = "main" if name == "pyllmclf" else "main_eval"
    program = f"import sys; from pyllmclf.cli.main import {function}; sys.argv[0] = {name!r}; {function}()"

    def call(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-c", program, *arguments]
        environment = os.environ | {"PYTHONPATH": str(Path(pyllmclf.__file__).parents[1])} | variables
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60).stdout

    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    variables = {variable: "complete_bash", "COMP_WORDS": f"{name} --he", "COMP_CWORD": "1"}
    assert "--help" in call(**variables).split()
    if name == "pyllmclf":
        assert variable in call("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
