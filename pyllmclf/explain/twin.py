"""The model that explanations are computed with: fp32, and gradients of the rows alone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from ..models.layers import Linear
from ..models.sequence_classifier import SequenceClassifier


def without_parameter_gradients(model: SequenceClassifier) -> SequenceClassifier:
    """A model that shares the weights of another, computes no gradients of them, and no layer in int8.

    The other model isn't changed, so that it can be in use meanwhile.
    """
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        weight = parameter.detach()
        # Autograd refuses tensors that were made in inference mode.
        shared[id(parameter)] = nn.Parameter(weight.clone() if weight.is_inference() else weight, requires_grad=False)
    shared |= {
        id(each.int8): each.int8 for each in model.modules() if isinstance(each, Linear) and each.int8 is not None
    }
    twin = deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, Linear):
            module.int8 = None
    return twin.eval()
