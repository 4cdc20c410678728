"""What a training can do beside training: long texts, learning rates by layer, logs, callbacks, calibration, seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bert_folder, gpt2_folder, make_trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pyllmclf
from pyllmclf import Callback, UsageError
from pyllmclf.classifier.calibration import fit_temperature
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.token_store import TokenStore
from pyllmclf.evaluation.metrics import cross_entropy
from pyllmclf.training.callbacks import StepRecord

TEXTS = [f"{a} {b * (n + 1)}" for n, a in enumerate(("red", "blue", "green", "an ox")) for b in ("cat ", "dog", "x")]
LABELS = [int("cat" in text) for text in TEXTS]
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "progress": False}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_folder(tmp_path_factory.mktemp("gpt2"), n_classes=2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"), n_classes=2)


def run(model: Path, **changes: Any) -> pyllmclf.FinetuneResult:
    return pyllmclf.finetune(model, (TEXTS, LABELS), **SHORT | changes)


# --- long texts -------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


def store_of(lengths: list[int]) -> tuple[TokenStore, list[list[int]]]:
    texts = [list(range(100 * i, 100 * i + n)) for i, n in enumerate(lengths)]
    tokens = np.array([t for text in texts for t in text], dtype=np.int32)
    return TokenStore(tokens, np.cumsum([0, *lengths], dtype=np.int64)), texts


def listed(store: TokenStore) -> list[list[int]]:
    return [store[i].tolist() for i in range(len(store))]


@given(LENGTHS, st.integers(1, 12))
def test_cut(lengths: list[int], room: int) -> None:
    store, texts = store_of(lengths)
    assert listed(store.cut(room, "head")) == [text[:room] for text in texts]
    assert listed(store.cut(room, "tail")) == [text[-room:] for text in texts]
    head, tail = room - room // 2, room // 2
    both = [text if len(text) <= room else text[:head] + text[len(text) - tail :] for text in texts]
    assert listed(store.cut(room, "both")) == both


@given(LENGTHS, st.integers(1, 12), st.integers(0, 11))
@settings(max_examples=200)
def test_windows(lengths: list[int], room: int, overlap: int) -> None:
    """Every token is in a window, neighbours share as many as asked for, the last ends with the text."""
    overlap = min(overlap, room - 1)
    store, texts = store_of(lengths)
    windows, bounds = store.windows(room, overlap)
    found = listed(windows)
    for text, begin, end in zip(texts, bounds[:-1], bounds[1:], strict=True):
        own = found[begin:end]
        if len(text) <= room:
            assert own == [text]
            continue
        assert all(len(window) == room for window in own)
        starts = [window[0] - text[0] for window in own]
        assert starts[:-1] == list(range(0, (room - overlap) * (len(own) - 1), room - overlap))
        assert starts[-1] == len(text) - room and starts[-1] > starts[-2]
        assert {t for window in own for t in window} == set(text)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("long_texts", ["head", "tail", "both", "windows"])
def test_long_texts(family: str, long_texts: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What is read of a text of 38 letters with room for 10: the logits of those pieces alone."""
    folder = request.getfixturevalue(family)
    specials = {"gpt2": 0, "bert": 2}[family]
    result = run(folder, long_texts=long_texts, max_length=10 + specials, trainable="last_block")
    classifier = result.classifier
    read = TEXTS if family == "gpt2" else [text.replace(" ", "") for text in TEXTS]
    assert result.lengths.truncated == (0 if long_texts == "windows" else sum(len(t) > 10 for t in read))
    assert result.lengths.texts == len(TEXTS)
    text = "abcdefghijklmnopqrstuvwxyzabcdefghijkl"
    tokenizer = classifier.state.tokenizer
    ids = tokenizer.encode_batch([text])[0]
    assert len(ids) == len(text)
    pieces = {
        "head": [ids[:10]],
        "tail": [ids[-10:]],
        "both": [ids[:5] + ids[-5:]],
        "windows": [ids[i : i + 10] for i in (0, 5, 10, 15, 20, 25, 28)],
    }[long_texts]
    store = TokenStore(np.array(pieces, dtype=np.int32).ravel(), np.arange(len(pieces) + 1) * 10)
    expected = classifier.packed_logits(Packer(store, tokenizer, RowLayout(10 + specials))).mean(axis=0)
    found = classifier.logits([text, "short"])
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], classifier.logits(["short"])[0], rtol=0, atol=1e-6)
    labelled = classifier.evaluate(([text, "short"], [0, 1]))
    assert labelled.predictions.tolist() == found.argmax(axis=1).tolist() and len(labelled.labels) == 2
    classifier.save(tmp_path / "saved")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "saved").logits([text, "short"]), found)


