"""Training: the same losses as a plain padded loop, and an effect of every setting."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plain_pytorch
import pytest
import torch
from cases import relative_error
from models import bert_folder, gpt2_folder, make_trainer
from transformers import GPT2Config, GPT2ForSequenceClassification

import pyllmclf
from pyllmclf import Callback, DataError, LoRAConfig, NonFiniteError, ResourceError, UsageError, finetune, ops
from pyllmclf.data.loader import shuffled
from pyllmclf.data.named import load_named
from pyllmclf.models.layers import DropoutRates
from pyllmclf.ops.backends import native_cpu as native
from pyllmclf.settings import Settings
from pyllmclf.training.prepare import prepare
from pyllmclf.training.trainer import Trainer

TEXTS = [
    f"{a} {b} {c}" for a in ("red", "blue", "green") for b in ("cat", "dog") for c in ("runs", "sleeps a lot", "x")
]
LABELS = [int("cat" in text) for text in TEXTS]
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "progress": False, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_folder(tmp_path_factory.mktemp("gpt2"), n_classes=2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"), n_classes=2)


NANO: dict[str, Any] = {"model": "gpt2-nano", "weights": "random", "trainable": "all", "train": (TEXTS, LABELS)}


def run(model: Any = "gpt2-nano", **changes: Any) -> pyllmclf.FinetuneResult:
    arguments = QUICK | {"weights": "random" if model == "gpt2-nano" else "pretrained", "trainable": "all"} | changes
    return finetune(model, arguments.pop("train", (TEXTS, LABELS)), **arguments)


def logits(result: pyllmclf.FinetuneResult) -> np.ndarray:
    return result.classifier.logits(TEXTS)


# --- the same losses as plain PyTorch -------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", ["head", "last_block", "last_2_blocks", "all"])
def test_trajectory_equals_a_plain_padded_loop(tmp_path: Path, trainable: str) -> None:
    """20 steps: packed texts without padding against padded batches that read the last real token."""
    steps = 20
    config = GPT2Config(
        n_embd=48, n_layer=3, n_head=4, n_positions=64, vocab_size=257, pad_token_id=256, num_labels=2,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    torch.manual_seed(0)
    gpt2_folder(tmp_path)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    sample = load_named("sample")["train"]
    texts = [text.encode("ascii", "ignore").decode()[:60] for text in sample.texts[:160]]
    labels = [int(label in ("account", "billing")) for label in sample.labels or []][:160]

    ours = make_trainer(tmp_path, texts, labels, trainable)
    plain_config = plain_pytorch.PlainConfig(vocab_size=257, n_positions=64, width=48, n_layers=3, n_heads=4)
    plain = plain_pytorch.PlainGPT2Classifier(plain_config, num_classes=2, head_bias=False)
    theirs = GPT2ForSequenceClassification.from_pretrained(tmp_path)
    plain_pytorch.load_huggingface_state_dict(plain, theirs.state_dict())
    with torch.no_grad():
        plain.out_head.weight.copy_(ours.model.head.weight)
    if trainable == "last_2_blocks":
        plain_pytorch.set_trainable(plain, "last_two_blocks")
    else:
        plain_pytorch.set_trainable(plain, trainable)
    optimizer = plain_pytorch.make_optimizer(plain, lr=1e-3, weight_decay=0.1)

    longest = int(ours.packer.store.lengths.max())
    plan = [step for epoch in range(2) for step in ours.epoch_steps(epoch)][:steps]
    assert len(plan) == steps
    found, expected = [], []
    for (ids,) in plan:
        found.append(ours.train_step([ids])[0])
        tokens = [ours.packer.store[i].tolist() for i in ids]
        expected.append(
            plain_pytorch.train_step(
                plain,
                optimizer,
                plain_pytorch.pad_batch(tokens, longest, pad_id=256),
                torch.tensor([labels[i] for i in ids]),
                torch.tensor([len(t) - 1 for t in tokens]),
            )
        )
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-5
    assert found[-1] != found[0]


@pytest.mark.parametrize("counts", [[4, 4, 4], [1, 7], [5, 3, 2, 2]])
def test_accumulation_is_exact_for_unequal_counts(gpt2: Path, counts: list[int]) -> None:
    """Micro-batches of any sizes give the gradient of one batch that holds all their texts."""
    whole, split = (make_trainer(gpt2, TEXTS, LABELS, "all", gradient_accumulation_steps=4) for _ in range(2))
    ids = np.arange(sum(counts))
    loss, correct = whole.train_step([ids])
    pieces = np.split(ids, np.cumsum(counts)[:-1])
    split_loss, split_correct = split.train_step(pieces)
    assert split_correct == correct
    assert abs(split_loss - loss) < 1e-6
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert relative_error(other.grad, one.grad) < 1e-5


def test_dropout_does_not_depend_on_micro_batches(gpt2: Path) -> None:
    """With dropout, too, splitting a step into micro-batches leaves its loss."""
    losses = []
    for pieces in ([np.arange(8)], [np.array([5, 2, 7]), np.array([0, 1, 3, 4, 6])]):
        trainer = make_trainer(gpt2, TEXTS, LABELS, "all", gradient_accumulation_steps=2)
        trainer.rates = DropoutRates(0.2, 0.2, 0.2, 0.2)
        losses.append(trainer.train_step(pieces)[0])
    assert abs(losses[0] - losses[1]) < 1e-6
    undropped = make_trainer(gpt2, TEXTS, LABELS, "all").train_step([np.arange(8)])[0]
    assert abs(losses[0] - undropped) > 1e-3


def test_same_seed_same_bits(gpt2: Path) -> None:
    one, again, other = run(gpt2, dropout=0.1), run(gpt2, dropout=0.1), run(gpt2, dropout=0.1, seed=4)
    assert np.array_equal(logits(one), logits(again))
    assert not np.array_equal(logits(one), logits(other))


def test_shuffling_depends_on_seed_and_epoch_alone() -> None:
    assert sorted(shuffled(100, 1, 0)) == list(range(100))
    assert np.array_equal(shuffled(100, 1, 0), shuffled(100, 1, 0))
    assert not np.array_equal(shuffled(100, 1, 0), shuffled(100, 1, 1))
    assert not np.array_equal(shuffled(100, 1, 0), shuffled(100, 2, 0))


# --- every argument has an effect -----------------------------------------------------------------------------------

# What changes the trained classifier, each against the run without it.
EFFECTS: dict[str, dict[str, Any]] = {
    "pooling": {"pooling": "mean"},
    "causal": {"causal": False},
    "padding": {"padding": 60, "pooling": "last_position"},
    "head_bias": {"head_bias": True},
    "dropout": {"dropout": 0.3},
    "max_length": {"max_length": 3},
    "epochs": {"epochs": 2},
    "batch_size": {"batch_size": 3},
    "batch_tokens": {"batch_tokens": 40},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "learning_rate": {"learning_rate": 1e-4},
    "weight_decay": {"weight_decay": 10.0},
    "loss": {"loss": "contrastive"},
    "layerwise_lr_decay": {"layerwise_lr_decay": 0.1},
    "warmup_ratio": {"warmup_ratio": 0.5},
    "scheduler": {"scheduler": "cosine"},
    "max_grad_norm": {"max_grad_norm": 1e-3},
    "class_weights": {"class_weights": [1.0, 5.0]},
    "sample_weight": {"sample_weight": [1.0 + i % 3 for i in range(len(LABELS))]},
    "label_smoothing": {"label_smoothing": 0.3},
    "dtype": {"dtype": "bfloat16"},
    "seed": {"seed": 7},
    "weights": {"weights": "random"},
    "trainable": {"trainable": "head"},
    "lora": {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.5}},
    "prompt": {"prompt": "query: "},
    "validation": {"validation": 0.5},
}
# Arguments that decide where, from what and what is shown, each with a test of its own below.
ELSEWHERE = {
    "model", "train", "test", "text_column", "label_column", "device", "backend", "output_dir", "progress",
    "cache", "cache_budget", "cache_dir",  # test_frozen_prefix.py
    "cuda_graphs",  # test_fixed_shapes.py, test_gpu.py
    "early_stopping",  # test_objective.py
    "text_pair_column", "pair_truncation",  # test_pairs.py
    "long_texts", "calibrate", "logs", "callbacks", "report",  # test_training_features.py
    "empty_texts", "encoding_errors", "missing",  # test_bad_input.py, test_missing.py
    "encoding", "delimiter", "header",  # test_files_people_have.py
    "multi_label", "label_separator",  # test_multi_label.py
    "resume", "save_every_steps", "keep_last",  # test_resume.py
    "strategy",  # test_distributed.py
    "revision",  # test_hub_online.py
    "baselines",  # test_baselines.py
    "refit",  # test_refit.py
    "overwrite",  # test_overwrite.py
}  # fmt: skip


def test_every_argument_is_tested() -> None:
    assert set(EFFECTS) | ELSEWHERE == set(inspect.signature(finetune).parameters)


@pytest.fixture(scope="module")
def plain_run(gpt2: Path) -> np.ndarray:
    return logits(run(gpt2))


@pytest.mark.parametrize("name", EFFECTS)
def test_argument_has_an_effect(name: str, gpt2: Path, plain_run: np.ndarray) -> None:
    assert not np.allclose(logits(run(gpt2, **EFFECTS[name])), plain_run, rtol=1e-6, atol=0)


def test_padding_pads_with_ordinary_tokens(gpt2: Path) -> None:
    """With padding, the last real token of a causal model sees nothing of it; the last position does."""
    classifier = run(gpt2).classifier
    padded = run(gpt2, padding=64, learning_rate=1e-12)
    unpadded = run(gpt2, learning_rate=1e-12)
    assert np.allclose(logits(padded), logits(unpadded), atol=1e-5)
    assert classifier.state.layout.pad_to == 0 and padded.classifier.state.layout.pad_to == 64
    at_the_end = run(gpt2, padding=64, pooling="last_position", learning_rate=1e-12)
    assert not np.allclose(logits(at_the_end), logits(unpadded), atol=1e-3)
    assert run(gpt2, padding="context").classifier.state.layout.pad_to == 64
    longest = max(len(t) for t in TEXTS)
    assert run(gpt2, padding="train_longest").classifier.state.layout.pad_to == longest
    assert run(gpt2, padding="train_longest").lengths.padding_avoided == 0.0


def test_dropout_from_the_configuration(tmp_path: Path) -> None:
    """The configuration's rates apply where they are asked for, and never in prediction."""
    rates = []
    for dropout in ("config", 0.0, 0.25):
        with prepare(Settings(**(QUICK | NANO | {"dropout": dropout}))) as prepared:
            rates.append(prepared.trainer.rates)
    assert rates == [DropoutRates(0.1, 0.1, 0.1, 0.0), DropoutRates(), DropoutRates(0.25, 0.25, 0.25, 0.25)]


