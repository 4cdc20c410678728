"""Trainings that end without a better epoch, and give the best one's classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import LABELS, TEXTS, Folders

from pyllmclf import UsageError, finetune, load
from pyllmclf.training.trainer import Trainer


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


@pytest.mark.parametrize("early_stopping", [0, 1.5, True, 1], ids=repr)  # 1: without validation data
def test_patience_that_makes_no_sense(model_folder: Folders, early_stopping: Any) -> None:
    with pytest.raises(UsageError, match="early_stopping"):
        finetune(model_folder("gpt2"), (TEXTS, LABELS), progress=False, early_stopping=early_stopping)
