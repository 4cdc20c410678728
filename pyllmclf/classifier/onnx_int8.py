"""An exported ONNX graph in int8: the layers that int8 leaves the labels of, checked with onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import ModelError, UsageError
from ..models.export import EXTERNAL_DATA_BYTES, INPUTS
from ..models.sequence_classifier import SequenceClassifier
from ..text_pair import Text
from .int8 import AGREEMENT, CALIBRATION_TEXTS, labels_of, linear_layers
from .predictor import Predictor

BATCH = 16


def check_installed() -> None:
    """Raises :class:`UsageError` if onnxruntime or what it quantises with is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise UsageError("quantize needs onnxruntime: pip install 'pyllmclf[onnx]'.") from error


def quantize_graph(classifier: Predictor, folder: Path, layers: Collection[str], texts: list[Text]) -> None:
    """Replaces ``model.onnx`` in the folder by its int8 form, if the labels of the texts stay those of float32.

    onnxruntime rounds the rows of a batch by one scale, and pyllmclf each row by its own: labels may change here that
    stay there, and those of other batches than the checked ones of 16 texts may differ.

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
    ModelError
        If too many labels change, or the graph has none of the layers.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact, path = folder / "model.onnx", folder / "int8.onnx"
    model, texts = classifier.state.model, texts[:CALIBRATION_TEXTS]
    with _without_root_handler():
        quantize_dynamic(
            exact,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],  # no tables of embeddings
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


@contextmanager
def _without_root_handler() -> Iterator[None]:
    """Keeps ``logging.warning``, which onnxruntime calls, from printing and from adding a handler to the root."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def weight_names(model: SequenceClassifier, layers: Collection[str]) -> set[str]:
    """Names that the weights of these layers have in an exported graph."""
    chosen = {id(layer) for name, layer in linear_layers(model).items() if name in layers}
    return {f"model.{name}.weight" for name, module in model.named_modules() if id(module) in chosen}


def _other_products(graph: Path, weights: set[str]) -> list[str]:
    """Names of the graph's matmuls without one of these weights, as onnxruntime's quantisation calls them."""
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    products = [node for node in nodes if node.op_type in ("Gemm", "MatMul")]
    if missing := sorted(weights - {name for node in products for name in node.input}):
        raise ModelError(f"the graph has no product with {missing[0]}, so that it can't compute in int8.")
    others = [node.name for node in products if not weights & set(node.input)]
    return [*others, *(f"{name}_MatMul" for name in others)]  # a Gemm becomes a MatMul of this name first


def _logits(classifier: Predictor, path: Path, texts: list[Text]) -> np.ndarray:
    """Logits of the graph, fp32 [texts, classes]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    packer, found = classifier.packer(texts), []
    for begin in range(0, len(texts), BATCH):  # as they come, since a user's batches are not sorted either
        ids = np.arange(begin, min(begin + BATCH, len(texts)))
        batches = [packer.batch(ids[i : i + 1]) for i in range(len(ids))]
        rows = [batch.input_ids.numpy() for batch in batches]
        types = [batch.token_types.numpy() for batch in batches if batch.token_types is not None]
        longest = max(map(len, rows))
        mask = np.array([np.arange(longest) < len(row) for row in rows], dtype=np.int64)
        inputs = [_padded(rows, longest), mask, *([_padded(types, longest)] if types else [])]
        names = INPUTS if types else INPUTS[:-1]
        found.append(session.run(["logits"], dict(zip(names, inputs, strict=True)))[0])
    return np.concatenate(found)


def _padded(rows: list[np.ndarray], longest: int) -> np.ndarray:
    """Rows of different lengths as int64 [rows, longest], with zeros at their ends."""
    return np.array([np.pad(row, (0, longest - len(row))) for row in rows], dtype=np.int64)
