"""Successive halving over the folds of a cross-validation, within a time limit."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..data.readers import TextData
from ..errors import NonFiniteError, PreemptedError, PyllmclfError, ResourceError, UsageError
from ..evaluation.metrics import cross_entropy
from ..evaluation.multi_label import binary_cross_entropy
from ..progress import say
from ..settings import Settings
from ..training.callbacks import Callback, StepRecord
from ..training.prepare import prepare_run
from ..training.recipes import ResolvedSettings, training_operations
from ..training.run import Run
from ..training.session import Session
from ..training.solve import pooled_rows, solve_rows
from ..training.texts import Data
from ..training.trainable import trained_blocks
from .candidates import Candidate
from .evaluations import Evaluation, Evaluations

KEPT = 0.5
"""Share of the candidates that goes on to the next fold."""
FIRST_FOLD = 0.4
"""Share of the time limit after which no further candidate is tried: a comparison on one fold alone says little."""
LEAST_TRIED, MOST_FAILURES = 3, 10
"""Candidates that are tried all the same; and those in a row that can't be trained, after which no other is tried."""
PROJECTED_AFTER, CERTAIN = 5, 0.9
"""Steps after which a training's time is projected, and the share of the projection that it takes at least."""
TELLING = 2.0
"""Seconds above which a pass says more than what happens once, such as reading a file."""
MARGIN, LEAST_MARGIN = 0.04, 1.0
"""Share of the time limit, and seconds, that are left for saving and for what is estimated too low."""
Tell = Callable[[Candidate, "float | None"], None]


class OutOfTime(BaseException):
    """Ends a training whose candidate has no time left; no ``except Exception`` swallows it."""


@dataclass
class TimeLimit(Callback):
    """Time that a search may take; in a training, ends it when its time is over, or will be before its last step.

    Attributes
    ----------
    seconds : float
        Infinity without a limit.
    started : float
        By ``time.perf_counter``.
    training_ends : float
        When the training at hand must be over, by the same clock.
    """

    seconds: float
    started: float
    training_ends: float = math.inf
    _steps: int = 0
    _first_step: float = 0.0

    @property
    def left(self) -> float:
        """Seconds left, without the margin."""
        margin = 0.0 if math.isinf(self.seconds) else max(LEAST_MARGIN, MARGIN * self.seconds)
        return self.seconds - margin - (time.perf_counter() - self.started)

    @property
    def used(self) -> float:
        """Share of the time that is over; 0 without a limit."""
        return (time.perf_counter() - self.started) / self.seconds

    def on_train_begin(self, total_steps: int) -> None:
        """Takes the number of steps."""
        self._steps, self._first_step = total_steps, math.inf

    def on_step(self, record: StepRecord) -> None:
        """Ends the training after its time, or where the steps so far say that the others will exceed it."""
        now, done = time.perf_counter(), record.step - 1
        self._first_step = min(self._first_step, now)  # frozen layers may be computed before it
        a_step = (now - self._first_step) / done if done >= PROJECTED_AFTER else 0.0
        if now + CERTAIN * a_step * (self._steps - record.step) > self.training_ends:
            raise OutOfTime


@dataclass(frozen=True)
class Fold:
    """A part of the texts that is held out, and the others.

    Attributes
    ----------
    rest, held_out : TextData
    rows : int64 array
        Numbers of the held-out texts among all training texts, or among the validation texts.
    """

    rest: TextData
    held_out: TextData
    rows: np.ndarray


