"""Trainings on real texts and real weights."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

import pyllmclf
from pyllmclf.cli.main import app, run

sys.path.append(str(Path(__file__).parent.parent / "bench"))
import recipes


def test_minilm_on_sms_spam(data_dir: Path, minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One epoch of the last block gets most texts right, and the saved classifier gives the same figures."""
    result = pyllmclf.finetune(
        minilm, "sms_spam", trainable="last_block", learning_rate=5e-4, epochs=1, output_dir=tmp_path, progress=False
    )
    assert result.classifier.classes_ == ["ham", "spam"]
    assert result.lengths.texts == 1045
    accuracy = result.metrics["test"]["accuracy"]
    assert accuracy > 0.93
    assert run(app, "pyllmclf", ["eval", str(tmp_path), "sms_spam", "--json", "--no-progress"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == accuracy


def test_gpt2_on_sms_spam(data_dir: Path, gpt2_vocabulary: Path, tmp_path: Path) -> None:
    """The real tokenizer and vocabulary, with a small random GPT-2."""
    small = tmp_path / "small"
    small.mkdir()
    from pyllmclf.data.tokenizers import TiktokenTokenizer
    from pyllmclf.models.architectures.registry import presets

    (small / "config.json").write_text(json.dumps(presets()["gpt2"].config | {"n_embd": 64, "n_layer": 2, "n_head": 2}))
    for name, content in TiktokenTokenizer.gpt2().files(1024).items():
        (small / name).write_text(content, encoding="utf-8")
    result = pyllmclf.finetune(
        small, "sms_spam", weights="random", trainable="all", learning_rate=1e-3, epochs=2, progress=False
    )
    assert result.lengths.longest == 120
    assert result.metrics["test"]["accuracy"] > 0.85


@pytest.mark.parametrize("name", [pytest.param("ag_news", marks=pytest.mark.slow), "subj"])
def test_flipped_labels_are_found(name: str, data_dir: Path, minilm: Path) -> None:
    """Most of the first 5 % of the texts to look at are among the 5 % whose label was flipped."""
    precisions = []
    for seed in range(2):
        rows, _ = recipes.draw(recipes.load(name, data_dir)[0], "1000", seed)
        texts, labels = [text for text, _ in rows], [label for _, label in rows]
        chosen = random.Random(seed + 1)
        flipped = set(chosen.sample(range(1000), 50))
        for row in flipped:
            labels[row] = chosen.choice(sorted(set(labels) - {labels[row]}))
        result = pyllmclf.tune(minilm, (texts, labels), candidates=[{"trainable": "head"}], seed=seed, progress=False)
        precisions.append(sum(row in flipped for row in pyllmclf.label_issues(result).index[:50]) / 50)
    assert sum(precisions) / 2 > 0.5
