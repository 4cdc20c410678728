"""Temperatures that make probabilities say how often a classifier is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import Folders
from short_runs import LABELS, TEXTS, run

import pyllmclf
from pyllmclf import UsageError
from pyllmclf.classifier.calibration import fit_temperature
from pyllmclf.evaluation.metrics import cross_entropy


@pytest.fixture(scope="module")
def gpt2(model_folder: Folders) -> Path:
    return model_folder("gpt2", n_classes=2)


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


def test_temperature_of_several_labels() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(5000, 3)) * 2
    labels = (generator.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.05)


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


def test_calibration_needs_validation(gpt2: Path) -> None:
    with pytest.raises(UsageError, match="calibrate needs validation"):
        run(gpt2, calibrate=True)
