"""Writes the classifier as one graph for other runtimes: ONNX or ``torch.export``."""

from __future__ import annotations

import shutil
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch

from .. import ops
from ..data.atomic_folder import Writer
from ..errors import UsageError
from .layers import Linear
from .padded import PaddedClassifier
from .sequence_classifier import SequenceClassifier

# The last one where the model reads types of tokens.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# A protobuf file holds at most 2 GiB; weights of more than this many bytes go into a file beside it.
EXTERNAL_DATA_BYTES = 2**30


def write_graph(model: SequenceClassifier, kind: str, folder: Path, n_positions: int, *, typed: bool = False) -> None:
    """Writes ``model.onnx`` or ``model.pt2``, for any number of texts, of up to ``n_positions`` tokens.

    Parameters
    ----------
    model : SequenceClassifier
    kind : {"onnx", "torch"}
    folder : Path
    n_positions : int
        Maximum number of tokens of a text.
    typed : bool
        Whether the graph takes types of tokens; otherwise all have type 0.

    Raises
    ------
    UsageError
        If a package is missing, or the pooling reads padding.
    """
    padded = PaddedClassifier(deepcopy(model).cpu().float().requires_grad_(False)).eval()
    for module in padded.modules():
        if isinstance(module, Linear):
            module.int8 = None
    names = INPUTS if typed else INPUTS[:-1]
    # A tensor each: one tensor passed twice would be traced as one input.
    example = tuple(torch.ones(2, min(8, n_positions), dtype=torch.int64) for _ in names)
    shape = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length", max=n_positions)}
    with torch.no_grad(), ops.use_backend("reference"):
        if kind == "torch":
            program = torch.export.export(padded, example, dynamic_shapes=tuple(shape for _ in names))
            torch.export.save(program, folder / "model.pt2")
        else:
            _write_onnx(padded, example, shape, folder / "model.onnx")


def _write_onnx(padded: PaddedClassifier, example: tuple[torch.Tensor, ...], shape: dict, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("export to ONNX needs its packages: pip install 'pyllmclf[onnx]'.") from error
    size = sum(p.numel() * p.element_size() for p in padded.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's use of torch
        torch.onnx.export(
            padded,
            example,
            path,
            input_names=list(INPUTS[: len(example)]),
            output_names=["logits"],
            dynamic_shapes=tuple(shape for _ in example),
            dynamo=True,
            external_data=size > EXTERNAL_DATA_BYTES,
            verbose=False,
        )


def copies(folder: Path, names: list[str]) -> dict[str, Writer]:
    """Writers that copy files of a folder.

    Parameters
    ----------
    folder : Path
    names : list of str
        Names of the files.

    Returns
    -------
    dict of str to callable
        Name to a function that takes the path of the copy.
    """
    return {name: partial(_copy, folder / name) for name in names}


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
