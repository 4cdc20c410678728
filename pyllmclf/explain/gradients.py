"""Weights of tokens by gradients of a logit."""

from __future__ import annotations

import numpy as np

from .rows import MovedRows, Points


def integration_points(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss–Legendre rule on [0, 1], each float64, shape [steps].

    It integrates polynomials of degree 2 steps − 1 exactly.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def integrated_gradients(rows: MovedRows, targets: np.ndarray, steps: int) -> list[np.ndarray]:
    """Integrated gradients (Sundararajan et al. 2017, equation 1) of a logit, along the line from the baseline.

    The sum over a window's tokens is the logit of the window less that of the baseline, but for the error of the
    integration rule.

    Parameters
    ----------
    rows : MovedRows
    targets : ndarray of int64, shape [windows]
    steps : int
        Number of points of the rule of :func:`integration_points`.

    Returns
    -------
    list of ndarray of float64
        Weight of each token of each window, summed over the embedding's channels.
    """
    return rows.products(Points.of(len(targets), *integration_points(steps)), targets)


def gradient_x_input(rows: MovedRows, targets: np.ndarray) -> list[np.ndarray]:
    """Gradient times input (Shrikumar et al. 2016): (embedding − baseline) · d logit / d embedding at the text.

    To first order, what the logit loses where a token becomes the baseline. Published with a baseline of zeros.
    """
    return rows.products(Points.of(len(targets), np.ones(1), np.ones(1)), targets)
