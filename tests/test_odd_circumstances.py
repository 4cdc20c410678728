"""Names with control characters, numbers that overflow, a clock that stands still, no descriptors, odd folder names."""

from __future__ import annotations

import csv
import itertools
import os
import random
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyllmclf
from pyllmclf import LoRAConfig, ResourceError, UsageError
from pyllmclf.cli.formulas import without_formulas
from pyllmclf.cli.main import app, run
from pyllmclf.data.atomic_folder import write_folder
from pyllmclf.data.temporary import temporary_folder
from pyllmclf.printable import printable, shown
from pyllmclf.seeds import finetune_seeds
from pyllmclf.settings import Settings

TEXTS, LABELS = ["late parcel", "charged twice"] * 4, ["delivery", "billing"] * 4
SHORT: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "classifier"
    pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), **SHORT).classifier.save(folder)
    return folder


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_printable() -> None:
    assert printable("a\x1b[2Jb\x00\x7f\x9b") == r"a\x1b[2Jb\x00\x7f\x9b"
    assert printable("one\ntwo\tthree\r") == r"one\ntwo\tthree\r"
    assert printable("one\ntwo\t", keep="\n") == "one\ntwo\\t"
    assert printable("gnp.\u202etxt\u2066\u2028\udcff") == r"gnp.\u202etxt\u2066\u2028\udcff"
    for text in ("naïve 日本語 👩‍💻 می‌خواهم \u00a0", "a'\"\\<&>"):
        assert printable(text) == text
    assert shown(10**5000) == "an integer of 16,610 bits"
    assert shown("x" * 1000) == f"'{'x' * 79}..."


EVIL = "\x1b[31mevil\x07"


def test_labels_names_and_errors(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / f"{EVIL}.csv"
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"{EVIL} {i}", (EVIL, "plain")[i % 2]) for i in range(8))])
    report, card = tmp_path / "r.html", tmp_path / "out/last/README.md"
    options = ["--model", "gpt2-nano", "--weights", "random", "--epochs", "1", "--output-dir", "out"]
    assert run(app, "pyllmclf", ["finetune", *options, "--train", str(data), "--test", str(data)]) == 0
    assert run(app, "pyllmclf", ["eval", "out", str(data), "--report", str(report), "--compare", "out/last"]) == 0
    assert run(app, "pyllmclf", ["eval", "out", f"nowhere{EVIL}"]) == 3
    assert run(app, "pyllmclf", ["finetune", *options, "--train", "sample", "--scheduler", EVIL]) == 2
    out, err = capfd.readouterr()
    for text in (out, err, report.read_text(), card.read_text()):
        assert not set(text) & set("\x1b\x07") and "evil" in text
    assert len(err.strip().splitlines()[-1]) > 20


@pytest.mark.parametrize(
    ("cell", "escaped"),
    [
        ("=1", "'=1"),
        ("\t=1", "'\t'=1"),
        (";=1", "';'=1"),
        ("＝1", "'＝1"),
        ("＋1", "'＋1"),
        ("－1", "'－1"),
        ("＠x", "'＠x"),
        ("a;=1", "a;'=1"),
        ('a;"=1"', 'a;"\'=1"'),
        ("a\t＝1", "a\t'＝1"),
        ("a\n @x", "a\n '@x"),
        ("a = 1; b - 2, c", "a = 1; b - 2, c"),
        ("mail@x.org", "mail@x.org"),
        ("", ""),
    ],
)
def test_cells_without_formulas(cell: str, escaped: str) -> None:
    assert without_formulas(cell) == escaped


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2**31, 2**63, 10**5000, -1, 0, 1.5, True], ids=shown)
@pytest.mark.parametrize("name", ["batch_size", "epochs", "gradient_accumulation_steps", "batch_tokens", "keep_last"])
def test_counts_that_overflow(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        Settings(**{name: value, "output_dir": "out"})


@pytest.mark.parametrize("value", [1e300, 10**400, float("inf"), float("nan"), -1.0, Fraction(10) ** 400], ids=shown)
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_rates_that_overflow(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        Settings(**{name: value})
    with pytest.raises(UsageError, match="alpha="):
        LoRAConfig(alpha=value)
    with pytest.raises(UsageError, match="dropout="):
        Settings(dropout=value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_length": 2**63},
        {"padding": 2**63},
        {"validation": 10**400},
        {"cache_budget": 2**64},
        {"max_grad_norm": -(10**400)},
        {"class_weights": {"delivery": 1e300, "billing": 1}},
        {"class_weights": [10**400, 1]},
        {"early_stopping": 2**40, "validation": 0.5},
        {"trainable": "lora", "lora": {"alpha": 1e300}},
        {"trainable": "lora", "lora": {"rank": 10**5000}},
    ],
)
def test_other_numbers_that_overflow(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), **SHORT | arguments)


