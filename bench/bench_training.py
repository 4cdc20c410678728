"""One training step and one epoch of GPT-2 124M on SMS Spam, against plain padded PyTorch.

Both sides start from the same random weights and see the same batches of 8 texts. The baseline is the published
experiment's way (``plain_pytorch.py``): texts padded to the longest training text, eager attention, AdamW as torch
makes it by default. ``-k step`` runs the steps alone; the epochs of the baseline take minutes each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plain_pytorch
import pytest
import torch
from conftest import Work

from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.named import load_named
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.token_store import TokenStore
from pyllmclf.models.hub import find_model
from pyllmclf.models.layers import DropoutRates
from pyllmclf.models.lora import LoRAConfig
from pyllmclf.models.sequence_classifier import HeadSpec, SequenceClassifier
from pyllmclf.models.weights import backbone_state, head_state, init_weights
from pyllmclf.training.settings import TrainingSettings
from pyllmclf.training.trainable import set_trainable
from pyllmclf.training.trainer import Trainer

BATCH_SIZE = 8
STEP_ROUNDS = 7
SEED = 123
LORA = LoRAConfig(rank=16, alpha=16)
NOTES = {
    "last_block": "block 12, final norm, head",
    "all": "every parameter",
    "lora": "rank 16, every linear layer; baseline: q, k, v apart, and the head, as published",
}


@pytest.fixture(scope="module")
def packer() -> Packer:
    """The training texts of the published balanced split."""
    data = load_named("sms_spam")["train"]
    source = find_model("gpt2", "random")
    store = TokenStore.from_texts(data.texts, source.tokenizer)
    return Packer(store, source.tokenizer, RowLayout(1024), LabelEncoder.fit(data).encode(data))


@pytest.fixture(params=["last_block", "all", "lora"])
def sides(request: pytest.FixtureRequest, packer: Packer, device: torch.device):
    """(name, our trainer, the baseline's step)."""
    trainable: str = request.param
    config = find_model("gpt2", "random").config
    model = SequenceClassifier(config, 2, HeadSpec("last", causal=True, bias=True))
    init_weights(model, torch.Generator().manual_seed(SEED))

    plain = plain_pytorch.PlainGPT2Classifier(plain_pytorch.PlainConfig(), num_classes=2, head_bias=True)
    plain_pytorch.load_huggingface_state_dict(plain, backbone_state(model) | head_state(model))
    if trainable == "lora":
        plain_pytorch.replace_linears_with_lora(plain, LORA.rank, LORA.factor)
    else:
        plain_pytorch.set_trainable(plain, trainable)  # type: ignore[arg-type]
    plain.to(device)
    optimizer = plain_pytorch.make_optimizer(plain)

    model.to(device)
    set_trainable(model, trainable, LORA if trainable == "lora" else None, torch.Generator().manual_seed(SEED))
    trainer = Trainer(
        model, packer, TrainingSettings(batch_size=BATCH_SIZE), rates=DropoutRates(), device=device, dtype=torch.float32
    )
    longest = int(packer.store.lengths.max())
    assert packer.labels is not None
    labels = packer.labels

    def plain_step(ids: np.ndarray) -> float:
        texts = [packer.store[i].tolist() for i in ids]
        return plain_pytorch.train_step(
            plain,
            optimizer,
            plain_pytorch.pad_batch(texts, longest).to(device),
            labels[ids].to(device),
            torch.tensor([len(text) - 1 for text in texts], device=device),
        )

    return trainable, trainer, plain_step


def test_step(sides, packer: Packer, compare: Callable) -> None:
    name, trainer, plain_step = sides
    batches = [ids for (ids,) in trainer.epoch_steps(0)]
    tokens = float(np.median([packer.real_lengths[ids].sum() for ids in batches[1 : STEP_ROUNDS + 1]]))
    compare(
        "training",
        f"step, {name}",
        ours=lambda i: trainer.train_step([batches[i]]),
        plain=lambda i: plain_step(batches[i]),
        rounds=STEP_ROUNDS,
        warmup=1,
        work=Work(tokens, "tokens/s"),
        note=NOTES[name],
    )


def test_epoch(sides, packer: Packer, compare: Callable) -> None:
    name, trainer, plain_step = sides

    def ours(index: int) -> None:
        for step in trainer.epoch_steps(index):
            trainer.train_step(step)

    def plain(index: int) -> None:
        for (ids,) in trainer.epoch_steps(index):
            plain_step(ids)

    compare(
        "training",
        f"epoch, {name}",
        ours=ours,
        plain=plain,
        rounds=1,
        warmup=0,
        work=Work(float(packer.real_lengths.sum()), "tokens/s"),
        note=NOTES[name],
    )
