"""Interrupted trainings resume: same bits as an uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyllmclf
from pyllmclf import Callback, DataError, ModelError, PreemptedError, ResourceError, UsageError
from pyllmclf.data.token_store import TokenStore
from pyllmclf.models.sequence_classifier import SequenceClassifier
from pyllmclf.training.run_folder import RunFolder

TEXTS = [
    f"{word} number {i} of {i % 7} {'and some more of it ' * (i % 4)}" for i in range(11) for word in ("parcel", "bill")
]
LABELS = ["delivery", "billing"] * 11
VALIDATION = (TEXTS[:8], [*LABELS[:7], "delivery"])
NANO: dict[str, Any] = {
    "model": "gpt2-nano",
    "weights": "random",
    "train": (TEXTS, LABELS),
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 3e-3,
    "progress": False,
}  # 5 steps in each epoch
VARIANTS: dict[str, dict[str, Any]] = {
    "all_with_dropout": {"trainable": "all", "dropout": 0.2, "scheduler": "cosine", "warmup_ratio": 0.3},
    "kept_rows": {"trainable": "last_block", "validation": VALIDATION},
    "lora_with_dropout": {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.3}, "scheduler": "linear"},
    "accumulated_and_clipped": {
        "trainable": "last_2_blocks",
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.05,
        "layerwise_lr_decay": 0.7,
        "class_weights": {"delivery": 2.0, "billing": 0.5},
    },
    "budget_and_windows": {"trainable": "all", "batch_tokens": 60, "long_texts": "windows", "max_length": 12},
    "early_stopping": {"trainable": "all", "validation": VALIDATION, "early_stopping": 1, "learning_rate": 3e-2},
    "calibrated": {"trainable": "head", "validation": VALIDATION, "calibrate": True},
    "calibrated_best": {"trainable": "all", "validation": VALIDATION, "early_stopping": 2, "calibrate": True},
}
TIMES = ("seconds", "tokens_per_second")


class StopAt(Callback):
    """Sends the process a signal after some step, or ends it as kill -9 would."""

    def __init__(self, step: int, how: int | type[BaseException] = signal.SIGTERM) -> None:
        self.at, self.how = step, how

    def on_step(self, record: Any) -> None:
        if record.step == self.at:
            if isinstance(self.how, type):
                raise self.how
            os.kill(os.getpid(), self.how)


class Killed(BaseException):
    """Nothing handles it."""


def run(folder: Path | None, variant: str, **more: Any) -> pyllmclf.FinetuneResult:
    return pyllmclf.finetune(**NANO | VARIANTS[variant] | {"output_dir": folder} | more)


def same(found: pyllmclf.FinetuneResult, expected: pyllmclf.FinetuneResult) -> None:
    """The same bits in every weight and figure."""
    theirs = dict(expected.classifier.state.model.named_parameters())
    for name, parameter in found.classifier.state.model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    assert [untimed(r.to_dict()) for r in found.history] == [untimed(r.to_dict()) for r in expected.history]
    for part, figures in expected.metrics.items():
        assert {k: found.metrics[part][k] for k in ("accuracy", "log_loss")} == {
            k: figures[k] for k in ("accuracy", "log_loss")
        }
    assert found.calibration == expected.calibration


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in TIMES}


@pytest.fixture(scope="module")
def whole() -> dict[str, pyllmclf.FinetuneResult]:
    """Each variant's uninterrupted run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {name: run(None, name) for name in VARIANTS}
    torch.set_num_threads(threads)
    return results


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [1, 4, 5, 7])
def test_preempted_run_goes_on_to_the_same_bits(
    whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path, variant: str, step: int
) -> None:
    with pytest.raises(PreemptedError, match=rf"after step ({step}|{step + 1});.*resume=True"):
        run(tmp_path, variant, callbacks=StopAt(step))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    same(run(tmp_path, variant, resume=True), whole[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_run_goes_on_from_its_newest_checkpoint(
    whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path, variant: str
) -> None:
    """Killed again and again: each attempt goes some steps further."""
    for step in (3, 4, 8, 9):
        with pytest.raises(Killed):
            run(tmp_path, variant, callbacks=StopAt(step, Killed), resume=True, save_every_steps=2)
    resumed = run(tmp_path, variant, resume=True, save_every_steps=2)
    same(resumed, whole[variant])
    # What is finished is opened, not trained again.
    same(run(tmp_path, variant, resume=True, callbacks=StopAt(resumed.history[-1].step, Killed)), whole[variant])
    opened = pyllmclf.load(tmp_path / ("best" if "early_stopping" in VARIANTS[variant] else "last"))
    for name, parameter in opened.state.model.named_parameters():
        assert torch.equal(parameter, dict(whole[variant].classifier.state.model.named_parameters())[name])


def test_first_start_with_resume_begins(whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path) -> None:
    same(run(tmp_path, "kept_rows", resume=True), whole["kept_rows"])


def test_checkpoints_that_are_kept(tmp_path: Path) -> None:
    run(tmp_path, "kept_rows", save_every_steps=2, keep_last=3)
    steps = {int(path.name.removeprefix("checkpoint-")) for path in tmp_path.glob("checkpoint-*")}
    states = [json.loads((tmp_path / f"checkpoint-{n}/training_state/state.json").read_text()) for n in (12, 14, 15)]
    assert steps == {12, 14, 15} | {state["best"]["step"] for state in states}
    assert not (tmp_path / "checkpoint-15/training_state/optimizer.safetensors").exists()
    assert (tmp_path / "checkpoint-14/training_state/optimizer.safetensors").exists()


@pytest.mark.parametrize("damage", ["training_state/optimizer.safetensors", "model.safetensors"])
def test_damaged_newest_checkpoint_is_put_aside(
    whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path, damage: str
) -> None:
    with pytest.raises(PreemptedError):
        run(tmp_path, "kept_rows", callbacks=StopAt(9), save_every_steps=3, keep_last=2)
    (tmp_path / "checkpoint-9" / damage).write_bytes(b"")
    with pytest.warns(UserWarning, match="checkpoint-9.*older"):
        resumed = run(tmp_path, "kept_rows", resume=True)
    same(resumed, whole["kept_rows"])
    assert len(list(tmp_path.glob("damaged-checkpoint-9-*"))) == 1


@pytest.mark.parametrize(
    ("variant", "link", "nth"),
    [
        ("kept_rows", "last", 3),
        ("kept_rows", "best", 1),
        ("calibrated", "last", 3),
        ("calibrated_best", "last", 2),
        ("calibrated_best", "best", 1),
    ],
)
def test_killed_before_a_link_is_set(
    whole: dict[str, pyllmclf.FinetuneResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    link: str,
    nth: int,
) -> None:
    """The checkpoint is there, and ``last`` or ``best`` still points at an older one."""
    original, calls = RunFolder._point, []

    def killed(self: RunFolder, name: str, folder: Path) -> None:
        calls.append(name)
        if calls.count(link) == nth and calls[-1] == link:
            raise Killed
        original(self, name, folder)

    monkeypatch.setattr(RunFolder, "_point", killed)
    with pytest.raises(Killed):
        run(tmp_path, variant)
    monkeypatch.undo()
    same(run(tmp_path, variant, resume=True), whole[variant])
    uninterrupted = tmp_path / "uninterrupted"
    run(uninterrupted, variant)
    for name in ("last", "best"):
        assert os.readlink(tmp_path / name) == os.readlink(uninterrupted / name)
    for path in (".", "last", "best"):
        found, expected = (pyllmclf.load(folder / path) for folder in (tmp_path, uninterrupted))
        assert np.array_equal(found.logits(TEXTS), expected.logits(TEXTS))
        assert found.state.temperature == expected.state.temperature
    kept = [{p.name for p in folder.glob("c*-*")} for folder in (tmp_path, uninterrupted)]
    assert kept[0] == kept[1]


def test_best_of_a_calibrated_run_can_be_gone_on_from(
    whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path
) -> None:
    """The checkpoint from which training may go on stays as it is; what was calibrated lies beside it."""
    changes: dict[str, Any] = {"keep_last": 2, "epochs": 12, "learning_rate": 3e-2}
    expected = run(tmp_path, "calibrated_best", **changes)
    best, last = ((tmp_path / name).resolve() for name in ("best", "last"))
    assert best.name.startswith("calibrated-")
    assert pyllmclf.load(best).state.temperature == expected.classifier.state.temperature
    plain = tmp_path / best.name.replace("calibrated", "checkpoint")
    assert (plain / "training_state/optimizer.safetensors").is_file()
    assert pyllmclf.load(plain).state.temperature is None
    (last / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"{last.name}.*older"):
        resumed = run(tmp_path, "calibrated_best", resume=True, **changes)
    same(resumed, expected)
    assert (tmp_path / "best").resolve() == best


def test_other_files_in_a_checkpoint_stay(tmp_path: Path, whole: dict[str, pyllmclf.FinetuneResult]) -> None:
    """Somebody's notes in it are no reason to end in an error, and are not lost."""
    with pytest.raises(PreemptedError):
        run(tmp_path, "calibrated", callbacks=StopAt(7))
    folder = (tmp_path / "last").resolve()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(PreemptedError):  # saved again, in the same step
        run(tmp_path, "calibrated", resume=True, callbacks=StopAtStart())
    assert (folder / "notes.txt").read_text() == "mine"
    same(run(tmp_path, "calibrated", resume=True), whole["calibrated"])


def test_copy_of_a_checkpoint_under_another_name(whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path) -> None:
    with pytest.raises(PreemptedError):
        run(tmp_path, "kept_rows", callbacks=StopAt(7))
    newest = (tmp_path / "last").resolve()
    shutil.copytree(newest, tmp_path / f"{newest.name}-backup")
    same(run(tmp_path, "kept_rows", resume=True), whole["kept_rows"])
    assert (tmp_path / f"{newest.name}-backup").is_dir()


def test_preempted_before_the_first_step(
    whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While texts are tokenized: nothing is waited for, and nothing lost."""
    original, calls = TokenStore.from_texts.__func__, []

    def signalled(cls: type[TokenStore], *args: Any) -> TokenStore:
        if not calls:
            os.kill(os.getpid(), signal.SIGTERM)
        calls.append(1)
        return original(cls, *args)

    monkeypatch.setattr(TokenStore, "from_texts", classmethod(signalled))
    with pytest.raises(PreemptedError, match="preempted before training began"):
        run(tmp_path, "kept_rows")
    assert not calls
    monkeypatch.undo()
    with pytest.raises(PreemptedError):
        run(tmp_path, "kept_rows", resume=True, callbacks=StopAt(2))
    monkeypatch.setattr(TokenStore, "from_texts", classmethod(signalled))
    with pytest.raises(PreemptedError, match="preempted before training began"):
        run(tmp_path, "kept_rows", resume=True)
    monkeypatch.undo()
    same(run(tmp_path, "kept_rows", resume=True), whole["kept_rows"])


class StopAtStart(Callback):
    def on_train_begin(self, total_steps: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class StopWhen(Callback):
    """Sends a signal when an epoch's steps are done: it arrives in the evaluation or while saving."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        import pyllmclf.training.run_folder as module

        original = pyllmclf.Classifier.packed_logits if where == "evaluating" else module.save_checkpoint
        fired: list[bool] = []

        def once(*args: Any, **kwargs: Any) -> Any:
            if not fired:
                fired.append(True)
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        if where == "evaluating":
            monkeypatch.setattr(pyllmclf.Classifier, "packed_logits", once)
        else:
            monkeypatch.setattr(module, "save_checkpoint", once)


@pytest.mark.parametrize("where", ["evaluating", "saving"])
def test_preempted_while(
    whole: dict[str, pyllmclf.FinetuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    callback = StopWhen(monkeypatch, where)
    with pytest.raises(PreemptedError, match="after step 5"):
        run(tmp_path, "kept_rows", callbacks=callback)
    assert (tmp_path / "checkpoint-5").is_dir()
    same(run(tmp_path, "kept_rows", resume=True), whole["kept_rows"])


def test_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    class Twice(Callback):
        def on_step(self, record: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "kept_rows", callbacks=Twice())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_folder_signals_are_left_alone() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(None, "kept_rows", callbacks=StopAt(2, signal.SIGINT))


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, "calibrated", epochs=1)))
    thread.start()
    thread.join()
    assert len(results[0].history) == 1


def test_callback_that_ends_the_training_is_remembered(tmp_path: Path) -> None:
    class End(Callback):
        def on_step(self, record: Any) -> bool:
            if record.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return True

    with pytest.raises(PreemptedError):
        run(tmp_path, "kept_rows", callbacks=End())
    assert len(run(tmp_path, "kept_rows", resume=True).history) == 1


def test_logs_go_on(tmp_path: Path) -> None:
    run(tmp_path / "whole", "calibrated", logs="csv")
    with pytest.raises(Killed):
        run(tmp_path / "cut", "calibrated", logs="csv", callbacks=StopAt(8, Killed), save_every_steps=3)
    with (tmp_path / "cut/logs/steps.csv").open("a") as file:
        file.write("9,2,0.1")  # cut short
    run(tmp_path / "cut", "calibrated", logs="csv", resume=True)
    for name, times in (("steps.csv", 0), ("epochs.csv", 2)):
        whole, cut = ((tmp_path / kind / "logs" / name).read_text().splitlines() for kind in ("whole", "cut"))
        assert [line.rsplit(",", times)[0] for line in cut] == [line.rsplit(",", times)[0] for line in whole]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(PreemptedError):
        run(folder, "kept_rows", callbacks=StopAt(2))
    return folder


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"learning_rate": 1e-3}, UsageError, "learning_rate was 0.003 there, and is 0.001"),
        ({"epochs": 4}, UsageError, "epochs was 3 there, and is 4"),
        ({"trainable": "all"}, UsageError, "trainable was 'last_block'"),
        ({"seed": 4}, UsageError, "seed was 123"),
        ({"pooling": "mean"}, UsageError, "pooling was 'last'"),
        ({"class_weights": [1.0, 2.0]}, UsageError, "class_weights was None"),
        (
            {"class_weights": list(np.float32([1.0, 2.0]))},
            UsageError,
            r"class_weights was None there, and is \[1\.0, 2",
        ),
        ({"train": (TEXTS[1:], LABELS[1:])}, DataError, "the train texts or their labels"),
        ({"train": (TEXTS, [*LABELS[:-1], "delivery"])}, DataError, "the train texts or their labels"),
        ({"validation": (TEXTS[:3], LABELS[:3])}, DataError, "the validation texts or their labels"),
        ({"validation": None}, DataError, "the validation texts or their labels"),
    ],
)
def test_other_settings_or_data_are_refused(
    stopped: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run", symlinks=True)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}
    with pytest.raises(error, match=words):
        run(folder, "kept_rows", resume=True, **changes)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"} | before == before


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "earlier version"])
def test_class_weights_of_several_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    """Other ones are refused; a checkpoint of an earlier version, which recorded none, resumes with any."""
    labels = [["delivery"], ["billing", "delivery"]] * 11
    arguments = NANO | {"train": (TEXTS, labels), "multi_label": True, "trainable": "head", "output_dir": tmp_path}
    weighted = arguments | {"class_weights": {"delivery": 2.0, "billing": 0.5}}
    with monkeypatch.context() as patch, pytest.raises(PreemptedError):
        if earlier:
            patch.setattr("pyllmclf.training.identity.IDENTITY_FORMAT", 2)
            patch.setattr("pyllmclf.training.objective.MultiLabelObjective.class_weight", None)
        pyllmclf.finetune(**weighted, callbacks=StopAt(2))
    for changed in () if earlier else (arguments, arguments | {"class_weights": [1.0, 2.0]}):
        with pytest.raises(UsageError, match=r"class_weights was \[0\.5, 2\.0\] there, and is"):
            pyllmclf.finetune(**changed, resume=True)
    assert len(pyllmclf.finetune(**weighted, resume=True).history) == 3