def test_other_backward_passes_take_no_step(gpt2: Path) -> None:
    """Parameters that change in the backward pass do so in a training step alone, and never again after training."""
    trainer = make_trainer(gpt2, TEXTS, LABELS, "all")
    batch = trainer.packer.batch(np.arange(6))
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    with pytest.raises(RuntimeError, match="outside of the training step"):
        trainer.model(batch).sum().backward()
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    trainer.fit()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.model(batch).sum().backward()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is not None


@pytest.mark.parametrize("few_rows", [0, 24])
@pytest.mark.parametrize("trainable", ["head", "last_block", "last_2_blocks", "all", "lora"])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_trainable(
    family: str, trainable: str, few_rows: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly the parameters that are meant change, and no other has a gradient or optimizer state.

    Steps that are taken in the backward pass leave no gradient, and the same bits as those taken after it; within
    rounding where few rows are done at once with the backward pass.
    """
    monkeypatch.setattr("pyllmclf.ops.gradients.PART_ROWS", 7)  # embeddings take several parts
    monkeypatch.setattr("pyllmclf.ops.backends.native_cpu.FEW_ROWS", few_rows)

    def same(one: torch.Tensor, other: torch.Tensor, state: dict[str, torch.Tensor]) -> bool:
        if few_rows == 0 or not state:
            return torch.equal(one, other)
        # Where there is no true gradient, AdamW turns its rounding into steps, of up to the learning rate.
        true = state["exp_avg_sq"].sqrt() > 1e-6
        return torch.allclose(one * true, other * true, rtol=1e-4, atol=1e-5)

    folder = request.getfixturevalue(family)
    in_backward = make_trainer(folder, TEXTS, LABELS, trainable)
    # A limit that is never reached; but the norm of all gradients has to be known first.
    trainer = make_trainer(folder, TEXTS, LABELS, trainable, max_grad_norm=1e9)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    for step in range(3):
        ids = np.arange(step, step + 6)
        (loss, correct), (other_loss, other_correct) = trainer.train_step([ids]), in_backward.train_step([ids])
        assert correct == other_correct
        assert abs(loss - other_loss) <= 1e-6 * bool(few_rows)
    for one, other in zip(trainer.model.parameters(), in_backward.model.parameters(), strict=True):
        states = trainer.optimizer.state.get(one, {}), in_backward.optimizer.state.get(other, {})
        assert same(one, other, states[0]) and other.grad is None
        assert states[0].keys() == states[1].keys()
        assert all(same(value, states[1][name], states[0]) for name, value in states[0].items())
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    blocks = {"gpt2": "backbone.h.{}.", "bert": "backbone.encoder.layer.{}."}[family]
    behind = {"gpt2": "backbone.ln_f.", "bert": "backbone.pooler."}[family]
    wanted = {
        "head": ("head.",),
        "last_block": ("head.", behind, blocks.format(2)),
        "last_2_blocks": ("head.", behind, blocks.format(2), blocks.format(1)),
        "all": ("",),
    }
    if trainable == "lora":
        expected = {n for n in before if "lora_" in n or n.startswith("head.")}
    else:
        expected = {n for n in before if n.startswith(wanted[trainable])}
    # Embeddings of tokens that never occur move by weight decay alone; rows are compared as a whole.
    assert changed == expected
    for name, parameter in trainer.model.named_parameters():
        assert (parameter.grad is not None) == (name in expected)
        assert (parameter in trainer.optimizer.state) == (name in expected)


def test_gradients_are_ordinary_again_after_training(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on with the model finds gradients where torch puts them."""
    kept: list[Trainer] = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self, *a, **k: (kept.append(self), fit(self, *a, **k))[1])
    run(gpt2, trainable="all")
    model, batch = kept[0].model.requires_grad_(True), kept[0].packer.batch(np.arange(4))
    model(batch, None).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    found = torch.autograd.grad(model(batch, None).sum(), list(model.parameters()))
    assert len(found) == len(list(model.parameters()))


