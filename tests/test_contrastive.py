"""The contrastive loss, and the head that is solved behind it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import relative_error
from models import LABELS as SIX_LABELS
from models import TEXTS as SIX
from models import Folders, make_trainer
from test_recipes import chosen
from test_resume import StopAt, same
from torch.nn.functional import cosine_similarity

import pyllmclf
from pyllmclf import PreemptedError, UsageError
from pyllmclf.models.hub import find_model
from pyllmclf.training import run
from pyllmclf.training.baselines import SOLVED_HEAD
from pyllmclf.training.callbacks import Callback
from pyllmclf.training.objective import ContrastiveObjective
from pyllmclf.training.run import Run
from pyllmclf.training.solve import pooled_rows, solve_rows
from pyllmclf.training.steps import StepTrainer
from pyllmclf.tuning.candidates import default_candidates

TEXTS, LABELS = [f"{text} {i}" for i in range(4) for text in SIX], SIX_LABELS * 4
ARGUMENTS: dict[str, Any] = {"trainable": "all", "loss": "contrastive", "batch_size": 6, "epochs": 3}
ARGUMENTS |= {"learning_rate": 1e-3, "validation": False, "progress": False}
CLASSES = torch.tensor([0, 1, 1, 2, 2, 2])


def expected_loss(rows: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Pair by pair."""
    sums = torch.zeros(2, dtype=torch.float64)
    totals = torch.zeros(2, dtype=torch.float64)
    for i in range(len(rows)):
        for j in range(i):
            same = int(labels[i] == labels[j])
            error = (cosine_similarity(rows[i], rows[j], dim=0) - same) ** 2
            sums = sums + torch.nn.functional.one_hot(torch.tensor(same), 2) * error * weights[i] * weights[j]
            totals[same] += weights[i] * weights[j]
    return (sums / totals.clamp(min=1e-30)).sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", [CLASSES, torch.zeros(6, dtype=torch.int64), torch.arange(6)], ids=str)
def test_the_loss_of_all_pairs(labels: torch.Tensor, weighted: bool, generator: torch.Generator) -> None:
    rows = torch.randn(6, 5, generator=generator).requires_grad_()
    weights = torch.rand(6, generator=generator) if weighted else None
    objective = ContrastiveObjective()
    mine = objective.loss_sum(rows, labels, weights) / objective.total(labels, weights)
    wide = torch.ones(6) if weights is None else weights
    expected = expected_loss(rows.double(), labels, wide.double())
    assert relative_error(mine.detach(), expected.detach()) < 1e-6
    pairs = [torch.autograd.grad(loss, rows)[0] for loss in (mine, expected)]
    assert relative_error(*pairs) < 1e-5


def test_a_single_text_has_no_pair(generator: torch.Generator) -> None:
    rows = torch.randn(1, 5, generator=generator).requires_grad_()
    loss = ContrastiveObjective().loss_sum(rows, CLASSES[:1])
    assert float(loss.detach()) == 0.0 and not torch.autograd.grad(loss, rows)[0].any()


def test_the_most_similar_other_text_says_what_is_right() -> None:
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    assert int(ContrastiveObjective().correct(rows, torch.tensor([0, 0, 1, 1]))) == 4
    assert int(ContrastiveObjective().correct(rows, torch.tensor([0, 1, 1, 1]))) == 2


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_steps_are_those_of_plain_torch(family: str, model_folder: Folders) -> None:
    """With AdamW behind autograd's gradients; then the head is solved on what it reads."""
    changes = {name: ARGUMENTS[name] for name in ("loss", "batch_size", "epochs", "learning_rate")}
    trainer = make_trainer(model_folder(family), TEXTS, LABELS, "all", validation=False, **changes)
    model, reference = trainer.model, make_trainer(model_folder(family), TEXTS, LABELS, "all", **changes)
    reference.close()
    plain, packer = reference.model, reference.packer
    assert not plain.head.weight.requires_grad
    optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    for epoch in range(3):
        for (ids,) in reference.epoch_steps(epoch):
            optimizer.zero_grad()
            rows = plain(packer.batch(ids), head=False)
            expected_loss(rows, packer.batch(ids).labels, torch.ones(len(ids))).backward()
            optimizer.step()
    begun = [parameter.clone() for parameter in model.head.parameters()]
    trainer.fit()
    numbers = np.arange(len(packer))
    rows = pooled_rows(trainer, trainer.packer, numbers)
    assert relative_error(rows, pooled_rows(reference, packer, numbers)) < 1e-4
    solved = [parameter.clone() for parameter in model.head.parameters()]
    with torch.no_grad():
        for parameter, start in zip(model.head.parameters(), begun, strict=True):
            parameter.copy_(start)
    solution = solve_rows(trainer, rows, numbers)
    for found, expected in zip(solved, (solution.weight, solution.bias), strict=family == "bert"):
        assert expected is not None and torch.equal(found, expected)


