"""Weights of the training texts: the loss, every source that can have them, and what is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plain_pytorch
import pytest
import torch
import torch.nn.functional as F
from cases import relative_error
from models import Folders, gpt2_folder
from sklearn.utils.class_weight import compute_class_weight
from transformers import GPT2ForSequenceClassification

import pyllmclf
from pyllmclf import DataError, UsageError
from pyllmclf.data.labels import LabelEncoder, MultiLabelEncoder
from pyllmclf.data.readers import ReadOptions, TextData, read_path
from pyllmclf.data.splits import read_splits
from pyllmclf.settings import Settings
from pyllmclf.training import cuda_graphs
from pyllmclf.training.activation_cache import ActivationCache
from pyllmclf.training.objective import MultiLabelObjective, resolve_class_weights, resolve_sample_weights
from pyllmclf.training.prepare import prepare
from pyllmclf.training.trainer import Trainer

TEXTS = [f"{a} {b}{' and more' * (i % 4)}" for i, a in enumerate(("red", "blue", "green", "grey")) for b in ("x", "yz")]
TEXTS += [f"{text} again" for text in TEXTS]
LABELS = [i % 3 for i in range(16)]
WEIGHTS = [0.25, 3.0, 1.0, 0.5, 2.0, 7.5, 1e-3, 1.0, 0.75, 4.0, 0.1, 1.0, 2.5, 0.3, 6.0, 1.5]
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "progress": False}


def trainer_of(folder: Path, weights: Any = None, labels: Any = LABELS, texts: Any = TEXTS, **changes: Any) -> Trainer:
    arguments = {"trainable": "all", **QUICK, **changes}
    with prepare(Settings(model=folder, train=(texts, labels), sample_weight=weights, **arguments)) as run:
        return run.trainer


def losses(trainer: Trainer, steps: int | None = None) -> list[float]:
    plan = [step for epoch in range(trainer.settings.epochs) for step in trainer.epoch_steps(epoch)][:steps]
    return [trainer.train_step(step)[0] for step in plan]


def result(**changes: Any) -> pyllmclf.FinetuneResult:
    arguments: dict[str, Any] = {"train": (TEXTS, LABELS), "weights": "random", "trainable": "last_block", **QUICK}
    return pyllmclf.finetune("gpt2-nano", **(arguments | changes))


def logits(**changes: Any) -> np.ndarray:
    return result(**changes).classifier.logits(TEXTS)


@pytest.fixture(scope="module")
def unweighted() -> np.ndarray:
    return logits()


@pytest.fixture(scope="module")
def weighted() -> np.ndarray:
    return logits(sample_weight=WEIGHTS)


# --- the formula ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"class_weights": [0.5, 1.0, 3.0]}, {"class_weights": [0.5, 1.0, 3.0], "label_smoothing": 0.1}],
    ids=["plain", "classes", "smoothed"],
)
def test_trajectory_equals_a_plain_padded_loop(tmp_path: Path, changes: dict[str, Any], backend: str) -> None:
    """20 steps: sum(w * loss) / sum(w) of packed texts, and of padded batches in plain PyTorch."""
    gpt2_folder(tmp_path)
    ours = trainer_of(
        tmp_path, WEIGHTS, batch_size=3, epochs=4, scheduler="constant", warmup_ratio=0.0, backend=backend, **changes
    )
    config = plain_pytorch.PlainConfig(vocab_size=257, n_positions=64, width=32, n_layers=3, n_heads=4)
    plain = plain_pytorch.PlainGPT2Classifier(config, num_classes=3, head_bias=False)
    plain_pytorch.load_huggingface_state_dict(
        plain, GPT2ForSequenceClassification.from_pretrained(tmp_path).state_dict()
    )
    with torch.no_grad():
        plain.out_head.weight.copy_(ours.model.head.weight)
    optimizer = plain_pytorch.make_optimizer(plain, lr=1e-3, weight_decay=0.1)
    class_weight = torch.tensor(changes.get("class_weights", [1.0, 1.0, 1.0]))
    plan = [step for epoch in range(4) for step in ours.epoch_steps(epoch)][:20]
    for (ids,) in plan:
        tokens = [ours.packer.store[i].tolist() for i in ids]
        labels, weights = torch.tensor(LABELS)[ids], torch.tensor(WEIGHTS)[ids]
        optimizer.zero_grad()
        read = plain(plain_pytorch.pad_batch(tokens, 64, pad_id=256))[range(len(ids)), [len(t) - 1 for t in tokens]]
        smoothing = changes.get("label_smoothing", 0.0)
        each = F.cross_entropy(read, labels, class_weight, reduction="none", label_smoothing=smoothing)
        expected = (weights * each).sum() / (weights * class_weight[labels]).sum()
        expected.backward()
        optimizer.step()
        assert abs(ours.train_step([ids])[0] - expected.item()) < 1e-5


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients(model_folder: Folders, accumulate: int, backend: str) -> None:
    """Those of the weighted mean over all micro-batches, of any sizes."""
    folder = model_folder("gpt2")
    changes = {"max_grad_norm": 1e9, "backend": backend, "class_weights": [0.5, 1.0, 3.0]}
    ours, plain = trainer_of(folder, WEIGHTS, **changes), trainer_of(folder, **changes)
    parts = [np.arange(8)] if accumulate == 1 else [np.array([0, 3]), np.array([1, 2, 4, 5, 6, 7])]
    loss, _ = ours.train_step(parts)
    batch = plain.packer.batch(range(8))
    weights = torch.tensor(WEIGHTS[:8]) * torch.tensor([0.5, 1.0, 3.0])[batch.labels]
    each = F.cross_entropy(plain.model(batch), batch.labels, reduction="none")
    expected = (weights * each).sum() / weights.sum()
    expected.backward()
    assert abs(loss - expected.item()) < 1e-6
    for (name, found), wanted in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        assert found.grad is not None and wanted.grad is not None
        if not name.endswith("c_attn.bias"):  # a third of it, the key bias, has no true gradient
            assert relative_error(found.grad, wanted.grad) < 1e-5, name


def test_a_weight_of_two_is_the_text_twice(model_folder: Folders) -> None:
    folder = model_folder("gpt2")
    once = trainer_of(folder, [2, 1, 3, 1], LABELS[:4], TEXTS[:4], batch_size=7)
    repeated = [0, 0, 1, 2, 2, 2, 3]
    several = trainer_of(folder, None, [LABELS[i] for i in repeated], [TEXTS[i] for i in repeated], batch_size=7)
    assert np.allclose(losses(once), losses(several), rtol=0, atol=1e-6)


def test_weights_of_the_classes_given_for_each_text(model_folder: Folders) -> None:
    folder, by_class = model_folder("gpt2"), [0.5, 1.0, 3.0]
    by_text = trainer_of(folder, [by_class[label] for label in LABELS])
    assert np.allclose(losses(by_text), losses(trainer_of(folder, class_weights=by_class)), rtol=0, atol=1e-6)


def test_equal_weights_change_no_bit(unweighted: np.ndarray) -> None:
    for weights in (np.ones(16), [0.1] * 16, np.full(16, 7, dtype=np.int32), pd.Series([True] * 16)):
        np.testing.assert_array_equal(logits(sample_weight=weights), unweighted)


def test_only_ratios_matter(weighted: np.ndarray, unweighted: np.ndarray) -> None:
    assert not np.allclose(weighted, unweighted, atol=1e-4)
    for factor in (4.0, 2.0**-200, 1e300):
        found = logits(sample_weight=np.array(WEIGHTS) * factor)
        np.testing.assert_allclose(found, weighted, rtol=0, atol=1e-6)


def test_texts_of_weight_0_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The same bits as without them; their classes stay."""
    keep = [i for i in range(16) if i not in (3, 8)]
    texts, labels = [TEXTS[i] for i in keep], [LABELS[i] for i in keep]
    found = logits(sample_weight=np.isin(np.arange(16), keep), progress=True)
    np.testing.assert_array_equal(found, logits(train=(texts, labels)))
    assert "train: 2 texts of weight 0 left out" in capsys.readouterr().err
    without = result(sample_weight=[float(label != 2) for label in LABELS], class_weights="balanced")
    assert without.classifier.classes_ == [0, 1, 2]