def test_another_model_is_refused(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        pyllmclf.finetune(**NANO | {"trainable": "all", "epochs": 1, "seed": seed}).classifier.export(tmp_path / name)
    arguments = NANO | {"weights": "pretrained", "trainable": "head", "output_dir": tmp_path / "run"}
    with pytest.raises(PreemptedError):
        pyllmclf.finetune(**arguments | {"model": tmp_path / "one", "callbacks": StopAt(2)})
    with pytest.raises(ModelError, match="the model is not the one that the run was begun with"):
        pyllmclf.finetune(**arguments | {"model": tmp_path / "two", "resume": True})
    # Another place is no other model.
    (tmp_path / "one").rename(tmp_path / "moved")
    pyllmclf.finetune(**arguments | {"model": tmp_path / "moved", "resume": True})


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """The same texts, model and size of vocabulary, and other tokens."""
    model = tmp_path / "model"
    pyllmclf.finetune(**NANO | {"trainable": "head", "epochs": 1}).classifier.export(model)
    arguments = NANO | {"model": model, "weights": "pretrained", "output_dir": tmp_path / "run"}
    with pytest.raises(PreemptedError):
        pyllmclf.finetune(**arguments | {"callbacks": StopAt(2)})
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġbill"], vocabulary["Ġmore"] = vocabulary["Ġmore"], vocabulary["Ġbill"]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="the tokenizer is not the one that the run was begun with"):
        pyllmclf.finetune(**arguments | {"resume": True})


def test_other_arithmetic_is_warned_of(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run", symlinks=True)
    with pytest.warns(RuntimeWarning, match="kept rows changed since; results may differ in their last bits"):
        run(folder, "kept_rows", resume=True, cache="off")
    folder = shutil.copytree(stopped, tmp_path / "other", symlinks=True)
    monkeypatch.setenv("PYLLMCLF_BACKEND", "reference")
    with pytest.warns(RuntimeWarning, match="backend changed since"):
        run(folder, "kept_rows", resume=True)


def test_settings_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    """They are written as any others are, and compared."""
    given = {"lora": {"rank": np.int64(2), "alpha": np.float32(4)}, "class_weights": list(np.float32([1, 2]))}
    with pytest.raises(PreemptedError):
        run(tmp_path, "lora_with_dropout", callbacks=StopAt(2), **given)
    with pytest.raises(UsageError, match=r"class_weights was \[1\.0, 2\.0\] there, and is \[50\.0, 2\.0\]"):
        run(tmp_path, "lora_with_dropout", resume=True, **given | {"class_weights": list(np.float32([50, 2]))})
    plain = {"lora": {"rank": 2, "alpha": 4.0}, "class_weights": [1.0, 2.0]}
    run(tmp_path, "lora_with_dropout", resume=True, **plain)


def test_checkpoint_of_no_training_is_refused(tmp_path: Path) -> None:
    run(None, "kept_rows").classifier.save(tmp_path / "checkpoint-3")
    path = tmp_path / "checkpoint-3"
    state = path / "training_state/state.json"
    state.write_text('{"step": 3}')
    manifest = json.loads((path / "manifest.json").read_text())
    import hashlib

    entry = {"sha256": hashlib.sha256(state.read_bytes()).hexdigest(), "bytes": state.stat().st_size}
    manifest["files"]["training_state/state.json"] = entry
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="no state of a training to resume"):
        run(tmp_path, "kept_rows", resume=True)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    class Second(Callback):
        def on_step(self, record: Any) -> None:
            if record.step == 1:
                with pytest.raises(UsageError, match="another run is at work there"):
                    run(tmp_path, "kept_rows", resume=True)

    assert len(run(tmp_path, "kept_rows", callbacks=Second()).history) == 3


@pytest.mark.parametrize("given", [{"resume": True}, {"save_every_steps": 2}, {"keep_last": 2}])
def test_options_that_need_a_folder(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give output_dir"):
        run(None, "kept_rows", **given)


# --- memory that runs out ---------------------------------------------------------------------------------------------


def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, texts: int) -> None:
    """A forward pass in training over more texts than these finds no memory."""
    original = SequenceClassifier.forward

    def forward(self: SequenceClassifier, batch: Any, dropout: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(batch.cu_seqlens) - 1 > texts:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch, dropout, *args, **kwargs)

    monkeypatch.setattr(SequenceClassifier, "forward", forward)


@pytest.mark.parametrize("variant", ["all_with_dropout", "accumulated_and_clipped"])
def test_out_of_memory_takes_smaller_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """The step is the same: texts, losses, and gradients to rounding."""
    clipped = {"max_grad_norm": 0.5}  # needs all gradients, as every step on a GPU does
    expected = run(None, variant, **clipped)
    run_out_of_memory(monkeypatch, 1 if variant == "accumulated_and_clipped" else 2)
    with pytest.warns(RuntimeWarning, match="out of memory with . texts at a time; from now on"):
        found = run(None, variant, **clipped)
    for one, other in zip(found.history, expected.history, strict=True):
        assert one.step == other.step
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)


