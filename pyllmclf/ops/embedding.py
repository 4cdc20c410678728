"""Sum of the token, position and type embeddings."""

from __future__ import annotations

from torch import Tensor

from . import reference


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
    return reference.embedding(input_ids, positions, token_weight, position_weight, type_weight)
