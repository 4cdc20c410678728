"""Successive halving over the folds of a cross-validation, within a time limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data.readers import TextData
from ..errors import PyllmclfError, UsageError
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
LEAST_TRIED = 3
MARGIN, LEAST_MARGIN = 0.04, 1.0
"""Share of the time limit, and seconds, that are left for saving and for what is estimated too low."""


class OutOfTime(BaseException):
    """Ends a training whose candidate has no time left; no ``except Exception`` swallows it."""


@dataclass
class TimeLimit(Callback):
    """Time that a search may take; in a training, ends it when its time is over.

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

    @property
    def left(self) -> float:
        """Seconds left, without the margin."""
        margin = 0.0 if math.isinf(self.seconds) else max(LEAST_MARGIN, MARGIN * self.seconds)
        return self.seconds - margin - (time.perf_counter() - self.started)

    @property
    def used(self) -> float:
        """Share of the time that is over; 0 without a limit."""
        return (time.perf_counter() - self.started) / self.seconds

    def on_step(self, record: StepRecord) -> None:
        """Ends the training after its time."""
        if time.perf_counter() > self.training_ends:
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
    ) -> None:
        self.session, self.progress = replace(session, callbacks=[limit]), session.settings.progress
        self.settings_of, self.data, self.folds = settings_of, data, folds
        self.cross_validates, self.solves = cross_validates, solves
        self.evaluations, self.limit = evaluations, limit
        self.labels = [data.encoder.encode(fold.held_out) for fold in folds]
        self.tried: list[Candidate] = []
        self._rates: list[float] = []  # seconds of an operation, of each training so far
        self._errors: dict[int, PyllmclfError] = {}
        self._rungs = 0  # folds that all candidates left have been evaluated on

    def run(self, candidates: Iterator[Candidate], tell: Callable[[Candidate, float], None] | None = None) -> Candidate:
        """Searches; returns the best candidate.

        Parameters
        ----------
        candidates : iterator of Candidate
        tell : callable, optional
            Called with each candidate and its accuracy on the first fold.

        Raises
        ------
        UsageError, DataError, ModelError, ResourceError, NonFiniteError
            Of the first candidate, if none can be trained.
        """
        left = []
        for candidate in candidates:
            self.tried.append(candidate)
            in_time = self._evaluate(candidate, 0)
            if self._has(candidate, 1):
                left.append(candidate)
                if tell is not None:
                    tell(candidate, self.score(candidate, 1)[0])
            elif not in_time and self.limit.left <= self._refit_seconds(left):
                break
            if len(self.folds) > 1 and len(left) >= LEAST_TRIED and self.limit.used >= FIRST_FOLD:
                break
        if not left:
            raise self._first_failure()
        self._rungs = 1
        for fold in range(1, len(self.folds)):
            left = self._best(left, fold)[: max(1, math.ceil(KEPT * len(left)))]
            done = [
                candidate for candidate in left if self._evaluate(candidate, fold) and self._has(candidate, fold + 1)
            ]
            if len(done) < len(left):
                break
            self._rungs = fold + 1
        return self._best(left, self._rungs)[0]

    def score(self, candidate: Candidate, folds: int | None = None) -> tuple[float, float]:
        """Accuracy, and the negative log loss, on the first folds; by default on all that it was evaluated on."""
        numbers = [n for n in range(len(self.folds)) if (candidate.number, n) in self.evaluations.found][:folds]
        logits = np.concatenate([self.evaluations.found[candidate.number, n].logits for n in numbers])
        labels = np.concatenate([self.labels[n] for n in numbers])
        if labels.ndim == 2:
            return float(((logits >= 0) == labels).all(axis=1).mean()), -binary_cross_entropy(logits, labels)
        return float((logits.argmax(axis=1) == labels).mean()), -cross_entropy(logits, labels)

    def spread(self, candidate: Candidate) -> tuple[int, float | None, float]:
        """Number of folds, standard deviation of their accuracies (of the sample), and seconds of a candidate."""
        accuracies, seconds = [], 0.0
        for number, labels in enumerate(self.labels):
            if (found := self.evaluations.found.get((candidate.number, number))) is not None:
                right = (found.logits >= 0) == labels if labels.ndim == 2 else found.logits.argmax(axis=1) == labels
                accuracies.append(float(right.all(axis=1).mean() if labels.ndim == 2 else right.mean()))
                seconds += found.seconds
        return len(accuracies), float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None, seconds

    def _has(self, candidate: Candidate, folds: int) -> bool:
        return all((candidate.number, fold) in self.evaluations.found for fold in range(folds))

    def _best(self, candidates: Sequence[Candidate], folds: int) -> list[Candidate]:
        """Candidates from the best to the worst; those without time for their last training come last."""
        left = self.limit.left

        def key(candidate: Candidate) -> tuple[bool, float, float]:
            return (self._refit_seconds([candidate]) <= left, *self.score(candidate, folds))

        return sorted(candidates, key=key, reverse=True)

    def _refit_seconds(self, candidates: Sequence[Candidate]) -> float:
        """Estimated seconds of the least of the candidates' trainings on all texts; 0 without a candidate."""
        seconds = []
        for candidate in candidates:
            if (found := self.evaluations.found.get((candidate.number, 0))) is not None:
                factor = len(self.folds) if self._at_once(self.settings_of(candidate)) else self._larger
                seconds.append(factor * found.seconds)
        return min(seconds, default=0.0)

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
        if (number, fold) in self.evaluations.found or number in self.evaluations.failed:
            return True
        started = time.perf_counter()
        settings = self.settings_of(candidate)
        at_once = self._at_once(settings)
        try:
            if at_once:
                self._cross_validate_head(candidate, settings, started)
            else:
                logits = self._train(candidate, settings, self.folds[fold])
                self.evaluations.add(number, fold, Evaluation(logits, time.perf_counter() - started))
        except OutOfTime:
            return False
        except PyllmclfError as error:
            if error.exit_code == 75:  # a signal
                raise
            self._errors[number] = error
            self.evaluations.fail(number, str(error))
            say(f"candidate {candidate}: {error}", self.progress)
            return True
        accuracy, loss = self.score(candidate, None if at_once else fold + 1)
        folds = len(self.folds) if at_once else fold + 1
        say(
            f"candidate {number} ({candidate}): accuracy {accuracy:.2%}, log loss {-loss:.4f} "
            f"on {folds} of {len(self.folds)} folds, {time.perf_counter() - started:.1f} s",
            self.progress,
        )
        return True

    def _prepare(self, settings: Settings, rest: TextData, held_out: TextData | None) -> Run:
        texts = {"train": rest} if held_out is None else {"train": rest, "held_out": held_out}
        return prepare_run(self.session, settings, Data(texts, self.data.encoder), {}, saves=False)

    def _train(self, candidate: Candidate, settings: Settings, fold: Fold) -> np.ndarray:
        run = self._prepare(settings, fold.rest, fold.held_out)
        operations = _operations(run)
        # What is left after the best one's training on all texts, and after this one's, if it is the best.
        done = self._best([each for each in self.tried if self._has(each, 1)], 1)
        left = self.limit.left - self._refit_seconds(done[:1])
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

    def _cross_validate_head(self, candidate: Candidate, settings: Settings, started: float) -> None:
        """Solves the head of all training texts, whose own folds give logits of every text."""
        run = self._prepare(settings, self.data.texts["train"], None)
        packer = run.packers["train"]
        ids = np.arange(len(packer))
        solution = solve_rows(run.trainer, pooled_rows(run.trainer, packer, ids), ids)
        logits = packer.by_text(solution.out_of_fold.cpu().numpy())
        seconds = (time.perf_counter() - started) / len(self.folds)
        for number, fold in enumerate(self.folds):
            self.evaluations.add(candidate.number, number, Evaluation(logits[fold.rows], seconds))


def _operations(run: Run) -> float:
    settings: ResolvedSettings = run.settings
    tokens, config = int(run.trainer.packer.real_lengths.sum()), run.state.model.config
    return training_operations(config, trained_blocks(settings.trainable, config.n_layers), tokens, settings.epochs)
