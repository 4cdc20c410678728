"""Cross-entropy loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import dispatch
from .backends import reference
from .dispatch import UNMEASURED, Choice, choices
from .functions import apply

choices(
    "cross_entropy",
    cpu=Choice("reference", "one row per text: nothing to gain", native="needless"),
    cuda=Choice("reference", UNMEASURED),
)


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, text_weight: Tensor | None = None
) -> Tensor:
    """Sums class_weight[label] * text_weight * -log softmax(logits)[label] over the texts.

    In fp32 for half-precision logits; weights that are left out are 1.

    Parameters
    ----------
    logits : tensor, shape [texts, classes]
    labels : int64 tensor, shape [texts]
        In [0, classes).
    class_weight : fp32 tensor, shape [classes], optional
    text_weight : fp32 tensor, shape [texts], optional

    Returns
    -------
    tensor, shape []
        fp32, or float64 for float64 logits.

    Raises
    ------
    UsageError
        If shapes, devices or the labels' dtype don't fit, or the chosen backend can't compute this.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(f"cross_entropy: shapes {tuple(logits.shape)} and {tuple(labels.shape)} don't fit.")
    if labels.dtype != torch.int64 or labels.device != logits.device:
        raise UsageError("cross_entropy: labels must be int64, on the logits' device.")
    if class_weight is not None and class_weight.shape != logits.shape[1:]:
        raise UsageError(f"cross_entropy: {len(class_weight)} weights for {logits.shape[1]} classes.")
    if text_weight is not None and text_weight.shape != labels.shape:
        raise UsageError(f"cross_entropy: weights of shape {tuple(text_weight.shape)} for {len(labels)} texts.")
    if dispatch.implementation("cross_entropy", logits) == "native":
        return apply(CrossEntropyFunction, logits, labels, class_weight, text_weight)
    return reference.cross_entropy(logits, labels, class_weight, text_weight)


class CrossEntropyFunction(torch.autograd.Function):
    """Saves the logits and the log-sum-exp of each row. The weights get no gradient."""

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, class_weight: Tensor | None, text_weight: Tensor | None) -> Tensor:
        logits, labels = logits.contiguous(), labels.contiguous()
        class_weight, text_weight = (
            None if weight is None else weight.float().contiguous() for weight in (class_weight, text_weight)
        )
        loss, log_sum_exp = dispatch.kernels(logits).cross_entropy_forward(logits, labels, class_weight, text_weight)
        ctx.save_for_backward(logits, labels, class_weight, text_weight, log_sum_exp)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss: Tensor):
        logits, labels, class_weight, text_weight, log_sum_exp = ctx.saved_tensors
        dlogits = dispatch.kernels(logits).cross_entropy_backward(
            dloss.contiguous(), logits, labels, class_weight, text_weight, log_sum_exp
        )
        return dlogits, None, None, None
