"""The loss: class weights and smoothed labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import relative_error
from models import LABELS, TEXTS, Folders, make_trainer
from sklearn.utils.class_weight import compute_class_weight

from pyllmclf import UsageError, finetune
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.sources import read_data
from pyllmclf.training.objective import Objective, resolve_class_weights

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
], ids=str)  # fmt: skip
def test_arguments_that_are_refused(model_folder: Folders, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        finetune(model_folder("gpt2"), (TEXTS, LABELS), progress=False, **changes)


def test_class_weights_by_name() -> None:
    """A class that is named like a float, and one that a float means."""
    named = LabelEncoder.fit(read_data((TEXTS[:4], ["0.0", "1.0", "0.0", "1.0"])))
    assert resolve_class_weights({0.0: 1.0, 1.0: 2.0}, named, np.array([0, 1, 0, 1])).tolist() == [1.0, 2.0]
    numbered = LabelEncoder.fit(read_data((TEXTS[:4], [0, 1, 0, 1])))
    given = {np.float32(0.0): 1.0, 1.0: 2.0}
    assert resolve_class_weights(given, numbered, np.array([0, 1, 0, 1])).tolist() == [1.0, 2.0]
