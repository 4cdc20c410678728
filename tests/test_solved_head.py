"""The head of a frozen model at its optimum: against scikit-learn, by cross-validation, and in whole trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import LABELS, TEXTS, Folders
from sklearn.linear_model import LogisticRegression
from test_resume import StopAt, same

import pyllmclf
from pyllmclf.training import recipes, solved_head
from pyllmclf.training.convex import Scale, solve
from pyllmclf.training.solved_head import PENALTIES, assign_folds, solve_head

Problem = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def problem(generator: torch.Generator) -> Problem:
    """Features of very different scales, and classes that depend on some of them."""
    x = torch.randn(300, 12, generator=generator)
    y = (x[:, :3] + 0.8 * torch.randn(300, 3, generator=generator)).argmax(dim=1)
    return x * torch.logspace(-2, 2, 12) + torch.linspace(-3, 5, 12), y


def start(problems: int, classes: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(problems, classes, width), torch.zeros(problems, classes)


def test_optima_are_those_of_scikit_learn(problem: Problem) -> None:
    """Several penalties at once, each with its own weights of the rows."""
    x, y = Scale.of(problem[0], bias=True)(problem[0]), problem[1]
    weights = torch.ones(3, 300)
    weights[1, :100] = 0.0
    weights[2, ::2] = 3.0
    penalties = torch.tensor([1.0, 0.01, 0.1])
    weight, bias = solve(x, y, weights, penalties, start(3, 3, 12), tolerance=1e-6)
    assert bias is not None
    for i, penalty in enumerate(penalties.tolist()):
        c = 1.0 / (penalty * float(weights[i].sum()))
        model = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        model.fit(x.double().numpy(), y.numpy(), sample_weight=weights[i].double().numpy())
        np.testing.assert_allclose(weight[i].numpy(), model.coef_, atol=2e-4)
        np.testing.assert_allclose(
            (bias[i] - bias[i].mean()).numpy(), model.intercept_ - model.intercept_.mean(), atol=2e-4
        )


def test_each_class_on_its_own(problem: Problem) -> None:
    """Binary cross-entropies: a problem of scikit-learn for each class."""
    x = Scale.of(problem[0], bias=True)(problem[0])
    y = torch.stack([problem[1] != 0, problem[1] == 1], dim=1).float()
    weight, bias = solve(x, y, torch.ones(1, 300, 2), torch.tensor([0.05]), start(1, 2, 12), tolerance=1e-6)
    assert bias is not None
    for k in range(2):  # the mean is over 600 losses
        model = LogisticRegression(C=1.0 / (0.05 * 600), tol=1e-8, max_iter=5000).fit(
            x.double().numpy(), y[:, k].numpy()
        )
        np.testing.assert_allclose(weight[0, k].numpy(), model.coef_[0], atol=2e-4)
        np.testing.assert_allclose(float(bias[0, k]), model.intercept_[0], atol=2e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_back(problem: Problem, bias: bool, generator: torch.Generator) -> None:
    x, _ = problem
    scale = Scale.of(x, bias=bias)
    scaled = scale(x)
    np.testing.assert_allclose(
        scaled.std(dim=0, correction=0), 1.0 if bias else scaled.std(dim=0, correction=0), rtol=1e-4
    )
    weight, offset = torch.randn(3, 12, generator=generator), torch.randn(3, generator=generator) if bias else None
    raw = scale.fold_back(weight, offset)
    torch.testing.assert_close(F.linear(x, *raw), F.linear(scaled, weight, offset), rtol=1e-3, atol=1e-3)
    for again, before in zip(scale.unfold(*raw), (weight, offset), strict=True):
        assert again is before is None or torch.allclose(again, before, rtol=1e-3, atol=1e-3)


def test_folds_are_of_equal_size_and_keep_equal_texts_together() -> None:
    strata = np.array([0] * 10 + [1] * 23 + [2] * 3)
    groups = np.arange(36)
    groups[[20, 21, 30]] = 20
    folds = assign_folds(strata, groups, 5, seed=1)
    assert len({folds[20], folds[21], folds[30]}) == 1
    assert all(np.bincount(folds[strata == 0], minlength=5) == 2)
    of_groups = folds[np.unique(groups, return_index=True)[1]]
    assert np.ptp(np.bincount(of_groups, minlength=5)) <= 1
    assert len(set(folds[strata == 2])) == 3
    assert not np.array_equal(folds, assign_folds(strata, groups, 5, seed=2))


def test_the_penalty_fits_the_data(generator: torch.Generator) -> None:
    """Noise gets a strong penalty, and many clear texts a weak one; held-out logits tell which is which."""
    x = torch.randn(400, 30, generator=generator)
    noise = solve_head(x, torch.randint(2, (400,), generator=generator), 2, bias=True)
    clear = solve_head(x, (x[:, 0] + x[:, 1] > 0).long(), 2, bias=True)
    assert noise.penalty >= 1.0 > 0.1 >= clear.penalty
    assert {noise.penalty, clear.penalty} <= set(PENALTIES)
    y = (x[:, 0] + x[:, 1] > 0).long()
    assert (clear.out_of_fold.argmax(dim=1) == y).float().mean() > 0.9
    # No fold has seen its own rows: those of a row that is alone with its class are wrong.
    rare = y.clone()
    rare[7] = 2
    assert solve_head(x, rare, 3, bias=True).out_of_fold[7].argmax() != 2


def test_logits_of_noise_are_of_its_size(generator: torch.Generator) -> None:
    """The temperature is that of held-out texts: probabilities of noise stay near the classes' frequencies."""
    x, y = torch.randn(200, 50, generator=generator), torch.randint(2, (200,), generator=generator)
    head = solve_head(x, y, 2, bias=True)
    fresh = torch.randn(200, 50, generator=generator)
    assert (torch.softmax(F.linear(fresh, head.weight, head.bias), dim=1) - 0.5).abs().mean() < 0.2