def test_lora_arguments(gpt2: Path) -> None:
    plain = logits(run(gpt2, trainable="lora"))
    for change in (
        {"rank": 2},
        {"alpha": 64.0},
        {"dropout": 0.5},
        {"target_modules": "c_attn"},
        {"layers": (0,)},
        {"scaling": "alpha"},
    ):
        assert not np.allclose(logits(run(gpt2, trainable="lora", lora=change)), plain, atol=1e-6), change
    assert np.array_equal(logits(run(gpt2, trainable="lora", lora=LoRAConfig())), plain)
    with pytest.raises(UsageError, match="trainable"):
        run(gpt2, lora={"rank": 2})


def test_backends_agree(gpt2: Path) -> None:
    """The same training with every backend, and the backend is really the one that runs."""
    reference = logits(run(gpt2, backend="reference"))
    assert np.allclose(reference, logits(run(gpt2, backend="auto")), atol=1e-5)
    called = []
    original = native.attention_forward

    def counted(*args: Any) -> Any:
        called.append(1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "attention_forward", counted)
        run(gpt2, backend="reference")
        assert not called
        assert np.allclose(reference, logits(run(gpt2, backend="native")), atol=1e-5)
        assert called
        called.clear()
        patch.setenv("PYLLMCLF_BACKEND", "reference")
        run(gpt2, backend="auto")
        assert not called
    with pytest.raises(UsageError, match="fastest"):
        run(gpt2, backend="fastest")
    with pytest.raises(UsageError, match="float32"):
        run(gpt2, backend="native", dtype="float16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_like_fp32(gpt2: Path, dtype: str) -> None:
    """Matmuls in half precision, parameters in fp32; fp16 with loss scaling."""
    exact, half = make_trainer(gpt2, TEXTS, LABELS, "all"), make_trainer(gpt2, TEXTS, LABELS, "all", dtype=dtype)
    one, other = exact.train_step([np.arange(8)])[0], half.train_step([np.arange(8)])[0]
    # The logits are of order one: their rounding bounds the difference.
    assert 0 < abs(one - other) < 4 * torch.finfo(getattr(torch, dtype)).eps
    losses = [half.train_step([np.arange(8)])[0] for _ in range(20)]
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert losses[-1] < 0.7 * other


def test_device(gpt2: Path) -> None:
    assert run(gpt2, device="cpu").classifier.device == torch.device("cpu")
    with pytest.raises(UsageError, match="device"):
        run(gpt2, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="CUDA"):
            run(gpt2, device="cuda")


def test_data_arguments(gpt2: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"words": TEXTS, "kind": ["cat" if x else "dog" for x in LABELS]})
    columns = {"text_column": "words", "label_column": "kind"}
    result = run(gpt2, train=frame, validation=frame[:6], test=frame, **columns)
    assert result.classifier.classes_ == ["cat", "dog"]
    assert result.metrics["validation"]["texts"] == 6 and result.metrics["test"]["texts"] == len(TEXTS)
    with pytest.raises(DataError, match="text_column"):
        run(gpt2, train=frame.assign(other=TEXTS[::-1]))  # with two columns of texts, none can be told
    frame.to_csv(tmp_path / "data.csv", index=False)
    again = run(gpt2, train=tmp_path / "data.csv", **columns)
    assert np.array_equal(logits(again), logits(result))
    with pytest.raises(UsageError, match="columns"):
        run(gpt2, **columns)
    with pytest.raises(UsageError, match="columns"):
        result.classifier.evaluate((TEXTS, ["cat"] * len(TEXTS)), text_column="words")
    fraction = run(gpt2, train=frame, validation=1 / 3, **columns)
    assert fraction.metrics["validation"]["texts"] == 6 and fraction.lengths.texts == 12


