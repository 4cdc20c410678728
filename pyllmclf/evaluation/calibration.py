"""Temperature scaling: logits divided by one number, so that probabilities say how often the classifier is right."""

from __future__ import annotations

import numpy as np
import torch

from ..models.sequence_classifier import SequenceClassifier
from .metrics import cross_entropy, evaluate_logits
from .statistics import calibration

# Searched for its logarithm within this distance of 0: temperatures from 1/100 to 100.
_MOST = np.log(100.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that makes the mean negative log-likelihood of logits / T least (Guo et al. 2017).

    Parameters
    ----------
    logits : ndarray, shape [texts, classes]
        Of texts that the classifier was not trained on.
    labels : ndarray of int64, shape [texts]

    Returns
    -------
    float
        From 0.01 to 100: where every text is classified rightly, the least would be at 0.
    """
    from scipy.optimize import minimize_scalar

    wide = logits.astype(np.float64)
    found = minimize_scalar(
        lambda log_t: cross_entropy(wide / np.exp(log_t), labels),
        bounds=(-_MOST, _MOST),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibrate_head(
    model: SequenceClassifier, logits: np.ndarray, labels: np.ndarray, classes: list[str]
) -> dict[str, float]:
    """Divides a classifier's head by the temperature that fits best to logits that it gave.

    Its probabilities are calibrated then wherever it is opened, by other tools too; its predictions are the same.

    Returns
    -------
    dict
        ``temperature``; log loss and expected calibration error of these texts, before and after.
    """
    temperature = fit_temperature(logits, labels)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.div_(temperature)
    found = {"temperature": temperature}
    for when, scaled in (("before", logits), ("after", logits / np.float32(temperature))):
        result = evaluate_logits(scaled, labels, classes)
        found |= {f"log_loss_{when}": result.log_loss, f"ece_{when}": calibration(result).ece}
    return found
