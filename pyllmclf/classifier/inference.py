"""Logits of many texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .. import ops
from ..compute import Compute
from ..data.packing import PackedBatch, Packer, budget_bounds, token_budget_batches
from ..distributed import ProcessGroup, of_this_process
from ..errors import NonFiniteError
from ..models.sequence_classifier import SequenceClassifier
from ..sharding import is_sharded
from ..torch_state import own_torch_state

ActivationLookup = Callable[[Packer, np.ndarray], tuple[int, torch.Tensor] | None]

# Rows of a batch: enough to run matmuls at full rate, little enough for the caches and the memory.
TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536}


def inference_batches(model: SequenceClassifier, packer: Packer, texts: np.ndarray, budget: int) -> list[np.ndarray]:
    """Which texts are computed together: such as begin alike if the model can use that, otherwise of similar length.

    Parameters
    ----------
    texts : ndarray of int64
    budget : int
        Rows of a batch at most (but one text at least).
    """
    if not model.can_share_prefixes:
        return [texts[batch] for batch in token_budget_batches(packer.row_counts_of(texts), budget)]
    order = packer.store.sorted_texts(texts, packer.layout.max_length)
    bounds = budget_bounds(packer.row_counts_of(order), budget)
    return np.split(order, bounds[1:-1]) if len(order) else []


def inference_batch(model: SequenceClassifier, packer: Packer, texts: np.ndarray, device: torch.device) -> PackedBatch:
    """The batch of some texts on a device; each beginning that neighbours share is computed once."""
    batch = packer.batch(texts)
    return (batch.share_prefixes() if model.can_share_prefixes else batch).to(device)


@own_torch_state()
def predict_logits(
    model: SequenceClassifier,
    packer: Packer,
    compute: Compute,
    *,
    lookup: ActivationLookup | None = None,
    group: ProcessGroup | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Logits of every text of a packer, in its order; of a text's windows their mean.

    Each distinct text is computed once, and so is, for a causal model, a beginning that texts of a batch share. Batches
    are of bounded size; a text's logits don't depend on its neighbours (but for the rounding of matmuls of another
    shape).

    Parameters
    ----------
    model : SequenceClassifier
    packer : Packer
    compute : Compute
    lookup : callable, optional
        Takes the packer and the texts of a batch; returns a stage and the rows before it, from which the model starts,
        or ``None``.
    group : ProcessGroup, optional
        Those that compute these logits together: each some of the batches, so that all have the bits that one has.

    Returns
    -------
    ndarray of float32, shape [texts, classes]

    Raises
    ------
    NonFiniteError
        If a logit is not a finite number.
    """
    from tqdm import tqdm

    group = group or ProcessGroup()
    logits = np.zeros((len(packer), model.head.weight.shape[0]), dtype=np.float32)
    first = packer.store.first_equal_texts(packer.layout.max_length)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    batches = inference_batches(model, packer, distinct, TOKEN_BUDGET[compute.device.type])
    bar = tqdm(total=len(distinct), unit="text", disable=None if progress else True, dynamic_ncols=True, leave=False)
    own = of_this_process(batches, group)
    # The parts of a model are gathered by all processes together: one without a batch of its own computes another's.
    sharded = is_sharded(model)
    # What is gathered in inference mode is of no use in training.
    without_gradients = torch.no_grad() if sharded else torch.inference_mode()
    turns = -(-len(batches) // group.world_size) if sharded else len(own)
    with bar, ops.use_backend(compute.backend), without_gradients:
        for turn in range(turns):
            ids = own[turn] if turn < len(own) else batches[0]
            cached = None if lookup is None else lookup(packer, ids)
            device = compute.device
            batch = inference_batch(model, packer, ids, device) if cached is None else packer.batch(ids).to(device)
            found = model(batch, dtype=compute.dtype, cached=cached).cpu().numpy()
            if turn < len(own):
                logits[ids] = found
                bar.update(len(ids))
    logits = group.all_reduce_rows(logits)
    logits = packer.by_text(logits[first])
    if not np.isfinite(logits).all():
        text = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise NonFiniteError(f"the logits of text {text} are not finite; the model is damaged or diverged in training.")
    return logits
