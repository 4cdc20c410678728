"""Random weights and vocabularies of letters for the model folders of the tests."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import PreTrainedModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = string.ascii_lowercase + string.digits + ",'?"


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Moves every parameter from its initial value, so that a test notices an ignored bias or norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def wordpiece_vocabulary() -> list[str]:
    """A WordPiece vocabulary of letters."""
    return [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS)]


def save(path: Path, model: PreTrainedModel, vocab: list[str] | None = None) -> Path:
    """Saves a model with other weights than its initial ones, and a ``vocab.txt`` if there is one."""
    perturb(model, 1)
    model.save_pretrained(path)
    if vocab is not None:
        (path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return path
