"""Solves the head of a prepared training, in the place of its optimizer steps."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifier.inference import read_rows
from ..data.packing import Packer
from ..progress import say
from .objective import MultiLabelObjective, Objective
from .records import EpochRecord, not_finite, per_second
from .solved_head import CONTRASTED_PENALTY, SolvedHead, solve_head
from .steps import StepTrainer


def pooled_rows(trainer: StepTrainer, packer: Packer, texts: np.ndarray) -> Tensor:
    """What the head reads of each text: fp32, shape [texts, width], on the trainer's device.

    Parameters
    ----------
    trainer : StepTrainer
    packer : Packer
    texts : int64 array, shape [texts]
        Their numbers, in order; a text in windows has a number for each.
    """
    lookup = None if trainer.cache is None else trainer.cache.lookup
    return read_rows(trainer.model, packer, trainer.compute, texts, lookup)


@torch.no_grad()
def solve_rows(trainer: StepTrainer, rows: Tensor, texts: np.ndarray, fold_of: np.ndarray | None = None) -> SolvedHead:
    """Solves a head on rows of training texts, with their weights and those of their classes.

    It starts from the model's head; behind contrastive steps from zeros, with a fixed penalty.

    Parameters
    ----------
    trainer : StepTrainer
    rows : fp32 tensor, shape [texts, width]
    texts : int64 array, shape [texts]
        Numbers of the training texts.
    fold_of : int64 array, shape [texts], optional
        As for :func:`.solved_head.solve_head`.

    Raises
    ------
    NonFiniteError
        If a row is not finite.
    """
    broken = (~torch.isfinite(rows).all(dim=1)).nonzero()[:, 0]
    if len(broken):
        whose = "what the head reads" if trainer.contrasts else "the frozen model's output"
        raise not_finite(trainer.step, f"{whose} is not finite", texts[broken.cpu().numpy()])
    packer, head, objective = trainer.packer, trainer.model.head, trainer.objective
    assert packer.labels is not None
    weights = trainer.text_weights
    return solve_head(
        rows,
        packer.labels[torch.from_numpy(texts)].to(rows.device),
        head.weight.shape[0],
        bias=head.bias is not None,
        row_weights=None if weights is None else torch.from_numpy(weights[texts]).to(rows.device),
        positive_weight=objective.positive_weight if isinstance(objective, MultiLabelObjective) else None,
        groups=_groups(packer)[texts],
        fold_of=fold_of,
        start=None if trainer.contrasts else (head.weight, head.bias),
        penalty=CONTRASTED_PENALTY if trainer.contrasts else None,
        seed=trainer.settings.seed,
    )


@torch.no_grad()
def solve_epoch(trainer: StepTrainer) -> EpochRecord:
    """Solves the head of a trainer's model, in the place of an epoch of optimizer steps; returns its record.

    Raises
    ------
    NonFiniteError
        If the frozen model gives a row that is not finite.
    ResourceError
        If memory does not suffice, or another process is lost.
    """
    started = time.perf_counter()
    packer, head = trainer.packer, trainer.model.head
    rows, solution = solve_trained(trainer)
    assert packer.labels is not None
    logits = F.linear(rows, head.weight, head.bias)
    seconds, tokens = time.perf_counter() - started, int(packer.real_lengths.sum())
    correct = int(trainer.objective.correct(logits, packer.labels.to(rows.device)))
    trainer.step = 1
    return EpochRecord(1, 1, solution.loss, correct / len(rows), None, None, 0.0, seconds, per_second(tokens, seconds))


@torch.no_grad()
def solve_contrasted(trainer: StepTrainer) -> float:
    """Solves the head behind contrastive steps; returns its accuracy on the training texts.

    Raises
    ------
    NonFiniteError, ResourceError
        As :func:`solve_epoch`.
    """
    rows, _ = solve_trained(trainer)
    head, labels = trainer.model.head, trainer.packer.labels
    assert labels is not None
    correct = Objective().correct(F.linear(rows, head.weight, head.bias), labels.to(rows.device))
    return int(correct) / len(rows)


@torch.no_grad()
def solve_trained(trainer: StepTrainer) -> tuple[Tensor, SolvedHead]:
    """Solves the head on the training texts by the other layers as they are, and gives it to the model.

    Returns
    -------
    rows : fp32 tensor, shape [texts, width]
        What the head reads of each text.
    solution : SolvedHead

    Raises
    ------
    NonFiniteError, ResourceError
        As :func:`solve_epoch`.
    """
    started = time.perf_counter()
    texts, head = np.arange(len(trainer.packer)), trainer.model.head
    rows = pooled_rows(trainer, trainer.packer, texts)
    read = time.perf_counter()
    solution = solve_rows(trainer, rows, texts)
    head.weight.copy_(trainer.group.broadcast(solution.weight))
    if head.bias is not None and solution.bias is not None:
        head.bias.copy_(trainer.group.broadcast(solution.bias))
    say(
        f"head solved in {time.perf_counter() - read:.1f} s, after {read - started:.1f} s for the layers below; L2 "
        f"penalty {solution.penalty:g}{'' if trainer.contrasts else ', by cross-validation'}",
        trainer.settings.progress,
    )
    return rows, solution


def _groups(packer: Packer) -> np.ndarray:
    """Rows that no fold may separate: equal texts, or the windows of a text; int64, shape [rows]."""
    if packer.window_bounds is not None:
        return np.repeat(np.arange(len(packer.window_bounds) - 1), np.diff(packer.window_bounds))
    return packer.store.first_equal_texts(packer.layout.max_length)
