"""The documentation builds without a warning, its examples run, and its schema is the one that is printed."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from models import Folders

from pyllmclf.cli.main import app, run

ROOT = Path(__file__).parent.parent
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
TINY = ["--model", "gpt2-nano", "--weights", "random", "--epochs", "1"]


def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "site/reference/index.html").read_text(encoding="utf-8")
    for name in ("finetune_seeds", "LLMClassifier", "layerwise_lr_decay", "NonFiniteError"):
        assert name in page


@pytest.fixture
def folders(model_folder: Folders) -> dict[str, str]:
    """Small models that the examples' compare and search would take minutes on otherwise."""
    return {family: str(model_folder(family)) for family in ("bert", "gpt2")}


Example = Callable[..., str]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Runs an example as a script, in a folder of its own; returns its output.

    Not in a process of its own, which would spend five of six seconds on imports.
    """

    def run_example(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


def test_example_csv_to_classifier(example: Example, tmp_path: Path) -> None:
    data = ROOT / "pyllmclf/data/sample/messages.csv"
    for _ in range(2):  # the second call replaces the classifier of the first
        out = example("csv_to_classifier.py", str(data), *TINY)
    assert re.search(r"validation accuracy \d+\.\d\d%", out) and "I will be ten minutes late." in out
    assert (tmp_path / "classifier/best/model.safetensors").is_file()


def test_example_lora_on_gpt2(example: Example, tmp_path: Path) -> None:
    for _ in range(2):
        out = example("lora_on_gpt2.py", "sample", "--rank", "4", *TINY)
    assert "parameters were trained" in out and "test: accuracy" in out
    assert (tmp_path / "adapter/peft/adapter_config.json").is_file()
    assert (tmp_path / "adapter/merged/model.safetensors").is_file()


def test_example_compare_bert_and_gpt(example: Example, tmp_path: Path, folders: dict[str, str]) -> None:
    arguments = ["sample", "--models", folders["bert"], folders["gpt2"], "--seeds", "2", "--epochs", "1"]
    out = example("compare_bert_and_gpt.py", *arguments)
    assert len(re.findall(r"test accuracy \d+\.\d\d% ± ", out)) == 2 and re.search(r"p = [01]\.\d{3}", out)


def test_example_grid_search(example: Example, tmp_path: Path, folders: dict[str, str]) -> None:
    arguments = ["sample", "--model", folders["bert"], "--epochs", "1", "--folds", "2", "--texts", "60"]
    out = example("grid_search.py", *arguments)
    assert len(re.findall(r"\d% ± ", out)) == 6 and "best: {" in out


def test_every_example_is_run_and_named() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    shown = (DOCS / "examples.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    assert names and all(f"`{name}`" in shown and f'"{name}"' in tests for name in names)


def test_json_of_an_evaluation_is_what_its_schema_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads((DOCS / "schemas/eval.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    train = ["finetune", "--train", "sample", *TINY, "--output-dir", str(tmp_path / "run"), "--no-progress", "--json"]
    assert run(app, "pyllmclf", train) == 0
    capsys.readouterr()
    arguments = ["eval", str(tmp_path / "run"), "sample", "--compare", str(tmp_path / "run/last"), "--json"]
    assert run(app, "pyllmclf", [*arguments, "--no-progress"]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, schema)
    (compared,) = printed["compared"].values()
    assert set(printed) - {"compared"} <= set(schema["properties"]) | set(schema["$defs"]["figures"]["properties"])
    assert set(printed["lengths"]) == set(schema["$defs"]["figures"]["properties"]["lengths"]["properties"])
    for wrong in ({"accuracy": 1.5}, {"texts": None}, {"classes": ["one"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(printed | wrong, schema)
    assert compared["p"] == 1.0


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md"), key=str), ids=lambda p: p.name)
def test_arguments_in_the_documentation_exist(page: Path) -> None:
    """Options of the command line that a page names are options of a command, of a benchmark, or of torchrun."""
    import typer
    from torch.distributed import run as torchrun

    commands = typer.main.get_command(app).commands.values()
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    known |= {option for command in commands for parameter in command.params for option in parameter.secondary_opts}
    scripts = [*EXAMPLES.glob("*.py"), *(EXAMPLES.parent / "bench").glob("*.py")]
    examples = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    known |= set(torchrun.get_args_parser()._option_string_actions)
    # Those of Slurm, Docker and curl.
    text = re.sub("#SBATCH .*|docker compose .*|curl .*", "", page.read_text(encoding="utf-8"))
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert option in known or f'"{option}"' in examples, option
