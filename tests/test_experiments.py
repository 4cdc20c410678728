"""The published table: its data, its padded semantics against plain PyTorch, and the command that reproduces it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain_pytorch
import pytest
import torch
from models import Folders, make_trainer
from pages import Page

import pyllmclf.api
from pyllmclf import UsageError
from pyllmclf.cli.main import app, run
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.readers import TextData
from pyllmclf.experiments import runner
from pyllmclf.experiments.bag_of_words import run_bag_of_words
from pyllmclf.experiments.page import write_page
from pyllmclf.experiments.results import COLUMNS, markdown, summaries, summary, write_results
from pyllmclf.experiments.runner import RowResult, Runner, read_all_splits, replace_model
from pyllmclf.experiments.table import choose_rows, published_rows, tables, without_published
from pyllmclf.models.weights import backbone_state, head_state
from pyllmclf.settings import Settings
from pyllmclf.text_pair import TextPair
from pyllmclf.training.prepare import prepare

TEXTS = [f"{'win' if i % 2 else 'meet'} {w} {'now' if i % 3 else 'later'}" for i, w in enumerate("abcdefghij" * 4)]
LABELS = [i % 2 for i in range(len(TEXTS))]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs ``pyllmclf``."""

    def call(*arguments: str) -> SimpleNamespace:
        capfd.readouterr()
        code = run(app, "pyllmclf", arguments)
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(TEXTS, LABELS, strict=True)])
    return path


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_published_table() -> None:
    assert tables() == ["sms_spam", "imdb"]
    rows = {row.name: row for row in published_rows("sms_spam")}
    assert list(rows) == [*map(str, range(1, 20)), "bow"]
    assert [rows[n].published.test for n in ("1", "5", "8", "13", "19")] == [95.0, 96.67, 98.33, 78.33, 96.33]
    assert rows["9"].published.minutes == 8.12
    assert {row.model for row in rows.values()} == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "bag of words"}
    for row in rows.values():
        if not row.is_bag_of_words:
            assert row.settings["epochs"] == 5
            assert row.settings["head_bias"] is True
            # "last" is a padding position, but where nothing is padded or the last real token is asked for.
            assert row.settings["padding"] == {"13": "context", "14": "none", "15": "none"}.get(
                row.name, "train_longest"
            )
    assert rows["12"].settings["lora"] == {"rank": 16, "alpha": 8, "scaling": "alpha"}
    assert rows["17"].settings["causal"] is False
    assert [row.name for row in published_rows("imdb")][-1] == "bow"


@pytest.mark.parametrize("table", ["sms_spam", "imdb"])
def test_every_setting_is_an_argument(table: str) -> None:
    import inspect

    arguments = inspect.signature(pyllmclf.finetune).parameters
    for row in published_rows(table):
        assert set(row.settings) <= set(arguments)
        assert row.describe()
    descriptions = [row.describe() for row in published_rows("sms_spam") if row.model == "gpt2" and row.name != "10"]
    assert len(set(descriptions)) == len(descriptions) - 1  # row 18 is row 1


@pytest.mark.parametrize(
    ("wanted", "names"),
    [("1-3,11", ["1", "2", "3", "11"]), ("bow, 2", ["2", "bow"]), ("5-5", ["5"]), ("4,4,3-4", ["3", "4"])],
)
def test_choose_rows(wanted: str, names: list[str]) -> None:
    assert [row.name for row in choose_rows("sms_spam", wanted)] == names


@pytest.mark.parametrize("wanted", ["0", "1-20", "x", "", "3-1", "1-"])
def test_rows_that_there_are_not(wanted: str) -> None:
    with pytest.raises(UsageError, match="has no row"):
        choose_rows("sms_spam", wanted)


def test_replace_model() -> None:
    rows = {row.name: row for row in published_rows("sms_spam")}
    other = replace_model(rows["1"], "some/model", None)
    assert not isinstance(other, str)
    assert (other.model, other.weights) == ("some/model", "pretrained")
    drawn = replace_model(rows["6"], None, "random")
    assert not isinstance(drawn, str)
    assert (drawn.model, drawn.weights) == ("gpt2-medium", "random")
    assert "gpt2-xl" in str(replace_model(rows["9"], "some/model", None))
    assert replace_model(rows["bow"], "some/model", "random") is rows["bow"]


