"""Classifiers and a running application for the tests of the server."""

from __future__ import annotations

from typing import Any

from models import Folders, some_blocks

import pyllmclf
from pyllmclf.classifier.classifier import Classifier

TEXTS = [
    "The parcel is late.",
    "Charged twice!",
    "I can't log in.",
    "a",
    "The parcel is late, and nobody answers the telephone; I have been waiting since Monday.",
    "Charged twice, and the invoice is wrong.",
]


LABELS = ["delivery", "billing", "account", "account", "delivery", "billing"]
QUICK: dict[str, Any] = {"epochs": 1, "progress": False, "validation": False}


def trained(model: str = "gpt2-nano", **options: Any) -> Classifier:
    """A small classifier with random weights, trained for an epoch on the sample."""
    arguments = {"weights": "random", "trainable": "all"} | QUICK | options
    return pyllmclf.finetune(model, (TEXTS, LABELS), **arguments).classifier


def relatives(folders: Folders, family: str, *, poolings: tuple[str, ...], **options: Any) -> list[Classifier]:
    """Classifiers of one frozen base: for each pooling two with other heads, and two with other last blocks."""
    found = []
    for number, pooling in enumerate(poolings):
        for trainable in ("head", some_blocks(family)):
            for seed in (0, 1):
                own = {"trainable": trainable, "pooling": pooling, "seed": 10 * number + seed, "learning_rate": 0.05}
                arguments = own | QUICK | options
                found.append(pyllmclf.finetune(folders(family), (TEXTS, LABELS), **arguments).classifier)
    return found
