"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compute import Compute
from ..data.loader import BatchLoader, Position
from ..data.packing import Packer
from ..distributed import ProcessGroup
from ..errors import NonFiniteError, PreemptedError, ResourceError
from ..models.sequence_classifier import SequenceClassifier
from ..progress import progress_bar, say
from ..sharding import copy_from_first, local_tensor
from .callbacks import Callback, CallbackList, StepRecord, warn_of_errors
from .optim import restore_schedule
from .pace import Pace
from .preemption import PREEMPTED
from .recipes import ResolvedSettings
from .records import EpochRecord, EpochSums, QueuedStep, per_second
from .solve import solve_contrasted, solve_epoch
from .steps import StepTrainer


class Trainer(StepTrainer):
    """Trains a classifier for several epochs.

    Parameters
    ----------
    model, packer, settings, compute
        As for :class:`StepTrainer`; with ``settings.progress`` standard error shows a progress bar, if it is a
        terminal.
    callbacks : sequence of Callback
        Observers of steps and epochs.
    group : ProcessGroup, optional
    **options
        Other arguments of :class:`StepTrainer`.

    Attributes
    ----------
    callbacks : CallbackList
    history : list of EpochRecord
        Records of the finished epochs.
    stopped : bool
        Whether a callback or early stopping has ended the training.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        packer: Packer,
        settings: ResolvedSettings,
        compute: Compute,
        *,
        callbacks: Sequence[Callback] = (),
        group: ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        group = group or ProcessGroup()
        self.loader = BatchLoader(
            packer,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            accumulate=settings.gradient_accumulation_steps,
            seed=settings.seed,
            rank=group.rank,
            ranks=group.world_size,
        )
        total_steps = 1 if settings.solved else self.loader.total(settings.epochs)
        super().__init__(model, packer, settings, compute, total_steps=total_steps, group=group, **options)
        self.callbacks = CallbackList(callbacks)
        self.history: list[EpochRecord] = []
        self._stop_requested = False  # by a callback, for the end of the epoch
        self.stopped = False
        self._preempted = False
        self._sums = EpochSums()
        self._best_weights: dict[nn.Parameter, torch.Tensor] = {}
        self._unsolved_head: list[torch.Tensor] = []  # of a frozen model
        self._solved_at: int | None = None  # the step behind which a contrastive head is solved

    def fit(
        self,
        validate: Callable[[], tuple[float, float]] | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        on_pause: Callable[[], None] | None = None,
        save_every_steps: int | None = None,
    ) -> list[EpochRecord]:
        """Trains for the remaining epochs, or until a callback or early stopping ends the training.

        With ``early_stopping`` the model then has the weights of the best epoch.

        Parameters
        ----------
        validate : callable, optional
            Called after each epoch; returns (loss, accuracy). If it fails, ``on_pause`` is called before the error
            ends the training; a resumed run then begins with it.
        on_epoch : callable, optional
            Called with each epoch's record, after the callbacks.
        on_pause : callable, optional
            Called where a checkpoint can be saved within an epoch: every ``save_every_steps`` steps, and before a
            preempted training ends.
        save_every_steps : int, optional

        Returns
        -------
        list of EpochRecord
            Records of all epochs, those before the run was resumed too.

        Raises
        ------
        NonFiniteError
            If a loss, a parameter at the end of an epoch or, with clipping, a gradient is not finite.
        ResourceError
            If the device has no memory for a step, or another process is lost.
        PreemptedError
            If a signal has arrived; ``on_pause`` or ``on_epoch`` has been called then.
        Exception
            Of ``validate``; ``on_pause`` has been called then.
        """
        pause = on_pause or (lambda: None)
        try:
            self.callbacks.begin(self.step, self.total_steps)
            self._pace = self._new_pace()
            with self._bar() as bar:
                if self.contrasts and self.finished and validate is not None and self.history[-1].score is None:
                    # Interrupted while the epoch was measured in which a callback ended the training.
                    with self._pausing(pause):
                        self.history[-1] = record = self._measured(self.history[-1], validate, pause)
                    if on_epoch is not None:
                        on_epoch(record)
                while not self.finished:
                    with self._pausing(pause):
                        record = self._train_epoch(bar, pause, save_every_steps)
                        last = record.epoch >= self.settings.epochs or self._stop_requested
                        if last or not self.contrasts:
                            record = self._measured(record, validate, pause)
                    self._end_epoch(record)
                    if self.contrasts and self.finished and not last:  # a callback has ended it
                        with self._pausing(pause):
                            self.history[-1] = record = self._measured(record, validate, pause)
                    if on_epoch is not None:
                        on_epoch(record)
                    if self.preempted and not self.finished:
                        self.group.barrier()
                        raise PreemptedError("preempted.")
        except BaseException:
            self.close()
            warn_of_errors(self.callbacks.end())
            raise
        self.close()
        if errors := self.callbacks.end():
            warn_of_errors(errors[1:])
            raise errors[0]
        with torch.no_grad():
            for parameter, weights in self._best_weights.items():
                local_tensor(parameter).copy_(weights)
        return self.history

    def _measured(
        self, record: EpochRecord, validate: Callable[[], tuple[float, float]] | None, pause: Callable[[], None]
    ) -> EpochRecord:
        """The record of an epoch with the figures of the validation texts; behind contrastive steps of a solved head.

        There the training accuracy is the head's, too.
        """
        if self.contrasts:
            with self.preemption.at_once():
                record = replace(record, train_accuracy=self.solve_head())
        if validate is not None:
            loss, accuracy = self._measure(validate, pause)
            record = replace(record, validation_loss=loss, validation_accuracy=accuracy)
        return record

    def solve_head(self) -> float:
        """Solves the head behind contrastive steps, as they are so far; returns its accuracy on the training texts."""
        accuracy = solve_contrasted(self)
        self._solved_at = self.step
        return accuracy

    @property
    def head_is_stale(self) -> bool:
        """Whether contrastive steps have been taken since the head was solved."""
        return self.contrasts and self.step > 0 and self._solved_at != self.step

    @contextmanager
    def _pausing(self, pause: Callable[[], None]) -> Iterator[None]:
        """Calls ``pause`` where a signal ends the block."""
        try:
            yield
        except PREEMPTED:
            self._pause(pause)
            self.group.barrier()
            raise

    def _pause(self, pause: Callable[[], None]) -> None:
        """Calls ``pause``; a frozen model's head that was solved in an unfinished epoch is first as it was before.

        It is solved again when the run is resumed, from the same start.
        """
        if not self._unsolved_head:
            pause()
            return
        head = [parameter.data for parameter in self.model.head.parameters()]
        solved = [parameter.clone() for parameter in head]
        try:
            for parameter, begun in zip(head, self._unsolved_head, strict=True):
                parameter.copy_(begun)
            pause()
        finally:
            for parameter, values in zip(head, solved, strict=True):
                parameter.copy_(values)

    def _measure(self, validate: Callable[[], tuple[float, float]], pause: Callable[[], None]) -> tuple[float, float]:
        """Calls ``validate``; if it fails in any process, calls ``pause`` before the error.

        A classifier whose logits are not finite is not saved: it would replace a checkpoint that is usable.
        """
        failure: Exception | None = None
        result = (0.0, 0.0)
        try:
            with self.preemption.at_once():
                result = validate()
        except (PreemptedError, NonFiniteError):
            raise
        except Exception as error:
            failure = error
        if self.group.any(failure is not None):
            self._pause(pause)
            if self.settings.output_dir is not None:
                place = f"{self.settings.output_dir}, and resume=True (--resume) measures it first"
                say(f"measuring the epoch failed; what was trained is saved in {place}", self.settings.progress)
            raise failure or ResourceError("another process failed to measure the epoch; its message says why.")
        return result

    def gather(self) -> SequenceClassifier:
        """Gathers the whole model in every process, as :meth:`StepTrainer.gather`; drops the best epoch's weights."""
        self._best_weights.clear()
        return super().gather()

    @property
    def preempted(self) -> bool:
        """Whether a signal ends the training now; the same in all processes at any time."""
        return self.preemption.requested if self.group.world_size == 1 else self._preempted

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self.stopped or len(self.history) >= self.settings.epochs

    def _end_epoch(self, record: EpochRecord) -> None:
        self.history.append(record)
        self.loader.position = Position(len(self.history))
        self._sums = EpochSums()
        self._stop_requested |= self.callbacks.on_epoch(record)
        self.stopped = self._stop_requested = self.group.any(self._stop_requested)
        if self.settings.early_stopping is not None:
            if self.last_is_best:
                self._remember_best()
            self.stopped |= self._epochs_since_best() >= self.settings.early_stopping

    def _remember_best(self) -> None:
        """Copies the weights, as those of the best epoch."""
        trained = (p for p in self.model.parameters() if p.requires_grad)
        self._best_weights = {p: local_tensor(p.detach()).to("cpu", copy=True) for p in trained}

    def load_best(self, weights: Mapping[str, torch.Tensor] | None) -> None:
        """Loads the weights of the best epoch, for early stopping; all processes call it.

        Parameters
        ----------
        weights : mapping of str to tensor, or None
            Trained parameters by name, in the first process; ``None`` in the others.

        Raises
        ------
        ResourceError
            If another process is lost.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                best = torch.empty_like(parameter)
                copy_from_first(best, None if weights is None else weights[name], self.group)
                self._best_weights[parameter] = local_tensor(best).cpu()

    def _epochs_since_best(self) -> int:
        return len(self.history) - 1 - self.history.index(self.best) if self.best is not None else 0

    @property
    def best(self) -> EpochRecord | None:
        """The first epoch with the best validation score."""
        return max((record for record in self.history if record.score is not None), key=_score, default=None)

    @property
    def last_is_best(self) -> bool:
        """Whether the newest epoch has a better validation score than every one before."""
        return self.best is not None and self.best is self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Progress of the training, as types that JSON has; :func:`optimizer_tensors` is the rest of its state."""
        best = self.best
        return {
            "step": self.step,
            "epoch": len(self.history),
            "history": [record.to_dict() for record in self.history],
            "best": best and {"step": best.step, "accuracy": best.validation_accuracy, "loss": best.validation_loss},
            "finished": self.finished,
            "stopped": [self._stop_requested, self.stopped],
            "loader": self.loader.state_dict(),
            "epoch_sums": asdict(self._sums),
            "scaler": self.gradient_step.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the progress of a trainer of the same texts and settings.

        Raises
        ------
        UsageError
            If the state is that of other texts or settings.
        KeyError, TypeError
            If the state is malformed.
        """
        self.loader.load_state_dict(state["loader"])
        self.step = int(state["step"])
        self._stop_requested, self.stopped = map(bool, state["stopped"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self._sums = EpochSums(**state["epoch_sums"])
        if self.gradient_step.scaler.is_enabled():
            self.gradient_step.scaler.load_state_dict(dict(state["scaler"]))
        restore_schedule(self.gradient_step.scheduler, self.step)

    def _train_epoch(self, bar: Any, pause: Callable[[], None], save_every_steps: int | None) -> EpochRecord:
        """Takes the remaining steps of the epoch; calls ``pause`` where a checkpoint is due within it."""
        if self.settings.solved:
            self._unsolved_head = [parameter.detach().clone() for parameter in self.model.head.parameters()]
            with self.preemption.at_once():
                return solve_epoch(self)
        started = time.perf_counter()
        sums, seconds_before = self._sums, self._sums.seconds
        if self.cache is not None and not self.cache.filled:
            with self.preemption.at_once():
                self.cache.fill()
        epoch = self.loader.position.epoch

        def pauses(step: int) -> bool:
            return self.preempted or (save_every_steps is not None and step % save_every_steps == 0)

        for queued, nothing_queued in self._queued_ahead(pauses):
            step_loss, step_correct = self.result_of(queued)
            self._preempted |= self.group.world_size > 1 and queued.preempted
            texts, tokens = len(queued.ids), int(self.packer.real_lengths[queued.ids].sum())
            sums.add(queued, step_loss, step_correct, tokens)
            sums.seconds = seconds_before + time.perf_counter() - started
            if self.callbacks:
                accuracy, rate = step_correct / texts, queued.learning_rate
                record = StepRecord(queued.step, epoch + 1, step_loss, accuracy, rate, texts, tokens)
                self._stop_requested |= self.callbacks.on_step(record)
            speed, loss = per_second(sums.tokens, sums.seconds), sums.loss / sums.total
            bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.4f}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
            if not self._pace.finished:
                self._pace.step(tokens)
            if nothing_queued and self.preempted:
                self.check_parameters()
                raise PreemptedError("preempted.")
            if nothing_queued and pauses(queued.step) and self.loader.position.step < self.loader.count(epoch):
                self.check_parameters()
                paused = time.perf_counter()
                pause()
                started += time.perf_counter() - paused
        self.check_parameters()
        sums.seconds = seconds_before + time.perf_counter() - started
        return sums.record(epoch + 1, self.step)

    def _queued_ahead(self, pauses: Callable[[int], bool]) -> Iterator[tuple[QueuedStep, bool]]:
        """Yields (step, whether no later step is queued) for the remaining steps of the epoch.

        A step is yielded after the next one is queued, so that a GPU computes while the host reads results. Where a
        pause may follow, the step is yielded before.
        """
        waiting: QueuedStep | None = None
        epoch, first = self.loader.position.epoch, self.loader.position.step
        for done, texts in enumerate(self.loader.whole_steps(epoch, first), first + 1):
            queued = self.queue_step(self.loader.share(texts), texts)
            self.loader.position = Position(epoch, done)
            if waiting is not None:
                yield waiting, False
            waiting = queued
            if pauses(queued.step):
                yield queued, True
                waiting = None
        if waiting is not None:
            yield waiting, True

    def epoch_steps(self, epoch: int, first: int = 0) -> Iterator[list[np.ndarray]]:
        """Yields the texts of each optimizer step's micro-batches, int64 arrays, in the order of (seed, epoch)."""
        return self.loader.steps(epoch, first)

    def _new_pace(self) -> Pace:
        epochs = self.settings.epochs - len(self.history)
        tokens = int(self.packer.real_lengths.sum()) * epochs - self._sums.tokens
        return Pace(tokens, epochs, self.compute.device, self.settings.progress)

    def _bar(self) -> Any:
        return progress_bar(self.total_steps, "step", self.settings.progress, initial=self.step, leave=True)


def _score(record: EpochRecord) -> tuple[float, float]:
    assert record.score is not None
    return record.score