# --- row 1 exactly ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1", "3", "4", "5", "16", "19"])
def test_padded_rows_are_the_published_computation(model_folder: Folders, name: str) -> None:
    """Twenty steps: the losses of plain PyTorch, padded to the longest text, reading what the row reads."""
    row = next(row for row in published_rows("sms_spam") if row.name == name)
    trainer = make_trainer(model_folder("gpt2", n_classes=2), TEXTS, LABELS, **row.settings)
    config = trainer.model.config
    plain = plain_pytorch.PlainGPT2Classifier(
        plain_pytorch.PlainConfig(config.vocab_size, config.n_positions, config.width, config.n_layers, config.n_heads),
        num_classes=2,
    )
    plain_pytorch.load_huggingface_state_dict(plain, backbone_state(trainer.model) | head_state(trainer.model))
    layers = {"head": "head", "last_block": "last_block", "last_2_blocks": "last_two_blocks", "all": "all"}
    plain_pytorch.set_trainable(plain, layers[row.settings["trainable"]])  # type: ignore[arg-type]
    optimizer = plain_pytorch.make_optimizer(plain)
    store, longest = trainer.packer.store, int(trainer.packer.real_lengths.max())

    def plain_loss(ids: np.ndarray) -> float:
        texts = [store[i].tolist() for i in ids]
        logits = plain(plain_pytorch.pad_batch(texts, longest, trainer.packer.tokenizer.pad_token_id))
        if row.settings["pooling"] == "mean":
            read = logits.mean(dim=1)
        elif row.settings["pooling"] == "last":
            read = logits[torch.arange(len(texts)), torch.tensor([len(text) - 1 for text in texts])]
        else:
            read = logits[:, -1]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(read, torch.tensor([LABELS[i] for i in ids]))
        loss.backward()
        optimizer.step()
        return loss.item()

    steps = [step for epoch in range(4) for step in trainer.epoch_steps(epoch)]
    assert len(steps) == 20
    for (ids,) in steps:
        assert abs(trainer.train_step([ids])[0] - plain_loss(ids)) < 1e-4


# --- running ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_file_are_split_off(csv_file: Path) -> None:
    parts = read_all_splits(str(csv_file))
    assert {name: len(part) for name, part in parts.items()} == {"train": 28, "validation": 4, "test": 8}
    assert sorted(text for part in parts.values() for text in part.texts) == sorted(TEXTS)
    sample = read_all_splits("sample")
    assert {name: len(part) for name, part in sample.items()} == {"train": 504, "validation": 72, "test": 144}


