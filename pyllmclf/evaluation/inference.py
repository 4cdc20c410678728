"""Logits of many texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .. import ops
from ..data.packing import Packer, token_budget_batches
from ..errors import NonFiniteError
from ..models.sequence_classifier import SequenceClassifier

Given = Callable[[Packer, np.ndarray], tuple[int, torch.Tensor] | None]

# Rows of a batch: enough to run matmuls at full rate, little enough for the caches and the memory.
TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536}


@torch.inference_mode()
def predict_logits(
    model: SequenceClassifier,
    packer: Packer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = "auto",
    given: Given | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Logits of every text of a packer, in its order.

    Each distinct text is computed once. Texts of similar length share a batch of bounded size; a text's logits don't
    depend on its neighbours (but for the rounding of matmuls of another shape).

    Parameters
    ----------
    given : callable, optional
        Takes the packer and the texts of a batch; returns the stage and rows that the model goes on from, or ``None``.

    Returns
    -------
    ndarray of float32, shape [texts, classes]

    Raises
    ------
    NonFiniteError
        If a logit is not a finite number.
    """
    from tqdm import tqdm

    logits = np.empty((len(packer), model.head.weight.shape[0]), dtype=np.float32)
    first = packer.store.first_equal_texts(packer.layout.max_length)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    batches = token_budget_batches(packer.row_counts_of(distinct), TOKEN_BUDGET[device.type])
    bar = tqdm(total=len(distinct), unit="text", disable=None if progress else True, dynamic_ncols=True, leave=False)
    with bar, ops.use_backend(backend):
        for ids in (distinct[batch] for batch in batches):
            known = None if given is None else given(packer, ids)
            logits[ids] = model(packer.batch(ids).to(device), dtype=dtype, given=known).cpu().numpy()
            bar.update(len(ids))
    logits = logits[first]
    if not np.isfinite(logits).all():
        text = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise NonFiniteError(f"the logits of text {text} are not finite; the model is damaged or diverged in training.")
    return logits
