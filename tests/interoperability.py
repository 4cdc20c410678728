"""Trainings on classes as transformers names them, and how close their logits must be to the others'."""

from __future__ import annotations

from typing import Any

import numpy as np

# Classes as transformers names them by itself.
CLASSES = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_1", "LABEL_0", "LABEL_2"]
# Nothing is trained at this learning rate.
STILL: dict[str, Any] = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-12, "weight_decay": 0.0, "progress": False}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2, "progress": False}


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())
