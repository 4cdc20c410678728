"""Computes the logits of many texts in batches."""

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
from ..progress import progress_bar
from ..sharding import is_sharded
from ..torch_state import own_torch_state

ActivationLookup = Callable[[Packer, np.ndarray], tuple[int, torch.Tensor] | None]
# Takes what the head reads, [texts, width]; returns a number for each text, float64, shape [texts].
RowMeasure = Callable[[np.ndarray], np.ndarray]

# Maximum rows of a batch: enough for matmuls to run at full rate, few enough for caches and memory. On a CPU the widest
# tensor of a small model then has less than 32 MB, which malloc reuses; larger ones are fresh pages each time.
TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536}


def inference_batches(model: SequenceClassifier, packer: Packer, texts: np.ndarray, budget: int) -> list[np.ndarray]:
    """Groups texts into batches: by common prefix if the model can share prefixes, by length otherwise.

    Parameters
    ----------
    model : SequenceClassifier
    packer : Packer
    texts : ndarray of int64
        Indices of the texts in the packer.
    budget : int
        Maximum number of rows of a batch, which has at least one text.

    Returns
    -------
    list of ndarray of int64
        The texts of each batch.
    """
    if not model.can_share_prefixes:
        return [texts[batch] for batch in token_budget_batches(packer.row_counts_of(texts), budget)]
    order = packer.store.sorted_texts(texts, packer.layout.max_length)
    bounds = budget_bounds(packer.row_counts_of(order), budget)
    return np.split(order, bounds[1:-1]) if len(order) else []


def inference_batch(model: SequenceClassifier, packer: Packer, texts: np.ndarray, device: torch.device) -> PackedBatch:
    """The batch of some texts on a device, with common prefixes shared if the model can do so."""
    batch = packer.batch(texts)
    return (batch.share_prefixes() if model.can_share_prefixes else batch).to(device)


def model_outputs(
    model: SequenceClassifier,
    batch: PackedBatch,
    dtype: torch.dtype,
    cached: tuple[int, torch.Tensor] | None,
    measure: RowMeasure | None,
) -> torch.Tensor:
    """Logits of a batch, fp32, shape [texts, classes]; with ``measure`` a further column, its number for each text.

    Parameters
    ----------
    model, batch, dtype, cached
        As for :meth:`.sequence_classifier.SequenceClassifier.forward`.
    measure : callable, optional
    """
    if measure is None:
        return model(batch, dtype=dtype, cached=cached)
    rows = model(batch, dtype=dtype, cached=cached, head=False)
    logits = model(batch, dtype=dtype, cached=(model.depth, rows))
    measured = torch.from_numpy(measure(rows.cpu().numpy())).to(logits)
    return torch.cat([logits, measured[:, None]], dim=1)


@own_torch_state()
def predict_logits(
    model: SequenceClassifier,
    packer: Packer,
    compute: Compute,
    *,
    lookup: ActivationLookup | None = None,
    group: ProcessGroup | None = None,
    progress: bool = False,
    measure: RowMeasure | None = None,
) -> np.ndarray:
    """Logits of every text of a packer, in its order; those of a text in windows are their mean.

    Each distinct text is computed once, and with a causal model each common prefix of a batch. Batches have a bounded
    size. Logits of a text don't depend on its neighbours, except that matmuls of other shapes round differently; on a
    CPU in bf16, those of up to 24 rows don't round their operands.

    Parameters
    ----------
    model : SequenceClassifier
    packer : Packer
    compute : Compute
    lookup : callable, optional
        Takes the packer and the texts of a batch; returns a stage and its input, from which the model starts, or
        ``None``.
    group : ProcessGroup, optional
        Processes that share the work. Each computes some of the batches, so that all get the bits of a single process.
    progress : bool
        Whether a bar is shown.
    measure : callable, optional
        Gives a further column, its number for what the head reads of each text.

    Returns
    -------
    ndarray of float32, shape [texts, classes], or [texts, classes + 1] with ``measure``

    Raises
    ------
    NonFiniteError
        If a logit is not a finite number.
    """
    group = group or ProcessGroup()
    columns = model.head.weight.shape[0] + (measure is not None)
    logits = np.zeros((len(packer), columns), dtype=np.float32)
    first = packer.store.first_equal_texts(packer.layout.max_length)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    batches = inference_batches(model, packer, distinct, TOKEN_BUDGET[compute.device.type])
    bar = progress_bar(len(distinct), "text", progress)
    local_batches = of_this_process(batches, group)
    # All processes gather the shards of a model together: one that has no batch left computes one of another process.
    sharded = is_sharded(model)
    # Parameters that are gathered in inference mode would be unusable in training.
    without_gradients = torch.no_grad() if sharded else torch.inference_mode()
    turns = -(-len(batches) // group.world_size) if sharded else len(local_batches)
    with bar, ops.use_backend(compute.backend), without_gradients:
        for turn in range(turns):
            ids = local_batches[turn] if turn < len(local_batches) else batches[0]
            cached = None if lookup is None else lookup(packer, ids)
            device = compute.device
            batch = inference_batch(model, packer, ids, device) if cached is None else packer.batch(ids).to(device)
            batch_logits = model_outputs(model, batch, compute.dtype, cached, measure).cpu().numpy()
            if turn < len(local_batches):
                logits[ids] = batch_logits
                bar.update(len(ids))
    logits = group.all_reduce_rows(logits)
    logits = packer.by_text(logits[first])
    if not np.isfinite(logits).all():
        text = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise NonFiniteError(f"the logits of text {text} are not finite; the model is damaged or diverged in training.")
    return logits


@torch.no_grad()
def read_rows(
    model: SequenceClassifier,
    packer: Packer,
    compute: Compute,
    texts: np.ndarray,
    lookup: ActivationLookup | None = None,
) -> torch.Tensor:
    """What the head reads of some texts: fp32, shape [texts, width], on the device of the computation.

    Parameters
    ----------
    model : SequenceClassifier
    packer : Packer
    compute : Compute
    texts : int64 array, shape [texts]
        Their numbers, increasing; a text in windows has a number for each.
    lookup : callable, optional
        As for :func:`predict_logits`.
    """
    rows = torch.empty(len(texts), model.config.width, device=compute.device)
    with ops.use_backend(compute.backend):
        for ids in inference_batches(model, packer, texts, TOKEN_BUDGET[compute.device.type]):
            found = None if lookup is None else lookup(packer, ids)
            if found is None or found[0] < model.depth:
                batch = model.read(inference_batch(model, packer, ids, compute.device))
                start, x = found or (0, None)
                pooled = model.advance(x, batch, start, model.depth, dtype=compute.dtype)
            else:
                pooled = found[1]
            places = np.searchsorted(texts, ids)
            rows[torch.from_numpy(places).to(compute.device)] = pooled.float()
    return rows
