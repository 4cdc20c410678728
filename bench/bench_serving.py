"""Eight classifiers on one encoder beside one of them, as ``pyllmclf serve`` computes a batch.

Four have trained heads and four trained last blocks, each with the pooling of the first or the last token. ``python
bench/serving/capacity.py`` measures whole servers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Row, Work

from pyllmclf import finetune
from pyllmclf.classifier.classifier import Classifier
from pyllmclf.data.packing import token_budget_batches
from pyllmclf.data.sources import read_data
from pyllmclf.server.catalog import Catalog

BUDGET = 256
TEXTS = 96


def eight(model: str, data: tuple[list[str], list[str]]) -> list[Classifier]:
    """Four heads and four last blocks."""
    options = {"max_length": 256, "progress": False, "validation": False, "baselines": "off"}
    found = []
    for pooling in ("first", "last"):
        for trainable, more in (("head", {}), ("last_block", {"epochs": 1, "learning_rate": 1e-3})):
            for seed in (0, 1):
                settings = {"trainable": trainable, "pooling": pooling, "seed": seed, **more}
                if model == "gpt2":
                    settings["weights"] = "random"
                found.append(finetune(model, data, **settings, **options).classifier)
    return found


@pytest.mark.parametrize("model", ["minilm", "gpt2"])
def test_eight_classifiers_on_one_pass(model: str, compare: Callable[..., Row]) -> None:
    messages, reviews = read_data("sms_spam:full", split="all"), read_data("imdb", split="test")
    data = messages.texts[:64], [str(label) for label in messages.labels[:64]]
    classifiers = eight(model, data)
    if model == "gpt2":  # random weights of different seeds are different models
        classifiers = of_one_base(classifiers)
    texts = messages.texts[1000 : 1000 + TEXTS // 2] + [text[:2000] for text in reviews.texts[: TEXTS // 2]]
    alone = Catalog({"one": classifiers[0]}).groups[0]
    (together,) = Catalog({str(i): classifier for i, classifier in enumerate(classifiers)}).groups
    packer = classifiers[0].packer(texts)
    batches = [
        classifiers[0].packer([texts[i] for i in batch]) for batch in token_budget_batches(packer.row_counts, BUDGET)
    ]

    def run(group: object, count: int) -> Callable[[int], None]:
        def compute(_: int) -> None:
            for each in batches:
                group.logits(each, np.ones((len(each), count), dtype=bool))  # type: ignore[attr-defined]

        return compute

    compare(
        "serving",
        f"{model}: eight classifiers on one pass",
        ours=run(together, len(classifiers)),
        plain=run(alone, 1),
        rounds=7 if model == "minilm" else 3,
        warmup=1,
        work=Work(float(packer.real_lengths.sum()), "tokens/s"),
        baseline="one of them",
    )


def of_one_base(classifiers: list[Classifier]) -> list[Classifier]:
    """Gives all classifiers the frozen layers of the first one."""
    first = classifiers[0].state.model
    for classifier in classifiers[1:]:
        model, trained = classifier.state.model, classifier.state.settings["trainable"] != "head"
        for stage in range(model.depth - (2 if trained else 0)):
            for source, target in zip(first.backbone.stages[stage], model.backbone.stages[stage], strict=True):
                target.load_state_dict(source.state_dict())
    return classifiers
