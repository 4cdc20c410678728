"""Logistic regressions on fixed features, several at once: L-BFGS with an L2 penalty.

All problems share the features, and differ in the weights of the rows (a fold holds some of them out) and in the
strength of the penalty. One product of matrices evaluates all of them: many narrow ones would read the features again
and again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

HISTORY = 10
"""Pairs of steps and gradient differences that L-BFGS remembers (Liu and Nocedal 1989)."""
SUFFICIENT_DECREASE = 1e-4
HALVINGS = 30

# Takes (parameters of some problems, fp32; their numbers); returns (losses, fp64; gradients, fp32).
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Scale:
    """Shift and scale of features, of zero mean and unit variance after both.

    Attributes
    ----------
    shift : fp32 tensor, shape [width], or None
        ``None`` where a head without a bias could not make up for it.
    factor : fp32 tensor, shape [width]
    """

    shift: Tensor | None
    factor: Tensor

    @classmethod
    def of(cls, x: Tensor, *, bias: bool) -> Scale:
        """The scale of features, shape [rows, width]; features that are constant keep theirs."""
        mean = x.mean(dim=0, dtype=torch.float64)
        centre = mean if bias else torch.zeros_like(mean)
        deviation = torch.sqrt((x.double() - centre).square().mean(dim=0))
        tiny = deviation <= 1e-6 * deviation.max().clamp(min=1e-30)
        factor = torch.where(tiny, torch.ones_like(deviation), 1.0 / deviation.clamp(min=1e-300)).float()
        return cls(mean.float() if bias else None, factor)

    def __call__(self, x: Tensor) -> Tensor:
        return (x if self.shift is None else x - self.shift) * self.factor

    def fold_back(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weights of the raw features with the same logits as those of the scaled ones.

        Parameters
        ----------
        weight : tensor, shape [..., classes, width]
        bias : tensor, shape [..., classes], or None
        """
        raw = weight * self.factor
        return raw, bias if bias is None or self.shift is None else bias - raw @ self.shift

    def unfold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The inverse of :meth:`fold_back`."""
        return weight / self.factor, bias if bias is None or self.shift is None else bias + weight @ self.shift


def solve(
    x: Tensor,
    targets: Tensor,
    weights: Tensor,
    penalties: Tensor,
    start: tuple[Tensor, Tensor | None],
    *,
    max_iterations: int = 500,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor | None]:
    """Minimises each problem's mean loss of its rows plus half its penalty times the squared norm of its weights.

    Parameters
    ----------
    x : fp32 tensor, shape [rows, width]
        Of zero mean and unit variance for quick convergence (:class:`Scale`).
    targets : tensor
        int64, shape [rows]: the class, for the cross-entropy of a softmax. fp32 of 0 and 1, shape [rows, classes]: for
        binary cross-entropies.
    weights : fp32 tensor
        Of the losses, not all zero in any problem: shape [problems, rows], and for binary cross-entropies
        [problems, rows, classes].
    penalties : fp32 tensor, shape [problems]
        The bias has none.
    start : (fp32 tensor, shape [problems, classes, width], fp32 tensor, shape [problems, classes], or None)
        Weights, and biases or ``None`` without a bias.
    max_iterations : int
    tolerance : float
        A problem is solved where no element of its gradient is larger, or where its loss no longer decreases in fp32.

    Returns
    -------
    weight : fp32 tensor, shape [problems, classes, width]
    bias : fp32 tensor, shape [problems, classes], or None
    """
    weight, bias = start
    shape = weight.shape
    theta = weight.reshape(shape[0], -1) if bias is None else torch.cat([weight.reshape(shape[0], -1), bias], dim=1)
    objective = _Objective(x, targets, weights, penalties, shape[1], bias=bias is not None)
    theta = minimise(objective, theta, max_iterations=max_iterations, tolerance=tolerance)
    return objective.split(theta)


class _Objective:
    """Losses and gradients of several problems; each counts only while it is still being solved."""

    def __init__(
        self, x: Tensor, targets: Tensor, weights: Tensor, penalties: Tensor, classes: int, *, bias: bool
    ) -> None:
        self.x, self.targets, self.penalties = x, targets, penalties
        self.classes, self.bias = classes, bias
        self.weights = weights / weights.flatten(1).sum(dim=1).reshape(-1, *[1] * (weights.dim() - 1))

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights, shape [problems, classes, width], and biases, shape [problems, classes]."""
        width = self.x.shape[1]
        weight = theta[:, : self.classes * width].reshape(len(theta), self.classes, width)
        return weight, theta[:, self.classes * width :] if self.bias else None

    def __call__(self, theta: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, fp64, shape [problems], and gradients, fp32, of the problems with these numbers."""
        weight, bias = self.split(theta)
        count, rows = len(theta), len(self.x)
        logits = (self.x @ weight.reshape(-1, self.x.shape[1]).t()).reshape(rows, count, self.classes)
        if bias is not None:
            logits = logits + bias
        row_weights = self.weights[problems]
        if self.targets.dim() == 1:
            log_p = F.log_softmax(logits, dim=2)
            at = self.targets[:, None, None].expand(rows, count, 1)
            losses = -(row_weights.t() * log_p.gather(2, at)[:, :, 0]).sum(dim=0, dtype=torch.float64)
            residual = log_p.exp_()
            residual.scatter_add_(2, at, torch.full_like(at, -1.0, dtype=residual.dtype))
            residual *= row_weights.t()[:, :, None]
        else:
            of_row = row_weights.transpose(0, 1)
            targets = self.targets[:, None, :].expand_as(logits)
            each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            losses = (of_row * each).sum(dim=(0, 2), dtype=torch.float64)
            residual = of_row * (torch.sigmoid(logits) - targets)
        gradient = (residual.reshape(rows, -1).t() @ self.x).reshape(weight.shape)
        penalties = self.penalties[problems]
        losses = losses + 0.5 * penalties.double() * weight.double().square().sum(dim=(1, 2))
        gradient = (gradient + penalties[:, None, None] * weight).reshape(count, -1)
        return losses, gradient if bias is None else torch.cat([gradient, residual.sum(dim=0)], dim=1)


def minimise(
    objective: Evaluate,
    theta: Tensor,
    *,
    max_iterations: int,
    tolerance: float,
) -> Tensor:
    """L-BFGS of several convex problems side by side, each with its own history and step lengths.

    Parameters
    ----------
    objective : Evaluate
    theta : fp32 tensor, shape [problems, parameters]
    max_iterations : int
    tolerance : float
        See :func:`solve`.

    Returns
    -------
    fp32 tensor, shape [problems, parameters]
    """
    theta = theta.clone()
    active = torch.arange(len(theta), device=theta.device)
    loss, gradient = objective(theta, active)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(max_iterations):
        unsolved = gradient.abs().amax(dim=1) > tolerance
        if not unsolved.all():
            active, loss, gradient = active[unsolved], loss[unsolved], gradient[unsolved]
            steps, changes = [s[unsolved] for s in steps], [y[unsolved] for y in changes]
        if not len(active):
            break
        direction = _direction(gradient, steps, changes)
        slope = _dot(direction, gradient)
        uphill = slope >= 0
        if uphill.any():  # rounding has spoiled the history
            direction[uphill] = -gradient[uphill]
            slope = _dot(direction, gradient)
        # A decrease that rounding would hide: solved to the precision of fp32.
        visible = slope.abs() > 1e-8 * loss.abs().clamp(min=1e-6).float()
        if not visible.all():
            active, loss, gradient = active[visible], loss[visible], gradient[visible]
            direction, slope = direction[visible], slope[visible]
            steps, changes = [s[visible] for s in steps], [y[visible] for y in changes]
            if not len(active):
                break
        length = torch.ones(len(active), dtype=torch.float32, device=theta.device)
        if not steps:
            length = 1.0 / torch.linalg.vector_norm(gradient, dim=1).clamp(min=1.0)
        begun = theta[active]
        new, new_loss, new_gradient, found = _line_search(objective, active, begun, loss, direction, slope, length)
        theta[active[found]] = new[found]
        steps, changes = _remembered(steps, changes, new - begun, new_gradient - gradient)
        # A problem whose loss no length decreases is solved to the precision of fp32.
        active, loss, gradient = active[found], new_loss[found], new_gradient[found]
        steps, changes = [s[found] for s in steps], [y[found] for y in changes]
    return theta


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, dtype=torch.float64).float()


def _direction(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4)."""
    q, factors = gradient.clone(), []
    inverses = [
        torch.where((sy := _dot(s, y)) > 0, 1.0 / sy, torch.zeros_like(sy)) for s, y in zip(steps, changes, strict=True)
    ]
    for s, y, inverse in zip(reversed(steps), reversed(changes), reversed(inverses), strict=True):
        factor = inverse * _dot(s, q)
        factors.append(factor)
        q -= factor[:, None] * y
    if steps:
        yy = _dot(changes[-1], changes[-1])
        scale = torch.where(inverses[-1] > 0, 1.0 / (inverses[-1] * yy).clamp(min=1e-30), torch.ones_like(yy))
        q *= scale[:, None]
    for s, y, inverse, factor in zip(steps, changes, inverses, reversed(factors), strict=True):
        q += s * (factor - inverse * _dot(y, q))[:, None]
    return -q


def _remembered(
    steps: list[Tensor], changes: list[Tensor], step: Tensor, change: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The history with one more pair; a pair without curvature counts as none, by a change of zero."""
    curved = _dot(step, change) > 1e-10 * _dot(change, change)
    change = torch.where(curved[:, None], change, torch.zeros_like(change))
    return [*steps, step][-HISTORY:], [*changes, change][-HISTORY:]


def _line_search(
    objective: Evaluate,
    active: Tensor,
    theta: Tensor,
    loss: Tensor,
    direction: Tensor,
    slope: Tensor,
    length: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halves each problem's step until its loss decreases enough (Armijo).

    Returns
    -------
    theta, loss, gradient : tensors
        After the step; of a problem without one, those before.
    found : bool tensor
    """
    new, new_loss = theta.clone(), loss.clone()
    new_gradient = torch.zeros_like(theta)
    found = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    pending = torch.arange(len(theta), device=theta.device)
    for _ in range(HALVINGS):
        tried = theta[pending] + length[pending, None] * direction[pending]
        tried_loss, tried_gradient = objective(tried, active[pending])
        bound = loss[pending] + SUFFICIENT_DECREASE * (length[pending] * slope[pending]).double()
        good = tried_loss <= bound
        at = pending[good]
        new[at], new_loss[at], new_gradient[at], found[at] = tried[good], tried_loss[good], tried_gradient[good], True
        pending = pending[~good]
        if not len(pending):
            break
        length[pending] *= 0.5
    return new, new_loss, new_gradient, found
