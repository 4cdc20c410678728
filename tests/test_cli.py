"""The command line: its output, the arguments that it passes on, and its exit codes."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import pyllmclf
import pyllmclf.api
from pyllmclf.api import finetune
from pyllmclf.cli.main import app, eval_app, run
from pyllmclf.models.architecture import Package

CLASSES = ["account", "billing", "delivery", "product"]
NANO = ("--model", "gpt2-nano", "--weights", "random", "--no-progress")


class Ran(NamedTuple):
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs ``pyllmclf`` with arguments."""

    def call(*arguments: object, command: Any = app, name: str = "pyllmclf") -> Ran:
        capfd.readouterr()
        code = run(command, name, [str(a) for a in arguments])
        return Ran(code, *capfd.readouterr())

    return call


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that name no output folder write below the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The output folder of ``pyllmclf finetune --json``, and what that printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["finetune", *NANO, "--train", "sample", "--trainable", "all", "--epochs", "1"]
    arguments += ["--learning-rate", "2e-3", "--pooling", "mean", "--output-dir", str(folder), "--json"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(app, "pyllmclf", arguments) == 0
    return folder, json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def run_folder(trained: tuple[Path, dict[str, Any]]) -> Path:
    return trained[0]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A small labelled CSV file."""
    return write_table(tmp_path / "table.csv", [("The parcel is late.", "delivery"), ("Charged twice!", "billing")] * 8)


def write_table(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def assert_fails(ran: Ran, code: int, *words: str, name: str = "pyllmclf") -> None:
    """One sentence on standard error, which holds ``words``, and nothing on standard output."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith(f"{name}: ")
    assert ran.err.endswith(".\n")
    assert "Traceback" not in ran.err
    assert "this is a bug" not in ran.err
    for word in words:
        assert word in ran.err


# --- finetune ---------------------------------------------------------------------------------------------------------


def test_finetune_json_holds_metrics_history_and_timing(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = trained
    assert printed["output_dir"] == str(folder)
    assert printed["classes"] == CLASSES
    assert set(printed["metrics"]) == {"validation", "test"}
    assert printed["metrics"]["validation"]["texts"] == 72
    assert printed["metrics"]["test"]["texts"] == 144
    (record,) = printed["history"]
    assert (record["epoch"], record["step"]) == (1, 63)
    assert 0.0 < record["train_loss"] < 2.0
    assert record["validation_accuracy"] == printed["metrics"]["validation"]["accuracy"]
    assert record["validation_loss"] == printed["metrics"]["validation"]["log_loss"]
    assert printed["timing"]["steps"] == 63
    parts = ("prepare_seconds", "train_seconds", "evaluate_seconds", "save_seconds")
    assert all(printed["timing"][part] > 0 for part in parts)
    assert sum(printed["timing"][part] for part in parts) <= printed["timing"]["total_seconds"]


def test_finetune_prints_tables_and_where_the_checkpoints_are(cli: Cli, table: Path, tmp_path: Path) -> None:
    ran = cli("finetune", *NANO, "--train", table, "--test", table, "--epochs", 1, "--output-dir", tmp_path / "run")
    assert ran.code == 0
    assert ran.err == ""
    assert "test: accuracy" in ran.out
    assert "trained 2 steps" in ran.out
    assert str(tmp_path / "run") in ran.out.replace("\n", "")


def test_finetune_progress_goes_to_standard_error(cli: Cli, table: Path) -> None:
    arguments = ("finetune", "--model", "gpt2-nano", "--weights", "random", "--train", table, "--epochs", 2, "--json")
    ran = cli(*arguments)
    assert ran.code == 0
    assert len(json.loads(ran.out)["history"]) == 2
    assert "epoch 1/2" in ran.err
    assert "epoch 2/2" in ran.err


GIVEN: dict[str, tuple[list[str], Any]] = {
    "model": (["--model", "bert-base-cased"], "bert-base-cased"),
    "train": (["--train", "train.csv"], "train.csv"),
    "validation": (["--validation", "0.25"], 0.25),
    "test": (["--test", "test.csv"], "test.csv"),
    "text_column": (["--text-column", "body"], "body"),
    "text_pair_column": (["--text-pair-column", "reply"], "reply"),
    "label_column": (["--label-column", "kind"], "kind"),
    "multi_label": (["--multi-label"], True),
    "label_separator": (["--label-separator", ";"], ";"),
    "empty_texts": (["--empty-texts", "skip"], "skip"),
    "encoding_errors": (["--encoding-errors", "replace"], "replace"),
    "missing": (["--missing", "skip"], "skip"),
    "encoding": (["--encoding", "cp1252"], "cp1252"),
    "delimiter": (["--delimiter", ";"], ";"),
    "header": (["--no-header"], False),
    "weights": (["--weights", "random"], "random"),
    "revision": (["--revision", "v1"], "v1"),
    "trainable": (["--trainable", "lora"], "lora"),
    "lora": (
        [
            *("--lora-rank", "4", "--lora-alpha", "32.5", "--lora-dropout", "0.25"),
            *("--lora-target-modules", "c_attn, c_fc", "--lora-layers", "0,1", "--lora-scaling", "alpha"),
        ],
        {
            "rank": 4,
            "alpha": 32.5,
            "dropout": 0.25,
            "target_modules": ("c_attn", "c_fc"),
            "layers": (0, 1),
            "scaling": "alpha",
        },
    ),
    "pooling": (["--pooling", "mean"], "mean"),
    "causal": (["--no-causal"], False),
    "padding": (["--padding", "64"], 64),
    "head_bias": (["--head-bias"], True),
    "dropout": (["--dropout", "0.125"], 0.125),
    "max_length": (["--max-length", "77"], 77),
    "long_texts": (["--long-texts", "tail"], "tail"),
    "pair_truncation": (["--pair-truncation", "only_second"], "only_second"),
    "prompt": (["--prompt", "query: "], "query: "),
    "epochs": (["--epochs", "7"], 7),
    "batch_size": (["--batch-size", "3"], 3),
    "batch_tokens": (["--batch-tokens", "99"], 99),
    "gradient_accumulation_steps": (["--gradient-accumulation-steps", "5"], 5),
    "learning_rate": (["--learning-rate", "0.0625"], 0.0625),
    "weight_decay": (["--weight-decay", "0.03125"], 0.03125),
    "loss": (["--loss", "cross_entropy"], "cross_entropy"),
    "layerwise_lr_decay": (["--layerwise-lr-decay", "0.75"], 0.75),
    "warmup_ratio": (["--warmup-ratio", "0.5"], 0.5),
    "scheduler": (["--scheduler", "cosine"], "cosine"),
    "max_grad_norm": (["--max-grad-norm", "1.5"], 1.5),
    "class_weights": (["--class-weights", "a=2,b=0.5"], {"a": 2.0, "b": 0.5}),
    "sample_weight": (["--sample-weight", "trust"], "trust"),
    "label_smoothing": (["--label-smoothing", "0.1"], 0.1),
    "early_stopping": (["--early-stopping", "2"], 2),
    "baselines": (["--baselines", "off"], "off"),
    "refit": (["--no-refit"], False),
    "calibrate": (["--calibrate"], True),
    "dtype": (["--dtype", "bfloat16"], "bfloat16"),
    "device": (["--device", "cuda:3"], "cuda:3"),
    "backend": (["--backend", "reference"], "reference"),
    "seed": (["--seed", "42"], 42),
    "cache": (["--cache", "disk"], "disk"),
    "cache_budget": (["--cache-budget", "1000000"], 1000000),
    "cache_dir": (["--cache-dir", "kept"], Path("kept")),
    "cuda_graphs": (["--no-cuda-graphs"], False),
    "strategy": (["--strategy", "fsdp"], "fsdp"),
    "output_dir": (["--output-dir", "out"], Path("out")),
    "overwrite": (["--overwrite"], True),
    "resume": (["--resume"], True),
    "save_every_steps": (["--save-every-steps", "100"], 100),
    "keep_last": (["--keep-last", "3"], 3),
    "logs": (["--logs", "csv, tensorboard"], ["csv", "tensorboard"]),
    "report": (["--report"], True),
    "progress": (["--no-progress"], False),
}
# What only Python can give.
IN_PYTHON_ALONE = {"callbacks"}


@pytest.fixture
def passed_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What :func:`pyllmclf.finetune` would get, by name of argument, for options of the command."""
    signature = inspect.signature(finetune)
    recorded: dict[str, Any] = {}

    class Result:
        def to_dict(self) -> dict[str, Any]:
            return {}

    def recorder(*args: Any, **kwargs: Any) -> Result:
        recorded.clear()
        recorded.update(signature.bind(*args, **kwargs).arguments)
        return Result()

    monkeypatch.setattr(pyllmclf.api, "finetune", recorder)

    def call(*options: str) -> dict[str, Any]:
        ran = cli("finetune", *options, "--json")
        assert ran.code == 0, ran.err
        return dict(recorded)

    return call


def test_options_from_a_file(passed_on: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Any of them; the command line counts first."""
    path = tmp_path / "run.toml"
    path.write_text(
        'train = "data.csv"\nmodel = "bert-base-uncased"\nepochs = 7\nlearning-rate = 1e-3\nprogress = false\n'
        'trainable = "lora"\n[lora]\nrank = 4\nlayers = [0, 2]\n[class_weights]\nspam = 2\nham = 0.5\n'
    )
    found = passed_on("--config", str(path), "--epochs", "3")
    assert (found["train"], found["model"], found["epochs"]) == ("data.csv", "bert-base-uncased", 3)
    assert (found["learning_rate"], found["progress"]) == (1e-3, False)
    assert found["lora"] == {"rank": 4, "layers": (0, 2)}
    assert found["class_weights"] == {"spam": 2.0, "ham": 0.5}
    path.write_text(
        'train = "data.csv"\nno-progress = true\nno-causal = true\ntrainable = "lora"\n[lora]\ntarget-modules = ["a"]\n'
    )
    found = passed_on("--config", str(path))
    assert (found["progress"], found["causal"], found["lora"]) == (False, False, {"target_modules": ("a",)})
    path.write_text('train = "data.csv"\ntext_column = ["title", "body"]\nlabel_column = 0\nheader = false\n')
    found = passed_on("--config", str(path))
    assert (found["text_column"], found["label_column"], found["header"]) == ("title,body", "0", False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epoch = 3", "'epoch' is no option"),
        ("epochs = [1]", "single value"),
        ("epochs =", "not a TOML file"),
        ("[lora]\nrang = 3", "'lora.rang' is no option"),
        ("learning_rate = 1\nlearning-rate = 2", "repeats another entry"),
        ("progress = true\nno-progress = true", "repeats another entry"),
        (None, "can't be read"),
        ("epochs = 'many'", "--epochs"),
    ],
)
def test_files_that_are_refused(cli: Cli, tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_text(content)
    ran = cli("finetune", "--train", "data.csv", "--config", str(path))
    assert ran.code == 2
    assert said in ran.err


def test_every_argument_of_finetune_has_an_option(passed_on: Callable[..., dict[str, Any]]) -> None:
    parameters = inspect.signature(finetune).parameters
    assert set(GIVEN) == set(parameters) - IN_PYTHON_ALONE
    for name, (_, value) in GIVEN.items():
        assert value != parameters[name].default, f"the case of {name} can't tell whether its option arrives"
    recorded = passed_on(*(option for options, _ in GIVEN.values() for option in options))
    assert recorded == {name: value for name, (_, value) in GIVEN.items()}


def test_options_have_the_defaults_of_finetune(passed_on: Callable[..., dict[str, Any]]) -> None:
    defaults = {name: p.default for name, p in inspect.signature(finetune).parameters.items()}
    found = passed_on("--train", "train.csv")
    assert found == {name: value for name, value in defaults.items() if name not in IN_PYTHON_ALONE} | {
        "train": "train.csv"
    }


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (["--validation", "none"], "validation", False),
        (["--validation", "held_out.csv"], "validation", "held_out.csv"),
        (["--test", "none"], "test", False),
        (["--padding", "train_longest"], "padding", "train_longest"),
        (["--dropout", "config"], "dropout", "config"),
        (["--causal"], "causal", True),
        (["--no-head-bias"], "head_bias", False),
        (["--progress"], "progress", True),
        (["--lora-rank", "2"], "lora", {"rank": 2}),
        (["--lora-target-modules", "all-linear"], "lora", {"target_modules": "all-linear"}),
        (["--lora-layers", "1"], "lora", {"layers": (1,)}),
    ],
)
def test_other_forms_of_an_option(
    passed_on: Callable[..., dict[str, Any]], options: list[str], name: str, value: Any
) -> None:
    assert passed_on("--train", "train.csv", *options)[name] == value