HEAD: dict[str, Any] = {"trainable": "head", "progress": False, "validation": False}


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_training_is_at_the_optimum(model_folder: Folders, family: str) -> None:
    """The gradient of the penalised loss is zero, with GPT-2's head without a bias too."""
    weights = {0: 2.0, 1: 1.0, 2: 0.5}
    texts, labels = TEXTS * 3, LABELS * 3
    result = pyllmclf.finetune(model_folder(family), (texts, labels), class_weights=weights, **HEAD)
    model = result.classifier.state.model
    logits = torch.from_numpy(result.classifier.logits(texts))
    assert result.history[0].train_accuracy == (logits.argmax(dim=1) == torch.tensor(labels)).float().mean()
    of_text = torch.tensor([weights[label] for label in labels])
    loss = (F.cross_entropy(logits, torch.tensor(labels), reduction="none") * of_text).sum() / of_text.sum()
    assert result.history[0].train_loss == pytest.approx(float(loss), rel=1e-4)
    assert (model.head.bias is None) is (family == "gpt2")
    assert result.timing["steps"] == 1


@pytest.mark.parametrize("long_texts", ["head", "windows"])
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_where_rows_come_from_changes_nothing(model_folder: Folders, cache: str, long_texts: str) -> None:
    changes = {"max_length": 8, "long_texts": long_texts, "cache": cache}
    heads = [
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **HEAD | changes | each).classifier.state.model.head
        for each in ({}, {"cache": "auto"})
    ]
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "asked",
    [
        {"epochs": 2}, {"batch_size": 2}, {"learning_rate": 1e-3}, {"scheduler": "linear"}, {"warmup_ratio": 0.1},
        {"dropout": 0.1}, {"label_smoothing": 0.1}, {"max_grad_norm": 1.0}, {"gradient_accumulation_steps": 2},
        {"callbacks": pyllmclf.Callback()}, {"weight_decay": 0.0}, {"batch_tokens": 40}, {"layerwise_lr_decay": 0.5},
        {"validation": (TEXTS, LABELS), "early_stopping": 1},
    ],
    ids=lambda asked: next(iter(asked)),
)  # fmt: skip
def test_steps_are_taken_where_they_are_asked_for(model_folder: Folders, asked: dict[str, Any]) -> None:
    result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **HEAD | asked)
    assert result.history[0].learning_rate > 0.0


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert"])
def test_a_layer_before_the_head_is_trained_by_steps(model_folder: Folders, family: str) -> None:
    result = pyllmclf.finetune(model_folder(family), (TEXTS, LABELS), **HEAD)
    assert result.timing["steps"] == 40


@pytest.mark.parametrize(("many", "epochs", "rate"), [(16, 17, 1e-3), (3, 40, 3e-3)])
def test_such_a_run_is_resumed_with_the_steps_that_it_began_with(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, epochs: int, rate: float
) -> None:
    monkeypatch.setattr(recipes, "MANY_CLASSES", many)
    texts = (TEXTS * 8, LABELS * 8)
    whole = pyllmclf.finetune(model_folder("roberta"), texts, **HEAD)
    settings = whole.classifier.state.settings
    assert (settings["epochs"], settings["learning_rate"]) == (epochs, rate)
    with pytest.raises(pyllmclf.PreemptedError):
        pyllmclf.finetune(model_folder("roberta"), texts, output_dir=tmp_path, callbacks=StopAt(9), **HEAD)
    same(pyllmclf.finetune(model_folder("roberta"), texts, output_dir=tmp_path, resume=True, **HEAD), whole)


def test_the_card_shows_no_settings_of_steps(model_folder: Folders, tmp_path: Path) -> None:
    pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), output_dir=tmp_path / "run", **HEAD)
    card = (tmp_path / "run/last/README.md").read_text(encoding="utf-8")
    assert "| trainable | `head` |" in card and "auto" not in card


def test_a_solved_run_is_saved_and_resumed(model_folder: Folders, tmp_path: Path) -> None:
    arguments = HEAD | {"output_dir": tmp_path / "run", "validation": (TEXTS, LABELS)}
    first = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **arguments)
    again = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments)
    assert again.metrics["validation"]["log_loss"] == first.metrics["validation"]["log_loss"]
    loaded = pyllmclf.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.logits(TEXTS), first.classifier.logits(TEXTS))
    with pytest.raises(pyllmclf.UsageError, match="was 'auto' there, and is"):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), resume=True, **arguments | {"epochs": 3})


def test_several_labels(model_folder: Folders) -> None:
    labels = [["a"], ["a", "b"], [], ["b"], ["a"], []]
    result = pyllmclf.finetune(
        model_folder("gpt2"), (TEXTS, labels), multi_label=True, class_weights={"a": 2, "b": 1}, **HEAD
    )
    assert np.isfinite(result.history[0].train_loss)
    assert result.classifier.predict_proba(TEXTS).shape == (6, 2)


def test_folds_one_after_another_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the logits of all folds would take too much memory."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    together = solve_head(x, y, 3, bias=True)
    monkeypatch.setattr(solved_head, "MOST_LOGITS", 2 * 60 * 3)  # two folds at a time
    apart = solve_head(x, y, 3, bias=True)
    assert apart.penalty == together.penalty
    torch.testing.assert_close(apart.out_of_fold, together.out_of_fold, rtol=0, atol=1e-3)
