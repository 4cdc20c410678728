"""Files of version 0.1 open, predict and resume the same; see ``fixtures/make_version_0_1.py``."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import LABELS, TEXTS

import pyllmclf
from pyllmclf import DataError, ModelError, UsageError
from pyllmclf.models.architectures.registry import model_config
from pyllmclf.models.config import canonical_fields
from pyllmclf.training import identity

RUNS = ("gpt2", "bert_lora", "modernbert")
ARCHIVE = Path(__file__).parent / "fixtures" / "version_0_1.tar.gz"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(ARCHIVE) as opened:
        opened.extractall(folder, filter="data")
    return folder


@pytest.fixture
def written(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which version 0.1 ran; names of models and data are relative to it."""
    folder = tmp_path / "written"
    shutil.copytree(archive, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def about(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs.json").read_text())[name]


def resumed(folder: Path, name: str, **changes: Any) -> pyllmclf.FinetuneResult:
    run = about(folder, name)
    data = (TEXTS * 4, LABELS * 4) if run["data"] == "integers" else run["data"]
    arguments = {"model": run["model"], "train": data, "output_dir": f"{name}-interrupted"} | run["arguments"]
    return pyllmclf.finetune(**(arguments | {"resume": True, "progress": False} | changes))


def test_the_archive_is_small() -> None:
    assert ARCHIVE.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_classifier_predicts_the_same(written: Path, name: str) -> None:
    expected = about(written, name)
    classifier = pyllmclf.load(written / f"{name}-finished")
    assert classifier.predict(TEXTS) == expected["predictions"]
    assert np.allclose(classifier.logits(TEXTS), expected["logits"], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*changed since; results may differ in their last bits")
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_is_resumed(written: Path, name: str) -> None:
    """To the losses and logits of the run that was not interrupted, which another processor may round otherwise."""
    expected = about(written, name)
    result = resumed(written, name)
    assert np.allclose([record.train_loss for record in result.history], expected["losses"], rtol=0, atol=1e-4)
    assert np.allclose(result.classifier.logits(TEXTS), expected["logits"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"learning_rate": 2e-3}, UsageError, "learning_rate was 0.001 there, and is 0.002"),
        ({"seed": 7}, UsageError, "seed was 123 there, and is 7"),
        ({"train": (TEXTS * 4, LABELS[::-1] * 4)}, DataError, "the train texts or their labels"),
        ({"model": "models/modernbert"}, ModelError, "the model is not the one"),
    ],
    ids=str,
)
def test_another_run_is_refused(written: Path, changes: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        resumed(written, "bert_lora", **changes)


@pytest.mark.filterwarnings("ignore:.*changed since; results may differ in their last bits")
def test_labels_are_compared_by_their_strings(written: Path) -> None:
    """A later version may read a column of numbers as text."""
    result = resumed(written, "bert_lora", train=(TEXTS * 4, [str(label) for label in LABELS] * 4))
    assert result.classifier.classes_ == [0, 1, 2]


def test_settings_that_a_checkpoint_does_not_have_were_the_defaults_of_version_0_1(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a setting that was declared after version 0.1: ``absent`` says what it did."""
    before = {"settings": {}, "data": {"classes": []}, "model": {}}
    now = {"settings": {"long_texts": "head"}, "data": {"train": None, "validation": None, "classes": []}, "model": {}}
    declared = identity.ARGUMENTS["long_texts"]
    changed = type(declared)(**(vars(declared) | {"absent": "head"}))
    monkeypatch.setitem(identity.ARGUMENTS, "long_texts", changed)
    before["data"] |= {"train": None, "validation": None, "tokens": {}, "special tokens": []}
    now["data"] |= {"tokens": {}, "special tokens": []}
    assert identity.difference(before, now, "") is None
    now["settings"]["long_texts"] = "tail"
    assert identity.difference(before, now, "") == (UsageError, "long_texts was 'head' there, and is 'tail'")


@pytest.mark.parametrize("name", RUNS)
def test_configurations_are_compared_by_their_fields(archive: Path, name: str) -> None:
    """Version 0.1 wrote them as Python does."""
    (checkpoint,) = sorted((archive / f"{name}-finished").glob("checkpoint-*"))[-1:]
    written = json.loads((checkpoint / "training_state/state.json").read_text())["identity"]["model"]["config"]
    assert written.startswith("ModelConfig(model_type=")
    folder = archive / about(archive, name)["model"]
    config = model_config(json.loads((folder / "config.json").read_text()), str(folder))
    assert identity._config_of_version_0_1(written) == json.loads(json.dumps(canonical_fields(config)))
