"""Classifying in int8: which layers compute in it, and the check that labels stay the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..compute import Compute
from ..data.packing import Packer
from ..errors import ModelError, NonFiniteError, UsageError
from ..evaluation.metrics import softmax
from ..evaluation.multi_label import sigmoid
from ..models.layers import Linear
from ..models.sequence_classifier import SequenceClassifier
from ..text_pair import Text
from .decisions import Decisions
from .inference import predict_logits
from .predictor import Predictor
from .state import Int8Layers

# Least share of the calibration texts whose label is that of float32.
AGREEMENT = 0.995
# Most calibration texts that are read, and of these, most that rank the layers.
CALIBRATION_TEXTS = 512
RANKING_TEXTS = 64
# Below this many inputs or outputs, a layer gains nothing.
LEAST_WIDTH = 64
# How much of the inputs' differences in magnitude moves into the weight. On MiniLM all logits are then off by 0.050
# instead of 0.120 in the mean, where 0.35, 0.5 and 0.8 give 0.088, 0.076 and 0.050.
SMOOTHING = 0.7
# Least magnitude that counts, and the largest factor.
TINY, LARGEST_FACTOR = 1e-5, 1e3


def linear_layers(model: SequenceClassifier) -> dict[str, Linear]:
    """The linear layers of the blocks that may compute in int8, by name.

    Where one row per text is read, the last block has queries of that row alone, and often no keys and values: its
    projections stay as they are.
    """
    blocks, found = model.backbone.blocks, {}
    spared: set[int] = set()
    if model.pooling.selects_row:
        spared = {id(each) for module in blocks[-1].modules() for each in getattr(module, "projections", ())}
    for number, block in enumerate(blocks):
        for name, module in block.named_modules():
            wide = isinstance(module, Linear) and min(module.weight.shape) >= LEAST_WIDTH
            if wide and id(module) not in spared:
                spared.add(id(module))  # once, where all blocks are the same modules
                found[f"{number}.{name}"] = module
    return found


def use_int8(model: SequenceClassifier, names: Collection[str], factors: Mapping[str, Tensor] | None = None) -> None:
    """Quantises the weights of these layers of :func:`linear_layers`; all others compute as before.

    Parameters
    ----------
    model : SequenceClassifier
    names : collection of str
    factors : mapping of str to tensor, optional
        Factors of the rows of layers; see :class:`pyllmclf.ops.Int8Weight`.

    Raises
    ------
    ModelError
        If the model has no such layer, or factors don't fit it.
    """
    layers, factors = linear_layers(model), factors or {}
    if unknown := sorted(set(names) - set(layers)):
        raise ModelError(f"the model has no layer {unknown[0]!r} that computes in int8.")
    for name, layer in layers.items():
        if name not in names:
            layer.int8 = None
        elif layer.int8 is None:
            layer.int8 = ops.Int8Weight.of(layer.weight, _fitting(layer, factors.get(name), name))


def _fitting(layer: Linear, factors: Tensor | None, name: str) -> Tensor | None:
    if factors is None:
        return None
    width, kind = layer.weight.shape[1], torch.float32
    if factors.shape != (width,) or factors.dtype is not kind or not (factors.isfinite() & (factors > 0)).all():
        raise ModelError(f"the factors of {name!r} are not {width} positive numbers in float32; calibrate again.")
    return factors


class PeakRecorder:
    """Computes a layer in fp32, and remembers the largest magnitude of each of its inputs.

    Attributes
    ----------
    peaks : fp32 tensor, shape [in]
    """

    def __init__(self, layer: Linear) -> None:
        self._layer = layer
        self.peaks = torch.zeros(layer.weight.shape[1])

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x Wᵀ + b."""
        if len(x):
            self.peaks = torch.maximum(self.peaks, x.abs().amax(0))
        return ops.linear(x, self._layer.weight, bias)

    def factors(self) -> Tensor:
        """Factors that make the inputs' magnitudes alike, at the cost of the weight's (SmoothQuant, Xiao et al. 2022).

        The factor of input j is w_j^(1 - a) / x_j^a, with a = :data:`SMOOTHING`, of the largest magnitudes x_j of the
        input and w_j of its weights; their geometric mean is 1.
        """
        peaks = self.peaks.clamp_min(TINY)
        weights = self._layer.weight.detach().abs().amax(0).clamp_min(TINY)
        factors = weights ** (1 - SMOOTHING) / peaks**SMOOTHING
        return (factors / factors.log().mean().exp()).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)


