"""Weights that several processes map from one file, so that memory holds them once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ResourceError
from ..models.layers import Linear
from ..models.sequence_classifier import SequenceClassifier
from ..ops import Int8Weight

ALIGNMENT = 64


def map_weights(model: SequenceClassifier, folder: Path) -> Path:
    """Lets a model's parameters, and its weights in int8, be those of a file, which is written if it isn't there.

    Pages of the file are in memory once for all processes that map it; none of them is written to.

    Parameters
    ----------
    model : SequenceClassifier
        On a CPU.
    folder : Path

    Returns
    -------
    Path
        The file, which may be deleted while it is mapped.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    tensors = list(_tensors(model))
    offsets, size = [0], 0
    for tensor in tensors:
        size = -(-(offsets[-1] + tensor.nbytes) // ALIGNMENT) * ALIGNMENT
        offsets.append(size)
    path = folder / f"{_sha256(tensors)}.weights"
    if not path.exists():
        _write(path, tensors, offsets)
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    mapped = [
        content[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for begin, tensor in zip(offsets, tensors, strict=False)
    ]
    _replace(model, mapped)
    return path


def _tensors(model: SequenceClassifier) -> Iterator[Tensor]:
    """The parameters, each once, and the values and scales in int8."""
    for parameter in model.parameters():
        yield parameter.detach().contiguous()
    for linear in _int8_layers(model):
        assert isinstance(linear.int8, Int8Weight)
        yield from (linear.int8.values, linear.int8.scales)


def _replace(model: SequenceClassifier, mapped: list[Tensor]) -> None:
    found = iter(mapped)
    for parameter in model.parameters():
        parameter.data = next(found)
    for linear in _int8_layers(model):
        assert isinstance(linear.int8, Int8Weight)
        linear.int8 = replace(linear.int8, values=next(found), scales=next(found))


def _int8_layers(model: SequenceClassifier) -> list[Linear]:
    return [part for part in model.modules() if isinstance(part, Linear) and part.int8 is not None]


def _sha256(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


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
