"""Fine-tune GPT-2, BERT and their relatives into text classifiers, doing only the arithmetic that the result needs.

``finetune`` trains, ``load`` opens a checkpoint, ``evaluate`` measures it, ``serve`` answers with it over HTTP,
``show_config`` prints versions, devices and backends of this installation.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import DataError, ModelError, NonFiniteError, PreemptedError, PyllmclfError, ResourceError, UsageError
from .version import __version__

if TYPE_CHECKING:
    from .api import FinetuneResult, finetune
    from .classifier import Classifier, evaluate, load
    from .data.lengths import LengthReport
    from .data.sources import load_dataset
    from .environment import show_config
    from .evaluation.metrics import EvaluationResult
    from .evaluation.multi_label import MultiLabelResult
    from .lora_config import LoRAConfig
    from .seeds import SeedsResult, finetune_seeds
    from .serving import serve
    from .training.callbacks import Callback
    from .tuning import TuneResult, label_issues, tune


# Imported at first use: torch alone takes two seconds, and `--help` doesn't need it.
_LAZY = {
    "Callback": "training.callbacks",
    "Classifier": "classifier",
    "EvaluationResult": "evaluation.metrics",
    "FinetuneResult": "api",
    "LengthReport": "data.lengths",
    "LoRAConfig": "lora_config",
    "MultiLabelResult": "evaluation.multi_label",
    "SeedsResult": "seeds",
    "TuneResult": "tuning",
    "evaluate": "classifier",
    "finetune": "api",
    "finetune_seeds": "seeds",
    "label_issues": "tuning",
    "load": "classifier",
    "load_dataset": "data.sources",
    "serve": "serving",
    "show_config": "environment",
    "tune": "tuning",
}

__all__ = [
    "Callback",
    "Classifier",
    "DataError",
    "EvaluationResult",
    "FinetuneResult",
    "LengthReport",
    "LoRAConfig",
    "ModelError",
    "MultiLabelResult",
    "NonFiniteError",
    "PreemptedError",
    "PyllmclfError",
    "ResourceError",
    "SeedsResult",
    "TuneResult",
    "UsageError",
    "__version__",
    "evaluate",
    "finetune",
    "finetune_seeds",
    "label_issues",
    "load",
    "load_dataset",
    "serve",
    "show_config",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # torch is imported before the native core, so that both share torch's OpenMP runtime.
    importlib.import_module("torch")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
