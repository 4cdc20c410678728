"""Explanations: gradients against transformers, weights against captum, words against their texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CPU_BACKENDS
from models import FAMILIES, TEXTS, Folders
from short_runs import LABELS, SHORT, run
from short_runs import TEXTS as SHORT_TEXTS
from torch import nn
from transformers import AutoModelForSequenceClassification

import pyllmclf
from pyllmclf.errors import DataError, UsageError
from pyllmclf.explain import METHODS, Explanation, Explanations
from pyllmclf.explain.baseline import Baseline
from pyllmclf.explain.explainer import embedding_tables
from pyllmclf.explain.gradients import integration_points

# Each is read alone, without padding, by transformers.
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


# --- additive, in all that a classifier reads -------------------------------------------------------------------------

PAIRS = [(text, f"{text} too") for text in SHORT_TEXTS]
LAYOUTS: dict[str, dict[str, Any]] = {
    "first": {"pooling": "first"},
    "last": {"pooling": "last"},
    "mean": {"pooling": "mean"},
    "causal_first": {"pooling": "first", "causal": True},
    "causal_mean": {"pooling": "mean", "causal": True},
    "padding": {"padding": 24, "pooling": "last_position"},
    "windows": {"long_texts": "windows", "max_length": 9},
    "tail": {"long_texts": "tail", "max_length": 9},
    "both": {"long_texts": "both", "max_length": 9},
    "head": {"max_length": 9},
    "lora": {"trainable": "lora"},
    "prompt": {"prompt": "say: "},
    "pairs": {"train": (PAIRS, LABELS)},
    "windows_of_pairs": {"train": (PAIRS, LABELS), "long_texts": "windows", "max_length": 14},
}


def text_of(layout: str) -> Any:
    text = "an ox cat blue dog x green"
    return (text, "red cat x") if "pairs" in layout else text


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_add_up_to_the_logit(model_folder: Folders, family: str, layout: str) -> None:
    """So do gradients of every path: with a pooled row, of first rows alone, in windows, with low-rank products."""
    changes = SHORT | LAYOUTS[layout] | {"epochs": 1}
    data = {"train": (SHORT_TEXTS, LABELS)} | changes
    classifier = pyllmclf.finetune(model_folder(family), **data).classifier
    text = text_of(layout)
    explanation = classifier.explain(text, steps=48)
    logits = classifier.logits(text)
    target = classifier.classes_.index(explanation.target)
    assert target == logits.argmax()
    assert explanation.logit == pytest.approx(float(logits[target]), rel=1e-4, abs=1e-5)
    assert explanation.completeness_error < 1e-4 * max(1.0, abs(explanation.logit))
    assert sum(token.weight or 0.0 for token in explanation.tokens) == pytest.approx(explanation.total)
    read = [word.weight is not None for word in explanation.words]
    truncated = {"head": [True, False], "tail": [False, True], "both": [True, True]}
    if layout == "windows_of_pairs":
        assert all(word.weight is not None for word in explanation.words if word.part == 1)
    elif layout in truncated:
        assert [read[0], read[-1]] == truncated[layout]
        assert explanation.truncated
    else:
        assert all(read)


def test_the_rule_integrates_polynomials() -> None:
    nodes, weights = integration_points(5)
    for degree in range(10):
        assert (weights * nodes**degree).sum() == pytest.approx(1 / (degree + 1))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_backends_agree(model_folder: Folders, family: str) -> None:
    weights = []
    for backend in CPU_BACKENDS:
        classifier = pyllmclf.load(model_folder(family), device="cpu", backend=backend)
        weights.append(classifier.explain(SOME, steps=4).to_frame()["weight"].to_numpy())
    assert all(np.abs(each - weights[0]).max() < 1e-5 * np.abs(weights[0]).max() for each in weights)


def test_weights_do_not_depend_on_the_batch(model_folder: Folders) -> None:
    classifier = pyllmclf.load(model_folder("bert"), device="cpu")
    for method in ("integrated_gradients", "occlusion"):
        few = {"steps": 6} if method == "integrated_gradients" else {}
        together = classifier.explain(SOME, method=method, **few).to_frame()["weight"]
        alone = pd.concat([classifier.explain([text], method=method, **few).to_frame() for text in SOME])["weight"]
        small = classifier.explain(SOME, method=method, **few, batch_tokens=1).to_frame()["weight"]
        assert np.abs(together.to_numpy() - alone.to_numpy()).max() < 1e-6
        assert np.abs(together.to_numpy() - small.to_numpy()).max() < 1e-6


def test_other_dtypes_are_explained_in_fp32(tmp_path: Path) -> None:
    pyllmclf.finetune(
        "gpt2-nano", (SHORT_TEXTS, LABELS), weights="random", trainable="all", **SHORT | {"epochs": 1}
    ).classifier.save(tmp_path / "saved")
    exact = pyllmclf.load(tmp_path / "saved", dtype="float32").explain(SHORT_TEXTS[0])
    for options in ({"dtype": "int8", "calibration": SHORT_TEXTS}, {"dtype": "bfloat16"}):
        found = pyllmclf.load(tmp_path / "saved", **options).explain(SHORT_TEXTS[0], target=exact.target)
        assert found.logit == pytest.approx(exact.logit, rel=1e-5)
        assert [word.weight for word in found.words] == pytest.approx([word.weight for word in exact.words], rel=1e-4)


def test_a_merged_adapter_is_explained_alike(model_folder: Folders) -> None:
    classifier = run(model_folder("bert"), trainable="lora").classifier
    found, merged = (each.explain(SHORT_TEXTS[0], steps=8) for each in (classifier, classifier.merge_lora()))
    assert [word.weight for word in found.words] == pytest.approx([w.weight for w in merged.words], rel=1e-3, abs=1e-6)


def test_the_model_stays_as_it_is(model_folder: Folders) -> None:
    classifier = run(model_folder("gpt2"), trainable="all").classifier
    model = classifier.state.model
    before = {name: (p.requires_grad, p._version, p.grad) for name, p in model.named_parameters()}
    with torch.inference_mode():
        explanation = classifier.explain(SHORT_TEXTS[0])
    assert explanation.total != 0
    assert {name: (p.requires_grad, p._version, p.grad) for name, p in model.named_parameters()} == before


# --- occlusion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta"])
@pytest.mark.parametrize("baseline", ["pad", "zero"])
def test_occlusion_is_a_pass_with_each_word_replaced(model_folder: Folders, family: str, baseline: str) -> None:
    """On transformers' model, by a hook behind the embeddings."""
    classifier = pyllmclf.load(model_folder(family), device="cpu")
    theirs, layer = theirs_of(model_folder(family))
    text = TEXTS[5]
    explanation = classifier.explain(text, "LABEL_2", method="occlusion", baseline=baseline)
    offsets = classifier.state.tokenizer.encode_with_offsets([text])[0]
    ids, prefix = ids_of(classifier, text), len(classifier.state.tokenizer.prefix)
    table = layer.weight.detach()
    row = torch.zeros_like(table[0]) if baseline == "zero" else table[classifier.state.tokenizer.pad_token_id]

    def logit(hidden: list[int]) -> float:
        def replace(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[0, [prefix + place for place in hidden]] = row
            return output

        handle = layer.register_forward_hook(replace)
        with torch.no_grad():
            found = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 2]
        handle.remove()
        return float(found)

    whole = logit([])
    assert explanation.logit == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert explanation.baseline_logit == pytest.approx(logit(list(range(len(offsets.ids)))), rel=1e-4, abs=1e-5)
    for word in explanation.words:
        inside = [i for i, (a, b) in enumerate(offsets.spans) if a < word.end and b > word.start]
        # A space before a word is a token of the word.
        inside += [
            i for i, (a, b) in enumerate(offsets.spans) if not text[a:b].strip() and b in (word.start - 1, word.start)
        ]
        assert word.weight == pytest.approx(whole - logit(inside), abs=2e-6)
    assert explanation.tokens == ()
    with pytest.raises(UsageError, match="words alone"):
        explanation.to_frame("token")


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(model_folder: Folders) -> Any:
    return pyllmclf.load(model_folder("bert"), device="cpu")


