"""The classifier as one graph for other runtimes: ONNX, or ``torch.export``."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch

from .. import ops
from ..errors import UsageError
from .padded import PaddedClassifier
from .sequence_classifier import SequenceClassifier

Graph = Callable[[Path], object]
INPUTS = ("input_ids", "attention_mask")
# A protobuf file holds 2 GiB at most; weights that come near it go into a file beside it.
_MOST_INSIDE = 2**30


def write_graph(model: SequenceClassifier, kind: str, folder: Path, n_positions: int) -> list[str]:
    """Writes ``model.onnx`` or ``model.pt2``, for batches of any size and texts of any length.

    Parameters
    ----------
    model : SequenceClassifier
    kind : {"onnx", "torch"}
    folder : Path
    n_positions : int
        Longest text.

    Returns
    -------
    list of str
        Names of the files in ``folder``.

    Raises
    ------
    UsageError
        If a package is missing, or the classifier can't mask padding.
    """
    padded = PaddedClassifier(deepcopy(model).cpu().requires_grad_(False)).eval()
    # Two tensors: one that is given twice would be one input.
    example = tuple(torch.ones(2, min(8, n_positions), dtype=torch.int64) for _ in INPUTS)
    shape = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length", max=n_positions)}
    with torch.no_grad(), ops.use_backend("reference"):
        if kind == "torch":
            program = torch.export.export(padded, example, dynamic_shapes=(shape, shape))
            torch.export.save(program, folder / "model.pt2")
        else:
            _write_onnx(padded, example, shape, folder / "model.onnx")
    return sorted(path.name for path in folder.iterdir())


def _write_onnx(padded: PaddedClassifier, example: tuple[torch.Tensor, ...], shape: dict, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("export to ONNX needs its packages: pip install 'pyllmclf[onnx]'.") from error
    size = sum(p.numel() * p.element_size() for p in padded.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of torch
        torch.onnx.export(
            padded,
            example,
            path,
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=(shape, shape),
            dynamo=True,
            external_data=size > _MOST_INSIDE,
            verbose=False,
        )


def copies(folder: Path, names: list[str]) -> dict[str, Graph]:
    """What writes each of these files elsewhere."""
    return {name: partial(_copy, folder / name) for name in names}


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
