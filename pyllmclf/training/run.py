"""Runs a prepared training: evaluates and saves after each epoch, then calibrates, tests and reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..classifier.calibration import calibrate_head
from ..classifier.checkpoint import SPEC_FILE, STATE_FILE, save_checkpoint
from ..classifier.classifier import Classifier
from ..classifier.decisions import Decisions
from ..classifier.held_out import MOST_ROWS, THIS, HeldOut, TrainingRows
from ..classifier.state import ClassifierState
from ..data.lengths import LengthReport
from ..data.packing import Packer
from ..data.readers import TextData
from ..errors import NonFiniteError, PreemptedError
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..evaluation.report import Search
from ..models.hub import read_json
from ..progress import say, warn
from ..random_state import keeps_random_state
from ..sharding import full_tensors
from .baselines import REMEDIES, SOLVED_HEAD, Baseline, accuracies, complaints, measure_baselines
from .classifier_folder import classifier_folder
from .held_out import MOST_ROWS_OF_AN_EPOCH, measure_rows
from .hints import hints
from .preemption import PREEMPTED
from .recipes import MEASURE, ResolvedSettings
from .records import EpochRecord, per_second
from .report import Measurements, OutOfFold, write_run_report
from .result import FinetuneResult, Measured
from .resume import numerics, optimizer_tensors
from .run_folder import RunFolder
from .trainer import Trainer

# Seconds from which a line says how long measuring the training texts took.
SLOW_SECONDS = 1.0
PREEMPTED_EARLY = "preempted before training began; start it again with resume=True (--resume)."


class Run:
    """A prepared training, made by :func:`pyllmclf.training.prepare.prepare`.

    Parameters
    ----------
    settings : ResolvedSettings
    classifier : Classifier
        The classifier that is trained.
    trainer : Trainer
        Trainer of the classifier's model; restored from a checkpoint, where the run is resumed.
    texts : dict of str to TextData
        By split: ``"train"``, and ``"validation"`` and ``"test"`` where there are such texts.
    packers : dict of str to Packer
        By split.
    skipped : dict of str to int
        Number of empty texts left out of each split.
    folder : RunFolder or None
        In the first process, where there is an output folder.
    identity : dict or None
        The run's identity, with which a resumed run is compared.
    strategy : {"ddp", "fsdp"}
    started, session_started : float
        When preparing this training began, and the first one of the session, by ``time.perf_counter``.
    baselines : list of Baseline
        Those that a resumed run's checkpoint records, or that are measured already.
    measured : Measured, optional
        Of a training on all texts, where a part of them was held out before.

    Attributes
    ----------
    prefers_head : bool
        After :meth:`execute`: whether the solved head is better on the validation texts by more than chance.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
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
        session_started: float,
        baselines: list[Baseline],
        measured: Measured | None = None,
    ) -> None:
        self.settings, self.classifier, self.trainer = settings, classifier, trainer
        self.texts, self.packers, self.skipped = texts, packers, skipped
        self.state, self.folder, self.identity, self.strategy = classifier.state, folder, identity, strategy
        self.lengths = LengthReport.of(packers["train"], classifier.state.tokenizer, texts["train"].skipped)
        self.metrics: dict[str, dict[str, Any]] = {}
        self._results: dict[str, EvaluationResult | MultiLabelResult] = {}
        self._best: EvaluationResult | MultiLabelResult | None = None
        self._best_measured: tuple[HeldOut | None, TrainingRows | None] = None, None
        self._gives_classifier = False
        self._session_started = session_started
        self.baselines, self.measured, self.prefers_head = baselines, measured, False
        if measured is not None:
            self.metrics["validation"] = measured.metrics
            self.state.metrics["validation"] = measured.headline
            self.state.held_out = measured.held_out
        self._seconds = {"prepare": time.perf_counter() - started, "evaluate": 0.0, "save": 0.0}

    def execute(self) -> FinetuneResult:
        """Trains, then calibrates, tests and writes the report, as the settings request.

        Where another training follows whose classifier is the result, it ends after the comparison with the baselines.

        Raises
        ------
        NonFiniteError
            If a loss, gradient, parameter or logit is not finite.
        ResourceError
            If memory or disk space doesn't suffice, or another process is lost.
        PreemptedError
            If a signal has arrived; a checkpoint is saved then.
        """
        output_dir = self.settings.output_dir
        kept_in = classifier_folder() if self.trainer.group.is_first else None
        self._gives_classifier = True
        try:
            self.fit()
            self.compare()
            calibration = None if self.is_followed else self._finish()
        except PREEMPTED as error:
            if self.folder is not None and not self.folder.has_checkpoint:
                raise PreemptedError(PREEMPTED_EARLY) from error
            raise PreemptedError(
                f"preempted after step {self.trainer.step}; a checkpoint is in {output_dir}: resume from it with "
                "resume=True (--resume)."
            ) from error
        except Exception as error:
            if kept_in is not None and self.trainer.step and not isinstance(error, NonFiniteError):
                self._save_unfinished(kept_in)
            raise
        if kept_in is not None:
            save_checkpoint(kept_in, self.state, overwrite=True)
        return self._result(calibration)

    def _finish(self) -> dict[str, float] | None:
        """Calibrates, tests and reports the result's classifier, as the settings request."""
        with self.trainer.preemption.at_once():
            calibration = self.calibrate() if self.settings.calibrate else None
            if "test" in self.packers:
                self.evaluate("test")
            if self.settings.report:
                self.report()
        return calibration

    @property
    def is_followed(self) -> bool:
        """After the training: whether another one follows, on all texts or of the head alone."""
        return self.settings.phase == MEASURE or (self.prefers_head and self.settings.may_take_head)

    def _result(self, calibration: dict[str, float] | None) -> FinetuneResult:
        output_dir = self.settings.output_dir
        return FinetuneResult(
            self.classifier,
            self.trainer.history,
            self.metrics,
            self.timing(),
            None if output_dir is None else Path(output_dir),
            self.lengths,
            calibration,
            self._all_baselines,
        )

    def _save_unfinished(self, folder: Path) -> None:
        """Saves the classifier as it is trained so far, of a training that ends with an error."""
        if self.trainer.sharded and self.state.model is self.trainer.model:  # in pieces, in several processes
            return
        if (folder / SPEC_FILE).exists():
            warn(f"the classifier of the training before this one is saved in {folder}.", progress=False)
            return
        if self.trainer.head_is_stale:
            try:
                self.trainer.solve_head()
            except Exception:  # that of the training is raised
                return
        save_checkpoint(folder, self.state if self.trainer.finished else self._unmeasured_state)
        warn(f"the classifier, as trained until step {self.trainer.step}, is saved in {folder}.", progress=False)

    def fit(self) -> None:
        """Trains for the remaining epochs, then gathers the whole model and evaluates it on the validation texts."""
        trainer = self.trainer
        validates = "validation" in self.packers
        if self._compares_baselines:
            self.measure_baselines()
        trainer.fit(self._validate if validates else None, self._on_epoch, self._save, self.settings.save_every_steps)
        self.state.model = trainer.gather().requires_grad_(False)
        if self.settings.early_stopping is not None and self._best is not None:
            self._record("validation", self._best)
            self.state.held_out, self.state.training_rows = self._best_measured
        elif validates and ("validation" not in self._results or self.settings.early_stopping is not None):
            self.evaluate("validation")  # the run was resumed after its last validation
            self.state.training_rows = None
        if self.state.training_rows is None:
            self._measure_rows()

    @property
    def _compares_baselines(self) -> bool:
        """Whether baselines are measured, before the first step of automatic settings."""
        settings = self.settings
        begins = "validation" in self.packers and self.trainer.step == 0 and not self.baselines
        return begins and settings.automatic and settings.baselines == "auto" and not settings.multi_label

    def measure_baselines(self) -> None:
        """Measures simple classifiers on the validation texts, which the trained one is compared with at the end."""
        started = time.perf_counter()
        with self.trainer.preemption.at_once():
            self.baselines = measure_baselines(self.trainer, self.texts, self.packers)
        seconds = time.perf_counter() - started
        shown, texts = accuracies(_figures(self.baselines)), len(self.texts["validation"])
        say(f"baselines on {texts:,} validation texts: {shown} ({seconds:.1f} s)", self.settings.progress)
        self._seconds["evaluate"] += seconds

    def compare(self) -> None:
        """Warns of each baseline that is better on the validation texts by more than chance, with what may help.

        Not with class weights: accuracy is then not what the training is for. On automatic settings it also says what
        the course of the training suggests.
        """
        if self.settings.automatic and not self.settings.solved:
            for line in hints(self.trainer.history):
                say(line, self.settings.progress)
        if not self.baselines or self.settings.class_weights is not None:
            return
        lines = complaints(self.baselines, self._results["validation"].right)
        self.prefers_head = self.trainer.group.broadcast_object(SOLVED_HEAD in lines)
        for name, line in lines.items():
            if name == SOLVED_HEAD and self.settings.may_take_head:
                say(f"{line}: the head alone is trained", self.settings.progress)
            elif self.trainer.group.is_first:
                warn(f"{line}; {REMEDIES[name]}.", self.settings.progress)

    def calibrate(self) -> dict[str, float]:
        """Scales the head by the temperature that minimises the validation texts' log loss, in the checkpoint too.

        Returns
        -------
        dict of str to float
            The temperature, and the log loss and expected calibration error before and after.
        """
        state, trainer, packer = self.state, self.trainer, self.packers["validation"]
        best = None if self.settings.early_stopping is None else trainer.best
        step = trainer.step if best is None else best.step
        if state.temperature is not None:  # calibrated before the run was resumed
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
        """Evaluates the classifier on the texts of a split.

        Raises
        ------
        NonFiniteError
            If a logit is not finite.
        """
        started = time.perf_counter()
        cache = None if split == "test" else self.trainer.cache  # test texts are read once
        packer = self.packers[split]
        lookup = None if cache is None else cache.lookup
        logits = self.classifier.packed_logits(packer, lookup=lookup, group=self.trainer.group)
        result = self.classifier.evaluate_outputs(
            logits, packer, skipped=self.skipped[split], started=started, decisions=Decisions()
        )
        self._record(split, result)
        if split == "validation":
            assert packer.text_labels is not None
            self.state.held_out = HeldOut.sampled(logits, packer.text_labels, THIS, self.settings.seed)
        self._seconds["evaluate"] += time.perf_counter() - started
        return result

    @keeps_random_state()
    def report(
        self,
        search: Search | None = None,
        issues: Sequence[Mapping[str, Any]] = (),
        out_of_fold: OutOfFold | None = None,
    ) -> None:
        """Writes the report of the training and its test texts, or the validation texts where there is no test split.

        Parameters
        ----------
        search, issues, out_of_fold
            As for :func:`pyllmclf.training.report.write_run_report`.

        Raises
        ------
        ResourceError
            If the file can't be written.
        """
        if self.folder is None:  # only the first process has the folder
            return
        measured = Measurements(
            self.texts,
            self.packers,
            self._results,
            [record.to_dict() for record in self.trainer.history],
            self.lengths,
            self.metrics.get("validation", {}).get("accuracy"),
            self._all_baselines,
        )
        link = "last" if self.settings.early_stopping is None else "best"
        device = str(self.classifier.device)
        more: dict[str, Any] = {"search": search, "issues": issues, "out_of_fold": out_of_fold}
        write_run_report(self.folder.path, link, device, measured, **more)

    @property
    def _all_baselines(self) -> dict[str, dict[str, Any]]:
        """Those of this training, or of the one before it that was measured on the held-out texts."""
        return _figures(self.baselines) if self.measured is None else self.measured.baselines

    def timing(self) -> dict[str, float]:
        """Seconds, steps and tokens per second; training seconds include those before the run was resumed."""
        history, tokens = self.trainer.history, int(self.trainer.packer.real_lengths.sum())
        train_seconds = sum(record.seconds for record in history)
        return {
            "prepare_seconds": self._seconds["prepare"],
            "train_seconds": train_seconds,
            "evaluate_seconds": self._seconds["evaluate"],
            "save_seconds": self._seconds["save"],
            "total_seconds": time.perf_counter() - self._session_started,
            "steps": float(self.trainer.step),
            "tokens_per_second": per_second(tokens * len(history), train_seconds),
        }

    def _record(self, split: str, result: EvaluationResult | MultiLabelResult) -> None:
        self._results[split] = result
        self.metrics[split] = result.to_dict()
        self.state.metrics[split] = result.headline()

    def _validate(self) -> tuple[float, float]:
        result = self.evaluate("validation")
        return result.log_loss, result.accuracy

    def _on_epoch(self, record: EpochRecord) -> None:
        trainer = self.trainer
        self.state.training_rows = None  # those of an epoch before are of other weights
        if trainer.finished or (trainer.last_is_best and self.settings.early_stopping is not None):
            self._measure_rows()
        if trainer.last_is_best:
            self._best = self._results["validation"]
            self._best_measured = self.state.held_out, self.state.training_rows
        say(_epoch_line(record, self.settings.epochs), self.settings.progress)
        self._save(is_best=trainer.last_is_best, ends_epoch=True)

    def _measure_rows(self) -> None:
        """Measures what the head reads of the training texts, by which unlike texts are recognised.

        Nothing is measured of a model in shards, or in a training of a search.
        """
        trainer, started = self.trainer, time.perf_counter()
        if trainer.sharded or not self._gives_classifier:
            return
        most = MOST_ROWS if self.settings.early_stopping is None else MOST_ROWS_OF_AN_EPOCH
        self.state.training_rows = measure_rows(trainer, self.packers.get("validation"), self.state.held_out, most)
        seconds = time.perf_counter() - started
        if self.state.training_rows is None:
            say("unlike texts can't be told: the model is too wide, or a row is not finite", self.settings.progress)
        elif seconds >= SLOW_SECONDS:
            say(f"training texts measured, to tell unlike ones ({seconds:.1f} s)", self.settings.progress)
        self._seconds["evaluate"] += seconds

    @property
    def _unmeasured_state(self) -> ClassifierState:
        """The state within an epoch, without what was measured of the epoch before."""
        return replace(self.state, training_rows=None, held_out=self.state.held_out if self.measured else None)

    def _save(self, *, is_best: bool = False, ends_epoch: bool = False) -> None:
        trainer = self.trainer
        # Only the first process has the folder; the others contribute their shards of a sharded model.
        saves = trainer.group.any(self.folder is not None) if trainer.sharded else self.folder is not None
        if not saves:
            return
        started, state = time.perf_counter(), self.state
        if trainer.head_is_stale:  # whoever loads the checkpoint finds a classifier
            trainer.solve_head()
        if not ends_epoch:
            state = self._unmeasured_state
        if trainer.sharded:
            parameters = full_tensors(dict(trainer.model.named_parameters()), "cpu", keep=self.folder is not None)
            if self.folder is not None:
                state = replace(state, model=trainer.model.with_parameters(parameters))
        # A finished run needs no optimizer state.
        moments = None if trainer.finished else optimizer_tensors(trainer)
        if self.folder is not None:
            run_state = {
                "identity": self.identity,
                "arithmetic": numerics(trainer.cache, self.strategy, trainer.compute),
                "metrics": state.metrics,
                "baselines": [each.record() for each in self.baselines],
            }
            if self.measured is not None:
                run_state["measured"] = self.measured.record()
            self.folder.save(state, trainer.step, trainer.state_dict() | run_state, moments, is_best=is_best)
        self._seconds["save"] += time.perf_counter() - started


def _figures(baselines: list[Baseline]) -> dict[str, dict[str, Any]]:
    return {each.name: each.to_dict() for each in baselines}


def _epoch_line(record: EpochRecord, epochs: int) -> str:
    line = f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, accuracy {record.train_accuracy:.2%}"
    if record.validation_accuracy is not None:
        line += f", validation loss {record.validation_loss:.4f}, accuracy {record.validation_accuracy:.2%}"
    return f"{line}, {record.seconds:.1f} s, {record.tokens_per_second:,.0f} tokens/s"
