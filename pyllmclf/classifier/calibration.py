"""Temperature scaling: divides logits by one number, so that probabilities match the frequency of being right."""

from __future__ import annotations

import numpy as np
import torch

from ..evaluation.metrics import cross_entropy, evaluate_logits
from ..evaluation.multi_label import binary_cross_entropy, evaluate_multi_label
from ..evaluation.statistics import expected_calibration_error
from ..models.sequence_classifier import SequenceClassifier

# Bound of |log temperature|: temperatures lie between 1/100 and 100.
MAX_LOG_TEMPERATURE = np.log(100.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 that minimizes the mean negative log-likelihood of logits / T (Guo et al. 2017).

    Parameters
    ----------
    logits : ndarray, shape [texts, classes]
        Logits of texts that the classifier was not trained on.
    labels : ndarray of int64, shape [texts], or of 1 and 0, shape [texts, classes]
        Class indices, with the likelihood of a softmax; or several classes per text, with that of sigmoids.

    Returns
    -------
    float
        Between 0.01 and 100: the minimum would be at 0 where every text is classified right.
    """
    from scipy.optimize import minimize_scalar

    logits64 = logits.astype(np.float64)
    loss = cross_entropy if labels.ndim == 1 else binary_cross_entropy
    minimum = minimize_scalar(
        lambda log_t: loss(logits64 / np.exp(log_t), labels),
        bounds=(-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(minimum.x))


def calibrate_head(
    model: SequenceClassifier, logits: np.ndarray, labels: np.ndarray, classes: list[str]
) -> dict[str, float]:
    """Divides the weights of a classifier's head by the temperature that fits its logits best, in place.

    Every tool that opens the classifier then gets calibrated probabilities; predictions are unchanged.

    Parameters
    ----------
    model : SequenceClassifier
    logits : ndarray of float32, shape [texts, classes]
        The model's logits of texts that it was not trained on.
    labels : ndarray
        As for :func:`fit_temperature`.
    classes : list of str

    Returns
    -------
    dict of str to float
        ``temperature``, and log loss (``log_loss_before``, ``log_loss_after``) and expected calibration error
        (``ece_before``, ``ece_after``) of these texts.
    """
    temperature = fit_temperature(logits, labels)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.div_(temperature)
    figures = {"temperature": temperature}
    for when, scaled in (("before", logits), ("after", logits / np.float32(temperature))):
        if labels.ndim == 1:
            single = evaluate_logits(scaled, labels, classes)
            loss, confidence, right = single.log_loss, single.probabilities.max(axis=1), single.right
        else:  # over decisions, one for each text and class
            multi = evaluate_multi_label(scaled, labels, classes)
            loss, probabilities = multi.log_loss, multi.probabilities.ravel()
            confidence = np.maximum(probabilities, 1.0 - probabilities)
            right = (multi.predictions == multi.labels).ravel()
        figures |= {f"log_loss_{when}": loss, f"ece_{when}": expected_calibration_error(confidence, right)}
    return figures
