"""The head of a frozen model, solved to its optimum; the strength of its L2 penalty by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifier.calibration import fit_temperature
from .convex import Scale, solve

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""Strengths that cross-validation compares, for features of unit variance and the mean loss of a text."""
FOLDS = 5
WORSE = 2
"""Strengths in a row with a worse held-out loss after which no weaker one is tried."""
FOLD_TOLERANCE = 1e-3
"""Tolerance of the folds' solutions, which are only compared."""
MOST_LOGITS = 50_000_000
"""Logits of the folds that are solved side by side: 200 MB, of which the solver holds a few copies."""
CONTRASTED_PENALTY = 3.0
"""Behind contrastive steps, where held-out texts are no test: the layers below have seen them."""
LEAST_TEMPERATURE = 0.1
"""Few held-out texts may all be classified right, however far their logits are stretched."""


@dataclass(frozen=True)
class SolvedHead:
    """A head at its optimum.

    Attributes
    ----------
    weight : fp32 tensor, shape [classes, width]
        For the raw features.
    bias : fp32 tensor, shape [classes], or None
    penalty : float
        The chosen strength, for features of unit variance.
    temperature : float
        By which the solution's logits are divided: that of the best held-out loss.
    out_of_fold : fp32 tensor, shape [rows, classes]
        Logits of each row by the head of the fold that holds it out, with the chosen penalty and temperature.
    loss : float
        Mean loss of the rows, without the penalty.
    """

    weight: Tensor
    bias: Tensor | None
    penalty: float
    temperature: float
    out_of_fold: Tensor
    loss: float


@dataclass(frozen=True)
class _Tried:
    """A strength of the penalty, with the held-out logits of all rows, and their losses at the best temperature."""

    penalty: float
    logits: Tensor
    temperature: float
    losses: Tensor