def test_its_probabilities_are_not_stretched(model_folder: Folders) -> None:
    """Held-out texts that the layers below have seen would say that logits can't be too large."""
    classifier = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **ARGUMENTS).classifier
    assert 0.5 < classifier.predict_proba(TEXTS).max(axis=1).mean() < 0.99


def test_validation_texts_are_measured_at_the_end(model_folder: Folders) -> None:
    """A head is only solved then."""
    result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **ARGUMENTS | {"validation": (TEXTS, LABELS)})
    assert [record.validation_accuracy is None for record in result.history] == [True, True, False]
    assert result.history[-1].validation_accuracy == result.metrics["validation"]["accuracy"] == 1.0


class StopsAfter(Callback):
    """Ends the training, by the method of this name, in its first epoch."""

    def __init__(self, method: str) -> None:
        setattr(self, method, lambda _: True)


@pytest.mark.parametrize("method", ["on_step", "on_epoch"])
def test_a_callback_that_ends_the_training(model_folder: Folders, method: str) -> None:
    result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), callbacks=StopsAfter(method), **ARGUMENTS)
    assert len(result.history) == 1 and result.classifier.state.model.head.weight.abs().max() > 0.1


@pytest.mark.parametrize("step", [1, 5])
def test_resumed_to_the_bits(model_folder: Folders, tmp_path: Path, step: int) -> None:
    arguments = ARGUMENTS | {"validation": (TEXTS[:6], LABELS[:6])}
    whole = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **arguments)
    arguments |= {"output_dir": tmp_path}
    with pytest.raises(PreemptedError):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), callbacks=StopAt(step), **arguments)
    # Left to the run, the loss is that of the checkpoint.
    same(pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments | {"loss": "auto"}), whole)
    with pytest.raises(UsageError, match="loss"):
        arguments |= {"loss": "cross_entropy"}
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"trainable": "last_block", "learning_rate": 1e-3},
        {"trainable": "lora", "dropout": 0.1},
        {"pooling": "mean", "sample_weight": [1.0 + n % 3 for n in range(len(TEXTS))]},
        {"long_texts": "windows", "max_length": 6},
        {"max_grad_norm": 1.0, "calibrate": True, "validation": (TEXTS, LABELS)},
    ],
    ids=str,
)
def test_with_other_arguments(model_folder: Folders, arguments: dict[str, Any]) -> None:
    result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **ARGUMENTS | {"epochs": 12} | arguments)
    assert result.classifier.predict(TEXTS) == LABELS


@pytest.mark.parametrize(
    "arguments",
    [
        {"trainable": "head"},
        {"label_smoothing": 0.1},
        {"class_weights": "balanced"},
        {"class_weights": [1.0, 2.0]},
        {"gradient_accumulation_steps": 2},
        {"early_stopping": 1, "validation": 0.2},
        {"multi_label": True},
        {"loss": "hinge"},
    ],
    ids=str,
)
def test_what_it_lacks(model_folder: Folders, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="loss"):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **ARGUMENTS | arguments)