def test_forms(bert: Any) -> None:
    single = bert.explain(SOME[0], steps=4)
    assert isinstance(single, Explanation)
    several = bert.explain(pd.Series(SOME, index=list("xyz")), "LABEL_1", steps=4)
    assert isinstance(several, Explanations) and len(several) == 3
    frame = several.to_frame()
    assert list(frame.columns) == ["text_index", "target", "word", "start", "end", "weight"]
    assert list(frame["text_index"].unique()) == list("xyz")
    assert set(frame["target"]) == {"LABEL_1"}
    for _, row in frame.iterrows():
        text = SOME["xyz".index(row["text_index"])]
        assert text[row["start"] : row["end"]] == row["word"]
    assert len(several[1:]) == 2 and list(several[1:].text_index) == ["y", "z"]
    mixed = bert.explain(SOME, target=["LABEL_0", "LABEL_2", "LABEL_1"], steps=2)
    assert [each.target for each in mixed] == ["LABEL_0", "LABEL_2", "LABEL_1"]
    assert bert.explain(SOME[0], np.array("LABEL_0"), steps=1).target == "LABEL_0"
    assert len(bert.explain([])) == 0
    assert list(bert.explain([]).to_frame().columns) == list(frame.columns)
    tokens = single.to_frame("token")
    assert "".join(tokens["token"]) == SOME[0].replace(" ", "")


