"""A training whose data and model are there: what is measured and saved in its epochs, and after them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ..classifier import Classifier
from ..classifier.calibration import calibrate_head
from ..classifier.checkpoint import STATE_FILE
from ..data.packing import Packer
from ..data.readers import TextData
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..evaluation.report import provenance, write_report
from ..models.hub import read_json
from ..progress import say
from ..sharding import ordinary_model, whole_tensors
from .records import EpochRecord
from .resume import arithmetic, optimizer_tensors
from .run_folder import RunFolder
from .trainer import Trainer


class PreparedTraining:
    """A training that is prepared: its epochs, and what is measured and saved in them and after them."""

    def __init__(
        self,
        *,
        classifier: Classifier,
        trainer: Trainer,
        parts: dict[str, Packer],
        skipped: dict[str, int],
        run: RunFolder | None,
        identity: dict[str, Any] | None,
        strategy: str,
        prepare_seconds: float,
        progress: bool,
    ) -> None:
        self.classifier, self.trainer, self.parts, self.progress = classifier, trainer, parts, progress
        self.skipped, self.state, self.run, self.identity = skipped, classifier.state, run, identity
        self.strategy = strategy
        self.metrics: dict[str, dict[str, Any]] = {}
        self._results: dict[str, EvaluationResult | MultiLabelResult] = {}
        self._best: EvaluationResult | MultiLabelResult | None = None
        self._begun = time.perf_counter() - prepare_seconds
        self._seconds = {"prepare": prepare_seconds, "evaluate": 0.0, "save": 0.0}

    def fit(self) -> None:
        """All epochs that are left."""
        trainer = self.trainer
        validates = "validation" in self.parts
        every = trainer.settings.save_every_steps
        trainer.fit(self._validate if validates else None, self._on_epoch, self._save, every)
        self.state.model = trainer.gather().requires_grad_(False)
        if not validates:
            return
        if trainer.settings.early_stopping is not None and self._best is not None:
            self._keep("validation", self._best)
        elif "validation" not in self._results or trainer.settings.early_stopping is not None:
            self._measure("validation")  # what was measured before the run was resumed

    def calibrate(self) -> dict[str, float]:
        """Divides the logits by the temperature that fits the validation texts, in the checkpoint too."""
        state, trainer, labelled = self.state, self.trainer, self.parts["validation"]
        best = None if trainer.settings.early_stopping is None else trainer.best
        step = trainer.step if best is None else best.step
        if state.temperature is not None:  # before the run was resumed
            found = None if self.run is None else read_json(self.run.checkpoint(step) / STATE_FILE)["calibration"]
            return trainer.group.from_first(found)
        assert labelled.text_labels is not None
        logits = self.classifier.packed_logits(labelled)
        calibration = calibrate_head(state.model, logits, labelled.text_labels, state.encoder.names)
        state.temperature = calibration["temperature"]
        self._measure("validation")
        if self.run is not None:
            self.run.save_calibrated(step, state, calibration)
        return calibration

    def test(self) -> None:
        """Figures of the test texts, if there are any."""
        if "test" in self.parts:
            self._measure("test")

    def report(self, data: TextData | None) -> None:
        """Writes the page of the training and of the test texts, or the validation texts where there are no others."""
        if self.run is None:  # the first process has it
            return
        assert data is not None
        part = "test" if "test" in self.parts else "validation"
        measured = self._results[part]
        assert isinstance(measured, EvaluationResult)
        at = "last" if self.trainer.settings.early_stopping is None else "best"
        write_report(
            self.run.path / "report.html",
            measured,
            data,
            self.parts[part].tokens_by_text,
            provenance((self.run.path / at).resolve(), data, str(self.classifier.device)),
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
            "total_seconds": time.perf_counter() - self._begun,
            "steps": float(self.trainer.step),
            "tokens_per_second": tokens * len(history) / train_seconds,
        }

    def _measure(self, part: str) -> EvaluationResult | MultiLabelResult:
        begun = time.perf_counter()
        prefix = self.trainer.prefix if part == "validation" else None
        given = None if prefix is None else prefix.given
        found = self.classifier.evaluate_packed(self.parts[part], skipped=self.skipped[part], given=given)
        self._keep(part, found)
        self._seconds["evaluate"] += time.perf_counter() - begun
        return found

    def _keep(self, part: str, found: EvaluationResult | MultiLabelResult) -> None:
        self._results[part] = found
        self.metrics[part] = found.to_dict()
        self.state.metrics[part] = found.headline()

    def _validate(self) -> tuple[float, float]:
        found = self._measure("validation")
        return found.log_loss, found.accuracy

    def _on_epoch(self, record: EpochRecord) -> None:
        if self.trainer.last_is_best:
            self._best = self._results["validation"]
        say(_epoch_line(record, self.trainer.settings.epochs), self.progress)
        self._save(is_best=self.trainer.last_is_best)

    def _save(self, *, is_best: bool = False) -> None:
        trainer = self.trainer
        # The first process has the folder; the others give it their parts, if they have parts.
        saves = trainer.group.any(self.run is not None) if trainer.sharded else self.run is not None
        if not saves:
            return
        begun, state = time.perf_counter(), self.state
        if trainer.sharded:
            parameters = whole_tensors(dict(trainer.model.named_parameters()), "cpu", keep=self.run is not None)
            if self.run is not None:
                state = replace(state, model=ordinary_model(trainer.model, parameters))
        # What the optimizer remembers is of no use when nothing is left to train.
        moments = None if trainer.finished else optimizer_tensors(trainer)
        if self.run is not None:
            figures = {
                "identity": self.identity,
                "arithmetic": arithmetic(trainer.prefix, self.strategy, trainer.device, trainer.backend),
                "metrics": state.metrics,
            }
            self.run.save(state, trainer.step, trainer.state_dict() | figures, moments, is_best=is_best)
        self._seconds["save"] += time.perf_counter() - begun


def _epoch_line(record: EpochRecord, epochs: int) -> str:
    line = f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.2%}"
    if record.validation_accuracy is not None:
        line += f", validation loss {record.validation_loss:.4f}, accuracy {record.validation_accuracy:.2%}"
    return f"{line}, {record.seconds:.1f} s, {record.tokens_per_second:,.0f} tokens/s"
