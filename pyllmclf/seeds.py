"""Repeats a training with several seeds, and summarises the spread of its metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .api import FinetuneResult, finetune
from .checks import plain
from .errors import UsageError
from .printable import shown
from .settings import check_argument
from .tables import Line, Part, Shown, Table

if TYPE_CHECKING:
    import pandas as pd

MOST_SEEDS = 10_000
METRICS = ("accuracy", "macro_f1", "log_loss")


@dataclass(frozen=True, repr=False)
class SeedsResult(Shown):
    """Result of :func:`finetune_seeds`.

    Attributes
    ----------
    seeds : list of int
    results : list of FinetuneResult
        One per seed.
    summary : dict
        By split (``"validation"``, ``"test"``) and metric: ``"mean"``, ``"std"`` (of the sample; 0 for one seed),
        ``"min"`` and ``"max"``.
    """

    seeds: list[int]
    results: list[FinetuneResult]
    summary: dict[str, dict[str, dict[str, float]]]

    def to_dict(self) -> dict[str, Any]:
        """All but the classifiers, as types that JSON has."""
        return {
            "seeds": self.seeds,
            "summary": self.summary,
            "runs": [result.to_dict() for result in self.results],
        }

    def to_frame(self) -> pd.DataFrame:
        """Mean and spread by split and metric, as a DataFrame of pandas."""
        import pandas as pd

        rows = {
            (split, metric): values for split, metrics in self.summary.items() for metric, values in metrics.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["split", "metric"])

    def brief(self) -> dict[str, Any]:
        """The seeds, and mean and spread of the accuracy of each split."""
        spread = {
            f"{split}_accuracy": f"{metrics['accuracy']['mean']:.4f} ± {metrics['accuracy']['std']:.4f}"
            for split, metrics in self.summary.items()
        }
        return {"seeds": self.seeds} | spread

    def parts(self) -> list[Part]:
        """Mean and spread over the seeds, a row per metric."""
        rows = [
            (split, metric, *(f"{values[name]:.4f}" for name in ("mean", "std", "min", "max")))
            for split, metrics in self.summary.items()
            for metric, values in metrics.items()
        ]
        header = ("split", "metric", "mean", "std", "least", "largest")
        return [Line(f"{len(self.seeds)} seeds: {', '.join(map(str, self.seeds))}"), Table(header, rows, left=2)]


def finetune_seeds(
    model: str | os.PathLike[str] = "gpt2",
    train: Any = None,
    *,
    seeds: int | Sequence[int] = 3,
    seed: int = 123,
    output_dir: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> SeedsResult:
    """Runs :func:`pyllmclf.finetune` once per seed.

    Parameters
    ----------
    model, train
        As for :func:`pyllmclf.finetune`.
    seeds : int or sequence of int
        The seeds, or their number: ``seed``, ``seed + 1``, ...
    seed : int
        First seed, where ``seeds`` is a number.
    output_dir : path, optional
        Each seed's run has the folder ``seed-N`` in it.
    **arguments
        As for :func:`pyllmclf.finetune`.

    Returns
    -------
    SeedsResult

    Raises
    ------
    UsageError
        If ``seeds`` is empty or names a seed twice.
    UsageError, DataError, ModelError, ResourceError, NonFiniteError, PreemptedError
        As :func:`pyllmclf.finetune`.
    """
    seeds, seed = plain(seeds), plain(seed)
    if isinstance(seeds, np.ndarray):
        seeds = seeds.tolist()
    if isinstance(seeds, bool) or not isinstance(seeds, (int, Sequence)) or isinstance(seeds, str):
        raise UsageError(f"seeds={seeds!r} must be a number of seeds, or the seeds.")
    if isinstance(seeds, int) and seeds > MOST_SEEDS:
        raise UsageError(f"seeds={shown(seeds)} must be at most {MOST_SEEDS:,}.")
    check_argument("seed", seed)
    chosen = [seed + i for i in range(seeds)] if isinstance(seeds, int) else [plain(each) for each in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"seeds={seeds!r} must name at least one seed, and none twice.")
    for each in chosen:
        check_argument("seed", each)  # all before the first training
    train, arguments = _reusable(train), {name: _reusable(value) for name, value in arguments.items()}
    results = [
        finetune(
            model,
            train,
            seed=each,
            output_dir=None if output_dir is None else Path(output_dir) / f"seed-{each}",
            **arguments,
        )
        for each in chosen
    ]
    return SeedsResult(chosen, results, _summary(results))


def _reusable(data: Any) -> Any:
    """Turns iterators, and those in ``(texts, labels)``, into what each seed's training can read again."""
    if hasattr(data, "read_all"):  # pyarrow's RecordBatchReader
        return data.read_all()
    if isinstance(data, Iterator):
        return list(data)
    if not isinstance(data, tuple):
        return data
    return tuple(list(column) if isinstance(column, Iterator) else column for column in data)


def _summary(results: Sequence[FinetuneResult]) -> dict[str, dict[str, dict[str, float]]]:
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for split in results[0].metrics:
        summary[split] = {}
        for metric in METRICS:
            values = np.array([result.metrics[split][metric] for result in results])
            summary[split][metric] = {
                "mean": float(values.mean()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
                "min": float(values.min()),
                "max": float(values.max()),
            }
    return summary