def test_the_default_baseline(bert: Any) -> None:
    """A padding token of zeros is no baseline where a norm follows at once: the mask token is."""
    tokenizer, table = bert.state.tokenizer, embedding_tables(bert.state.model)[0].clone()
    named = {method: Baseline.of(None, method, tokenizer, table).name for method in METHODS}
    assert named == {"integrated_gradients": "pad", "gradient_x_input": "pad", "occlusion": "mask"}
    table[tokenizer.pad_token_id] = 0.0
    assert Baseline.of(None, METHODS[0], tokenizer, table, alone=True).token == tokenizer.special_id("mask")
    assert Baseline.of(None, METHODS[0], tokenizer, table, alone=False).name == "pad"


def test_texts_without_words(bert: Any) -> None:
    for text in ("", "  "):
        explanation = bert.explain(text)
        assert explanation.words == () and explanation.completeness_error == 0.0
        assert "no words" in str(explanation)


def test_several_labels(model_folder: Folders) -> None:
    labels = [["cat"] if "cat" in text else ["other", "dog"] for text in SHORT_TEXTS]
    classifier = pyllmclf.finetune(model_folder("bert"), (SHORT_TEXTS, labels), multi_label=True, **SHORT).classifier
    explanation = classifier.explain(SHORT_TEXTS[0])
    probabilities = classifier.predict_proba(SHORT_TEXTS[0])
    assert explanation.target == classifier.classes_[int(probabilities.argmax())]
    assert explanation.probability == pytest.approx(float(probabilities.max()), rel=1e-4)


def test_top_words(bert: Any) -> None:
    texts = ["fun dog", "Fun cat", "lazy dog dog"]
    explanations = bert.explain(texts, "LABEL_1", steps=4)
    frame = explanations.to_frame().assign(word=lambda each: each["word"].str.lower())
    expected = frame.groupby("word")["weight"].agg(["count", "sum", "mean"])
    found = explanations.top_words("LABEL_1")
    assert list(found["word"]) == list(expected.sort_values("sum", ascending=False).index)
    for row in found.itertuples():
        assert (row.count, row.sum, row.mean) == pytest.approx(tuple(expected.loc[row.word]))
    assert list(explanations.top_words(n=1, by="mean", min_count=3)["word"]) == ["dog"]
    with pytest.raises(UsageError, match="no text was explained for the class 'LABEL_0'"):
        explanations.top_words("LABEL_0")
    with pytest.raises(UsageError, match="for 2 classes"):
        bert.explain(texts, ["LABEL_0", "LABEL_1", "LABEL_1"], steps=1).top_words()
    for wrong in ({"n": 0}, {"by": "max"}, {"min_count": 0.5}):
        with pytest.raises(UsageError):
            explanations.top_words("LABEL_1", **wrong)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": "nope"}, "target='nope' is no class; the classes are 'LABEL_0', 'LABEL_1', 'LABEL_2'"),
        ({"target": ["LABEL_0"]}, "target has 1 labels; give a label for each of 2 texts, or one for all"),
        ({"target": [["LABEL_0"], ["LABEL_1"]]}, r"target=\['LABEL_0'\] is no class"),
        (
            {"method": "shap"},
            "method='shap' is unknown; it is one of integrated_gradients, gradient_x_input, occlusion",
        ),
        ({"steps": 0}, "steps=0 must be an integer from 1 to 1024"),
        ({"steps": 2.5}, "steps=2.5 must be an integer"),
        ({"steps": 8, "method": "occlusion"}, "steps are those of integrated gradients"),
        ({"batch_tokens": -1}, "batch_tokens=-1 must be a positive integer"),
        ({"baseline": "cls"}, "baseline='cls' is unknown; it is one of pad, mask, unk, zero"),
    ],
    ids=["target", "targets", "lists", "method", "steps", "fraction", "of another method", "batch_tokens", "baseline"],
)
def test_bad_arguments(bert: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bert.explain(["a", "b"], **arguments)


def test_bad_texts(bert: Any, model_folder: Folders) -> None:
    for texts in ([3], [("a", "b")], ["\ud800"]):
        with pytest.raises(DataError):
            bert.explain(texts)
    with pytest.raises(UsageError, match="no such token; use one of 'pad', 'zero'"):
        pyllmclf.load(model_folder("gpt2"), device="cpu").explain("a", baseline="mask")