def test_several_labels(model_folder: Folders) -> None:
    folder = model_folder("gpt2")
    indicator = np.array([[i % 2, i % 3 == 0, i % 5 > 1] for i in range(16)])
    trainer = trainer_of(folder, WEIGHTS, indicator, multi_label=True)
    weights, targets = torch.tensor(WEIGHTS), torch.from_numpy(indicator).float()
    with torch.no_grad():
        each = F.binary_cross_entropy_with_logits(
            trainer.model(trainer.packer.batch(range(16))), targets, reduction="none"
        )
    expected = (weights * each.mean(dim=1)).sum() / weights.sum()
    assert abs(trainer.train_step([np.arange(16)])[0] - expected.item()) < 1e-6
    assert MultiLabelObjective().total(targets) == 16


def test_windows_have_their_texts_weights(model_folder: Folders) -> None:
    folder, windows = model_folder("gpt2"), {"long_texts": "windows", "max_length": 8}
    trainer = trainer_of(folder, WEIGHTS, **windows)
    bounds, weights = trainer.packer.window_bounds, trainer.packer.weights
    assert bounds is not None and weights is not None and len(weights) == len(trainer.packer) > 16
    np.testing.assert_allclose(weights / weights[0] * 0.25, np.repeat(WEIGHTS, np.diff(bounds)), rtol=1e-6)
    by_window = trainer_of(folder, class_weights=[0.5, 1.0, 3.0], **windows)
    by_text = trainer_of(folder, [[0.5, 1.0, 3.0][label] for label in LABELS], **windows)
    assert np.allclose(losses(by_text), losses(by_window), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{"batch_tokens": 60}, {"label_smoothing": 0.1, "class_weights": "balanced"}, {}])
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_steps_of_fixed_shapes(
    model_folder: Folders, trainable: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA graphs need them; the dummy text has no weight."""
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 0)  # steps on static batches, none of them recorded
    folder = model_folder("gpt2")
    expected = losses(trainer_of(folder, WEIGHTS, trainable=trainable, **changes))
    trainer = trainer_of(folder, WEIGHTS, trainable=trainable, **changes)
    if trainable == "head":
        trainer.cache = ActivationCache(trainer.model, [trainer.packer], trainer.compute)
        trainer.cache.fill()
    trainer._graphed_steps = trainer.make_graphed_steps()
    assert np.allclose(losses(trainer), expected, rtol=0, atol=1e-6)


def test_balanced_classes_count_weights() -> None:
    labels, weights = np.array([0, 1, 1, 2, 2, 2]), np.array([1.0, 2.0, 0.5, 4.0, 1.0, 0.25])
    encoder = LabelEncoder(("a", "b", "c"))
    found = resolve_class_weights("balanced", encoder, labels, resolve_sample_weights(weights.tolist()))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels, sample_weight=weights)
    assert found is not None
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-6)
    indicator = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.float32)
    several = resolve_class_weights("balanced", MultiLabelEncoder(("a", "b")), indicator, np.float32([1.0, 2.0, 3.0]))
    assert several is not None
    np.testing.assert_allclose(several, [3 / 3, 1 / 5], rtol=1e-6)


# --- sources --------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"text": TEXTS, "label": LABELS, "trust": WEIGHTS})


def write(path: Path) -> Path:
    kind = path.suffix
    if kind == ".parquet":
        FRAME.to_parquet(path)
    elif kind == ".jsonl":
        FRAME.to_json(path, orient="records", lines=True)
    else:
        FRAME.to_csv(path, index=False, sep="\t" if kind == ".tsv" else ",")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_columns_of_files(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        path = path.with_name(name)
        FRAME.to_csv(path, index=False)
    data = read_path(path, ReadOptions(sample_weight="trust"))
    assert data.weights == WEIGHTS
    assert read_path(path, ReadOptions()).weights is None


def test_a_column_and_an_array_are_the_same(tmp_path: Path, weighted: np.ndarray) -> None:
    for train in (write(tmp_path / "a.csv"), FRAME):
        np.testing.assert_array_equal(logits(train=train, sample_weight="trust"), weighted)
    for weights in (
        np.array(WEIGHTS), pd.Series(WEIGHTS, index=range(5, 21)), torch.tensor(WEIGHTS).double(), tuple(WEIGHTS),
        [Decimal(str(weight)) for weight in WEIGHTS], pd.Series(WEIGHTS, dtype="Float64"),
    ):  # fmt: skip
        np.testing.assert_array_equal(logits(sample_weight=weights), weighted)


def test_datasets(weighted: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_pandas(FRAME)
    np.testing.assert_array_equal(logits(train=train, sample_weight="trust"), weighted)


def test_named_data_take_an_array() -> None:
    train, validation, _ = read_splits("sample", None, False, seed=1, sample_weight=np.arange(504))
    assert train.weights == list(range(504)) and validation is not None and validation.weights is None
    with pytest.raises(UsageError, match=r"'trust' names a column, and .* has no columns"):
        read_splits("sample", None, False, seed=1, sample_weight="trust")


def test_weights_stay_with_their_texts() -> None:
    """In a validation fraction, and where empty texts are left out."""
    frame = FRAME.assign(text=["", *TEXTS[1:8], "  ", *TEXTS[9:]])
    train, validation, _ = read_splits(
        frame, 0.25, False, seed=1, empty_texts="skip", sample_weight=list(range(16)), label_column="label"
    )
    assert validation is not None
    for data in (train, validation):
        assert data.weights is not None and data.rows == [int(weight) for weight in data.weights]
    assert sorted([*(train.weights or []), *(validation.weights or [])]) == [i for i in range(16) if i not in (0, 8)]


def test_other_splits_need_no_weights(tmp_path: Path) -> None:
    plain = FRAME.drop(columns="trust")
    found = result(train=FRAME, validation=plain, test=plain, sample_weight="trust")
    assert found.metrics["validation"]["accuracy"] == found.metrics["test"]["accuracy"]
    # Metrics weigh all texts alike.
    assert found.metrics["test"]["accuracy"] == np.mean(found.classifier.logits(TEXTS).argmax(axis=1) == LABELS)


def test_the_command_line_takes_a_column(tmp_path: Path) -> None:
    from pyllmclf.cli.training_options import values_of

    assert values_of(Settings, {"sample_weight": "trust"}) == {"sample_weight": "trust"}


# --- resuming and records -------------------------------------------------------------------------------------------


def test_resuming_needs_the_same_weights(tmp_path: Path) -> None:
    changes = {"output_dir": tmp_path / "run", "sample_weight": WEIGHTS, "test": False}
    whole = logits(**changes)
    np.testing.assert_array_equal(logits(**changes, resume=True), whole)
    # By content, not by name: a column with these weights, or the same ratios.
    np.testing.assert_array_equal(logits(**changes | {"train": FRAME, "sample_weight": "trust"}, resume=True), whole)
    doubled = [2 * weight for weight in WEIGHTS]
    np.testing.assert_array_equal(logits(**changes | {"sample_weight": doubled}, resume=True), whole)
    for other in (None, [1.0, *WEIGHTS[1:]]):
        with pytest.raises(DataError, match="sample_weight of the training texts is not the one"):
            logits(**changes | {"sample_weight": other}, resume=True)
    checkpoint = tmp_path / "run" / "last"
    recorded = json.loads((checkpoint / "pyllmclf.json").read_text())
    assert recorded["settings"]["sample_weight"] is True
    assert "| sample_weight | `True` |" in (checkpoint / "README.md").read_text()


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0, -1.0, *[1.0] * 14], r"sample_weight\[1\] is -1"),
        ([*[1.0] * 15, np.nan], r"sample_weight\[15\] is nan"),
        ([np.inf, *[1.0] * 15], r"sample_weight\[0\] is inf"),
        ([10**400, *[1] * 15], "not finite"),
        ([0.0] * 16, "zero for every text"),
        ([1.0, "2", *[1.0] * 14], r"sample_weight\[1\] is '2', not a number"),
        ([1.0, None, *[1.0] * 14], r"sample_weight\[1\] is None"),
        ([[1.0, 2.0]] * 8, "not an array of shape"),
        ([[1.0], [1.0, 2.0]], "sequence with a number"),
        (2.0, "not a float"),
        ({"a": 1.0}, "not a dict"),
        pytest.param(iter(WEIGHTS), "sequence with a number", id="iterator"),
        (" ", "name of a column"),
        (np.ones(16, dtype=complex), "not a number"),
    ],
    ids=str,
)
def test_arrays_that_are_refused(weights: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        result(sample_weight=weights)


@pytest.mark.parametrize("count", [0, 1, 15, 17])
def test_another_number_of_weights(count: int) -> None:
    with pytest.raises(DataError, match=rf"{count} weights for the 16 texts"):
        result(sample_weight=np.ones(count))


@pytest.mark.parametrize("value", ["", "much", "-1", "nan", "inf", "1,5"])
def test_columns_that_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.csv"
    FRAME.assign(trust=["1", value, *["1"] * 14]).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"a\.csv, line 3: the weight is .*; a weight is a finite number"):
        result(train=path, sample_weight="trust")


def test_other_columns_that_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    with pytest.raises(
        DataError, match=r"no column 'trusty'; did you mean 'trust'\? The columns are 'text', 'label', 'trust'"
    ):
        result(train=path, sample_weight="trusty")
    with pytest.raises(DataError, match="'label' can't be"):
        result(train=path, sample_weight="label")
    with pytest.raises(DataError, match="the sample_weight of every training text is zero"):
        result(train=FRAME.assign(trust=0), sample_weight="trust")
    with pytest.raises(DataError, match="row 1: the weight is nan"):
        result(train=FRAME.assign(trust=[1, None, *[1] * 14]), sample_weight="trust")
    with pytest.raises(UsageError, match="has no columns"):
        result(sample_weight="trust")


def test_weights_that_are_all_in_the_validation_fraction() -> None:
    """Or belong to empty texts."""
    weights = [float(i == 0) for i in range(16)]
    with pytest.raises(DataError, match="sample_weight of every training text is zero"):
        result(train=(["", *TEXTS[1:]], LABELS), empty_texts="skip", sample_weight=weights)
    tiny = TextData(["a", "b"], [0, 1], "here", weights=[1.0, 1e-40])
    assert pyllmclf.data.readers.without_zero_weights(tiny).texts == ["a"]
