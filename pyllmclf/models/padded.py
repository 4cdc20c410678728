"""The classifier on padded batches, in plain torch, for export to other runtimes.

The modules of the architecture run on the rows of a padded batch; only attention is replaced, by one with a mask.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..data.packing import PackedBatch
from ..errors import UsageError
from .context import Context
from .sequence_classifier import SequenceClassifier


class PaddedClassifier(nn.Module):
    """A classifier of padded batches.

    Parameters
    ----------
    model : SequenceClassifier
        Its parameters are shared, not copied.

    Raises
    ------
    UsageError
        If the pooling reads padding.
    """

    def __init__(self, model: SequenceClassifier) -> None:
        super().__init__()
        if model.pooling.reads_padding:
            raise UsageError(
                f"pooling={model.pooling.name!r} reads padding, which a graph of padded batches masks out."
            )
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Computes the logits of a batch.

        Parameters
        ----------
        input_ids : int64 tensor, shape [texts, length]
            Padded on the right.
        attention_mask : int64 tensor, shape [texts, length]
            1 for real tokens, 0 for padding.
        token_type_ids : int64 tensor, shape [texts, length], optional
            Type of each token; 0 by default.

        Returns
        -------
        fp32 tensor, shape [texts, classes]
        """
        model, (texts, length) = self.model, input_ids.shape
        positions = torch.arange(length, device=input_ids.device)
        # An empty text is read as one padding token.
        attention_mask = torch.where(positions == 0, 1, attention_mask)
        batch = PackedBatch(
            input_ids=input_ids.flatten(),
            positions=positions.repeat(texts),
            cu_seqlens=length * torch.arange(texts + 1, device=input_ids.device),
            max_seqlen=length,
            labels=None,
            example_ids=torch.arange(texts, device=input_ids.device),
            lengths=attention_mask.sum(dim=1),
            token_types=None if token_type_ids is None else token_type_ids.flatten(),
        )
        context = Context(batch, model.spec.causal, attention=partial(masked_attention, attention_mask))
        x = model.hidden_rows(context)
        if model.pooling.rows is not None:
            x = x[model.pooling.rows(batch.cu_seqlens, batch.lengths)]
        else:
            assert model.pooling.reduce_padded is not None
            x = model.pooling.reduce_padded(x.unflatten(0, (texts, length)), attention_mask)
        return model.head(model.transformed(x, context), context).float()


def masked_attention(
    attention_mask: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float,
    window: tuple[int, int] | None,
    relative: tuple[Tensor | None, ...] | None = None,
) -> Tensor:
    """softmax(scale q kᵀ + mask) v of padded texts, with padding masked out (Vaswani et al. 2017, section 3.2).

    Parameters
    ----------
    attention_mask : int tensor, shape [texts, length]
    q, k, v : tensor, shape [texts * length, heads, head_dim]
        Keys and values may have fewer heads, as for :func:`pyllmclf.ops.attention`.
    causal, scale, window : bool, float, (int, int) or None
        As for :func:`pyllmclf.ops.attention`.
    relative : tuple, optional
        Terms of the distances, as for :func:`pyllmclf.ops.relative_scores`.

    Returns
    -------
    tensor, shape [texts * length, heads * head_dim]
    """
    shape = attention_mask.shape
    q, k, v = (t.unflatten(0, shape).transpose(1, 2) for t in (q, k, v))
    positions = torch.arange(shape[1], device=q.device)
    distance = positions[None, :] - positions[:, None]
    visible = attention_mask.bool()[:, None, None, :]
    if causal:
        visible = visible & (distance <= 0)[None, None]
    if window is not None:
        visible = visible & ((distance >= -window[0]) & (distance <= window[1]))[None, None]
    group = q.shape[1] // k.shape[1]
    if group > 1:  # written out: exporters know no grouped heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if relative is not None:
        visible = ops.relative_scores(q, k, distance[None], relative, scale).masked_fill(~visible, float("-inf"))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    return out.transpose(1, 2).flatten(0, 1).flatten(1)
