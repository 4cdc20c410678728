"""Runs a prepared training: evaluates and saves after each epoch, then calibrates, tests and reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..classifier.calibration import calibrate_head
from ..classifier.checkpoint import STATE_FILE
from ..classifier.classifier import Classifier
from ..data.lengths import LengthReport
from ..data.packing import Packer
from ..data.readers import TextData
from ..errors import PreemptedError
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..evaluation.report import provenance, write_report
from ..models.hub import read_json
from ..progress import say
from ..settings import Settings
from ..sharding import full_tensors
from .records import EpochRecord
from .resume import numerics, optimizer_tensors
from .run_folder import RunFolder
from .trainer import Trainer


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a training.

    Attributes
    ----------
    classifier : Classifier
        With the weights of the last step, or with ``early_stopping`` of the best epoch.
    history : list of EpochRecord
    metrics : dict
        ``"validation"`` and ``"test"``, where there are such data: figures of the classifier by name.
    timing : dict
        Seconds of preparing, training, evaluating and saving, optimizer steps, real tokens per second of training.
    output_dir : Path or None
    lengths : LengthReport
        Of the training texts.
    calibration : dict or None
        With ``calibrate``: the temperature, and log loss and expected calibration error of the validation texts before
        and after.
    """

    classifier: Classifier
    history: list[EpochRecord]
    metrics: dict[str, dict[str, Any]]
    timing: dict[str, float]
    output_dir: Path | None
    lengths: LengthReport
    calibration: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the classifier, as JSON can hold it."""
        return {
            "output_dir": None if self.output_dir is None else str(self.output_dir),
            "classes": self.classifier.classes_,
            "metrics": self.metrics,
            "history": [record.to_dict() for record in self.history],
            "timing": self.timing,
            "lengths": self.lengths.to_dict(),
            "calibration": self.calibration,
        }


class Run:
    """A prepared training; :func:`pyllmclf.training.prepare.prepare` makes it.

    Parameters
    ----------
    settings : Settings
    classifier : Classifier
        Whose model is trained.
    trainer : Trainer
        Restored from a checkpoint, where the run is resumed.
    texts : dict of str to TextData
        By split: ``"train"``, and ``"validation"`` and ``"test"`` where there are such texts.
    packers : dict of str to Packer
        Likewise.
    skipped : dict of str to int
        Empty texts of each split that were left out.
    folder : RunFolder or None
        Of the first process, where there is an output folder.
    identity : dict or None
        What the run must have in common with one that resumes it.
    strategy : {"ddp", "fsdp"}
    started : float
        When preparing began, by ``time.perf_counter``.
    """

    def __init__(
        self,
        settings: Settings,
        classifier: Classifier,
        trainer: Trainer,
        *,
        texts: Mapping[str, TextData],
        packers: Mapping[str, Packer],
        skipped: Mapping[str, int],
        folder: RunFolder | None,
        identity: dict[str, Any] | None,
        strategy: str,
        started: float,
    ) -> None:
        self.settings, self.classifier, self.trainer = settings, classifier, trainer
        self.texts, self.packers, self.skipped = texts, packers, skipped
        self.state, self.folder, self.identity, self.strategy = classifier.state, folder, identity, strategy
        self.lengths = LengthReport.of(packers["train"], classifier.state.tokenizer, texts["train"].skipped)
        self.metrics: dict[str, dict[str, Any]] = {}
        self._results: dict[str, EvaluationResult | MultiLabelResult] = {}
        self._best: EvaluationResult | MultiLabelResult | None = None
        self._started = started
        self._seconds = {"prepare": time.perf_counter() - started, "evaluate": 0.0, "save": 0.0}

    def execute(self) -> FinetuneResult:
        """Trains, then calibrates, tests and writes the report, where these are asked for.

        Raises
        ------
        NonFiniteError, ResourceError
        PreemptedError
            If a signal asked the training to end; a checkpoint is saved then.
        """
        output_dir = self.settings.output_dir
        try:
            self.fit()
            with self.trainer.preemption.at_once():
                calibration = self.calibrate() if self.settings.calibrate else None
                if "test" in self.packers:
                    self.evaluate("test")
                if self.settings.report:
                    self.report()
        except PreemptedError as error:
            raise PreemptedError(
                f"preempted after step {self.trainer.step}; a checkpoint is in {output_dir}, from which resume=True "
                "(--resume) goes on."
            ) from error
        return FinetuneResult(
            self.classifier,
            self.trainer.history,
            self.metrics,
            self.timing(),
            None if output_dir is None else Path(output_dir),
            self.lengths,
            calibration,
        )

    def fit(self) -> None:
        """Trains for all epochs that are left; afterwards the classifier has the whole model."""
        trainer = self.trainer
        validates = "validation" in self.packers
        trainer.fit(self._validate if validates else None, self._on_epoch, self._save, self.settings.save_every_steps)
        self.state.model = trainer.gather().requires_grad_(False)
        if not validates:
            return
        if self.settings.early_stopping is not None and self._best is not None:
            self._keep("validation", self._best)
        elif "validation" not in self._results or self.settings.early_stopping is not None:
            self.evaluate("validation")  # measured before the run was resumed

    def calibrate(self) -> dict[str, float]:
        """Divides the logits by the temperature that fits the validation texts, in the checkpoint too."""
        state, trainer, packer = self.state, self.trainer, self.packers["validation"]
        best = None if self.settings.early_stopping is None else trainer.best
        step = trainer.step if best is None else best.step
        if state.temperature is not None:  # before the run was resumed
            saved = None if self.folder is None else read_json(self.folder.checkpoint(step) / STATE_FILE)
            return trainer.group.broadcast_object(None if saved is None else saved["calibration"])
        assert packer.text_labels is not None
        logits = self.classifier.packed_logits(packer, group=trainer.group)
        calibration = calibrate_head(state.model, logits, packer.text_labels, state.encoder.names)
        state.temperature = calibration["temperature"]
        self.evaluate("validation")
        if self.folder is not None:
            self.folder.save_calibrated(step, state, calibration)
        return calibration

    def evaluate(self, split: str) -> EvaluationResult | MultiLabelResult:
        """Figures of the classifier on the texts of a split."""
        begun = time.perf_counter()
        cache = None if split == "test" else self.trainer.cache  # test texts are read once
        result = self.classifier.evaluate_packed(
            self.packers[split],
            skipped=self.skipped[split],
            lookup=None if cache is None else cache.lookup,
            group=self.trainer.group,
        )
        self._keep(split, result)
        self._seconds["evaluate"] += time.perf_counter() - begun
        return result

    def report(self) -> None:
        """Writes the page of the training and of the test texts, or the validation texts where there are no others."""
        if self.folder is None:  # the first process has it
            return
        split = "test" if "test" in self.packers else "validation"
        data, result = self.texts[split], self._results[split]
        assert isinstance(result, EvaluationResult)
        link = "last" if self.settings.early_stopping is None else "best"
        write_report(
            self.folder.path / "report.html",
            result,
            data,
            self.packers[split].tokens_by_text,
            provenance((self.folder.path / link).resolve(), data, str(self.classifier.device)),
            [record.to_dict() for record in self.trainer.history],
        )

    def timing(self) -> dict[str, float]:
        """Seconds, steps and tokens per second of the whole training, resumed or not."""
        history, tokens = self.trainer.history, int(self.trainer.packer.real_lengths.sum())
        train_seconds = sum(record.seconds for record in history)
        return {
            "prepare_seconds": self._seconds["prepare"],
            "train_seconds": train_seconds,
            "evaluate_seconds": self._seconds["evaluate"],
            "save_seconds": self._seconds["save"],
            "total_seconds": time.perf_counter() - self._started,
            "steps": float(self.trainer.step),
            "tokens_per_second": tokens * len(history) / train_seconds,
        }

    def _keep(self, split: str, result: EvaluationResult | MultiLabelResult) -> None:
        self._results[split] = result
        self.metrics[split] = result.to_dict()
        self.state.metrics[split] = result.headline()

    def _validate(self) -> tuple[float, float]:
        result = self.evaluate("validation")
        return result.log_loss, result.accuracy

    def _on_epoch(self, record: EpochRecord) -> None:
        if self.trainer.last_is_best:
            self._best = self._results["validation"]
        say(_epoch_line(record, self.settings.epochs), self.settings.progress)
        self._save(is_best=self.trainer.last_is_best)

    def _save(self, *, is_best: bool = False) -> None:
        trainer = self.trainer
        # The first process has the folder; the others contribute their shards, where the model is sharded.
        saves = trainer.group.any(self.folder is not None) if trainer.sharded else self.folder is not None
        if not saves:
            return
        begun, state = time.perf_counter(), self.state
        if trainer.sharded:
            parameters = full_tensors(dict(trainer.model.named_parameters()), "cpu", keep=self.folder is not None)
            if self.folder is not None:
                state = replace(state, model=trainer.model.with_parameters(parameters))
        # The optimizer's state is of no use when nothing is left to train.
        moments = None if trainer.finished else optimizer_tensors(trainer)
        if self.folder is not None:
            figures = {
                "identity": self.identity,
                "arithmetic": numerics(trainer.cache, self.strategy, trainer.compute),
                "metrics": state.metrics,
            }
            self.folder.save(state, trainer.step, trainer.state_dict() | figures, moments, is_best=is_best)
        self._seconds["save"] += time.perf_counter() - begun


def _epoch_line(record: EpochRecord, epochs: int) -> str:
    line = f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.2%}"
    if record.validation_accuracy is not None:
        line += f", validation loss {record.validation_loss:.4f}, accuracy {record.validation_accuracy:.2%}"
    return f"{line}, {record.seconds:.1f} s, {record.tokens_per_second:,.0f} tokens/s"