def test_the_rule() -> None:
    """Few texts of few classes, on a model that embeds texts."""
    few = chosen(texts=32, classes=4)
    assert (few.loss, few.trainable, few.batch_size, few.epochs, few.learning_rate) == (
        "contrastive",
        "all",
        16,
        5,
        1e-4,
    )
    assert chosen(texts=16, classes=2).epochs == 10
    assert chosen(texts=80, classes=10).batch_size == 40
    others: list[dict[str, Any]] = [
        {"texts": 97}, {"classes": 16, "texts": 128}, {"sentence": None}, {"weights": "random"}, {"trainable": "head"},
        {"epochs": 3}, {"learning_rate": 1e-4}, {"class_weights": "balanced"}, {"multi_label": True},
        {"loss": "cross_entropy"},
    ]  # fmt: skip
    for each in others:
        assert chosen(**{"texts": 32, "classes": 4} | each).loss == "cross_entropy"
    given = chosen(texts=320, classes=38, loss="contrastive")
    assert (given.loss, given.trainable, given.batch_size) == ("contrastive", "all", 64)


def test_a_candidate_of_a_search(model_folder: Folders) -> None:
    arguments = {name: ARGUMENTS[name] for name in ("batch_size", "epochs", "learning_rate", "progress")}
    grid = {"loss": ["contrastive", "cross_entropy"]}
    result = pyllmclf.tune(model_folder("bert"), (TEXTS, LABELS), candidates=grid, trainable="all", **arguments)
    assert {row["loss"] for row in result.leaderboard} == {"contrastive", "cross_entropy"}


@pytest.mark.parametrize("ends", ["signal", "error"])
def test_resumed_from_the_last_validation(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The head is solved by then, and solved again."""
    arguments = ARGUMENTS | {"validation": (TEXTS[:6], LABELS[:6]), "epochs": 2}
    whole = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **arguments)
    arguments |= {"output_dir": tmp_path}

    def fails(*_: Any) -> None:
        if ends == "error":
            raise MemoryError
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_validate", fails)
        with pytest.raises((PreemptedError, MemoryError, pyllmclf.ResourceError)):
            pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **arguments)
    same(pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments), whole)


def test_a_checkpoint_on_the_way_is_a_classifier(model_folder: Folders, tmp_path: Path) -> None:
    arguments = ARGUMENTS | {"output_dir": tmp_path, "save_every_steps": 2}
    with pytest.raises(PreemptedError):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), callbacks=StopAt(7), **arguments)
    assert pyllmclf.load(tmp_path / "last").predict(TEXTS) == LABELS


def test_out_of_memory_splits_no_batch(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairs would not be those of the batch."""

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(StepTrainer, "_compute", full)
    with pytest.raises(pyllmclf.ResourceError, match="use a smaller batch_size, shorter texts"):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), max_grad_norm=1.0, **ARGUMENTS)


def test_observers_change_no_loss() -> None:
    for each in ({"logs": "csv"}, {"callbacks": [Callback()]}, {"save_every_steps": 5, "output_dir": "out"}):
        assert chosen(texts=32, classes=4, **each).loss == "contrastive"


def test_a_better_head_is_a_warning(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for the loss gets it."""
    monkeypatch.setattr(run, "complaints", lambda *_: {SOLVED_HEAD: "the head is better"})
    with pytest.warns(RuntimeWarning, match="the head is better"):
        result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), loss="contrastive", progress=False)
    assert result.classifier.state.settings["loss"] == "contrastive"


def test_default_candidates(minilm: Path) -> None:
    """A search has it where the model embeds texts, and no head to solve where it is given for all."""
    sources = {"minilm": find_model("minilm", "pretrained"), "gpt2": find_model("gpt2", "random")}

    def losses(model: str, fixed: dict[str, Any]) -> list[Any]:
        made = default_candidates({model: sources[model]}, fixed, 2, steps=False, contrasts=not fixed)
        assert not (fixed and any(each.arguments.get("trainable") == "head" for each in made))
        return [each.arguments.get("loss") for each in made]

    assert "contrastive" in losses("minilm", {}) and "contrastive" not in losses("gpt2", {})
    assert set(losses("minilm", {"loss": "contrastive"})) == {None}