def test_pairs_of_texts(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Other parts are read as the training texts are, whatever the names of their columns tell."""
    seconds = [f"{text} again" for text in TEXTS]
    for name, names in (("train", ("premise", "hypothesis", "label")), ("test", ("text", "text_pair", "label"))):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([names, *zip(TEXTS, seconds, LABELS, strict=True)])
    with pytest.warns(UserWarning, match="pairs of texts from the columns 'premise' and 'hypothesis'"):
        parts = read_all_splits(str(tmp_path))
    assert all(part.has_pairs for part in parts.values()) and parts["test"].texts[0] == (TEXTS[0], seconds[0])
    columns = ["--text-column", "hypothesis", "--text-pair-column", "premise"]
    file = str(tmp_path / "train.csv")
    ran = cli("experiments", "--data", file, "--rows", "bow", "--output-dir", str(tmp_path / "out"), *columns)
    assert ran.code == 0 and "bag of words" in ran.out
    parts = read_all_splits(file, "hypothesis", None, "premise")
    assert {text.pair for part in parts.values() for text in part.texts if isinstance(text, TextPair)} == set(TEXTS)


def test_bag_of_words() -> None:
    parts = {name: TextData(TEXTS, LABELS, name) for name in ("train", "validation", "test")}
    found = run_bag_of_words(parts, 1)
    assert found["accuracy"] == {"train": 1.0, "validation": 1.0, "test": 1.0}
    assert found["total_seconds"] >= found["train_seconds"] > 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each training."""
    calls: list[dict[str, Any]] = []

    def counting(settings: Settings):
        calls.append(vars(settings))
        return prepare(settings)

    monkeypatch.setattr(runner, "prepare", counting)
    return calls


def test_the_command(
    model_folder: Folders, csv_file: Path, tmp_path: Path, cli: Callable[..., Any], counted: list[dict[str, Any]]
) -> None:
    """On a model and data of one's own; a second call runs nothing again."""
    model = model_folder("gpt2", n_classes=2)
    out = tmp_path / "out"
    command = [
        "experiments", "--rows", "1,2,9,18,bow", "--model", str(model), "--data", str(csv_file), "--seeds", "2",
        "--epochs", "1", "--output-dir", str(out), "--no-progress",
        "--report", str(tmp_path / "page.html"),
    ]  # fmt: skip
    ran = cli(*command, "--json")
    assert ran.code == 0, ran.err
    # Row 18 is row 1, and is not run again.
    assert [(call["pooling"], call["seed"], call["epochs"]) for call in counted] == [
        ("last_position", 123, 1), ("last_position", 124, 1), ("first", 123, 1), ("first", 124, 1),
    ]  # fmt: skip
    rows = {row["row"]: row for row in json.loads(ran.out)["rows"]}
    assert list(rows) == ["1", "2", "9", "18", "bow"]
    assert "gpt2-xl" in rows["9"]["skipped"]
    assert rows["9"]["test"] is None
    assert all(row["published_test"] is None and row["differs"] is None for row in rows.values())  # other data
    assert {name for name, row in rows.items() if row["best"]} == {
        name for name, row in rows.items() if row["test"] == max(each["test"] or 0 for each in rows.values())
    }
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    page.check()
    assert [row[0] for row in page.rows("rows")] == list(rows) and "published" not in page.text
    assert page.data["rows"] == json.loads(ran.out)["rows"]
    assert rows["1"]["seeds"] == [123, 124]
    assert rows["1"]["test_lowest"] <= rows["1"]["test"] <= rows["1"]["test_highest"]
    assert {name: rows["1"][name] for name in ("train", "test")} == {n: rows["18"][n] for n in ("train", "test")}
    assert rows["bow"]["test"] == 100.0
    written = json.loads((out / "results.json").read_text())
    assert written["rows"] == json.loads(ran.out)["rows"]
    with (out / "results.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["row"] for row in read] == list(rows)
    assert tuple(read[0]) == COLUMNS
    assert "Row 9: skipped" in (out / "results.md").read_text()
    assert "<svg" in (out / "results.svg").read_text()

    counted.clear()
    again = cli(*command)
    assert again.code == 0
    assert not counted
    assert "| 1 |" in again.out
    # A run that was cut off, other settings and other data are run.
    next((out / "runs").glob("*.json")).write_text('{"accuracy"')
    assert cli(*command).code == 0
    assert len(counted) <= 1
    counted.clear()
    command[command.index("--epochs") + 1] = "2"
    assert cli(*command).code == 0
    assert len(counted) == 4


def test_a_row_that_the_model_has_no_blocks_for_is_skipped(
    model_folder: Folders, csv_file: Path, tmp_path: Path
) -> None:
    model = model_folder("gpt2", "unscaled", n_classes=2)  # one block
    rows = [replace_model(row, str(model), None) for row in choose_rows("sms_spam", "4")]
    options = {"device": "cpu", "dtype": "auto", "backend": "auto", "progress": False}
    said: list[str] = []
    (results,) = Runner(tmp_path / "out", read_all_splits(str(csv_file)), options).run(rows, [1], said.append)  # type: ignore[arg-type]
    assert results[0].skipped is not None
    assert "1 blocks" in results[0].skipped
    assert any("skipped" in line for line in said)


def test_rows_may_share_frozen_layers(model_folder: Folders, csv_file: Path, tmp_path: Path, filled: list[int]) -> None:
    """With the same accuracies; their results are kept apart, since the seconds differ."""
    row = replace_model(choose_rows("sms_spam", "1")[0], str(model_folder("gpt2", "long", n_classes=2)), None)
    assert not isinstance(row, str)
    splits, options = read_all_splits(str(csv_file)), {"progress": False}
    accuracies = []
    for shares, computed in ((False, 2), (True, 1)):
        filled.clear()
        each = Runner(tmp_path, splits, options, {"epochs": 2}, shares_frozen_layers=shares)
        ((result,),) = each.run([row], [1, 2], lambda _: None)
        assert len(filled) == computed
        accuracies.append([run["accuracy"] for run in result.runs])
    assert accuracies[0] == accuracies[1]


def test_weights_that_are_not_to_be_had_skip_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, weights: str) -> None:
        raise pyllmclf.ModelError(f"{name}: not to be had.")

    monkeypatch.setattr(runner, "find_model", missing)
    parts = {name: TextData(TEXTS, LABELS, name) for name in ("train", "validation", "test")}
    (results,) = Runner(tmp_path, parts, {}).run(choose_rows("sms_spam", "1"), [1], lambda _: None)
    assert results[0].skipped == "gpt2: not to be had."


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--rows", "77"], 2, "has no row"),
        (["--table", "other"], 2, "no table"),
        (["--seeds", "0"], 2, "--seeds"),
        (["--data", "nowhere.csv"], 3, "nowhere.csv"),
        (["--data", "sample", "--rows", "bow", "--output-dir", "FILE/out"], 5, "can't be written"),
    ],
)
def test_errors(cli: Callable[..., Any], tmp_path: Path, options: list[str], code: int, said: str) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("experiments", *(option.replace("FILE", str(tmp_path / "file")) for option in options))
    assert ran.code == code
    assert said in ran.err