# --- eval -------------------------------------------------------------------------------------------------------------


def test_eval_json_agrees_with_the_predictions_file(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    ran = cli("eval", run_folder, "sample", "--json", "--predictions", path, "--no-progress")
    assert ran.code == 0
    assert ran.err == ""
    metrics = json.loads(ran.out)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "label", "prediction", *(f"probability_{name}" for name in CLASSES)]
    test = pyllmclf.load_dataset("sample")["test"]
    assert [row["text"] for row in rows] == test.texts
    assert [row["label"] for row in rows] == test.labels

    probabilities = [{name: float(row[f"probability_{name}"]) for name in CLASSES} for row in rows]
    for row, given in zip(rows, probabilities, strict=True):
        assert sum(given.values()) == pytest.approx(1.0)
        assert row["prediction"] == max(CLASSES, key=given.__getitem__)
    counts = [[sum(r["label"] == t and r["prediction"] == p for r in rows) for p in CLASSES] for t in CLASSES]
    assert metrics["confusion_matrix"] == counts
    assert metrics["texts"] == len(rows) == 144
    assert metrics["accuracy"] == pytest.approx(sum(counts[i][i] for i in range(4)) / 144)
    log_loss = -sum(math.log(p[r["label"]]) for r, p in zip(rows, probabilities, strict=True)) / 144
    assert metrics["log_loss"] == pytest.approx(log_loss)
    assert list(metrics["per_class"]) == metrics["classes"] == CLASSES
    f1_sum = 0.0
    for i, name in enumerate(CLASSES):
        hits, true, predicted = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        figures = metrics["per_class"][name]
        f1 = 2 * hits / (true + predicted)
        assert figures["support"] == true
        assert figures["recall"] == pytest.approx(hits / true)
        assert figures["precision"] == pytest.approx(hits / predicted if predicted else 0.0)
        assert figures["f1"] == pytest.approx(f1)
        f1_sum += f1
    assert metrics["macro_f1"] == pytest.approx(f1_sum / 4)


