"""What a training leaves in its classifier of texts that it was not trained on, and of the training texts' rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..classifier.held_out import (
    BEFORE_REFIT,
    MOST_REFERENCE,
    MOST_ROWS,
    MOST_STATISTICS,
    THIS,
    TRAINING,
    HeldOut,
    TrainingRows,
    Whose,
    sample,
)
from ..classifier.state import ClassifierState
from ..data.packing import Packer
from ..evaluation.unlike import RowStatistics, left_out_distances
from .solve import pooled_rows
from .steps import StepTrainer

MOST_ROWS_OF_AN_EPOCH = 1_000
"""Training texts that are read in each epoch which may be the best, where early stopping chooses among them; and where
no layers are frozen, so that reading them costs a third of training on them."""


def measure_rows(
    trainer: StepTrainer, validation: Packer | None, held_out: HeldOut | None, most: int = MOST_ROWS
) -> TrainingRows | None:
    """Statistics of what the head reads of the training texts, with distances of held-out texts to compare with.

    Parameters
    ----------
    trainer : StepTrainer
    validation : Packer or None
        Texts that the classifier is not trained on.
    held_out : HeldOut or None
        Without validation texts: what an earlier classifier has measured.
    most : int
        Most training texts, drawn at random.

    Returns
    -------
    TrainingRows or None
        ``None`` where they would be too large, or a row is not finite.
    """
    packer, seed = trainer.packer, trainer.settings.seed
    head = trainer.model.head
    if RowStatistics.nbytes(head.weight.shape[1], head.weight.shape[0]) > MOST_STATISTICS:
        return None
    assert packer.labels is not None
    if trainer.cache is None:
        most = min(most, MOST_ROWS_OF_AN_EPOCH)
    ids = sample(len(packer), most, seed)
    rows, labels = pooled_rows(trainer, packer, ids).cpu().numpy(), packer.labels.numpy()[ids]
    try:
        statistics = RowStatistics.fit(rows, labels)
    except ValueError:
        return None
    whose: Whose
    if validation is not None:
        reference, whose = _distances(trainer, validation, statistics, seed), THIS
    elif held_out is not None and held_out.distances is not None:
        reference, whose = held_out.distances, held_out.classifier
    else:
        some = sample(len(rows), MOST_REFERENCE, seed)
        reference, whose = left_out_distances(rows[some], labels[some], seed), TRAINING
    return TrainingRows(statistics, reference.astype(np.float32), whose)


def _distances(trainer: StepTrainer, packer: Packer, statistics: RowStatistics, seed: int) -> np.ndarray:
    """Distances of some texts; that of a text in windows is the mean of theirs."""
    if packer.window_bounds is None:
        ids = sample(len(packer), MOST_REFERENCE, seed)
        return statistics.distances(pooled_rows(trainer, packer, ids).cpu().numpy())
    texts = sample(len(packer.window_bounds) - 1, MOST_REFERENCE, seed)
    first, counts = packer.window_bounds[texts], np.diff(packer.window_bounds)[texts]
    starts = np.cumsum(counts) - counts
    ids = np.arange(counts.sum()) + np.repeat(first - starts, counts)
    distances = statistics.distances(pooled_rows(trainer, packer, ids).cpu().numpy())
    return np.add.reduceat(distances, starts) / counts


def before_refit(state: ClassifierState) -> HeldOut | None:
    """What the classifier without the held-out texts has measured, for the one that is trained on all texts."""
    if state.held_out is None:
        return None
    distances = None if state.training_rows is None else state.training_rows.reference
    return replace(state.held_out, classifier=BEFORE_REFIT, distances=distances)
