"""Training steps of GPT-2 124M on SMS Spam, by pyllmclf and by the baselines.

Every side starts from the same random weights and sees the same batches of 8 texts of balanced SMS Spam. As a program
it prints the memory that the steps of one side take: ``python bench/steps.py SIDE TRAINABLE``.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import plain_pytorch
import torch
import torch.nn.functional as F
from torch import nn

from pyllmclf import ops
from pyllmclf.compute import Compute
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.loader import shuffled
from pyllmclf.data.named import load_named
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.token_store import TokenStore
from pyllmclf.lora_config import LoRAConfig
from pyllmclf.models.hub import find_model
from pyllmclf.models.sequence_classifier import HeadSpec, SequenceClassifier
from pyllmclf.models.weights import backbone_state, head_state, init_weights
from pyllmclf.settings import Settings
from pyllmclf.training.prepare import prepare
from pyllmclf.training.trainer import Trainer

BATCH_SIZE = 8
SEED = 123
LORA = LoRAConfig(rank=16, alpha=16)
TRAINABLE = ("last_block", "all", "lora")
FP32 = "pyllmclf, fp32"
AUTOCAST = "Hugging Face, bf16 autocast"
# pyllmclf in the dtype that "auto" takes; in fp32; the same model on the reference ops, in fp32; the published
# experiment's way (plain_pytorch.py: padded to the longest training text, eager attention, torch's default AdamW); the
# same with the fused AdamW; transformers (and PEFT), each batch padded to its longest text, SDPA, fused AdamW; the same
# under bf16 autocast, where the processor supports it.
SIDES = (
    "pyllmclf",
    FP32,
    "reference ops",
    "plain PyTorch",
    "plain PyTorch, fused AdamW",
    "Hugging Face",
    AUTOCAST,
)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matmuls; on a CPU without them torch takes 40 to 500 times as long as in fp32."""
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cuda" or any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


