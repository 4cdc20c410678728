"""Sum of the token, position and type embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import native, reference
from .dispatch import implementation
from .gradients import kept_gradient


def embedding(
    input_ids: Tensor,
    positions: Tensor,
    token_weight: Tensor,
    position_weight: Tensor,
    type_weight: Tensor | None = None,
) -> Tensor:
    """Embeds packed tokens.

    Parameters
    ----------
    input_ids, positions : int tensor, shape [total]
    token_weight : tensor, shape [vocab_size, width]
    position_weight : tensor, shape [n_positions, width]
    type_weight : tensor, shape [types, width], optional
        A classifier reads one segment, so that every token has type 0.

    Returns
    -------
    tensor, shape [total, width]
    """
    tables = (token_weight, position_weight, type_weight)
    if implementation("embedding", *tables) == "native":
        return EmbeddingFunction.apply(input_ids, positions, *tables)
    return reference.embedding(input_ids, positions, *tables)


class EmbeddingFunction(torch.autograd.Function):
    """Saves the indices. A table's gradient is dense; where its memory is kept, only the batch's rows are written."""

    @staticmethod
    def forward(ctx, input_ids: Tensor, positions: Tensor, *tables: Tensor | None) -> Tensor:
        input_ids, positions = (t.to(torch.int32).contiguous() for t in (input_ids, positions))
        ctx.save_for_backward(input_ids, positions)
        ctx.tables = [None if t is None else (t.shape, kept_gradient(t)) for t in tables]
        token, position, types = (None if t is None else t.contiguous() for t in tables)
        assert token is not None and position is not None
        return native.embedding_forward(input_ids, positions, token, position, types)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        dy = dy.contiguous()
        gradients: list[Tensor | None] = []
        for table, index, needed in zip(ctx.tables, (*ctx.saved_tensors, None), ctx.needs_input_grad[2:], strict=True):
            if not needed:
                gradients.append(None)
                continue
            shape, kept = table
            if kept is not None:
                kept.add_rows(dy, index)
                gradients.append(None)
                continue
            gradient = dy.new_zeros(shape)
            native.embedding_backward(dy, index, gradient)
            gradients.append(gradient)
        return None, None, *gradients
