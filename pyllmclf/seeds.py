"""The same training with several seeds: how much of a figure is chance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .api import FinetuneResult, finetune
from .checks import plain
from .errors import UsageError
from .settings import check_argument

FIGURES = ("accuracy", "macro_f1", "log_loss")


@dataclass(frozen=True)
class SeedsResult:
    """What :func:`finetune_seeds` gave.

    Attributes
    ----------
    seeds : list of int
    results : list of FinetuneResult
        One for each seed.
    summary : dict
        By part (``"validation"``, ``"test"``) and figure: mean, standard deviation (of the sample), least and largest.
    """

    seeds: list[int]
    results: list[FinetuneResult]
    summary: dict[str, dict[str, dict[str, float]]]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the classifiers, as JSON can hold it."""
        return {
            "seeds": self.seeds,
            "summary": self.summary,
            "runs": [result.to_dict() for result in self.results],
        }


def finetune_seeds(
    model: str | os.PathLike[str] = "gpt2",
    train: Any = None,
    *,
    seeds: int | Sequence[int] = 3,
    seed: int = 123,
    output_dir: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> SeedsResult:
    """:func:`pyllmclf.finetune` once for each of several seeds.

    Parameters
    ----------
    model, train
        As for :func:`pyllmclf.finetune`.
    seeds : int or sequence of int
        The seeds, or how many: ``seed``, ``seed + 1``, ...
    seed : int
    output_dir : path, optional
        Receives a folder ``seed-N`` for each seed.
    **arguments
        As for :func:`pyllmclf.finetune`.

    Returns
    -------
    SeedsResult

    Raises
    ------
    UsageError
        If there is no seed, or one is there twice; and what :func:`pyllmclf.finetune` raises.
    """
    seeds, seed = plain(seeds), plain(seed)
    if isinstance(seeds, np.ndarray):
        seeds = seeds.tolist()
    if isinstance(seeds, bool) or not isinstance(seeds, (int, Sequence)) or isinstance(seeds, str):
        raise UsageError(f"seeds={seeds!r} must be a number of seeds, or the seeds.")
    chosen = [seed + i for i in range(seeds)] if isinstance(seeds, int) else [plain(one) for one in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"seeds={seeds!r} must name at least one seed, and none twice.")
    for one in chosen:
        check_argument("seed", one)  # all before the first training
    # Each seed's training reads them: what can be read once is made a list.
    train, arguments = _kept(train), {name: _kept(value) for name, value in arguments.items()}
    results = [
        finetune(
            model,
            train,
            seed=one,
            output_dir=None if output_dir is None else Path(output_dir) / f"seed-{one}",
            **arguments,
        )
        for one in chosen
    ]
    return SeedsResult(chosen, results, _summary(results))


def _kept(data: Any) -> Any:
    """Texts and labels that are iterators, as lists."""
    if not isinstance(data, tuple):
        return data
    return tuple(list(part) if isinstance(part, Iterator) else part for part in data)


def _summary(results: Sequence[FinetuneResult]) -> dict[str, dict[str, dict[str, float]]]:
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for part in results[0].metrics:
        summary[part] = {}
        for figure in FIGURES:
            values = np.array([result.metrics[part][figure] for result in results])
            summary[part][figure] = {
                "mean": float(values.mean()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
                "min": float(values.min()),
                "max": float(values.max()),
            }
    return summary