def test_eval_gives_the_figures_of_the_run(cli: Cli, trained: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = trained
    for split in ("validation", "test"):
        metrics = json.loads(cli("eval", folder, "sample", "--split", split, "--json").out)
        assert metrics["split"] == split
        for name in ("accuracy", "macro_f1", "confusion_matrix", "per_class"):
            assert metrics[name] == printed["metrics"][split][name]


def test_eval_prints_a_table(cli: Cli, run_folder: Path) -> None:
    metrics = json.loads(cli("eval", run_folder, "sample", "--json").out)
    ran = cli("eval", run_folder, "sample", "--no-progress")
    assert ran.code == 0
    assert ran.err == ""
    unwrapped = " ".join(ran.out.split())
    assert f"accuracy {metrics['accuracy']:.2%}" in unwrapped
    assert f"macro-F1 {metrics['macro_f1']:.4f}" in unwrapped
    assert f"log-loss {metrics['log_loss']:.4f}" in unwrapped
    for name, counts in zip(CLASSES, metrics["confusion_matrix"], strict=True):
        figures = metrics["per_class"][name]
        lines = [line.split() for line in ran.out.splitlines()]
        scores = [f"{figures[key]:.4f}" for key in ("precision", "recall", "f1")]
        assert [name, *scores, str(figures["support"])] in lines
        assert [name, *map(str, counts)] in lines


def test_eval_reads_files_and_named_columns(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    rows = [("Where is my parcel?", "delivery"), ("I can't log in.", "account")]
    path = write_table(tmp_path / "odd.csv", rows, header=("body", "kind"))
    ran = cli("eval", run_folder, path, "--text-column", "body", "--label-column", "kind", "--json")
    assert ran.code == 0
    metrics = json.loads(ran.out)
    assert metrics["texts"] == 2
    assert [sum(row) for row in metrics["confusion_matrix"]] == [1, 0, 1, 0]


def test_pyllmclf_eval_is_the_eval_command(cli: Cli, run_folder: Path) -> None:
    arguments = (run_folder, "sample", "--json", "--no-progress")
    ours, theirs = cli(*arguments, command=eval_app, name="pyllmclf-eval"), cli("eval", *arguments)
    assert ours.code == theirs.code == 0
    differing = {key for key, value in json.loads(ours.out).items() if value != json.loads(theirs.out)[key]}
    assert differing <= {"seconds"}


# --- predict, info, demo ----------------------------------------------------------------------------------------------

TEXTS = ["The parcel didn't arrive.", "", "Überweisung — doppelt? 😀", 'a "quoted", text', " spaces stay "]


def expected_rows(run_folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    classifier = pyllmclf.load(run_folder)
    rows = zip(texts, classifier.predict(texts), classifier.predict_proba(texts).tolist(), strict=True)
    return [{"text": t, "label": label, "probabilities": dict(zip(CLASSES, p, strict=True))} for t, label, p in rows]


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [(row["text"], row["label"]) for row in found] == [(row["text"], row["label"]) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert row["probabilities"] == pytest.approx(wanted["probabilities"], rel=1e-6)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].__getitem__)


def test_predict_reads_a_text_file_by_lines(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\n".join(TEXTS).encode() + b"\n")
    ran = cli("predict", run_folder, path, "--no-progress")
    assert ran.code == 0
    assert ran.err == ""
    assert_same_rows([json.loads(line) for line in ran.out.splitlines()], expected_rows(run_folder, TEXTS))


def test_predict_reads_windows_lines_and_a_byte_order_mark(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.TXT"
    path.write_bytes(b"\xef\xbb\xbf" + b"first\r\nsecond")
    ran = cli("predict", run_folder, path)
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == ["first", "second"]


def test_predict_reads_a_csv_file_without_labels(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["number", "body"], *([i, text] for i, text in enumerate(TEXTS))])
    ran = cli("predict", run_folder, path, "--text-column", "body")
    assert ran.code == 0
    assert_same_rows([json.loads(line) for line in ran.out.splitlines()], expected_rows(run_folder, TEXTS))


@pytest.mark.parametrize("arguments", [("-",), ()])
def test_predict_reads_standard_input(
    cli: Cli, run_folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    ran = cli("predict", run_folder, *arguments, "--json")
    assert ran.code == 0
    assert_same_rows(json.loads(ran.out), expected_rows(run_folder, TEXTS))


def test_predict_of_nothing_is_nothing(cli: Cli, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert cli("predict", run_folder) == Ran(0, "", "")
    assert cli("predict", run_folder, "--json") == Ran(0, "[]\n", "")


def test_info_names_versions_and_implementations(cli: Cli) -> None:
    ran = cli("info", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert found["pyllmclf"] == pyllmclf.__version__
    assert found["torch"] == torch.__version__
    assert found["torch_cuda_available"] == torch.cuda.is_available()
    assert found["native"]["simd"]
    assert {"attention", "layer_norm", "gelu", "lora_linear"} <= set(found["ops"])
    shown = cli("info").out
    assert torch.__version__ in shown
    assert all(op in shown for op in found["ops"])


@pytest.mark.slow
def test_demo_with_pretrained_weights(minilm: Path, cli: Cli) -> None:
    ran = cli("demo", "--json", "--no-progress")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["metrics"]["test"]["accuracy"] > 0.93
    assert list(found["baselines"]) == ["majority class", "bag of words", "solved head"]
    assert "pyllmclf finetune FILE --model minilm" in cli("demo", "--no-progress").out


def test_demo_learns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model, without the package of the pretrained one."""
    monkeypatch.setattr(Package, "find", lambda _: None)
    ran = cli("demo", "--json", "--no-progress")
    assert ran.code == 0
    assert ran.err == ""
    found = json.loads(ran.out)
    assert found["majority_class_accuracy"] == pytest.approx(39 / 144)
    assert found["metrics"]["test"]["accuracy"] >= 0.5
    assert found["history"][-1]["train_loss"] < found["history"][0]["train_loss"]
    assert len(found["predictions"]) == 4
    assert all(row["label"] in CLASSES and 0.25 <= row["probability"] <= 1.0 for row in found["predictions"])


# --- errors: 2, usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("finetune", "--train", "sample", "--epoch-count", "3"), "--epoch-count"),
        (("finetune", "--train", "sample", "--epochs", "three"), "--epochs"),
        (("finetune",), "--train"),
        (("eval",), "checkpoint"),
        (("guess",), "guess"),
    ],
)
def test_wrong_command_line(cli: Cli, arguments: tuple[str, ...], word: str) -> None:
    assert_fails(cli(*arguments), 2, word)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--scheduler", "sawtooth"), "sawtooth"),
        (("--pooling", "max"), "max"),
        (("--trainable", "tail"), "tail"),
        (("--trainable", "last_9_blocks"), "last_9_blocks"),
        (("--weights", "none"), "none"),
        (("--weights", "pretrained"), "gpt2-nano"),
        (("--dtype", "int8"), "int8"),
        (("--device", "abacus"), "abacus"),
        (("--device", "meta"), "meta"),
        (("--backend", "fortran"), "fortran"),
        (("--padding", "some"), "some"),
        (("--padding", "-1"), "-1"),
        (("--padding", "²"), "²"),
        (("--padding", "4096"), "4096"),
        (("--max-length", "4096"), "4096"),
        (("--dropout", "much"), "--dropout"),
        (("--dropout", "1.0"), "dropout"),
        (("--learning-rate", "-1"), "learning_rate"),
        (("--learning-rate", "nan"), "learning_rate"),
        (("--epochs", "0"), "epochs"),
        (("--validation", "1.5"), "1.5"),
        (("--lora-rank", "8"), "lora"),
        (("--trainable", "lora", "--lora-rank", "0"), "rank"),
        (("--trainable", "lora", "--lora-target-modules", "c_nothing"), "c_nothing"),
        (("--trainable", "lora", "--lora-scaling", "beta"), "beta"),
        (("--trainable", "lora", "--lora-layers", "7"), "7"),
        (("--trainable", "lora", "--lora-layers", "one"), "--lora-layers"),
        (("--trainable", "lora", "--lora-layers", "0.5"), "--lora-layers"),
        (("--trainable", "lora", "--lora-layers", "nan"), "--lora-layers"),
    ],
)
def test_wrong_value(cli: Cli, table: Path, options: tuple[str, ...], word: str) -> None:
    assert_fails(cli("finetune", *NANO, "--epochs", 1, "--train", table, *options), 2, word)


def test_split_of_a_file(cli: Cli, run_folder: Path, table: Path) -> None:
    assert_fails(cli("eval", run_folder, table, "--split", "test"), 2, "split", str(table))


def test_unknown_split(cli: Cli, run_folder: Path) -> None:
    assert_fails(cli("eval", run_folder, "sample", "--split", "dev"), 2, "'dev'", "validation")


def test_output_folder_of_another_run(cli: Cli, run_folder: Path, table: Path) -> None:
    before = sorted(p.name for p in run_folder.iterdir())
    ran = cli("finetune", *NANO, "--train", table, "--output-dir", run_folder)
    assert_fails(ran, 2, str(run_folder))
    assert sorted(p.name for p in run_folder.iterdir()) == before


# --- errors: 3, data --------------------------------------------------------------------------------------------------


def test_missing_column(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "odd.csv", [("a", "billing")], header=("foo", "label"))
    for command in (("finetune", *NANO, "--train"), ("eval", run_folder), ("predict", run_folder)):
        assert_fails(cli(*command, path), 3, str(path), "'foo'", "--text-column")
    assert_fails(cli("eval", run_folder, path, "--text-column", "bar"), 3, str(path), "'bar'", "'foo'")


def test_unseen_label(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "odd.csv", [("two\nlines", "billing"), ("a", "refund")])
    assert_fails(cli("eval", run_folder, path), 3, f"{path}, line 4", "'refund'", "'delivery'")


def test_unseen_label_of_the_test_data(cli: Cli, table: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "odd.csv", [("a", "billing"), ("a", "refund")])
    assert_fails(cli("finetune", *NANO, "--train", table, "--test", path), 3, f"{path}, line 3", "'refund'")


def test_broken_quote(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text('text,label\nfine,billing\n"never closed,billing\nand more,account\n', encoding="utf-8")
    for command in (("finetune", *NANO, "--train"), ("eval", run_folder), ("predict", run_folder)):
        assert_fails(cli(*command, path), 3, f"{path}, line 3", "quot")


def test_no_such_file(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.csv"
    for command in (("finetune", *NANO, "--train"), ("eval", run_folder), ("predict", run_folder)):
        assert_fails(cli(*command, path), 3, str(path))
    assert_fails(cli("predict", run_folder, tmp_path / "nowhere.txt"), 3, "nowhere.txt")
    assert_fails(cli("eval", run_folder, "no_such_set"), 3, "no_such_set", "sms_spam")


def test_one_class_alone(cli: Cli, tmp_path: Path) -> None:
    path = write_table(tmp_path / "one.csv", [("a", "billing"), ("b", "billing")])
    assert_fails(cli("finetune", *NANO, "--train", path), 3, str(path), "'billing'")


def test_text_file_that_is_not_utf8(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("fine\né\n".encode() + b"\xfcber\n")
    assert_fails(cli("predict", run_folder, path), 3, f"{path}, line 3")


# --- errors: 4, model or checkpoint -----------------------------------------------------------------------------------


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_folder_that_is_no_checkpoint(cli: Cli, table: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert_fails(cli("eval", folder, table), 4, str(folder))
        assert_fails(cli("predict", folder, table), 4, str(folder))


def test_damaged_checkpoint(cli: Cli, run_folder: Path, table: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree((run_folder / "last").resolve(), tmp_path / "checkpoint"))
    damage(folder / "model.safetensors")
    assert_fails(cli("eval", folder, table), 4, "model.safetensors", "damaged")
    (folder / "model.safetensors").unlink()
    assert_fails(cli("predict", folder, table), 4, "model.safetensors")


@pytest.fixture
def model_folder(run_folder: Path, tmp_path: Path) -> Path:
    """A plain Hugging Face folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(run_folder / "last" / name, folder / name)
    return folder


def test_model_folder_serves_as_a_model(cli: Cli, model_folder: Path, table: Path) -> None:
    ran = cli("finetune", "--model", model_folder, "--train", table, "--epochs", 1, "--no-progress", "--json")
    assert ran.code == 0, ran.err


def test_unsupported_model_type(cli: Cli, model_folder: Path, table: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text()) | {"model_type": "mamba"}
    (model_folder / "config.json").write_text(json.dumps(config))
    assert_fails(cli("finetune", "--model", model_folder, "--train", table), 4, "'mamba'", "GPT-2", "BERT")


def test_missing_weights(cli: Cli, model_folder: Path, table: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    assert_fails(cli("finetune", "--model", model_folder, "--train", table), 4, str(model_folder), "model.safetensors")


def test_damaged_weights(cli: Cli, model_folder: Path, table: Path) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert_fails(cli("finetune", "--model", model_folder, "--train", table), 4, str(path))


def test_model_that_is_not_cached(cli: Cli, table: Path) -> None:
    ran = cli("finetune", "--model", "nobody/nothing", "--train", table)
    assert_fails(ran, 4, "nobody/nothing", "config.json", "HF_HUB_OFFLINE")


# --- errors: 5, resource; 6, non-finite; unexpected -------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(cli: Cli, run_folder: Path, table: Path) -> None:
    assert_fails(cli("finetune", *NANO, "--train", table, "--device", "cuda"), 5, "'cuda'", "cpu")
    assert_fails(cli("eval", run_folder, table, "--device", "cuda:0"), 5, "'cuda:0'", "cpu")
    assert_fails(cli("predict", run_folder, table, "--device", "cuda"), 5, "'cuda'", "cpu")


def test_output_that_cannot_be_written(cli: Cli, run_folder: Path, table: Path) -> None:
    # Below a regular file, since permissions don't bind root.
    below = table / "below"
    assert_fails(cli("finetune", *NANO, "--train", table, "--output-dir", below), 5, str(below))
    assert_fails(cli("eval", run_folder, "sample", "--no-progress", "--predictions", below), 5, str(below))


@pytest.mark.parametrize("message", ["can't allocate memory: you tried to allocate 9 bytes", "CUDA out of memory"])
def test_out_of_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    kind = RuntimeError if message.startswith("can't") else torch.OutOfMemoryError

    def fail(*args: Any, **kwargs: Any) -> None:
        raise kind(message)

    monkeypatch.setattr(pyllmclf.api, "finetune", fail)
    assert_fails(cli("finetune", "--train", "sample"), 5, "out of memory", "smaller batches")


HUGE_STEPS = ("--trainable", "all", "--learning-rate", "1e30", "--epochs", "1")


def test_loss_that_is_not_finite(cli: Cli, table: Path, tmp_path: Path) -> None:
    ran = cli("finetune", *NANO, "--train", table, *HUGE_STEPS, "--batch-size", 4, "--output-dir", tmp_path / "run")
    assert_fails(ran, 6, "step 2", "loss", "learning rate")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("part", ["--validation", "--test"])
def test_last_step_that_makes_the_model_non_finite(cli: Cli, table: Path, tmp_path: Path, part: str) -> None:
    """No later training loss tells of it, but the metrics do."""
    folder = tmp_path / "run"
    options = (*HUGE_STEPS, "--batch-size", 16, part, table, "--output-dir", folder, "--json")
    assert_fails(cli("finetune", *NANO, "--train", table, *options), 6)


def test_debug_shows_a_traceback(cli: Cli, tmp_path: Path) -> None:
    ran = cli("finetune", *NANO, "--train", tmp_path / "nowhere.csv", "--debug")
    assert ran.code == 3
    assert "Traceback (most recent call last)" in ran.err
    assert "DataError" in ran.err
    assert ran.err.splitlines()[-1] == f"pyllmclf: {tmp_path / 'nowhere.csv'}: there is no such file."


def test_unexpected_error_asks_for_a_report(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyError("inner")

    monkeypatch.setattr(pyllmclf.api, "finetune", fail)
    ran = cli("finetune", "--train", "sample")
    assert ran.code == 1
    assert ran.err == "pyllmclf: unexpected KeyError: 'inner'; this is a bug, --debug shows where.\n"


def test_interrupted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pyllmclf.api, "finetune", fail)
    ran = cli("finetune", "--train", "sample")
    assert ran.code == 130
    assert ran.err.startswith("pyllmclf: interrupted; nothing was saved") and len(ran.err.splitlines()) == 1


# --- imports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("pyllmclf", ["--help"]), ("pyllmclf", ["finetune", "--help"]), ("pyllmclf-eval", ["--help"])],
)
def test_help_imports_neither_torch_nor_pandas(script: str, arguments: list[str]) -> None:
    (point,) = entry_points(group="console_scripts", name=script)
    program = f"import sys, {point.module}; sys.argv = {[script, *arguments]!r}; {point.value.replace(':', '.')}()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert point.module in imported
    assert not {"torch", "pandas"} & {name.partition(".")[0] for name in imported}
    assert "Usage" in done.stdout
    assert script in done.stdout


@pytest.mark.parametrize("name", ["pyllmclf", "pyllmclf-eval"])
def test_terminated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Outside of a training there is nothing to save."""
    before = signal.getsignal(signal.SIGTERM)

    def command(**ignored: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert run(command, name, ["eval"]) == 143
    assert capsys.readouterr() == ("", f"{name}: terminated.\n")
    assert signal.getsignal(signal.SIGTERM) == before
