"""Temperature scaling: logits divided by one number, so that probabilities say how often the classifier is right."""

from __future__ import annotations

import numpy as np
import torch

from ..evaluation.metrics import cross_entropy, evaluate_logits
from ..evaluation.multi_label import binary_cross_entropy, evaluate_multi_label
from ..evaluation.statistics import expected_calibration_error
from ..models.sequence_classifier import SequenceClassifier

# Searched for its logarithm within this distance of 0: temperatures from 1/100 to 100.
_MOST = np.log(100.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that makes the mean negative log-likelihood of logits / T least (Guo et al. 2017).

    Parameters
    ----------
    logits : ndarray, shape [texts, classes]
        Of texts that the classifier was not trained on.
    labels : ndarray of int64, shape [texts], or of 1 and 0, shape [texts, classes]
        One for each text, or several: the likelihood is that of a softmax or of sigmoids.

    Returns
    -------
    float
        From 0.01 to 100: where every text is classified rightly, the least would be at 0.
    """
    from scipy.optimize import minimize_scalar

    wide = logits.astype(np.float64)
    loss = cross_entropy if labels.ndim == 1 else binary_cross_entropy
    found = minimize_scalar(
        lambda log_t: loss(wide / np.exp(log_t), labels),
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
        if labels.ndim == 1:
            one = evaluate_logits(scaled, labels, classes)
            loss, confidence, right = one.log_loss, one.probabilities.max(axis=1), one.right
        else:  # of each decision
            several = evaluate_multi_label(scaled, labels, classes)
            loss, likely = several.log_loss, several.probabilities.ravel()
            confidence, right = np.maximum(likely, 1.0 - likely), (several.predictions == several.labels).ravel()
        found |= {f"log_loss_{when}": loss, f"ece_{when}": expected_calibration_error(confidence, right)}
    return found