@pytest.mark.parametrize("seeds", [2**63, 10**5000, [2**63]], ids=shown)
def test_seeds_that_overflow(seeds: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        finetune_seeds("gpt2-nano", (TEXTS, LABELS), seeds=seeds, **SHORT)


# --- clock, random numbers, descriptors -------------------------------------------------------------------------------


def test_a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 1.0)
    result = pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), test=(TEXTS, LABELS), **SHORT | {"progress": True})
    assert result.history[0].tokens_per_second == result.timing["tokens_per_second"] == 0.0
    assert result.metrics["test"]["seconds"] == 0.0
    assert run(app, "pyllmclf", ["finetune", "--model", "gpt2-nano", "--weights", "random", "--train", "sample",
                                 "--epochs", "1", "--report", "--output-dir", str(tmp_path / "out")]) == 0  # fmt: skip


def test_the_callers_random_numbers(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.metrics

    original = sklearn.metrics.f1_score
    # As the first import of rich, which scikit-learn imports, in a process.
    monkeypatch.setattr(sklearn.metrics, "f1_score", lambda *a, **k: (random.random(), original(*a, **k))[1])

    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = state()
    classifier = pyllmclf.load(saved)
    classifier.evaluate((TEXTS, LABELS))
    pyllmclf.evaluate(saved, (TEXTS, LABELS))
    classifier.predict(TEXTS)
    assert state() == before


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Leaves that many file descriptors to open."""
    before, held = resource.getrlimit(resource.RLIMIT_NOFILE), []

    def leave(count: int) -> None:
        if count < 0:  # as before
            while held:
                os.close(held.pop())
            return
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
        for _ in itertools.count():
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(count):
            os.close(held.pop())

    yield leave
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("left", [0, 5, 9])
def test_no_temporary_folder_stays_without_descriptors(
    tmp_path: Path, few_descriptors: Callable[[int], None], left: int
) -> None:
    kept: list[int] = []

    def exhausts(path: Path) -> None:
        path.write_text("x")
        try:
            while True:
                kept.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            path.with_name("second").write_text("y")

    few_descriptors(left)
    folder = tmp_path
    try:
        with pytest.raises(ResourceError, match="Too many open files"):
            write_folder(tmp_path / "target", {"sub/sub/a": exhausts})
        with pytest.raises(OSError), temporary_folder() as folder:
            exhausts(folder / "a")
    finally:
        for descriptor in kept:
            os.close(descriptor)
        few_descriptors(-1)
    assert os.listdir(tmp_path) == []
    assert left < 9 or not folder.exists()


def test_a_name_that_is_not_utf8(saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    odd = os.fsencode(tmp_path) + b"/out\xff"
    path = os.fsdecode(odd)
    classifier = pyllmclf.load(saved)
    for write in (
        lambda: pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=path, **SHORT),
        lambda: pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), output_dir=f"{path}/below", **SHORT),
        lambda: classifier.save(path),
        lambda: classifier.export(path),
    ):
        with pytest.raises(UsageError, match="not UTF-8"):
            write()
    assert not os.path.exists(odd)
    shutil.copytree(saved, path)
    try:
        assert pyllmclf.load(path).classes_ == ["billing", "delivery"]
    except pyllmclf.PyllmclfError as error:
        assert "out" in str(error)
    assert run(app, "pyllmclf", ["export", str(saved), f"{path}2"]) == 2
    assert r"out\udcff2: its name is not UTF-8" in capfd.readouterr().err


# --- truncated texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("long_texts", "expected"),
    [("head", "first 8"), ("tail", "last 8"), ("both", "first 4 and last 4"), ("windows", None)],
)
def test_truncated_texts_are_reported(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    long_texts: str,
    expected: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "refund " * 50
    Path("long.csv").write_text("text,label\n" + f"{long},a\nshort,b\n" * 2)
    Path("long.txt").write_text(f"{long}\nshort\n")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        data = ([long, "short"] * 2, ["a", "b"] * 2)
        options = {"max_length": 8, "long_texts": long_texts, "test": ([long], ["a"])}
        classifier = pyllmclf.finetune("gpt2-nano", data, **SHORT | options).classifier
        for _ in range(2):
            classifier.predict([long, "short"])
        classifier.predict(["short"])
    messages = [str(each.message) for each in seen if each.category is RuntimeWarning]
    if expected is None:
        assert messages == []
    else:
        read = f"more than 8 tokens, of which only the {expected} are read"
        assert messages == [
            f"train: 2 of 4 texts have {read}; test: 1 of 1 text has {read}; long_texts='windows' "
            "(--long-texts windows) reads all tokens.",
            f"1 of 2 texts have {read}",
        ]
    classifier.save("saved")
    for arguments in (["predict", "saved", "long.txt"], ["eval", "saved", "long.csv"]):
        for progress in ((), ("--no-progress",)):
            capfd.readouterr()
            assert run(app, "pyllmclf", [*arguments, *progress]) == 0
            lines = [line for line in capfd.readouterr().err.splitlines() if "tokens" in line]
            assert len(lines) == (expected is not None) and all(f"only the {expected} are" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("predict", "saved", "loop"), 3, "loop: is a symbolic link that leads back to itself"),
        (("predict", "saved", "table.csv", "--output", "loop/out.csv"), 5, "loop/out.csv can't be written"),
        (("predict", "loop", "table.csv", "--output", "out.csv"), 4, "loop: there is no complete pyllmclf checkpoint"),
        (("eval", "saved", "one.csv", "--predictions", "out.csv"), 3, "one.csv: is a symbolic link that leads back"),
        (("eval", "saved", "table.csv", "--predictions", "loop/out.csv"), 5, "loop/out.csv can't be written"),
        (("eval", "saved", "table.csv", "--report", "loop/out.html"), 5, "loop/out.html can't be written"),
        (
            ("eval", "loop", "table.csv", "--predictions", "out.csv"),
            4,
            "loop: there is no complete pyllmclf checkpoint",
        ),
        (("eval", "saved", "table.csv", "--compare", "loop"), 4, "loop: there is no complete pyllmclf checkpoint"),
        (("finetune", "table.csv", "--output-dir", "loop"), 5, "output_dir loop is a link to nothing"),
        (("finetune", "table.csv", "--cache", "disk", "--cache-dir", "loop", "--output-dir", "out"), 5, "loop"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_links_that_lead_back_to_themselves(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], code: int, sentence: str,
) -> None:  # fmt: skip
    """In any place, one sentence and the exit code of a path that can't be read or written."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("one.csv").symlink_to("two.csv")
    Path("two.csv").symlink_to("one.csv")
    Path("saved").symlink_to(saved)
    Path("table.csv").write_text("text,label\n" + "late parcel,delivery\ncharged twice,billing\n" * 4)
    if arguments[0] == "finetune":
        arguments += ("--model", "gpt2-nano", "--weights", "random", "--epochs", "1", "--no-progress")
    capfd.readouterr()
    assert run(app, "pyllmclf", arguments) == code
    _, err = capfd.readouterr()
    assert sentence in err and "bug" not in err and len(err.splitlines()) == 1
