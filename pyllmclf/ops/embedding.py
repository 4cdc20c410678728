"""Sum of token, position and type embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import dispatch
from .backends import reference
from .dispatch import UNMEASURED, Choice, choices
from .functions import apply
from .gradients import gradient_buffer
from .layer_norm import layer_norm

choices(
    "embedding",
    cpu=Choice("native", "one pass; its gradient touches the rows of the batch alone"),
    cuda=Choice("reference", UNMEASURED),
)


def embedding(
    input_ids: Tensor,
    positions: Tensor,
    token_weight: Tensor,
    position_weight: Tensor,
    type_weight: Tensor | None = None,
    types: Tensor | None = None,
) -> Tensor:
    """Sums the embeddings of packed tokens.

    Parameters
    ----------
    input_ids, positions : int tensor, shape [total]
    token_weight : tensor, shape [vocab_size, width]
        One in bf16 that is not trained, beside others in fp32, counts as fp32.
    position_weight : tensor, shape [n_positions, width]
    type_weight : tensor, shape [n_types, width], optional
    types : int tensor, shape [total], optional
        Type of each token, as the two texts of a pair have them; by default every token has type 0.

    Returns
    -------
    tensor, shape [total, width]
        In the dtype of the tables.

    Raises
    ------
    UsageError
        If shapes or devices don't fit each other, or the chosen backend can't compute this.
    IndexError
        If an id, a position or a type lies outside its table. On a GPU a device-side assertion fails instead.
    """
    input_ids, token_weight = _widened(input_ids, token_weight, position_weight)
    tables = (token_weight, position_weight, type_weight)
    _check(input_ids, positions, types, tables)
    if dispatch.implementation("embedding", *tables) == "native":
        return apply(EmbeddingFunction, input_ids, positions, types, *tables)
    return reference.embedding(input_ids, positions, *tables, types)


def embedding_layer_norm(
    input_ids: Tensor,
    positions: Tensor,
    token_weight: Tensor,
    position_weight: Tensor,
    type_weight: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    types: Tensor | None = None,
) -> Tensor:
    """Applies :func:`layer_norm` to the result of :func:`embedding`, as BERT's first layer does.

    Parameters
    ----------
    input_ids, positions, token_weight, position_weight, type_weight
        As for :func:`embedding`.
    norm_weight, norm_bias : tensor, shape [width]
    eps : float
    types
        As for :func:`embedding`.

    Returns
    -------
    tensor, shape [total, width]
        In the dtype of the tables.

    Raises
    ------
    UsageError, IndexError
        As :func:`embedding`.
    """
    input_ids, token_weight = _widened(input_ids, token_weight, position_weight)
    tables = (token_weight, position_weight, type_weight)
    _check(input_ids, positions, types, tables)
    if not norm_weight.shape == norm_bias.shape == token_weight.shape[1:]:
        raise UsageError("embedding_layer_norm: the norm's parameters don't fit the tables' width.")
    if dispatch.implementation("embedding", *tables, norm_weight, norm_bias) == "native":
        return apply(EmbeddingFunction, input_ids, positions, types, *tables, norm_weight, norm_bias, eps)
    return layer_norm(reference.embedding(input_ids, positions, *tables, types), norm_weight, norm_bias, eps)


def _widened(input_ids: Tensor, token_weight: Tensor, position_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and table of the tokens; of a frozen bf16 table beside one in fp32, the rows that are read, in fp32."""
    beside = position_weight.dtype is torch.float32 and token_weight.dtype is torch.bfloat16
    if not beside or token_weight.requires_grad:
        return input_ids, token_weight
    rows = torch.nn.functional.embedding(input_ids, token_weight).float()
    return torch.arange(len(rows), dtype=torch.int32, device=rows.device), rows


def _check(input_ids: Tensor, positions: Tensor, types: Tensor | None, weights: tuple[Tensor | None, ...]) -> None:
    if input_ids.dim() != 1 or positions.shape != input_ids.shape:
        shapes = f"{tuple(input_ids.shape)} and {tuple(positions.shape)}"
        raise UsageError(f"embedding: ids and positions of shapes {shapes} don't fit.")
    if types is not None and types.shape != input_ids.shape:
        raise UsageError(f"embedding: types of shape {tuple(types.shape)} don't fit {len(input_ids)} ids.")
    if types is not None and weights[2] is None:
        raise UsageError("embedding: types need a table of their embeddings.")
    tables = [t for t in weights if t is not None]
    if any(t.dim() != 2 or t.shape[1] != tables[0].shape[1] for t in tables):
        raise UsageError(f"embedding: tables of shapes {[tuple(t.shape) for t in tables]} don't fit.")
    indices = (input_ids, positions) if types is None else (input_ids, positions, types)
    if any(t.device != tables[0].device for t in (*indices, *tables)):
        raise UsageError("embedding: ids, positions, types and tables must be on one device.")


class EmbeddingFunction(torch.autograd.Function):
    """Saves the indices, and a norm's statistics; the backward pass recomputes the sum.

    A table's gradient is dense; with a gradient buffer, only the batch's rows are written.
    """

    @staticmethod
    def forward(
        ctx,
        input_ids: Tensor,
        positions: Tensor,
        types: Tensor | None,
        token: Tensor,
        position: Tensor,
        type_table: Tensor | None,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        input_ids, positions = (t.to(torch.int32).contiguous() for t in (input_ids, positions))
        types = None if types is None else types.to(torch.int32).contiguous()
        ctx.buffers = [None if t is None else gradient_buffer(t) for t in (token, position, type_table)]
        tables = token.contiguous(), position.contiguous(), None if type_table is None else type_table.contiguous()
        norm = None
        if norm_weight is not None and norm_bias is not None:
            norm = norm_weight.contiguous(), norm_bias.contiguous(), eps
        kernels = dispatch.kernels(token)
        y, stats = kernels.embedding_forward(input_ids, positions, types, tables, norm)
        ctx.save_for_backward(input_ids, positions, types, *tables, norm_weight, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        input_ids, positions, types, *tables, norm_weight, stats = ctx.saved_tensors
        needs_tables, needs_norm = ctx.needs_input_grad[3:6], ctx.needs_input_grad[6:8]
        kernels = dispatch.kernels(dy)
        ds: Tensor | None = dy.contiguous()
        dweight = dbias = None
        if stats is not None:
            summed, _ = kernels.embedding_forward(input_ids, positions, types, (*tables,))
            ds, dweight, dbias = kernels.layer_norm_backward(
                ds, None, summed, norm_weight, stats, input_needed=any(needs_tables), parameters_needed=any(needs_norm)
            )
        gradients: list[Tensor | None] = [None, None, None]
        for i, index in enumerate((input_ids, positions, types)):
            if not needs_tables[i]:
                continue
            if ctx.buffers[i] is not None:
                ctx.buffers[i].add_rows(ds, index)
                continue
            gradient = torch.zeros_like(tables[i])
            kernels.embedding_backward(ds, index, gradient)
            gradients[i] = gradient
        return None, None, None, *gradients, dweight, dbias, None
