"""An exported ONNX graph in int8: the layers that int8 leaves the labels of, checked with onnxruntime."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..errors import ModelError, UsageError
from ..models.export import EXTERNAL_DATA_BYTES, INPUTS
from ..models.sequence_classifier import SequenceClassifier
from .int8 import AGREEMENT, CALIBRATION_TEXTS, labels_of, linear_layers
from .predictor import Predictor

BATCH = 16


def quantize_graph(classifier: Predictor, folder: Path, layers: Collection[str], texts: list[str]) -> None:
    """Replaces ``model.onnx`` in the folder by its int8 form, if the labels of the texts stay those of float32.

    onnxruntime rounds the rows of a batch by one scale, and pyllmclf each row by its own: labels may change here that
    stay there.

    Parameters
    ----------
    classifier : Classifier
        The one that was exported; it computes in float32.
    folder : Path
    layers : collection of str
        Names of :func:`.int8.linear_layers` that are rounded.
    texts : list of str

    Raises
    ------
    UsageError
        If onnxruntime is missing.
    ModelError
        If too many labels change.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise UsageError("quantize needs onnxruntime: pip install 'pyllmclf[onnx]'.") from error
    exact, path = folder / "model.onnx", folder / "int8.onnx"
    model, texts = classifier.state.model, texts[:CALIBRATION_TEXTS]
    quantize_dynamic(
        exact,
        path,
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_other_products(exact, weight_names(model, layers)),
        use_external_data_format=sum(p.nbytes for p in model.parameters()) > EXTERNAL_DATA_BYTES,
    )
    expected = labels_of(classifier, classifier.logits(texts))
    found = labels_of(classifier, _logits(classifier, path, texts))
    share = float(np.mean([a == b for a, b in zip(found, expected, strict=True)]))
    if share < AGREEMENT:
        raise ModelError(
            f"onnxruntime in int8 changes the label of {round((1 - share) * len(texts))} of {len(texts)} calibration "
            f"texts, more than {1 - AGREEMENT:.1%}: it rounds all rows of a batch by one scale. Export without "
            "quantize; pyllmclf classifies in int8 with a scale for each row."
        )
    exact.unlink()
    for left in folder.glob("model.onnx*"):  # weights beside the graph
        left.unlink()
    path.rename(exact)


def weight_names(model: SequenceClassifier, layers: Collection[str]) -> set[str]:
    """Names that the weights of these layers have in an exported graph."""
    chosen = {id(layer) for name, layer in linear_layers(model).items() if name in layers}
    return {f"model.{name}.weight" for name, module in model.named_modules() if id(module) in chosen}


def _other_products(graph: Path, weights: set[str]) -> list[str]:
    """Names of the graph's matmuls without one of these weights, as onnxruntime's quantisation calls them."""
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    others = [node.name for node in nodes if node.op_type in ("Gemm", "MatMul") and not weights & set(node.input)]
    return [*others, *(f"{name}_MatMul" for name in others)]  # a Gemm becomes a MatMul of this name first


def _logits(classifier: Predictor, path: Path, texts: list[str]) -> np.ndarray:
    """Logits of the graph, fp32 [texts, classes]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    packer, found = classifier.packer(texts), []
    order = np.argsort(packer.row_counts, kind="stable")
    for begin in range(0, len(order), BATCH):
        ids = order[begin : begin + BATCH]
        rows = [packer.batch(ids[i : i + 1]).input_ids.numpy() for i in range(len(ids))]
        longest = max(map(len, rows))
        padded = np.array([np.pad(row, (0, longest - len(row))) for row in rows], dtype=np.int64)
        mask = np.array([np.arange(longest) < len(row) for row in rows], dtype=np.int64)
        found.append(session.run(["logits"], dict(zip(INPUTS, (padded, mask), strict=True)))[0])
    return np.concatenate(found)[np.argsort(order, kind="stable")]
