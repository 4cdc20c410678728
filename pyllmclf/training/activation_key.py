"""Identity of cached activations: what two trainings must have in common to share them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch

from ..compute import Compute, code_sha256
from ..data.packing import Packer
from ..models.sequence_classifier import SequenceClassifier
from ..ops.backends import triton as triton_backend


def key_of_rows(
    model: SequenceClassifier, packer: Packer, batches: Sequence[np.ndarray], stage: int, compute: Compute
) -> dict[str, object]:
    """Identity of the rows that a stage takes: weights below it, texts in their batches, and numerics.

    Parameters
    ----------
    model : SequenceClassifier
    packer : Packer
    batches : sequence of int64 arrays
        Texts of the packer that are computed together, in the order in which their rows are stored.
    stage : int
    compute : Compute

    Returns
    -------
    dict
        ``"sha256"`` of everything, and the fields that people can read.
    """
    digest = hashlib.sha256()
    for number, modules in enumerate(model.backbone.stages[:stage]):
        for module in modules:
            for name, parameter in module.named_parameters():
                digest.update(f"{number} {name} {tuple(parameter.shape)}".encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    for texts in batches:
        batch = packer.batch(texts)
        digest.update(batch.input_ids.numpy().data)
        digest.update(batch.cu_seqlens.numpy().data)
        digest.update(batch.lengths.numpy().data)
        if batch.token_types is not None:
            digest.update(batch.token_types.numpy().data)
    fields: dict[str, object] = {
        "model": str(model.config),
        # Up to the last block only the mask matters.
        "head": str(model.spec if model.one_row(stage) else model.spec.causal),
        "stage": stage,
        "dtype": str(compute.dtype),
        "device": compute.device.type,
        "code": code_sha256(),
        "triton": version("triton") if triton_backend.installed() else None,
    } | compute.numerics()
    digest.update(repr(sorted(fields.items())).encode())
    return fields | {"sha256": digest.hexdigest()}