@dataclass(frozen=True)
class Step:
    """The training step of one side.

    Attributes
    ----------
    run : callable
        Takes a batch's index, trains one step on the batch, and returns its mean loss.
    evaluate : callable
        Takes a batch's index and returns the number of texts that are classified correctly.
    parameters : list of parameters
        All parameters of the model.
    optimizer : optimizer
    """

    run: Callable[[int], float]
    evaluate: Callable[[int], int]
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    def state_bytes(self) -> int:
        """Bytes that stay in memory between steps: parameters and optimizer state."""
        sizes = [p.nbytes for p in self.parameters]
        sizes += [t.nbytes for s in self.optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
        return sum(sizes)


@cache
def packer(data_set: str = "sms_spam", max_length: int = 1024, split: str = "train") -> Packer:
    """Packer over a split of a data set; by default the train split of balanced SMS Spam."""
    data = load_named(data_set)[split]
    source = find_model("gpt2", "random")
    store = TokenStore.from_texts(data.texts, source.tokenizer)
    return Packer(store, source.tokenizer, RowLayout(max_length), LabelEncoder.fit(data).encode(data))


def make_model(size: str = "gpt2") -> SequenceClassifier:
    """Makes a model with the same random weights at every call."""
    model = SequenceClassifier(find_model(size, "random").config, 2, HeadSpec("last", causal=True, bias=True))
    init_weights(model, torch.Generator().manual_seed(SEED))
    return model


def make_trainer(
    trainable: str,
    compute: Compute,
    *,
    epochs: int = 5,
    batch_size: int = BATCH_SIZE,
    size: str = "gpt2",
    data: str = "sms_spam",
    max_length: int = 1024,
    cuda_graphs: bool = True,
) -> Trainer:
    """Makes the trainer that ``finetune`` makes, with the weights of :func:`make_model` and without a cache."""
    settings = Settings(
        model=size,
        weights="random",
        train=data,
        validation=False,
        test=False,
        trainable=trainable,
        lora=LORA if trainable == "lora" else None,
        head_bias=True,
        max_length=max_length,
        epochs=epochs,
        batch_size=batch_size,
        device=str(compute.device),
        dtype=cast(Any, compute.dtype_name),
        backend=cast(Any, compute.backend),
        seed=SEED,
        cache="off",
        cuda_graphs=cuda_graphs,
        progress=False,
    )
    with prepare(settings) as run:
        return run.trainer


def make_step(side: str, trainable: str, device: torch.device) -> Step:
    """Makes the step of one of SIDES, for one of TRAINABLE."""
    if side in ("pyllmclf", FP32, "reference ops"):
        backend = "reference" if side == "reference ops" else "auto"
        dtype = "auto" if side == "pyllmclf" else "float32"
        trainer = make_trainer(trainable, Compute.resolve(device, dtype, backend))
        batches = [ids for (ids,) in trainer.epoch_steps(0)]
        parameters = list(trainer.model.parameters())

        def evaluate(index: int) -> int:
            batch = trainer.packer.batch(batches[index]).to(device)
            with torch.inference_mode(), ops.use_backend(trainer.compute.backend):
                return int((trainer.model(batch, dtype=trainer.dtype).argmax(dim=1) == batch.labels).sum())

        return Step(lambda i: trainer.train_step([batches[i]])[0], evaluate, parameters, trainer.optimizer)
    batches = batch_ids()
    if side.startswith("Hugging Face"):
        return _huggingface_step(trainable, batches, device, torch.bfloat16 if side == AUTOCAST else None)
    return make_plain_step(trainable, batches, device, fused=side.endswith("fused AdamW"))


def batch_ids(texts: Packer | None = None) -> list[np.ndarray]:
    """Text ids of the first epoch's batches, in the trainer's order."""
    order = shuffled(len(texts or packer()), SEED, epoch=0)
    return [order[i : i + BATCH_SIZE] for i in range(0, len(order), BATCH_SIZE)]


def _labels() -> torch.Tensor:
    labels = packer().labels
    assert labels is not None
    return labels


def make_plain_step(
    trainable: str,
    batches: list[np.ndarray],
    device: torch.device,
    *,
    fused: bool = False,
    size: str = "gpt2",
    texts: Packer | None = None,
    autocast: torch.dtype | None = None,
) -> Step:
    """Makes the published experiment's step: every text padded to the longest one, in fp32 or under autocast."""
    source, texts = make_model(size), texts or packer()
    sizes = source.config
    config = plain_pytorch.PlainConfig(width=sizes.width, n_layers=sizes.n_layers, n_heads=sizes.n_heads)
    model = plain_pytorch.PlainGPT2Classifier(config, num_classes=2, head_bias=True)
    plain_pytorch.load_huggingface_state_dict(model, backbone_state(source) | head_state(source))
    if trainable == "lora":
        plain_pytorch.replace_linears_with_lora(model, LORA.rank, LORA.factor)
    else:
        plain_pytorch.set_trainable(model, trainable.replace("2", "two"))  # type: ignore[arg-type]
    model.to(device)
    optimizer = plain_pytorch.make_optimizer(model, fused=fused)
    store, labels, longest = texts.store, texts.labels, int(texts.real_lengths.max())
    assert labels is not None

    def inputs(index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = [store[i][:longest].tolist() for i in batches[index]]
        return (
            plain_pytorch.pad_batch(rows, longest).to(device),
            labels[batches[index]].to(device),
            torch.tensor([len(row) - 1 for row in rows], device=device),
        )

    def run(index: int) -> float:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            return plain_pytorch.train_step(model, optimizer, *inputs(index))

    def evaluate(index: int) -> int:
        input_ids, expected, last = inputs(index)
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            logits = model(input_ids)[torch.arange(len(last), device=device), last]
        return int((logits.argmax(dim=1) == expected).sum())

    return Step(run, evaluate, list(model.parameters()), optimizer)


def _huggingface_step(
    trainable: str, batches: list[np.ndarray], device: torch.device, autocast: torch.dtype | None = None
) -> Step:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2ForSequenceClassification

    source = make_model()
    pad_id = 50256
    config = GPT2Config(num_labels=2, pad_token_id=pad_id, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config._attn_implementation = "sdpa"
    model: nn.Module = GPT2ForSequenceClassification(config)
    state = backbone_state(source)
    state["score.weight"] = head_state(source)["score.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise RuntimeError(f"transformers: missing {missing}, unexpected {unexpected}")
    if trainable == "lora":
        lora = LoraConfig(
            r=LORA.rank,
            lora_alpha=LORA.alpha,
            target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True,
            modules_to_save=["score"],
        )
        model = get_peft_model(model, lora)  # type: ignore[arg-type]
    else:
        last = "transformer.h.11.", "transformer.ln_f.", "score."
        trained = {
            "head": ("score.",),
            "last_block": last,
            "last_2_blocks": ("transformer.h.10.", *last),
            "all": ("",),
        }[trainable]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-5, weight_decay=0.1, fused=True
    )
    store, labels = packer().store, _labels()

    def logits_of(index: int) -> torch.Tensor:
        texts = [store[i].tolist() for i in batches[index]]
        longest = max(map(len, texts))
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts], device=device)
        input_ids = plain_pytorch.pad_batch(texts, longest, pad_id).to(device)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            return model(input_ids=input_ids, attention_mask=mask).logits.float()

    def run(index: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits_of(index), labels[batches[index]].to(device))
        loss.backward()
        optimizer.step()
        return loss.item()

    def evaluate(index: int) -> int:
        with torch.inference_mode():
            return int((logits_of(index).argmax(dim=1) == labels[batches[index]].to(device)).sum())

    return Step(run, evaluate, list(model.parameters()), optimizer)


def resident(field: str) -> int:
    """Resident bytes of this process: anonymous (RssAnon), of files (RssFile), or the peak since a reset (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def step_memory(side: str, trainable: str) -> dict[str, int]:
    """Bytes of model, optimizer and steps: their peak after the first two steps, and what stays between steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packer()
    if side.startswith("Hugging Face"):
        import peft  # noqa: F401, imported before measuring
        import transformers  # noqa: F401
    before = resident("RssAnon")
    step = make_step(side, trainable, device)
    for i in range(2):
        step.run(i)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    for i in range(2, 5):
        step.run(i)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resident("VmHWM") - resident("RssFile") - before  # pages of libraries are not the step's memory
    return {"peak": peak, "state": step.state_bytes()}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        memory = step_memory(*sys.argv[1:3])
    print(json.dumps(memory))