@pytest.mark.parametrize("clipped", [{"max_grad_norm": 0.5}, {}])
def test_out_of_memory_with_a_single_text(monkeypatch: pytest.MonkeyPatch, clipped: dict[str, float]) -> None:
    run_out_of_memory(monkeypatch, 0)
    with pytest.raises(ResourceError, match=r"out of memory on cpu with . texts? of up to .* tokens"):
        warnings.simplefilter("ignore")
        run(None, "all_with_dropout", **clipped)


def test_what_was_trained_is_saved_if_measuring_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a resumed run measures first: the same bits, with each step taken once."""
    whole = pyllmclf.finetune(**NANO, validation=VALIDATION)
    run = {**NANO, "validation": VALIDATION, "output_dir": tmp_path / "run"}
    measure, measured = pyllmclf.Classifier.evaluate_outputs, []

    def fails_in_the_second_epoch(self: Any, *arguments: Any, **options: Any) -> Any:
        measured.append(len(measured))
        if len(measured) == 2:
            raise MemoryError("no room for the figures")
        return measure(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pyllmclf.Classifier, "evaluate_outputs", fails_in_the_second_epoch)
        with pytest.raises(MemoryError, match="no room"):
            pyllmclf.finetune(**run)
    state = json.loads((tmp_path / "run" / "last" / "training_state" / "state.json").read_text())
    assert (state["step"], state["epoch"], len(state["history"])) == (10, 1, 1)
    steps: list[int] = []

    class Steps(Callback):
        def on_step(self, record: Any) -> None:
            steps.append(record.step)

    resumed = pyllmclf.finetune(**run, resume=True, callbacks=Steps())
    assert steps == [11, 12, 13, 14, 15]
    assert [record.validation_loss for record in resumed.history] == [r.validation_loss for r in whole.history]
    np.testing.assert_array_equal(resumed.classifier.logits(TEXTS), whole.classifier.logits(TEXTS))


def test_a_diverged_model_replaces_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_finite(self: Any, *arguments: Any, **options: Any) -> Any:
        raise pyllmclf.NonFiniteError("the logits of text 0 are not finite")

    monkeypatch.setattr(pyllmclf.Classifier, "evaluate_outputs", not_finite)
    with pytest.raises(pyllmclf.NonFiniteError):
        pyllmclf.finetune(**NANO, validation=VALIDATION, output_dir=tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoint-*"))
