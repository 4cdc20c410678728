"""Several classifiers on one pass: equal stages run once, and logits are those of each classifier by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import FAMILIES, Folders, each_kind
from served_classifiers import LABELS, QUICK, TEXTS, relatives, trained

import pyllmclf
from pyllmclf.classifier.classifier import Classifier
from pyllmclf.data.packing import Packer
from pyllmclf.models.sequence_classifier import SequenceClassifier
from pyllmclf.server.catalog import Catalog
from pyllmclf.server.shared_stages import ClassifierGroup, group_key, stage_keys


def group_of(classifiers: list[Classifier]) -> ClassifierGroup:
    catalog = Catalog({str(i): classifier for i, classifier in enumerate(classifiers)})
    (group,) = catalog.groups
    return group


def stages_run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The stages that are computed from now on, as pairs of first and last."""
    spans: list[tuple[int, int]] = []
    advance = SequenceClassifier.advance

    def recorded(self: Any, x: Any, batch: Any, start: int, end: int, *rest: Any, **options: Any) -> Any:
        spans.append((start, end))
        return advance(self, x, batch, start, end, *rest, **options)

    monkeypatch.setattr(SequenceClassifier, "advance", recorded)
    return spans


@pytest.mark.parametrize("family", each_kind(FAMILIES))
@pytest.mark.parametrize("poolings", [("first", "last"), ("mean",), ("last", "mean")])
def test_logits_are_those_of_each_classifier(model_folder: Folders, family: str, poolings: tuple[str, ...]) -> None:
    classifiers = relatives(model_folder, family, poolings=poolings, causal=False)
    group = group_of(classifiers)
    packer = classifiers[0].packer(TEXTS)
    found = group.logits(packer, np.ones((len(TEXTS), len(classifiers)), dtype=bool))
    for classifier, logits in zip(classifiers, found, strict=True):
        assert logits is not None
        np.testing.assert_allclose(logits.numpy(), classifier.logits(TEXTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_each_text_gets_the_classifiers_that_it_wants(model_folder: Folders, family: str, causal: bool) -> None:
    classifiers = relatives(model_folder, family, poolings=("last", "mean"), causal=causal)
    group = group_of(classifiers)
    generator = np.random.default_rng(0)
    texts = [*TEXTS, TEXTS[0] + " again", TEXTS[0] + " and again"]
    for share in (0.1, 0.3, 0.7):
        wanted = generator.random((len(texts), len(classifiers))) < share
        found = group.logits(classifiers[0].packer(texts), wanted)
        for member, (classifier, logits) in enumerate(zip(classifiers, found, strict=True)):
            chosen = [text for text, want in zip(texts, wanted[:, member], strict=True) if want]
            assert (logits is None) == (not chosen)
            if logits is not None:
                np.testing.assert_allclose(logits.numpy(), classifier.logits(chosen), rtol=1e-5, atol=1e-6)


def test_frozen_stages_run_once(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    classifiers = relatives(model_folder, "bert", poolings=("first", "last"))
    group = group_of(classifiers)
    packer = classifiers[0].packer(TEXTS)
    spans = stages_run(monkeypatch)
    group.logits(packer, np.ones((len(TEXTS), len(classifiers)), dtype=bool))
    depth = classifiers[0].state.model.depth
    # The last block is trained in half of them, and reads another row with each pooling.
    last = depth - 2
    assert spans.count((0, last)) == 1
    assert all(start >= last for start, _ in spans if (start, _) != (0, last))
    # Two heads of one pooling share the last block, too.
    assert sum(1 for start, end in spans if (start, end) == (last, depth)) == 6


def test_groups_need_the_same_rows(model_folder: Folders) -> None:
    def classifier(family: str = "bert", **options: Any) -> Classifier:
        arguments = {"trainable": "head"} | QUICK | options
        return pyllmclf.finetune(model_folder(family), (TEXTS, LABELS), **arguments).classifier

    plain, other = classifier(), classifier("distilbert")
    shorter, causal = classifier(max_length=16), classifier(causal=True)
    keys = [group_key(classifier) for classifier in (plain, shorter, causal, other)]
    assert len(set(map(str, keys))) == 4


def test_lora_on_the_last_block_shares_those_below(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"lora": {"rank": 2, "layers": [2]}, "trainable": "lora"}
    classifiers = relatives(model_folder, "bert", poolings=("mean",), **options)[:2]
    head = relatives(model_folder, "bert", poolings=("mean",))[0]
    classifiers.append(head)
    group = group_of(classifiers)
    packer = classifiers[0].packer(TEXTS)
    expected = [classifier.logits(TEXTS) for classifier in classifiers]
    spans = stages_run(monkeypatch)
    found = group.logits(packer, np.ones((len(TEXTS), 3), dtype=bool))
    assert spans.count((0, 3)) == 1
    for logits, alone in zip(found, expected, strict=True):
        assert logits is not None
        np.testing.assert_allclose(logits.numpy(), alone, rtol=1e-5, atol=1e-6)


def test_a_changed_parameter_or_scale_changes_its_stage_alone(model_folder: Folders) -> None:
    options = {"trainable": "lora", "lora": {"rank": 2, "layers": [1]}} | QUICK
    classifier = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **options).classifier
    before = stage_keys(classifier)
    block = classifier.state.model.backbone.blocks[1]
    linear = next(m for m in block.modules() if getattr(m, "lora_a", None) is not None)
    linear.scaling *= 2
    scaled = stage_keys(classifier)
    assert [a == b for a, b in zip(before, scaled, strict=True)] == [True, True, False, True, True]
    with torch.no_grad():
        classifier.state.model.backbone.blocks[0].attention.output.LayerNorm.bias[3] += 1e-3
    changed = stage_keys(classifier)
    assert [a == b for a, b in zip(scaled, changed, strict=True)] == [True, False, True, True, True]


def test_memory_of_equal_stages_is_shared_by_new_classifiers(model_folder: Folders) -> None:
    first, second = relatives(model_folder, "bert", poolings=("mean",))[:2]
    expected = [first.logits(TEXTS), second.logits(TEXTS)]
    own = first.state.model.backbone.blocks[0].attention.self.query.weight
    address = own.data_ptr()
    Catalog({"a": second, "b": first}, Catalog({"b": first}), share_memory=True)
    other = second.state.model.backbone.blocks[0].attention.self.query.weight
    assert own.data_ptr() == address == other.data_ptr()
    assert first.state.model.head.weight.data_ptr() != second.state.model.head.weight.data_ptr()
    np.testing.assert_array_equal(first.logits(TEXTS), expected[0])
    np.testing.assert_array_equal(second.logits(TEXTS), expected[1])


def test_a_group_of_one_computes_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyllmclf.server.shared_stages.stage_keys", lambda _: pytest.fail("hashed"))
    classifier = trained(pooling="mean")
    group = ClassifierGroup([classifier])
    packer: Packer = classifier.packer(TEXTS)
    (logits,) = group.logits(packer, np.ones((len(TEXTS), 1), dtype=bool))
    assert logits is not None
    np.testing.assert_allclose(logits.numpy(), classifier.logits(TEXTS), rtol=1e-5, atol=1e-6)
