"""Explanations: gradients against transformers, weights against captum, words against their texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import FAMILIES, TEXTS, Folders
from torch import nn
from transformers import AutoModelForSequenceClassification

import pyllmclf
from pyllmclf.explain import Explanation

# The last text of the list is read alone, without padding, by both sides.
SOME = [TEXTS[2], TEXTS[5], "x"]


def theirs_of(folder: Path) -> tuple[nn.Module, nn.Module]:
    """transformers' classifier, and its layer of the tokens' embeddings."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval().requires_grad_(False)
    return model, model.get_input_embeddings()


@contextmanager
def embeddings_as_leaf(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Keeps what a layer returns, as tensors whose gradients autograd computes."""
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = layer.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def ids_of(classifier: Any, text: str) -> torch.Tensor:
    return classifier.packer([text]).batch([0]).input_ids.long()[None]


def weights_by_row(classifier: Any, explanation: Explanation) -> np.ndarray:
    """Weight of each row of a text, 0 of special tokens."""
    tokenizer = classifier.state.tokenizer
    own = [token.weight for token in explanation.tokens]
    return np.array([*[0.0] * len(tokenizer.prefix), *own, *[0.0] * len(tokenizer.suffix)])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_x_input_is_that_of_transformers(model_folder: Folders, family: str) -> None:
    """In each architecture, so that the gradient of a token's embedding is right in all paths of the ops."""
    classifier = pyllmclf.load(model_folder(family), device="cpu")
    theirs, layer = theirs_of(model_folder(family))
    explanations = classifier.explain(SOME, method="gradient_x_input", baseline="zero")
    for text, explanation in zip(SOME, explanations, strict=True):
        ids = ids_of(classifier, text)
        with embeddings_as_leaf(layer) as kept:
            logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            logits[classifier.classes_.index(explanation.target)].backward()
        products = kept[0].detach() * kept[0].grad
        expected = products.sum(-1)[0].numpy()
        # Where a norm follows at once, the sum is zero: its terms are the measure.
        scale = float(products.abs().sum(-1).max())
        found = weights_by_row(classifier, explanation)
        assert len(found) == len(expected)
        read = found != 0
        assert read.sum() == len(explanation.tokens)
        assert np.abs(found - expected)[read].max() < 1e-5 * scale


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta", "gemma3", "deberta_v2"])
def test_integrated_gradients_are_those_of_captum(model_folder: Folders, family: str) -> None:
    from captum.attr import LayerIntegratedGradients

    classifier = pyllmclf.load(model_folder(family), device="cpu")
    theirs, layer = theirs_of(model_folder(family))
    tokenizer = classifier.state.tokenizer
    for text, explanation in zip(SOME, classifier.explain(SOME, target="LABEL_1", steps=12), strict=True):
        ids = ids_of(classifier, text)
        baseline = ids.clone()
        own = slice(len(tokenizer.prefix), ids.shape[1] - len(tokenizer.suffix))
        baseline[:, own] = tokenizer.pad_token_id
        # Position ids that transformers counts from the ids stay those of the text.
        captum = LayerIntegratedGradients(lambda ids: theirs(ids, attention_mask=torch.ones_like(ids)).logits, layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = captum.attribute(ids, baseline, target=1, n_steps=12).sum(-1)[0].detach().numpy()
        found = weights_by_row(classifier, explanation)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
