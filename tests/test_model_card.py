"""The README.md of a checkpoint, which is a model card of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from interoperability import CLASSES, SHORT
from models import TEXTS, Folders

import pyllmclf


def test_model_card(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("bert")
    result = pyllmclf.finetune(
        base, (TEXTS, CLASSES), validation=(TEXTS, CLASSES), test=(TEXTS[:4], CLASSES[:4]), calibrate=True, **SHORT
    )
    result.classifier.save(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved/README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-classification"
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    for part in ("validation", "test"):
        for figure, shown in (("accuracy", "accuracy"), ("macro_f1", "f1"), ("log_loss", "log_loss")):
            assert found[part, shown] == pytest.approx(result.metrics[part][figure], abs=1e-6)
    assert "`LABEL_1`" in card.text and "temperature" in card.text
    assert not any(str(path) in card.content for path in (tmp_path, base))
    loaded = pyllmclf.load(tmp_path / "saved")
    assert loaded.state.metrics == result.classifier.state.metrics
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/README.md").read_text() == (tmp_path / "saved/README.md").read_text()


def test_model_card_of_a_checkpoint_of_a_run(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("gpt2")
    arguments: dict[str, Any] = SHORT | {"causal": False, "output_dir": tmp_path / "run"}
    labels = ["a | b" if c == "LABEL_0" else "`c`\nd" for c in CLASSES]
    pyllmclf.finetune(base, (TEXTS, labels), validation=(TEXTS, labels), **arguments)
    card = ModelCard.load(tmp_path / "run/last/README.md")
    assert {r.dataset_split for r in card.data.eval_results} == {"validation"}
    assert card.data.library_name is None and "transformers" not in card.text
    assert "`a \\| b`" in card.text and "`'c' d`" in card.text


def test_card_of_an_adapter_of_the_hub_names_its_base(model_folder: Folders, tmp_path: Path) -> None:
    base = model_folder("gpt2")
    classifier = pyllmclf.finetune(base, (TEXTS, CLASSES), trainable="lora", **SHORT).classifier
    classifier.state.hub_id, classifier.state.revision = "someone/gpt2", "f" * 40
    classifier.export(tmp_path / "adapter", format="peft")
    card = ModelCard.load(tmp_path / "adapter/README.md")
    assert card.data.base_model == "someone/gpt2" and card.data.library_name == "peft"
