"""The declaration of the settings, and the signatures and options that must follow it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

import pyllmclf
from pyllmclf import LoRAConfig, UsageError
from pyllmclf.cli.main import app
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.readers import TextData
from pyllmclf.models.pooling import POOLINGS
from pyllmclf.ops import BACKENDS
from pyllmclf.settings import ARGUMENTS, Settings, recorded_settings, with_recorded
from pyllmclf.sklearn import LLMClassifier

# Arguments of the estimator that take the place of finetune's.
RENAMED = {"seed": "random_state"}
OWN_OF_ESTIMATOR = {"random_state": 123, "validation_fraction": None, "progress": False}
# Options of the command that are no arguments of a training.
OWN_OF_COMMAND = {"data", "seeds", "save", "config", "json", "debug", "help"}


def defaults() -> dict[str, Any]:
    return {each.name: each.default for each in fields(Settings)}


def test_finetune_has_what_is_declared() -> None:
    signature = inspect.signature(pyllmclf.finetune)
    assert {name: p.default for name, p in signature.parameters.items()} == defaults()
    assert list(signature.parameters) == [each.name for each in fields(Settings)]
    hints, declared = get_type_hints(pyllmclf.finetune), get_type_hints(Settings)
    loosely = {"lora", "logs", "callbacks"}  # the declaration knows no Callback
    assert {n: h for n, h in hints.items() if n not in loosely | {"return"}} == {
        n: h for n, h in declared.items() if n not in loosely
    }


def test_finetune_documents_what_is_declared() -> None:
    documented = inspect.getdoc(pyllmclf.finetune) or ""
    parameters = documented.partition("Parameters\n")[2].partition("Returns\n")[0]
    heads = re.findall(r"^([a-z_, ]+?)(?: : .*)?$", parameters, re.MULTILINE)
    names = [name for head in heads for name in head.split(", ")]
    assert sorted(names) == sorted(ARGUMENTS)


def test_the_estimator_has_what_is_declared() -> None:
    parameters = dict(inspect.signature(LLMClassifier).parameters)
    expected = {RENAMED.get(name, name): default for name, default in defaults().items() if ARGUMENTS[name].estimator}
    assert {name: p.default for name, p in parameters.items()} == expected | OWN_OF_ESTIMATOR
    hints, declared = get_type_hints(LLMClassifier.__init__), get_type_hints(Settings)
    loosely = {"lora", "logs", "callbacks", "random_state", "validation_fraction", "return"}
    for name, hint in hints.items():
        assert name in loosely or hint == declared[name], name


def options_of_the_command() -> dict[str, Any]:
    command: Any = typer.main.get_command(app)
    parameters = command.commands["finetune"].params
    return {spelling.removeprefix("--"): p for p in parameters for spelling in p.opts}


def test_the_command_has_what_is_declared() -> None:
    options = options_of_the_command()
    expected = {name.replace("_", "-") for name, declared in ARGUMENTS.items() if declared.option}
    expected |= {f"lora-{each.name.replace('_', '-')}" for each in fields(LoRAConfig)}
    assert set(options) - OWN_OF_COMMAND == expected
    for name, declared in ARGUMENTS.items():
        if declared.option:
            assert options[name.replace("_", "-")].help == declared.help


def test_help_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    code = "import sys, pyllmclf.cli.finetune; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_words_are_those_that_are_implemented() -> None:
    hints = get_type_hints(Settings)
    assert set(re.findall(r"'(\w+)'", str(hints["pooling"]))) == {*POOLINGS, "auto"}
    assert set(re.findall(r"'(\w+)'", str(hints["backend"]))) == set(BACKENDS)


def test_every_argument_has_a_default_and_a_help_text() -> None:
    assert all(each.default is not MISSING for each in fields(Settings))
    assert all(declared.help.endswith((".", ")")) and declared.group for declared in ARGUMENTS.values())


# Since version 0.1; a new argument is added to one of the sets, or has a value for checkpoints without it.
CHANGES_NO_RESULT = {
    "model", "train", "validation", "test", "text_column", "text_pair_column", "label_column", "label_separator",
    "empty_texts", "encoding_errors", "missing", "encoding", "delimiter", "header",
    "cache", "cache_budget", "cache_dir", "output_dir", "resume", "save_every_steps",
    "keep_last", "strategy", "revision",
    "sample_weight",  # the weights themselves are compared
}  # fmt: skip
NOT_RECORDED = {"baselines", "refit", "logs", "callbacks", "report", "progress", "overwrite"}


def test_what_a_resumed_run_must_have_in_common() -> None:
    compared = {name for name, declared in ARGUMENTS.items() if declared.changes_result and declared.recorded}
    assert compared == set(ARGUMENTS) - CHANGES_NO_RESULT - NOT_RECORDED
    alike = {name for name, declared in ARGUMENTS.items() if declared.same_in_processes}
    assert alike == {"cache", "save_every_steps", "strategy"}
    assert set(recorded_settings(Settings(), {})) == set(ARGUMENTS) - NOT_RECORDED


def test_a_resumed_run_takes_what_was_resolved() -> None:
    recorded = {"dtype": "bfloat16", "pooling": "first", "causal": False, "max_length": 64, "class_weights": "balanced"}
    taken = with_recorded(Settings(), recorded)
    assert (taken.dtype, taken.pooling, taken.causal, taken.max_length) == ("bfloat16", "first", False, 64)
    assert taken.class_weights is None
    chosen = with_recorded(Settings(dtype="float32", pooling="last", causal=True, max_length=5), recorded)
    assert (chosen.dtype, chosen.pooling, chosen.causal, chosen.max_length) == ("float32", "last", True, 5)


def test_a_resumed_run_takes_the_order_of_the_classes() -> None:
    data = TextData(["a", "b", "c"], ["x", "y", "z"], "here")
    assert LabelEncoder.fit(data).classes == ("x", "y", "z")
    assert LabelEncoder.fit(data, ["z", "x", "y"]).classes == ("z", "x", "y")
    assert LabelEncoder.fit(data, ["z", "x"]).classes == ("x", "y", "z")
    numbers = TextData(["a", "b"], ["1", "2"], "here")
    assert LabelEncoder.fit(numbers, [2, 1]).classes == (2, 1)


@pytest.mark.parametrize("name", [name for name, declared in ARGUMENTS.items() if declared.check is not None])
def test_a_wrong_value_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Settings(**{name: [["no", "such", "value"]]})


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        pyllmclf.finetune("gpt2-nano", "sample", no_such_argument=1)  # type: ignore[call-arg]
