"""MiniLM under other architectures' names is the same model, in transformers and here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import TEXTS
from rewritten import rewrite
from transformers import AutoModel, AutoTokenizer

import pyllmclf


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_hidden_states_are_those_of_the_original(minilm: Path, tmp_path: Path, family: str) -> None:
    folder = rewrite(minilm, tmp_path / family, family)
    states = []
    for each in (minilm, folder):
        batch = AutoTokenizer.from_pretrained(each)(TEXTS, padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        model = AutoModel.from_pretrained(each, attn_implementation="eager").eval()
        with torch.no_grad():
            states.append(model(**batch).last_hidden_state[batch["attention_mask"].bool()])
        assert model.config.model_type == ("bert" if each == minilm else family)
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_it_opens_here(minilm: Path, tmp_path: Path, family: str) -> None:
    folder = rewrite(minilm, tmp_path / family, family)
    labels = [f"class {number % 2}" for number in range(len(TEXTS))]
    result = pyllmclf.finetune(
        folder, (TEXTS, labels), trainable="last_block", epochs=1, validation=False, progress=False
    )
    state = result.classifier.state
    assert (state.model.config.model_type, state.model.spec.pooling) == (family, "mean")
    assert np.isfinite(result.classifier.logits(TEXTS)).all()
