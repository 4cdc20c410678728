"""Hashes of the weights that sixteen trainings end with, to compare two versions of the package on one machine.

``python tests/same_bits.py --write FILE`` with the one version, ``--compare FILE`` with the other; both need the same
processor, library versions and number of threads. Exit code 1 where a hash differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from models import LABELS, TEXTS, make_folder

import pyllmclf

# trainable, architecture, cache, dropout, gradient accumulation, and what else differs from the defaults.
TRAININGS: list[tuple[str, str, str, float | str, int, dict[str, Any]]] = [
    ("head", "gpt2", "auto", 0.0, 1, {}),
    ("head", "bert", "off", "config", 2, {"pooling": "mean"}),
    ("head", "roberta", "disk", 0.0, 1, {"class_weights": "balanced"}),
    ("last_block", "gpt2", "memory", 0.0, 2, {"max_grad_norm": 0.5}),
    ("last_block", "gpt2", "off", 0.1, 1, {"pooling": "first"}),
    ("last_block", "distilbert", "auto", 0.0, 1, {"scheduler": "cosine", "warmup_ratio": 0.3}),
    ("last_block", "modernbert", "auto", 0.0, 1, {"early_stopping": 2, "validation": 0.25}),
    ("last_2_blocks", "bert", "disk", 0.0, 1, {"causal": True, "pooling": "last"}),
    ("last_2_blocks", "gpt2", "auto", "config", 1, {"padding": 40, "pooling": "last_position"}),
    ("all", "gpt2", "auto", 0.0, 1, {"layerwise_lr_decay": 0.8}),
    ("all", "bert", "off", 0.2, 2, {"label_smoothing": 0.1}),
    ("all", "roberta", "auto", 0.1, 1, {"max_length": 12, "long_texts": "windows"}),
    ("all", "modernbert", "auto", 0.0, 2, {"batch_tokens": 60}),
    ("lora", "gpt2", "auto", 0.0, 1, {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}),
    ("lora", "bert", "memory", 0.1, 1, {"lora": {"rank": 2, "layers": [2], "scaling": "alpha"}}),
    (
        "lora",
        "distilbert",
        "disk",
        0.0,
        2,
        {"lora": {"rank": 3, "target_modules": ["q_lin", "lin2"], "layers": [1, 2]}},
    ),
]


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and contents of the parameters, in order of names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def train_all() -> dict[str, str]:
    """The hash of each training's weights and losses, by a name that tells the training."""
    found = {}
    for trainable, architecture, cache, dropout, accumulation, others in TRAININGS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PYLLMCLF_CACHE_DIR"] = f"{folder}/cache"
            result = pyllmclf.finetune(
                make_folder(Path(folder) / "model", architecture),
                (TEXTS * 4, LABELS * 4),
                trainable=trainable,
                cache=cache,
                dropout=dropout,
                gradient_accumulation_steps=accumulation,
                epochs=3,
                batch_size=5,
                learning_rate=1e-3,
                progress=False,
                **others,
            )
        losses = [record.train_loss for record in result.history]
        name = f"{trainable} {architecture} cache={cache} dropout={dropout} accumulation={accumulation} {others}"
        found[name] = f"{weights_sha256(result.classifier.state.model)} {losses[-1]!r}"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path)
    action.add_argument("--compare", type=Path)
    arguments = parser.parse_args()
    found = train_all()
    if arguments.write is not None:
        arguments.write.write_text(json.dumps(found, indent=2))
        return 0
    before = json.loads(arguments.compare.read_text())
    differing = [name for name in before if found.get(name) != before[name]]
    for name in before:
        print(f"{'DIFFERS' if name in differing else 'same   '} {name}")
    print(f"{len(before) - len(differing)} of {len(before)} trainings end with the same bits")
    return 1 if differing or found.keys() != before.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