class Search:
    """Evaluates candidates: all on the first fold, the better half on the next, and so on.

    Parameters
    ----------
    session : Session
    settings_of : callable
        Takes a candidate; returns the settings of its training.
    data : Data
        All training texts, with their classes.
    folds : sequence of Fold
    cross_validates : bool
        Whether the folds are parts of the training texts, which a solved head is cross-validated on at once.
    solves : callable
        Takes settings; returns whether their training solves a head.
    evaluations : Evaluations
    limit : TimeLimit
    balanced : bool
        Whether the mean of the classes' recalls is compared, instead of the accuracy.
    """

    def __init__(
        self,
        session: Session,
        settings_of: Callable[[Candidate], Settings],
        data: Data,
        folds: Sequence[Fold],
        *,
        cross_validates: bool,
        solves: Callable[[Settings], bool],
        evaluations: Evaluations,
        limit: TimeLimit,
        balanced: bool,
    ) -> None:
        self.session, self.progress = replace(session, callbacks=[limit]), session.settings.progress
        self.settings_of, self.data, self.folds = settings_of, data, folds
        self.cross_validates, self.solves = cross_validates, solves
        self.evaluations, self.limit, self.balanced = evaluations, limit, balanced
        self.labels = [data.encoder.encode(fold.held_out) for fold in folds]
        self.tried: list[Candidate] = []
        self._rates: list[float] = []  # seconds of an operation, of each training so far
        self._errors: dict[int, PyllmclfError] = {}

    def run(self, candidates: Iterator[Candidate], tell: Tell | None = None) -> Candidate:
        """Searches; returns the best candidate.

        Parameters
        ----------
        candidates : iterator of Candidate
        tell : callable, optional
            Called with each candidate and its accuracy on the first fold; ``None`` where it has none.

        Raises
        ------
        UsageError, DataError, ModelError, ResourceError, NonFiniteError
            Of the first candidate, if none can be trained.
        """
        left: list[Candidate] = []
        failures = 0
        for candidate in candidates:
            if left and self.limit.left <= self._refit_seconds(self._best(left, 1)[0]):
                break
            self.tried.append(candidate)
            in_time = self._evaluate(candidate, 0)
            if self._has(candidate, 1):
                left.append(candidate)
            if tell is not None:
                tell(candidate, self.score(candidate, 1)[0] if self._has(candidate, 1) else None)
            failures = 0 if self._has(candidate, 1) else failures + 1
            if failures == MOST_FAILURES or not (in_time or left or self.limit.left > 0):
                break
            if len(self.folds) > 1 and len(left) >= LEAST_TRIED and self.limit.used >= FIRST_FOLD:
                break
        if not left:
            raise self._first_failure()
        done = 1  # folds that all of them are evaluated on
        for fold in range(1, len(self.folds)):
            kept = max(1, math.ceil(KEPT * len(left)))
            in_time, on = True, []
            for candidate in self._best(left, fold):  # one that fails makes room for the next
                in_time = self._evaluate(candidate, fold)
                if not in_time:
                    break
                on += [candidate] if self._has(candidate, fold + 1) else []
                if len(on) == kept:
                    break
            left = [candidate for candidate in left if candidate.number not in self.evaluations.failed]
            if not left:
                raise self._first_failure()
            if not in_time:
                break
            left, done = on, fold + 1
        return self._best(left, done)[0]

    def score(self, candidate: Candidate, folds: int | None = None) -> tuple[float, float]:
        """Accuracy, and the negative log loss, on the first folds; by default on all that it was evaluated on."""
        numbers = [n for n in range(len(self.folds)) if (candidate.number, n) in self.evaluations.found][:folds]
        logits = np.concatenate([self.evaluations.found[candidate.number, n].logits for n in numbers])
        labels = np.concatenate([self.labels[n] for n in numbers])
        loss = binary_cross_entropy(logits, labels) if labels.ndim == 2 else cross_entropy(logits, labels)
        return self._accuracy(logits, labels), -loss

    def _accuracy(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy; with class weights the mean of the classes' recalls, which weigh all classes alike."""
        if labels.ndim == 2:
            return float(((logits >= 0) == labels).all(axis=1).mean())
        right = logits.argmax(axis=1) == labels
        if not self.balanced:
            return float(right.mean())
        return float(np.mean([right[labels == each].mean() for each in np.unique(labels)]))

    def spread(self, candidate: Candidate) -> tuple[int, float | None, float]:
        """Number of folds, standard deviation of their accuracies (of the sample), and seconds of a candidate."""
        accuracies, seconds = [], 0.0
        for number, labels in enumerate(self.labels):
            if (found := self.evaluations.found.get((candidate.number, number))) is not None:
                accuracies.append(self._accuracy(found.logits, labels))
                seconds += found.seconds
        return len(accuracies), float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None, seconds

    def _has(self, candidate: Candidate, folds: int) -> bool:
        return all((candidate.number, fold) in self.evaluations.found for fold in range(folds))

    def _best(self, candidates: Sequence[Candidate], folds: int) -> list[Candidate]:
        """Candidates from the best to the worst; last those without time for their last training, by that time."""
        left = self.limit.left

        def key(candidate: Candidate) -> tuple[bool, float, float]:
            seconds = self._refit_seconds(candidate)
            if seconds <= left:
                accuracy, loss = self.score(candidate, folds)
                return False, -accuracy, -loss
            return True, seconds, 0.0

        return sorted(candidates, key=key)

    def _refit_seconds(self, candidate: Candidate) -> float:
        """Estimated seconds of the training of an evaluated candidate on all texts."""
        factor = len(self.folds) if self._at_once(self.settings_of(candidate)) else self._larger
        return factor * self.evaluations.found[candidate.number, 0].seconds

    @property
    def _larger(self) -> float:
        """Training texts of the last training, for each one of a fold."""
        return len(self.data.texts["train"]) / len(self.folds[0].rest)

    def _at_once(self, settings: Settings) -> bool:
        """Whether one training gives the logits of all folds: the solved head cross-validates itself."""
        return self.cross_validates and self.solves(settings)

    def _first_failure(self) -> PyllmclfError:
        if self.evaluations.failed:
            number, reason = min(self.evaluations.failed.items())
            return self._errors.get(number) or UsageError(reason)
        return UsageError("time_limit is too short to train a single candidate.")

    def _evaluate(self, candidate: Candidate, fold: int) -> bool:
        """Evaluates a candidate on a fold, unless that is done; returns whether there was time for it."""
        number = candidate.number
        if fold == 0:
            self.evaluations.check(number, str(candidate), [len(labels) for labels in self.labels])
        if (number, fold) in self.evaluations.found or number in self.evaluations.failed:
            return True
        if self.limit.left <= 0:
            return False
        started = time.perf_counter()
        try:
            settings = self.settings_of(candidate)
            at_once = self._at_once(settings)
            logits = self._head_logits(settings) if at_once else [self._train(settings, self.folds[fold])]
        except OutOfTime:
            return False
        except (PyllmclfError, MemoryError, torch.OutOfMemoryError) as error:
            if isinstance(error, PreemptedError):
                raise
            self._fail(candidate, error)
            return True
        finally:
            gc.collect()  # a failed training's error has held its model
        seconds = (time.perf_counter() - started) / len(logits)
        for n, each in enumerate(logits, 0 if at_once else fold):
            self.evaluations.add(number, n, Evaluation(each, seconds, str(candidate)))
        accuracy, loss = self.score(candidate, None if at_once else fold + 1)
        folds = len(self.folds) if at_once else fold + 1
        say(
            f"candidate {number} ({candidate}): accuracy {accuracy:.2%}, log loss {-loss:.4f} "
            f"on {folds} of {len(self.folds)} folds, {time.perf_counter() - started:.1f} s",
            self.progress,
        )
        return True

    def _fail(self, candidate: Candidate, error: Exception) -> None:
        if not isinstance(error, PyllmclfError):
            error = ResourceError(f"memory doesn't suffice ({error}).")
        self._errors[candidate.number] = error.with_traceback(None)
        lasting = isinstance(error, (UsageError, NonFiniteError))
        self.evaluations.fail(candidate.number, str(error), lasting=lasting)
        say(f"candidate {candidate}: {error}", self.progress)

    def _prepare(self, settings: Settings, rest: TextData, held_out: TextData | None) -> Run:
        texts = {"train": rest} if held_out is None else {"train": rest, "held_out": held_out}
        data, all_texts = Data(texts, self.data.encoder), self.data.texts["train"]
        return prepare_run(self.session, settings, data, {}, all_texts=all_texts, saves=False)

    def _train(self, settings: Settings, fold: Fold) -> np.ndarray:
        run = self._prepare(settings, fold.rest, fold.held_out)
        operations = _operations(run)
        # What is left after the best one's training on all texts, and after this one's, if it is the best.
        done = self._best([each for each in self.tried if self._has(each, 1)], 1)
        left = self.limit.left - (self._refit_seconds(done[0]) if done else 0.0)
        if not done:
            left /= 1.0 + self._larger
        expected = operations * float(np.median(self._rates)) if self._rates else 0.0
        if left <= 0 or expected > left or (1.0 + self._larger) * expected > self.limit.left:
            raise OutOfTime
        self.limit.training_ends = time.perf_counter() + left
        started = time.perf_counter()
        run.fit()
        if operations and not run.settings.solved:
            self._rates.append((time.perf_counter() - started) / operations)
        lookup = None if run.trainer.cache is None else run.trainer.cache.lookup
        return run.classifier.packed_logits(run.packers["held_out"], lookup=lookup, group=self.session.group)

    def _head_logits(self, settings: Settings) -> list[np.ndarray]:
        """Logits of each fold's texts by the heads that are solved without them, on rows that are computed once."""
        run = self._prepare(settings, self.data.texts["train"], None)
        packer = run.packers["train"]
        ids, fold_of = np.arange(len(packer)), np.empty(len(self.data.texts["train"]), dtype=np.int64)
        for number, fold in enumerate(self.folds):
            fold_of[fold.rows] = number
        if packer.window_bounds is not None:
            fold_of = np.repeat(fold_of, np.diff(packer.window_bounds))
        started = time.perf_counter()
        rows = pooled_rows(run.trainer, packer, ids)
        seconds = time.perf_counter() - started
        if not self._rates and seconds > TELLING and run.trainer.device.type == "cpu":
            # A pass of the frozen model says how fast its steps are, before the first one.
            self._rates.append(seconds / _operations(run))
        solution = solve_rows(run.trainer, rows, ids, fold_of)
        logits = packer.by_text(solution.out_of_fold.cpu().numpy())
        return [logits[fold.rows] for fold in self.folds]


def _operations(run: Run) -> float:
    settings: ResolvedSettings = run.settings
    tokens, config = int(run.trainer.packer.real_lengths.sum()), run.state.model.config
    return training_operations(config, trained_blocks(settings.trainable, config.n_layers), tokens, settings.epochs)
