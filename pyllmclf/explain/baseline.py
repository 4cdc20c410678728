"""What stands in the place of a text's tokens: the embedding that says nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.tokenizers import Tokenizer
from ..errors import UsageError

BASELINES = ("pad", "mask", "unk", "zero")
INTEGRATED_GRADIENTS, GRADIENT_X_INPUT, OCCLUSION = "integrated_gradients", "gradient_x_input", "occlusion"
METHODS = (INTEGRATED_GRADIENTS, GRADIENT_X_INPUT, OCCLUSION)


@dataclass(frozen=True)
class Baseline:
    """An embedding that takes the place of a token's.

    Attributes
    ----------
    name : {"pad", "mask", "unk", "zero"}
    token : int or None
        Whose embedding it is; ``None`` of zeros.
    row : fp32 tensor, shape [embedding_width]
    """

    name: str
    token: int | None
    row: Tensor

    @classmethod
    def of(cls, name: str | None, method: str, tokenizer: Tokenizer, table: Tensor, *, alone: bool = False) -> Baseline:
        """The baseline with a name, or that of a method.

        Parameters
        ----------
        name : {"pad", "mask", "unk", "zero"} or None
            ``None``: the padding token; for occlusion the mask token where the tokenizer has one. The mask token, too,
            where the padding token's embedding is zero and nothing is added to it before a norm: on the line from zero
            to an embedding, a norm returns the same all along.
        method : str
        tokenizer : Tokenizer
        table : tensor, shape [vocab_size, embedding_width]
        alone : bool
            Whether the model adds nothing to the tokens' embeddings.

        Raises
        ------
        UsageError
            If the name is unknown, or the tokenizer has no such token.
        """
        if name is not None and name not in BASELINES:
            raise UsageError(f"baseline={name!r} is unknown; it is one of {', '.join(BASELINES)}.")
        tokens = {
            "pad": tokenizer.pad_token_id,
            "mask": tokenizer.special_id("mask"),
            "unk": tokenizer.special_id("unk"),
        }
        known = {kind: token for kind, token in tokens.items() if token is not None and token < len(table)}
        if name is None:
            vanishes = alone and "pad" in known and not bool(table[known["pad"]].any())
            name = "mask" if "mask" in known and (method == OCCLUSION or vanishes) else "pad"
            name = name if name in known else "zero"
        if name == "zero":
            return cls(name, None, torch.zeros(table.shape[1], device=table.device))
        if name not in known:
            others = ", ".join(repr(kind) for kind in BASELINES if kind in known or kind == "zero")
            raise UsageError(f"baseline={name!r}: the model's tokenizer has no such token; use one of {others}.")
        return cls(name, known[name], table[known[name]].detach().float())
