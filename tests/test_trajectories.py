"""Twenty steps of every architecture, packed, against transformers on padded batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import FAMILIES, TEXTS, Folders, make_trainer
from transformers import AutoModelForSequenceClassification

from pyllmclf.models.architectures.registry import architecture_of

STEPS = 20
RATE = 1e-3
MANY = [f"{text[:20]} {i}" for i in range(7) for text in TEXTS]
CLASSES = [("x", "y", "z")[(i + i // 6) % 3] for i in range(len(MANY))]


class Padded:
    """transformers' classifier of a folder, trained on padded batches by torch's AdamW."""

    def __init__(self, folder: Path, ours: torch.nn.Module, pad_id: int) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").train()
        self.pad_id = pad_id
        architecture = architecture_of(ours.config)  # type: ignore[arg-type]
        theirs = dict(self.model.named_parameters())
        with torch.no_grad():  # the head, which the classes' names made new
            for name, parameter in ours.named_parameters():
                turned = architecture.transposed is not None and architecture.transposed.search(name)
                theirs[architecture.file_name(name)].copy_(parameter.mT if turned else parameter)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.1)

    def step(self, rows: list[torch.Tensor], labels: torch.Tensor) -> float:
        """Trains on a batch; returns its loss."""
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(input_ids=ids, attention_mask=mask).logits, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_losses(model_folder: Folders, family: str) -> None:
    folder = model_folder(family)
    ours = make_trainer(folder, MANY, CLASSES, "all", batch_size=4, epochs=2, learning_rate=RATE)
    packer = ours.packer
    assert packer.labels is not None
    theirs = Padded(folder, ours.model, packer.tokenizer.pad_token_id)
    plan = [ids for epoch in range(2) for (ids,) in ours.epoch_steps(epoch)][:STEPS]
    assert len(plan) == STEPS
    found, expected = [], []
    for ids in plan:
        found.append(ours.train_step([ids])[0])
        rows = [packer.batch([i]).input_ids.long() for i in ids]
        expected.append(theirs.step(rows, packer.labels[ids]))
    differences = [abs(a - b) / b for a, b in zip(found, expected, strict=True)]
    assert max(differences) < 1e-4, differences
    assert max(differences[:5]) < 1e-5, differences
    assert len({round(loss, 3) for loss in found}) > STEPS / 2