def test_a_report_is_not_written_over_the_data(cli: Callable[..., Any], csv_file: Path, tmp_path: Path) -> None:
    before = csv_file.read_bytes()
    named = ("--report", str(csv_file), "--output-dir", str(tmp_path / "out"))
    ran = cli("experiments", "--data", str(csv_file), "--rows", "bow", *named)
    assert ran.code == 2 and "would be written over the data" in ran.err
    assert csv_file.read_bytes() == before and not (tmp_path / "out").exists()


def test_published_figures_are_beside_their_data_and_the_best_row_is_marked(tmp_path: Path) -> None:
    rows = choose_rows("sms_spam", "1,2,5")

    def run(test: float) -> dict[str, Any]:
        accuracy = {"train": 0.9, "validation": 0.8, "test": test}
        return {"seed": 123, "accuracy": accuracy, "train_seconds": 60.0, "tokens_per_second": 1e3}

    results = [RowResult(row, [run(test)]) for row, test in zip(rows, (0.8, 0.9, 0.7), strict=True)]
    table = markdown(results)
    assert "published: train" in table and "| 95.00 |" in table
    assert [line.split(" | ")[0] for line in table.splitlines() if "**90.00**" in line] == ["| 2"]
    assert table.count("**") == 2
    alone = [RowResult(without_published(row), result.runs) for row, result in zip(rows, results, strict=True)]
    assert "published" not in markdown(alone) and "95.00" not in markdown(alone)
    assert [row["best"] for row in summaries(results)] == [False, True, False]
    assert [row["best"] for row in summaries(results[:1])] == [False]  # nothing is compared
    write_page(tmp_path / "page.html", results, {"data": "<sms>"})
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    page.check()
    assert "<sms>" in page.text and [row[3] for row in page.rows("rows")] == [
        "–" if r.published.train is None else f"{r.published.train:.2f}" for r in rows
    ]


def test_results_are_escaped_and_said(tmp_path: Path) -> None:
    row = published_rows("sms_spam")[0]
    other = replace_model(row, "a|b\nc", "random")
    assert not isinstance(other, str)
    result = RowResult(other, [], "no\nway | at all")
    table = markdown([result])
    assert len(table.split("\n\n")[0].splitlines()) == 3
    assert "a\\|b c, random weights" in table
    assert summary(result)["test"] is None
    write_results(tmp_path, [result], {"data": "x"})
    assert {path.name for path in tmp_path.iterdir()} == {f"results.{kind}" for kind in ("json", "csv", "md", "svg")}


def test_label_encoder_of_parts_is_the_training_texts(csv_file: Path) -> None:
    parts = read_all_splits(str(csv_file))
    assert LabelEncoder.fit(parts["train"]).classes == LabelEncoder.fit(parts["test"]).classes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--backend", "foo"), "backend='foo'"),
        (("--device", "foo"), "device='foo'"),
        (("--dtype", "foo"), "dtype='foo'"),
        (("--weights", "rand"), "'rand'"),
        (("--epochs", "0"), "epochs=0"),
    ],
)
def test_what_is_wrong_for_every_row_is_an_error(
    cli: Callable[..., Any], tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    ran = cli("experiments", "--data", "sample", "--rows", "1", "--output-dir", tmp_path / "out", *options)
    assert ran.code == 2 and said in ran.err


def test_a_bag_of_words_that_cannot_be_fitted(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = tmp_path / "a.csv"
    data.write_text("text,label\n" + "a,x\nb,y\n" * 20)
    ran = cli("experiments", "--data", data, "--rows", "bow", "--output-dir", tmp_path / "out")
    assert ran.code == 3 and "empty vocabulary" in ran.err