def test_named_data_bring_their_own_parts() -> None:
    result = run(train="sample", batch_size=64)
    assert {name: m["texts"] for name, m in result.metrics.items()} == {"validation": 72, "test": 144}
    assert run(train="sample", batch_size=64, validation=False, test=False).metrics == {}


def test_history_and_timing(gpt2: Path) -> None:
    result = run(gpt2, epochs=3, validation=0.5, scheduler="linear", warmup_ratio=0.0, batch_size=2)
    assert [record.epoch for record in result.history] == [1, 2, 3]
    assert [record.step for record in result.history] == [5, 10, 15]
    assert result.timing["steps"] == 15 and result.timing["tokens_per_second"] > 0
    for record in result.history:
        assert 0 <= record.train_accuracy <= 1 and record.validation_loss is not None
    assert result.history[-1].learning_rate == pytest.approx(1e-3 / 15)
    assert result.history[-1].validation_accuracy == result.metrics["validation"]["accuracy"]


def test_progress(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(gpt2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    run(gpt2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "epoch 1/1: loss" in captured.err


@pytest.mark.parametrize(("scheduler", "expected"), [
    ("constant", [0.5, 1.0, 1.0, 1.0]),
    ("linear", [0.5, 1.0, 2 / 3, 1 / 3]),
    ("cosine", [0.5, 1.0, 0.75, 0.25]),
])  # fmt: skip
def test_schedules(gpt2: Path, scheduler: str, expected: list[float]) -> None:
    from pyllmclf.training.optim import make_optimizer, make_scheduler

    settings = Settings(scheduler=scheduler, warmup_ratio=0.25, learning_rate=1.0)
    optimizer = make_optimizer(make_trainer(gpt2, TEXTS, LABELS, "head").model, settings)
    schedule = make_scheduler(optimizer, settings, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_a_folder_keeps_a_head_trained_on_the_same_classes(gpt2: Path, tmp_path: Path) -> None:
    first = run(gpt2, epochs=3)
    first.classifier.save(tmp_path / "first")
    onward = run(tmp_path / "first", learning_rate=1e-12)
    assert np.allclose(logits(onward), logits(first), atol=1e-6)
    others = run(tmp_path / "first", train=(TEXTS, ["a" if x else "b" for x in LABELS]), learning_rate=1e-12)
    assert not np.allclose(logits(others), logits(first), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"epochs": 0}, UsageError),
        ({"batch_size": 2.5}, UsageError),
        ({"learning_rate": -1.0}, UsageError),
        ({"weight_decay": float("nan")}, UsageError),
        ({"warmup_ratio": 2.0}, UsageError),
        ({"scheduler": "staircase"}, UsageError),
        ({"max_grad_norm": 0.0}, UsageError),
        ({"seed": -1}, UsageError),
        ({"weights": "good"}, UsageError),
        ({"trainable": "last_9_blocks"}, UsageError),
        ({"trainable": "last_0_blocks"}, UsageError),
        ({"trainable": "tail"}, UsageError),
        ({"pooling": "max"}, UsageError),
        ({"padding": "left"}, UsageError),
        ({"padding": 65}, UsageError),
        ({"max_length": 65}, UsageError),
        ({"dropout": 1.0}, UsageError),
        ({"dropout": 1.0 - 1e-12}, UsageError),  # a mask of 32-bit words keeps nothing
        ({"seed": True}, UsageError),
        ({"dropout": "much"}, UsageError),
        ({"learning_rate": "fast"}, UsageError),
        ({"max_length": 10.0}, UsageError),
        ({"trainable": "lora", "lora": {"layers": ()}}, UsageError),
        ({"trainable": "lora", "lora": {"target_modules": []}}, UsageError),
        ({"dtype": "int8"}, UsageError),
        ({"validation": 1.5}, UsageError),
        ({"train": ([], [])}, DataError),
        ({"train": (["a", "b"], [1, 1])}, DataError),
        ({"learning_rate": 1e30, "epochs": 3}, NonFiniteError),
    ],
    ids=str,
)
def test_bad_arguments(gpt2: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        run(gpt2, **changes)


def test_nano_has_no_pretrained_weights() -> None:
    with pytest.raises(UsageError, match="pretrained"):
        run("gpt2-nano", weights="pretrained")


def test_gradient_norm_is_limited(gpt2: Path) -> None:
    trainer = make_trainer(gpt2, TEXTS, LABELS, "all", max_grad_norm=0.01)
    trainer.train_step([np.arange(4)])
    norms = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None])
    assert float(norms.norm()) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "dtype", "spoil"),
    [
        ({"max_grad_norm": 1.0}, "float32", "loss"),
        ({"max_grad_norm": 1.0}, "float32", "gradient"),
        ({"gradient_accumulation_steps": 2}, "float32", "loss"),
        ({}, "float16", "loss"),
        ({}, "float32", "loss"),
    ],
    ids=str,
)
def test_a_step_that_is_not_finite_changes_nothing(
    gpt2: Path, settings: dict[str, Any], dtype: str, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the parameters, nor AdamW's state; and neither do steps that were queued behind it."""
    pieces = [np.arange(4), np.arange(4, 6)][: settings.get("gradient_accumulation_steps", 1)]
    trainer = make_trainer(gpt2, TEXTS, LABELS, "all", dtype=dtype, **settings)
    trainer.train_step(pieces)

    def state() -> list[torch.Tensor]:
        moments = [t for s in trainer.optimizer.state.values() for t in s.values()]
        return [t.detach().clone() for t in (*trainer.model.parameters(), *moments)]

    before = state()
    good = ops.cross_entropy

    # An infinite loss whose gradient is finite, or a gradient that is not where the loss is.
    def bad(logits: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        loss = good(logits, *rest, **options)
        return loss + torch.inf if spoil == "loss" else loss * _NanGradient.apply(logits)

    with monkeypatch.context() as patch:
        patch.setattr(ops, "cross_entropy", bad)
        if trainer.gradient_step.in_backward is not None:
            with pytest.raises(NonFiniteError, match="step 2: the loss is inf"):
                trainer.queue_step(pieces)
        else:
            queued = trainer.queue_step(pieces)
            with pytest.raises(NonFiniteError, match=r"step 2: the (loss|norm of the gradient) is (inf|nan)"):
                queued.result()
    if trainer.gradient_step.in_backward is None:
        trainer.queue_step(pieces)
    for was, now in zip(before, state(), strict=True):
        assert torch.equal(was, now)


@pytest.mark.parametrize("save_every_steps", [None, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_is_named_with_its_step(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, save_every_steps: int | None
) -> None:
    """Without clipping it shows in the parameters alone, and in the next loss; the error says which step it was."""
    good, seen = ops.cross_entropy, []

    def bad(logits: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        loss = good(logits, *rest, **options)
        if torch.is_grad_enabled():
            seen.append(len(logits))
        return loss * _NanGradient.apply(logits) if len(seen) == 3 * accumulate else loss

    class Ids(Callback):
        def on_step(self, record: Any) -> None:
            assert record.step < 4

    monkeypatch.setattr(ops, "cross_entropy", bad)
    whole: list[np.ndarray] = []
    original = Trainer.queue_step

    def queue_step(self: Trainer, micro_batches: list[np.ndarray], texts: np.ndarray | None = None) -> Any:
        whole.append(np.concatenate(micro_batches))
        return original(self, micro_batches, texts)

    monkeypatch.setattr(Trainer, "queue_step", queue_step)
    with pytest.raises(NonFiniteError, match=r"step 3: .* is no longer finite \(texts .*\); lower") as raised:
        finetune(
            gpt2,
            (TEXTS, LABELS),
            trainable="all",
            batch_size=2,
            gradient_accumulation_steps=accumulate,
            output_dir=tmp_path,
            save_every_steps=save_every_steps,
            callbacks=Ids(),
            progress=False,
        )
    assert raised.value.step == 3
    assert f"(texts {', '.join(map(str, whole[2]))})" in str(raised.value)


class _NanGradient(torch.autograd.Function):
    """1, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.shape = x.shape
        return x.new_ones(())

    @staticmethod
    def backward(ctx, _: torch.Tensor) -> torch.Tensor:
        return torch.full(ctx.shape, torch.nan)


def test_a_step_after_a_good_one_moves(gpt2: Path) -> None:
    """What a step tells the optimizer about itself does not stay there."""
    trainer = make_trainer(gpt2, TEXTS, LABELS, "all", max_grad_norm=1.0)
    trainer.train_step([np.arange(4)])
    assert not hasattr(trainer.optimizer, "found_inf")
    before = trainer.model.head.weight.detach().clone()
    trainer.train_step([np.arange(4)])
    assert not torch.equal(before, trainer.model.head.weight)


def test_predictions_come_in_input_order(gpt2: Path) -> None:
    classifier = run(gpt2, epochs=2).classifier
    many = TEXTS * 20
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    assert np.allclose(classifier.logits(many), np.tile(alone, (20, 1)), atol=1e-5)
    assert classifier.predict(many)[: len(TEXTS)] == [classifier.classes_[i] for i in alone.argmax(1)]
    probabilities = classifier.predict_proba(TEXTS)
    assert np.allclose(probabilities.sum(axis=1), 1.0) and probabilities.shape == (len(TEXTS), 2)


def test_settings_are_recorded_resolved(gpt2: Path) -> None:
    """What the call left to the architecture or the machine stands in the record as it was taken."""
    result = run(gpt2, trainable="lora", lora={"target_modules": ["c_attn"], "rank": 2}, device="cpu")
    settings = result.classifier.state.settings
    assert settings["lora"]["target_modules"] == ["c_attn"] and settings["lora"]["rank"] == 2
    assert (settings["pooling"], settings["causal"], settings["bias"]) == ("last", True, False)
    assert (settings["max_length"], settings["pad_to"]) == (64, 0)
    assert (settings["device"], settings["dtype"]) == ("cpu", "float32")
    assert settings["epochs"] == 1 and settings["model"] == str(gpt2) and "progress" not in settings


def test_cheap_mistakes_are_said_before_the_model_is_looked_for() -> None:
    for mistake in ({"trainable": "tail"}, {"pooling": "max"}, {"dropout": None}, {"padding": "left"}):
        with pytest.raises(UsageError):
            finetune("no/such-model", (TEXTS, LABELS), progress=False, **mistake)  # type: ignore[arg-type]
