"""The training loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compute import Compute
from ..data.loader import BatchLoader, Position
from ..data.packing import Packer
from ..distributed import ProcessGroup
from ..errors import PreemptedError
from ..models.sequence_classifier import SequenceClassifier
from ..settings import Settings
from ..sharding import copy_from_first, local_tensor
from .callbacks import Callback, StepRecord
from .optim import restore_schedule
from .records import EpochRecord, EpochSums, QueuedStep
from .steps import StepTrainer


class Trainer(StepTrainer):
    """Trains a classifier for some epochs.

    Parameters
    ----------
    model, packer, settings, compute
        As for :class:`StepTrainer`; ``settings.progress`` says whether a progress bar is drawn on standard error (if
        that is a terminal).
    callbacks : sequence of Callback
        Observers of steps and epochs.
    group : ProcessGroup, optional
    **options
        Other arguments of :class:`StepTrainer`.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        packer: Packer,
        settings: Settings,
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
        total_steps = self.loader.total(settings.epochs)
        super().__init__(model, packer, settings, compute, total_steps=total_steps, group=group, **options)
        self.callbacks = list(callbacks)
        self.history: list[EpochRecord] = []
        # Whether a callback asks for the end of the epoch to be the last; whether that, or early stopping, has come.
        self._asked_to_stop = False
        self.stopped = False
        self._preempted = False
        self._sums = EpochSums()
        self._best_weights: dict[nn.Parameter, torch.Tensor] = {}

    def fit(
        self,
        validate: Callable[[], tuple[float, float]] | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        on_pause: Callable[[], None] | None = None,
        save_every_steps: int | None = None,
    ) -> list[EpochRecord]:
        """Trains for all epochs, or until a callback ends it or validation has not got better for ``early_stopping`` of
        them; goes on from where :meth:`load_state_dict` has put it.

        With ``early_stopping`` the weights are those of the best epoch afterwards.

        Parameters
        ----------
        validate : callable, optional
            Called after each epoch; returns (loss, accuracy).
        on_epoch : callable, optional
            Called with each epoch's record, when its callbacks have been told.
        on_pause : callable, optional
            Called where the training can be saved within an epoch: every ``save_every_steps`` steps, and before it ends
            because it is preempted.
        save_every_steps : int, optional

        Raises
        ------
        NonFiniteError
            If a loss, a parameter at the end of an epoch or, with clipping, a gradient is not finite.
        PreemptedError
            If it was asked to end, after ``on_pause``.
        """
        pause = on_pause or (lambda: None)
        told: list[Callback] = []
        try:
            for callback in self.callbacks:
                if self.step:
                    callback.on_resume(self.step)
                callback.on_train_begin(self.total_steps)
                told.append(callback)
            with self._bar() as bar:
                while not self.finished:
                    try:
                        record = self._train_epoch(bar, pause, save_every_steps)
                        if validate is not None:
                            with self.preemption.at_once():
                                loss, accuracy = validate()
                            record = replace(record, validation_loss=loss, validation_accuracy=accuracy)
                    except PreemptedError:
                        pause()
                        self.group.barrier()
                        raise
                    self._end_epoch(record)
                    if on_epoch is not None:
                        on_epoch(record)
                    if self.preempted and not self.finished:
                        self.group.barrier()
                        raise PreemptedError("preempted.")
        except BaseException:
            self.close()
            _warn_of(_tell_end(told))
            raise
        self.close()
        if errors := _tell_end(told):
            _warn_of(errors[1:])
            raise errors[0]
        with torch.no_grad():
            for parameter, kept in self._best_weights.items():
                local_tensor(parameter).copy_(kept)
        return self.history

    def gather(self) -> SequenceClassifier:
        self._best_weights.clear()
        return super().gather()

    @property
    def preempted(self) -> bool:
        """Whether training is to end now; at any time the same in all processes."""
        return self.preemption.requested if self.group.world_size == 1 else self._preempted

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self.stopped or len(self.history) >= self.settings.epochs

    def _end_epoch(self, record: EpochRecord) -> None:
        self.history.append(record)
        self.loader.position = Position(len(self.history))
        self._sums = EpochSums()
        self._tell(Callback.on_epoch, record)
        self.stopped = self._asked_to_stop = self.group.any(self._asked_to_stop)
        if self.settings.early_stopping is not None:
            if self.last_is_best:
                self.keep_as_best()
            self.stopped |= self._epochs_since_best() >= self.settings.early_stopping

    def _tell(self, method: Callable[..., bool | None], record: EpochRecord | StepRecord) -> None:
        for callback in self.callbacks:
            self._asked_to_stop |= getattr(callback, method.__name__)(record) is True

    def keep_as_best(self) -> None:
        """Remembers the weights as those of the best epoch."""
        trained = (p for p in self.model.parameters() if p.requires_grad)
        self._best_weights = {p: local_tensor(p.detach()).to("cpu", copy=True) for p in trained}

    def take_as_best(self, weights: Mapping[str, torch.Tensor] | None) -> None:
        """Remembers what the first process gives, by the parameters' names, as the weights of the best epoch."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                taken = torch.empty_like(parameter)
                copy_from_first(taken, None if weights is None else weights[name], self.group)
                self._best_weights[parameter] = local_tensor(taken).cpu()

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
        """How far training is, as JSON can hold it; :func:`optimizer_tensors` is the rest."""
        best = self.best
        return {
            "step": self.step,
            "epoch": len(self.history),
            "history": [record.to_dict() for record in self.history],
            "best": best and {"step": best.step, "accuracy": best.validation_accuracy, "loss": best.validation_loss},
            "finished": self.finished,
            "stopped": [self._asked_to_stop, self.stopped],
            "loader": self.loader.state_dict(),
            "epoch_sums": asdict(self._sums),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from where another trainer of the same texts and settings was.

        Raises
        ------
        UsageError
            If that one had others.
        KeyError, TypeError
            If the state is none.
        """
        self.loader.load_state_dict(state["loader"])
        self.step = int(state["step"])
        self._asked_to_stop, self.stopped = map(bool, state["stopped"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self._sums = EpochSums(**state["epoch_sums"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(state["scaler"]))
        restore_schedule(self.scheduler, self.step)

    def _train_epoch(
        self, bar, pause: Callable[[], None] = lambda: None, save_every_steps: int | None = None
    ) -> EpochRecord:
        begun = time.perf_counter()
        sums, seconds_before = self._sums, self._sums.seconds
        if self.cache is not None and not self.cache.filled:
            with self.preemption.at_once():
                self.cache.fill()
        epoch = self.loader.position.epoch

        def pauses(step: int) -> bool:
            return self.preempted or (save_every_steps is not None and step % save_every_steps == 0)

        for queued, alone in self._queued_ahead(pauses):
            step_loss, step_correct = self.result_of(queued)
            self._preempted |= self.group.world_size > 1 and queued.preempted
            ids = queued.ids
            step_tokens = int(self.packer.real_lengths[ids].sum())
            sums.loss += step_loss * queued.total
            sums.total += queued.total
            sums.correct += step_correct
            sums.texts += len(ids)
            sums.tokens += step_tokens
            sums.learning_rate = queued.learning_rate
            sums.seconds = seconds_before + time.perf_counter() - begun
            if self.callbacks:
                accuracy = step_correct / len(ids)
                self._tell(
                    Callback.on_step,
                    StepRecord(
                        queued.step, epoch + 1, step_loss, accuracy, queued.learning_rate, len(ids), step_tokens
                    ),
                )
            rate, loss = sums.tokens / sums.seconds, sums.loss / sums.total
            bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.4f}, {rate:,.0f} tokens/s", refresh=False)
            bar.update()
            if alone and self.preempted:
                self.check_parameters()
                raise PreemptedError("preempted.")
            if alone and pauses(queued.step) and self.loader.position.step < self.loader.count(epoch):
                self.check_parameters()
                paused = time.perf_counter()
                pause()
                begun += time.perf_counter() - paused
        self.check_parameters()
        sums.seconds = seconds_before + time.perf_counter() - begun
        return sums.record(epoch + 1, self.step)

    def _queued_ahead(self, pauses: Callable[[int], bool]) -> Iterator[tuple[QueuedStep, bool]]:
        """The steps that an epoch has left, and whether each is the last that is queued.

        Each is given when the next one is queued, so that a GPU has work while the host reads results; but for those
        after which there may be a pause.
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
        """Example ids of each optimizer step's micro-batches, in an order that (seed, epoch) decides."""
        return self.loader.steps(epoch, first)

    def _bar(self):
        from tqdm import tqdm

        hidden = None if self.settings.progress else True
        return tqdm(total=self.total_steps, initial=self.step, unit="step", disable=hidden, dynamic_ncols=True)


def _score(record: EpochRecord) -> tuple[float, float]:
    assert record.score is not None
    return record.score


def _tell_end(told: Sequence[Callback]) -> list[Exception]:
    """Tells each callback that was told of the beginning, whatever the others do; returns their errors."""
    errors = []
    for callback in told:
        try:
            callback.on_train_end()
        except Exception as error:
            errors.append(error)
    return errors


def _warn_of(errors: Sequence[Exception]) -> None:
    for error in errors:
        warnings.warn(f"a callback failed at the end of the training: {error!r}", RuntimeWarning, stacklevel=3)
