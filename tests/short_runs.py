"""A short training on a dozen texts of two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyllmclf

TEXTS = [f"{a} {b * (n + 1)}" for n, a in enumerate(("red", "blue", "green", "an ox")) for b in ("cat ", "dog", "x")]
LABELS = [int("cat" in text) for text in TEXTS]
SHORT: dict[str, Any] = {"validation": False, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "progress": False}


def run(model: Path, **changes: Any) -> pyllmclf.FinetuneResult:
    return pyllmclf.finetune(model, (TEXTS, LABELS), **SHORT | changes)