def choose_layers(classifier: Predictor, compute: Compute, texts: list[Text], *, smooth: bool = True) -> Int8Layers:
    """Lets the layers compute in int8 that leave the labels of the calibration texts as they are in float32.

    All layers are tried first. If too few labels are equal, the layers that change the logits most, each by itself,
    stay as they were: one, two, four and so on, up to half of them, and then as few as are enough.

    Parameters
    ----------
    classifier : Classifier
        On a CPU; its model is changed.
    compute : Compute
        Of the layers that are not in int8.
    texts : list of str
        The first :data:`CALIBRATION_TEXTS` of them are read.
    smooth : bool
        Whether rows are multiplied by the factors of :class:`PeakRecorder`.

    Raises
    ------
    UsageError
        If there is no text.
    ModelError
        If labels change whichever layers are in int8, or no layer can be.
    """
    model, texts = classifier.state.model, texts[:CALIBRATION_TEXTS]
    if not texts:
        raise UsageError("calibration has no text; give texts like those that are classified.")
    names = list(linear_layers(model))
    if not names:
        raise ModelError("the model's layers are too small for int8; choose another dtype.")
    packer = classifier.packer(texts)
    exact, factors = _exact_logits(model, packer, compute)
    factors = factors if smooth else {}
    expected = labels_of(classifier, exact)

    def agreement(kept: Iterable[str]) -> float:
        use_int8(model, set(names) - set(kept), factors)
        try:
            found = labels_of(classifier, predict_logits(model, packer, compute))
        except NonFiniteError:  # of int8 alone: float32 has been computed
            return 0.0
        return float(np.mean([a == b for a, b in zip(found, expected, strict=True)]))

    share, ranked, kept, too_few = agreement(()), list[str](), 0, 0
    if share < AGREEMENT:
        ranked = _by_error(classifier, compute, factors, names, classifier.packer(texts[:RANKING_TEXTS]), exact)
    while share < AGREEMENT and kept < len(names) // 2:
        too_few, kept = kept, min(max(1, 2 * kept), len(names) // 2)
        share = agreement(ranked[:kept])
    while share >= AGREEMENT and kept - too_few > 1:  # fewer may be enough
        middle = (too_few + kept) // 2
        if (other := agreement(ranked[:middle])) >= AGREEMENT:
            share, kept = other, middle
        else:
            too_few = middle
    if share < AGREEMENT:
        use_int8(model, ())
        raise ModelError(
            f"int8 changes the label of {round((1 - share) * len(texts))} of {len(texts)} calibration texts, more than "
            f"{1 - AGREEMENT:.1%}, even where the {kept} layers that change the logits most are left out "
            f"({', '.join(ranked[:3])}, ...); choose dtype='auto'."
        )
    int8 = [name for name in names if name not in ranked[:kept]]
    use_int8(model, int8, factors)
    used = {name: factors[name] for name in int8 if name in factors}
    return Int8Layers(tuple(int8), tuple(ranked[:kept]), share, len(texts), used)


def _exact_logits(model: SequenceClassifier, packer: Packer, compute: Compute) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Logits in float32, and the factors of each layer's rows."""
    use_int8(model, ())
    layers = linear_layers(model)
    recorders = {name: PeakRecorder(layer) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.int8 = recorders[name]
        logits = predict_logits(model, packer, Compute(compute.device, backend=compute.backend))
    finally:
        use_int8(model, ())
    return logits, {name: recorder.factors() for name, recorder in recorders.items()}


def labels_of(classifier: Predictor, logits: np.ndarray) -> list[object]:
    """The labels of logits, without rules that leave texts unanswered."""
    probabilities = (softmax if classifier.state.label_separator is None else sigmoid)(logits)
    return list(classifier.answers(probabilities, decisions=Decisions())[0])


def _by_error(
    classifier: Predictor,
    compute: Compute,
    factors: Mapping[str, Tensor],
    names: list[str],
    packer: Packer,
    exact: np.ndarray,
) -> list[str]:
    """The layers by the mean change of the logits where each alone computes in int8, largest first."""
    model, errors = classifier.state.model, dict[str, float]()
    for name in names:
        use_int8(model, (name,), factors)
        try:
            logits = predict_logits(model, packer, compute)
        except NonFiniteError:
            errors[name] = math.inf
        else:
            errors[name] = float(np.abs(logits - exact[: len(logits)]).mean())
    return sorted(names, key=errors.__getitem__, reverse=True)
