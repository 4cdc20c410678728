"""Candidates drawn from a space by optuna, which learns from the accuracies of those before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..random_state import keeps_random_state
from .candidates import Candidate, check_names, values_of


class SpaceSampler:
    """Draws candidates with optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Parameters
    ----------
    space : mapping of str to optuna distribution or sequence
        A sequence is a choice among its values.
    models : sequence of str or path
        A choice, too, if there are several.
    fixed : mapping
        Arguments that the caller gives to all trainings.
    seed : int

    Raises
    ------
    UsageError
        If optuna is not installed, or an argument is unknown or given twice.
    """

    def __init__(self, space: Mapping[str, Any], models: Sequence[Any], fixed: Mapping[str, Any], seed: int) -> None:
        try:
            with keeps_random_state():
                import optuna
        except ImportError as error:
            raise UsageError("candidates from a space need optuna: pip install 'pyllmclf[tune]'.") from error
        check_names(space, fixed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        choices = {"model": list(models)} | dict(space)
        is_distribution = optuna.distributions.BaseDistribution
        choices = {n: v if isinstance(v, is_distribution) else values_of(n, v) for n, v in choices.items()}
        # optuna's choices are plain values; those of other types are chosen by their number.
        self._values = {name: list(value) for name, value in choices.items() if isinstance(value, Sequence)}
        self._distributions = {
            name: optuna.distributions.CategoricalDistribution(range(len(self._values[name])))
            if name in self._values
            else value
            for name, value in choices.items()
        }
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        self._trials: dict[int, Any] = {}
        self._failed = optuna.trial.TrialState.FAIL

    def draw(self, count: int | None) -> Iterator[Candidate]:
        """Yields ``count`` candidates, without end for ``None``."""
        number = 0
        while count is None or number < count:
            number += 1
            trial = self._trials[number] = self._study.ask(self._distributions)
            arguments = {
                name: self._values[name][value] if name in self._values else value
                for name, value in trial.params.items()
            }
            yield Candidate(number, arguments)

    def tell(self, candidate: Candidate, accuracy: float | None) -> None:
        """Takes the accuracy of a candidate; ``None`` where it can't be trained."""
        failed = self._failed if accuracy is None else None
        self._study.tell(self._trials[candidate.number], accuracy, state=failed)