def assign_folds(strata: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Draws the fold of each row: classes in equal parts as far as they go, and identical texts in one fold.

    Parameters
    ----------
    strata : int64 array, shape [rows]
        Class of each row, or -1 where it has no single one.
    groups : int64 array, shape [rows]
        Rows with the same number share a fold.
    folds : int
    seed : int

    Returns
    -------
    int64 array, shape [rows]
    """
    firsts, of_group = np.unique(groups, return_inverse=True)
    first_row = np.full(len(firsts), len(groups))
    np.minimum.at(first_row, of_group, np.arange(len(groups)))
    order = np.random.default_rng(seed).permutation(len(firsts))
    # By class, at random within each; then dealt out like cards, so that folds and classes are both of equal size.
    dealt = order[np.argsort(strata[first_row[order]], kind="stable")]
    fold_of = np.empty(len(firsts), dtype=np.int64)
    fold_of[dealt] = np.arange(len(firsts)) % folds
    return fold_of[of_group]


def solve_head(
    features: Tensor,
    targets: Tensor,
    classes: int,
    *,
    bias: bool,
    row_weights: Tensor | None = None,
    positive_weight: Tensor | None = None,
    groups: np.ndarray | None = None,
    fold_of: np.ndarray | None = None,
    start: tuple[Tensor, Tensor | None] | None = None,
    penalty: float | None = None,
    seed: int = 0,
) -> SolvedHead:
    """Solves a linear head on fixed features.

    Parameters
    ----------
    features : fp32 tensor, shape [rows, width]
    targets : tensor
        int64, shape [rows]: the class. fp32 of 0 and 1, shape [rows, classes]: each class on its own.
    classes : int
    bias : bool
        Without one, features are scaled and not shifted.
    row_weights : fp32 tensor, shape [rows], optional
    positive_weight : fp32 tensor, shape [classes], optional
        Weight of the loss of rows that have a class, where each class is on its own.
    groups : int64 array, shape [rows], optional
        Rows with the same number share a fold of the cross-validation; by default each has its own.
    fold_of : int64 array, shape [rows], optional
        The fold of each row, from 0; by default they are drawn.
    start : (tensor, shape [classes, width], tensor, shape [classes], or None), optional
        A head to start from.
    penalty : float, optional
        The strength, for features of unit variance; by default cross-validation chooses it, and the temperature. With
        it the temperature is 1, and ``out_of_fold`` is 0.
    seed : int
        Of the folds.
    """
    scale = Scale.of(features, bias=bias)
    x = scale(features)
    rows, width = x.shape
    weights = torch.ones(rows, device=x.device) if row_weights is None else row_weights.float()
    total = float(weights.sum())
    if targets.dim() == 2:
        weights = weights[:, None].expand(-1, classes) / classes
        if positive_weight is not None:
            weights = weights * (1.0 + targets * (positive_weight - 1.0))
    strata = targets.cpu().numpy() if targets.dim() == 1 else np.full(rows, -1)
    groups = np.arange(rows) if groups is None else groups
    folds = min(FOLDS, len(np.unique(groups))) if fold_of is None else int(fold_of.max()) + 1
    if start is None:
        zeros = torch.zeros(classes, width, device=x.device)
        begun = zeros, torch.zeros(classes, device=x.device) if bias else None
    else:
        begun = scale.unfold(*start)
    chosen = _Tried(
        PENALTIES[0] if penalty is None else penalty,
        torch.zeros(rows, classes, device=x.device),
        1.0,
        x.new_zeros(rows),
    )
    if folds > 1 and penalty is None:
        fold_of = assign_folds(strata, groups, folds, seed) if fold_of is None else fold_of
        of_row = torch.from_numpy(fold_of).to(x.device)
        chosen = _cross_validated(x, targets, weights, of_row, folds, begun)
    strength = torch.tensor([chosen.penalty], device=x.device)
    start_of_one = begun[0][None], None if begun[1] is None else begun[1][None]
    solution, offsets = solve(x, targets, weights[None], strength, start_of_one)
    scaled = solution[0] / chosen.temperature, None if offsets is None else offsets[0] / chosen.temperature
    loss = float((_losses(F.linear(x, *scaled), targets) * weights).sum()) / total
    raw = scale.fold_back(*scaled)
    return SolvedHead(*raw, chosen.penalty, chosen.temperature, chosen.logits / chosen.temperature, loss)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each row, shape [rows], or of each row and class, shape [rows, classes]."""
    if targets.dim() == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _cross_validated(
    x: Tensor, targets: Tensor, weights: Tensor, of_row: Tensor, folds: int, begun: tuple[Tensor, Tensor | None]
) -> _Tried:
    """The chosen strength of the penalty, with each row's held-out logits.

    A strength is judged by the held-out loss at its best temperature: a strong penalty shortens all logits alike, which
    the temperature makes up for. Strengths come from the strongest to the weakest, each of which starts from the one
    before; the folds of a strength are solved together, as far as memory goes.
    """
    held_out = torch.arange(folds, device=x.device)[:, None] == of_row[None, :]
    in_fold = ~held_out if weights.dim() == 1 else ~held_out[:, :, None]
    weight = begun[0].expand(folds, -1, -1).contiguous()
    bias = None if begun[1] is None else begun[1].expand(folds, -1).contiguous()
    together = max(1, MOST_LOGITS // (len(x) * weight.shape[1]))
    tried: list[_Tried] = []
    for penalty in PENALTIES:
        for first in range(0, folds, together):
            some = slice(first, first + together)
            strengths = torch.full((len(weight[some]),), penalty, device=x.device)
            begin = weight[some], None if bias is None else bias[some]
            weight[some], offsets = solve(
                x, targets, weights[None] * in_fold[some], strengths, begin, tolerance=FOLD_TOLERANCE
            )
            if bias is not None and offsets is not None:
                bias[some] = offsets
        logits = torch.empty(len(x), weight.shape[1], device=x.device)
        for fold in range(folds):
            rows = held_out[fold]
            logits[rows] = F.linear(x[rows], weight[fold], None if bias is None else bias[fold])
        temperature = max(fit_temperature(logits.cpu().numpy(), targets.cpu().numpy()), LEAST_TEMPERATURE)
        losses = _losses(logits / temperature, targets) * weights
        tried.append(_Tried(penalty, logits, temperature, losses if losses.dim() == 1 else losses.sum(dim=1)))
        means = [float(each.losses.mean()) for each in tried]
        if len(means) - 1 - int(np.argmin(means)) == WORSE:
            break
    return _strongest_as_good(tried)


def _strongest_as_good(tried: list[_Tried]) -> _Tried:
    """The strongest penalty whose held-out loss is within a standard error of the lowest (Breiman et al. 1984)."""
    best = min(tried, key=lambda each: float(each.losses.mean()))
    for each in tried:
        difference = (each.losses - best.losses).double()
        if float(difference.mean()) <= float(difference.std()) / len(difference) ** 0.5:
            return each
    return best
