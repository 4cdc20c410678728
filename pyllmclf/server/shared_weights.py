"""Weights that several processes map from one file, so that memory holds them once."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..classifier.checkpoint import content_hash
from ..errors import ResourceError
from ..models.layers import Linear
from ..models.sequence_classifier import SequenceClassifier
from ..ops import Int8Weight

ALIGNMENT = 64


def map_weights(model: SequenceClassifier, folder: Path) -> list[Path]:
    """Lets a model's parameters, and its weights in int8, be those of files, which are written if they aren't there.

    Each stage has a file of its own, so that models with equal stages share these. Pages of a file are in memory once
    for all processes that map it; none of them is written to.

    Parameters
    ----------
    model : SequenceClassifier
        On a CPU.
    folder : Path

    Returns
    -------
    list of Path
        The files, which may be deleted while they are mapped.

    Raises
    ------
    ResourceError
        If a file can't be written.
    """
    stages = [nn.ModuleList(stage) for stage in model.backbone.stages]
    staged = {id(parameter) for stage in stages for parameter in stage.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in staged]
    files = [_map_part(list(stage.parameters()), _int8_layers(stage), folder) for stage in stages]
    return [*files, _map_part(rest, [], folder)]


def _map_part(parameters: list[nn.Parameter], int8: list[Linear], folder: Path) -> Path:
    """Maps some parameters, and the weights in int8 of some layers, from one file."""
    tensors = [parameter.detach().contiguous() for parameter in parameters]
    tensors += [tensor for linear in int8 for tensor in _int8_tensors(linear)]
    offsets, size = [0], 0
    for tensor in tensors:
        size = -(-(offsets[-1] + tensor.nbytes) // ALIGNMENT) * ALIGNMENT
        offsets.append(size)
    names = [f"{number:06} {tensor.dtype}" for number, tensor in enumerate(tensors)]
    path = folder / f"{content_hash(dict(zip(names, tensors, strict=True)))}.weights"
    if not path.exists():
        _write(path, tensors, offsets)
    if not size:
        return path
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    mapped = iter(
        content[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for begin, tensor in zip(offsets, tensors, strict=False)
    )
    for parameter in parameters:
        parameter.data = next(mapped)
    for linear in int8:
        assert isinstance(linear.int8, Int8Weight)
        linear.int8 = replace(linear.int8, values=next(mapped), scales=next(mapped))
    return path


def _int8_tensors(linear: Linear) -> tuple[Tensor, Tensor]:
    assert isinstance(linear.int8, Int8Weight)
    return linear.int8.values, linear.int8.scales


def _int8_layers(module: nn.Module) -> list[Linear]:
    return [part for part in module.modules() if isinstance(part, Linear) and part.int8 is not None]


def _write(path: Path, tensors: list[Tensor], offsets: list[int]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            for tensor, begin in zip(tensors, offsets, strict=False):
                file.seek(begin)
                file.write(tensor.contiguous().view(torch.uint8).numpy().data)
            file.truncate(offsets[-1])
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ResourceError(
            f"{path.parent}: the weights can't be written there for the processes ({error})."
        ) from error
