"""Class weights, label smoothing and early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import relative_error
from models import LABELS, TEXTS, Folders, make_trainer
from sklearn.utils.class_weight import compute_class_weight

from pyllmclf import UsageError, finetune, load
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.training.objective import Objective, resolve_class_weights
from pyllmclf.training.trainer import Trainer

ENCODER = LabelEncoder(("a", "b", "c"))
CLASSES = np.array([0, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_the_loss_is_torch_s(smoothing: float, weights: list[float] | None, generator: torch.Generator) -> None:
    logits = torch.randn(6, 3, generator=generator).requires_grad_()
    labels = torch.from_numpy(CLASSES)
    weight = None if weights is None else torch.tensor(weights)
    objective = Objective(weight, smoothing)
    mine = objective.loss_sum(logits, labels) / objective.total(labels)
    wide = None if weight is None else weight.double()
    expected = torch.nn.CrossEntropyLoss(wide, label_smoothing=smoothing)(logits.double(), labels)
    assert relative_error(mine.detach(), expected.detach()) < 1e-6
    pairs = [torch.autograd.grad(loss, logits)[0] for loss in (mine, expected)]
    assert relative_error(*pairs) < 1e-5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_one_on_the_weighted_mean(model_folder: Folders, accumulate: int) -> None:
    """Over all micro-batches, whatever their sizes."""
    folder = model_folder("gpt2")
    weights = [0.5, 1.0, 3.0]
    arguments = {"class_weights": weights, "label_smoothing": 0.1, "max_grad_norm": 1e9}
    trainer = make_trainer(folder, TEXTS, LABELS, "all", **arguments)
    plain = make_trainer(folder, TEXTS, LABELS, "all", max_grad_norm=1e9)
    parts = [np.arange(6)] if accumulate == 1 else [np.array([0, 3]), np.array([1, 2, 4, 5])]
    loss, _ = trainer.train_step(parts)
    logits = plain.model(plain.packer.batch(range(6)))
    expected = torch.nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=0.1)(logits, plain.packer.labels)
    assert abs(loss - expected.item()) < 1e-6
    name = "backbone.h.1.mlp.c_fc.weight"
    expected.backward()
    found, wanted = (dict(t.model.named_parameters())[name].grad for t in (trainer, plain))
    assert found is not None
    assert wanted is not None
    assert relative_error(found, wanted) < 1e-5


def test_balanced_weights() -> None:
    found = resolve_class_weights("balanced", ENCODER, CLASSES)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=CLASSES)
    assert found is not None
    assert torch.allclose(found, torch.from_numpy(expected).float())


@pytest.mark.parametrize(
    "given",
    [{"a": 1, "c": 3.0, "b": 2}, [1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0])],
    ids=["mapping", "list", "tuple", "array", "tensor"],
)
def test_given_weights(given: Any) -> None:
    found = resolve_class_weights(given, ENCODER, CLASSES)
    assert found is not None
    assert found.tolist() == [1.0, 2.0, 3.0]
    assert found.dtype == torch.float32


WRONG = ["even", {"a": 1, "b": 2}, {"a": 1, "b": 2, "d": 3}, [1, 2], [1, 2, 0], [1, 2, -1], [1, 2, "3"], [1, 2, np.nan]]


@pytest.mark.parametrize("given", [*WRONG, 3, [1, 2, 1e-300], [1, 2, 1e300]], ids=str)
def test_weights_that_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="class_weights"):
        resolve_class_weights(given, ENCODER, CLASSES)


@pytest.mark.parametrize("changes", [
    {"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"label_smoothing": "much"}, {"label_smoothing": True},
    {"early_stopping": 0}, {"early_stopping": 1.5}, {"early_stopping": True}, {"early_stopping": 1},
], ids=str)  # fmt: skip
def test_arguments_that_are_refused(model_folder: Folders, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        finetune(model_folder("gpt2"), (TEXTS, LABELS), progress=False, **changes)


def test_early_stopping(model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends after two epochs without a better one; the classifier, and its figures, are the best epoch's."""
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])  # the fifth is not seen
    losses = iter([1.0, 0.8, 0.7, 0.9, 0.1])
    weights: list[torch.Tensor] = []
    fit = Trainer.fit

    def scored(self: Trainer, validate: Any, *rest: Any) -> Any:
        def next_score() -> tuple[float, float]:
            validate()
            weights.append(self.model.head.weight.detach().clone())
            return next(losses), next(scores)

        return fit(self, next_score, *rest)

    monkeypatch.setattr(Trainer, "fit", scored)
    result = finetune(
        model_folder("gpt2"),
        (TEXTS, LABELS),
        validation=(TEXTS, LABELS),
        early_stopping=2,
        epochs=5,
        learning_rate=1e-2,
        output_dir=tmp_path / "out",
        progress=False,
    )
    assert [record.validation_accuracy for record in result.history] == [0.5, 0.7, 0.6, 0.7]
    assert torch.equal(result.classifier.state.model.head.weight, weights[1])
    assert not torch.equal(weights[1], weights[3])
    best, last = (load(tmp_path / "out" / name).state.model.head.weight for name in ("best", "last"))
    assert torch.equal(best, weights[1])
    assert torch.equal(last, weights[3])
    again = result.classifier.evaluate((TEXTS, LABELS))
    assert result.metrics["validation"]["log_loss"] == pytest.approx(again.log_loss, rel=1e-6)
    assert result.timing["steps"] == 4


def test_without_stopping_the_last_epoch_s_weights_are_returned_if_they_are_best(model_folder: Folders) -> None:
    """Patience that never ends: all epochs, and the best one's weights."""
    arguments: dict[str, Any] = {"validation": (TEXTS, LABELS), "epochs": 3, "progress": False, "learning_rate": 1e-3}
    folder = model_folder("gpt2")
    result = finetune(folder, (TEXTS, LABELS), early_stopping=9, **arguments)
    assert len(result.history) == 3
    best = max(result.history, key=lambda record: record.score or (0.0, 0.0))
    assert result.classifier.evaluate((TEXTS, LABELS)).log_loss == pytest.approx(best.validation_loss, rel=1e-6)