@pytest.mark.parametrize("long_texts", ["head", "tail"])
def test_transformers_cuts_long_texts_likewise(bert: Path, tmp_path: Path, long_texts: str) -> None:
    classifier = run(bert, long_texts=long_texts, max_length=12).classifier
    classifier.export(tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    texts = ["abcdefghijklmnopqrstuvwxyz", "short"]
    with torch.inference_mode():
        theirs = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(theirs, classifier.logits(texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("long_texts", ["both", "windows"])
def test_transformers_reads_one_piece(gpt2: Path, tmp_path: Path, long_texts: str) -> None:
    with pytest.raises(UsageError, match=f"long_texts='{long_texts}'"):
        run(gpt2, long_texts=long_texts, max_length=12).classifier.export(tmp_path / "export")


def test_unknown_part_of_long_texts(gpt2: Path) -> None:
    with pytest.raises(UsageError, match="long_texts='middle' is unknown"):
        run(gpt2, long_texts="middle")


# --- learning rates by layer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("max_grad_norm", [None, 1e9])
def test_layerwise_lr_decay(family: str, max_grad_norm: float | None, request: pytest.FixtureRequest) -> None:
    """AdamW's first step moves what has a gradient by the learning rate."""
    trainer = make_trainer(
        request.getfixturevalue(family),
        TEXTS,
        LABELS,
        "all",
        layerwise_lr_decay=0.5,
        learning_rate=1e-3,
        weight_decay=0.0,
        max_grad_norm=max_grad_norm,
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train_step([np.arange(len(TEXTS))])
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in trainer.model.named_parameters()}
    blocks = {"gpt2": "backbone.h.{}.", "bert": "backbone.encoder.layer.{}."}[family]
    shares = {blocks.format(i): 0.5 ** (3 - i) for i in range(3)}
    shares |= {"backbone.w": 0.5**4, "backbone.embeddings.": 0.5**4}
    shares |= {"head.": 1.0, "backbone.ln_f.": 1.0, "backbone.pooler.": 1.0}
    for name, distance in moved.items():
        if name.endswith("key.bias"):  # no true gradient
            continue
        share = next(value for prefix, value in shares.items() if name.startswith(prefix))
        assert distance == pytest.approx(1e-3 * share, rel=1e-2), name
    assert trainer.queue_step([np.arange(4)]).learning_rate == 1e-3


@pytest.mark.parametrize("decay", [0.0, 1.5, "half"])
def test_layerwise_lr_decay_that_makes_no_sense(gpt2: Path, decay: Any) -> None:
    with pytest.raises(UsageError, match="layerwise_lr_decay"):
        run(gpt2, layerwise_lr_decay=decay)


# --- callbacks and logs -----------------------------------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self, stop_after_step: int | None = None, stop_after_epoch: int | None = None) -> None:
        self.steps: list[StepRecord] = []
        self.epochs: list[Any] = []
        self.order: list[str] = []
        self.stop_after_step, self.stop_after_epoch = stop_after_step, stop_after_epoch

    def on_train_begin(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.order.append("begin")

    def on_step(self, record: StepRecord) -> bool | None:
        self.steps.append(record)
        return record.step == self.stop_after_step

    def on_epoch(self, record: Any) -> bool | None:
        self.epochs.append(record)
        return record.epoch == self.stop_after_epoch

    def on_train_end(self) -> None:
        self.order.append("end")


def test_callbacks(gpt2: Path) -> None:
    told = Recorder()
    result = run(gpt2, callbacks=told, validation=(TEXTS, LABELS), warmup_ratio=0.5)
    assert told.order == ["begin", "end"] and told.total_steps == len(told.steps) == 6
    assert told.epochs == result.history
    assert [s.step for s in told.steps] == [1, 2, 3, 4, 5, 6] and [s.epoch for s in told.steps] == [1, 1, 1, 2, 2, 2]
    assert [s.learning_rate for s in told.steps] == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2])
    for epoch, record in enumerate(result.history, 1):
        own = [s for s in told.steps if s.epoch == epoch]
        assert sum(s.texts for s in own) == len(TEXTS) and sum(s.tokens for s in own) == sum(map(len, TEXTS))
        mean = sum(s.loss * s.texts for s in own) / len(TEXTS)
        assert record.train_loss == pytest.approx(mean)
        assert record.train_accuracy == pytest.approx(sum(s.accuracy * s.texts for s in own) / len(TEXTS))


@pytest.mark.parametrize("stop", [{"stop_after_step": 1}, {"stop_after_epoch": 1}])
def test_callbacks_can_end_the_training(gpt2: Path, stop: dict[str, int]) -> None:
    """At the end of the epoch."""
    assert len(run(gpt2, callbacks=[Callback(), Recorder(**stop)]).history) == 1


def test_callbacks_are_told_of_the_end_after_an_error(gpt2: Path) -> None:
    class Failing(Recorder):
        def on_step(self, record: StepRecord) -> bool | None:
            raise ValueError("mine")

    told = Failing()
    with pytest.raises(ValueError, match="mine"):
        run(gpt2, callbacks=told)
    assert told.order == ["begin", "end"]


def test_csv_log(gpt2: Path, tmp_path: Path) -> None:
    result = run(gpt2, logs="csv", output_dir=tmp_path / "run")
    with (tmp_path / "run/logs/steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert [int(row["step"]) for row in steps] == [1, 2, 3, 4, 5, 6]
    with (tmp_path / "run/logs/epochs.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in epochs] == [r.train_loss for r in result.history]
    assert epochs[0]["validation_loss"] == ""
    assert pyllmclf.load(tmp_path / "run").classes_ == [0, 1]


def test_tensorboard_log(gpt2: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = Recorder()
    result = run(gpt2, logs=["tensorboard", "csv"], callbacks=told, output_dir=tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run/logs")).Reload()
    losses = [(event.step, event.value) for event in read.Scalars("step/loss")]
    assert losses == [(s.step, pytest.approx(s.loss)) for s in told.steps]
    epochs = [(event.step, event.value) for event in read.Scalars("epoch/train_loss")]
    assert epochs == [(r.step, pytest.approx(r.train_loss)) for r in result.history]
    assert (tmp_path / "run/logs/steps.csv").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logs": "csv"}, "logs need a folder"),
        ({"logs": ["wandb"], "output_dir": "OUT"}, "'wandb' is unknown"),
        ({"callbacks": [print]}, "no pyllmclf.Callback"),
        ({"report": True}, "report needs a folder"),
        ({"report": True, "output_dir": "OUT"}, "report needs texts"),
        ({"calibrate": True}, "calibrate needs validation"),
        ({"strategy": "deepspeed"}, "strategy='deepspeed' is unknown; it is one of auto, ddp, fsdp"),
        ({"strategy": "fsdp", "trainable": "last_block"}, "strategy='fsdp' is for trainable='all', not 'last_block'"),
    ],
)
def test_what_is_refused_before_training(gpt2: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    changes = {name: tmp_path / "run" if value == "OUT" else value for name, value in changes.items()}
    with pytest.raises(UsageError, match=said):
        run(gpt2, **changes)


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_temperature(scale: float) -> None:
    """Labels drawn from the softmax of logits that are ``scale`` times too large."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20000, 4)) * 2
    noise = -np.log(-np.log(generator.uniform(size=logits.shape)))
    labels = (logits + noise).argmax(axis=1)
    found = fit_temperature(scale * logits, labels)
    assert found == pytest.approx(scale, rel=0.05)
    grid = np.geomspace(found / 2, found * 2, 201)
    best = min(grid, key=lambda t: cross_entropy(scale * logits / t, labels))
    assert found == pytest.approx(best, rel=0.01)


def test_temperature_where_every_text_is_right() -> None:
    """Any small one: the loss is 0 there, but for rounding."""
    assert 0.01 <= fit_temperature(np.array([[3.0, 0.0], [0.0, 3.0]]), np.array([0, 1])) < 0.1


@pytest.mark.parametrize("early_stopping", [None, 1])
@pytest.mark.parametrize("trainable", ["last_block", "lora"])
def test_calibrate(gpt2: Path, tmp_path: Path, trainable: str, early_stopping: int | None) -> None:
    given: dict[str, Any] = {
        "validation": (TEXTS, LABELS[:6] + [1 - label for label in LABELS[6:]]),
        "trainable": trainable,
        "epochs": 4,
        "learning_rate": 5e-2,
        "early_stopping": early_stopping,
    }
    plain = run(gpt2, **given)
    found = run(gpt2, calibrate=True, output_dir=tmp_path / "run", **given)
    assert found.calibration is not None and plain.calibration is None
    temperature = found.calibration["temperature"]
    assert temperature > 1.1
    logits = found.classifier.logits(TEXTS)
    np.testing.assert_allclose(logits * temperature, plain.classifier.logits(TEXTS), rtol=1e-4, atol=1e-5)
    assert found.calibration["log_loss_before"] == pytest.approx(plain.metrics["validation"]["log_loss"], rel=1e-5)
    assert found.calibration["log_loss_after"] == pytest.approx(found.metrics["validation"]["log_loss"], rel=1e-4)
    assert found.calibration["log_loss_after"] < found.calibration["log_loss_before"]
    assert found.metrics["validation"]["accuracy"] == plain.metrics["validation"]["accuracy"]
    saved = tmp_path / "run" / ("last" if early_stopping is None else "best")
    opened = pyllmclf.load(saved)
    np.testing.assert_array_equal(opened.logits(TEXTS), logits)
    assert opened.state.temperature == temperature
    state = json.loads((saved / "training_state/state.json").read_text())
    assert state["history"] and state["step"] > 0


# --- several seeds ----------------------------------------------------------------------------------------------------


def test_seeds(gpt2: Path, tmp_path: Path) -> None:
    found = pyllmclf.finetune_seeds(
        gpt2, (TEXTS, LABELS), seeds=[3, 5], test=(TEXTS, LABELS), output_dir=tmp_path, **SHORT
    )
    assert found.seeds == [3, 5]
    alone = run(gpt2, seed=5, test=(TEXTS, LABELS))
    np.testing.assert_array_equal(found.results[1].classifier.logits(TEXTS), alone.classifier.logits(TEXTS))
    losses = [result.metrics["test"]["log_loss"] for result in found.results]
    assert losses[0] != losses[1]
    summary = found.summary["test"]["log_loss"]
    assert summary["mean"] == pytest.approx(np.mean(losses)) and summary["std"] == pytest.approx(np.std(losses, ddof=1))
    assert (summary["min"], summary["max"]) == (min(losses), max(losses))
    assert pyllmclf.load(tmp_path / "seed-5").classes_ == [0, 1]
    assert json.loads(json.dumps(found.to_dict()))["seeds"] == [3, 5]
    assert pyllmclf.finetune_seeds(gpt2, (TEXTS, LABELS), seeds=1, seed=9, **SHORT).seeds == [9]


@pytest.mark.parametrize("seeds", [0, [], [1, 1], "three", True, 1.5])
def test_seeds_that_make_no_sense(gpt2: Path, seeds: Any) -> None:
    with pytest.raises(UsageError, match="seeds="):
        pyllmclf.finetune_seeds(gpt2, (TEXTS, LABELS), seeds=seeds, **SHORT)


def test_seeds_are_checked_before_the_first_training(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed=1099511627776"):
        pyllmclf.finetune_seeds(gpt2, (TEXTS, LABELS), seeds=[1, 2**40], output_dir=tmp_path / "out", **SHORT)
    assert not (tmp_path / "out").exists()


# --- the report of a training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [{"test": (TEXTS, LABELS)}, {"validation": (TEXTS, LABELS)}])
def test_report_of_a_training(gpt2: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    run(gpt2, report=True, output_dir=tmp_path / "run", **parts)
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 6 and "Training" in page and f"{len(TEXTS)}" in page


def test_an_error_at_the_end_does_not_hide_the_first(gpt2: Path) -> None:
    """Each callback that was told of the beginning is told of the end, and no other."""

    class FailingAtTheEnd(Recorder):
        def on_train_end(self) -> None:
            super().on_train_end()
            raise RuntimeError("at the end")

    class Failing(Recorder):
        def on_step(self, record: StepRecord) -> bool | None:
            raise ValueError("mine")

    told = [FailingAtTheEnd(), Failing(), Recorder()]
    with pytest.warns(RuntimeWarning, match="at the end"), pytest.raises(ValueError, match="mine"):
        run(gpt2, callbacks=told)
    assert [one.order for one in told] == [["begin", "end"]] * 3
    told = [FailingAtTheEnd(), Recorder(), FailingAtTheEnd()]
    with pytest.warns(RuntimeWarning, match="at the end"), pytest.raises(RuntimeError, match="at the end"):
        run(gpt2, callbacks=told)
    assert [one.order for one in told] == [["begin", "end"]] * 3

    class NeverBegun(Recorder):
        def on_train_begin(self, total_steps: int) -> None:
            raise ValueError("not begun")

    told = [Recorder(), NeverBegun(), Recorder()]
    with pytest.raises(ValueError, match="not begun"):
        run(gpt2, callbacks=told)
    assert [one.order for one in told] == [["begin", "end"], [], []]
