"""A backbone, one row per text, and the classification head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import ops
from ..data.packing import PackedBatch
from ..errors import UsageError
from ..ops.dropout import HEAD
from ..ops.pooling import POOLINGS
from .bert import Bert
from .config import ModelConfig
from .gpt2 import GPT2
from .layers import Context, DropoutState, Linear

BACKBONES: dict[str, type[GPT2] | type[Bert]] = {"gpt2": GPT2, "bert": Bert}


@dataclass(frozen=True)
class HeadSpec:
    """How a text becomes logits.

    Attributes
    ----------
    pooling : {"last", "last_position", "first", "mean"}
    causal : bool
    bias : bool
        Whether the head has a bias.
    """

    pooling: str
    causal: bool
    bias: bool

    @classmethod
    def resolve(cls, model_type: str, pooling: str | None, causal: bool | None, head_bias: bool | None) -> HeadSpec:
        """Fills what is ``None`` with the architecture's own convention.

        GPT-2: causal, last real token, no bias. BERT: bidirectional, first token, bias.
        """
        check_pooling(pooling)
        gpt2 = model_type == "gpt2"
        return cls(
            pooling=("last" if gpt2 else "first") if pooling is None else pooling,
            causal=gpt2 if causal is None else causal,
            bias=not gpt2 if head_bias is None else head_bias,
        )


def check_pooling(pooling: str | None) -> None:
    """Raises :class:`UsageError` if there is no such pooling."""
    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"pooling={pooling!r} is unknown; it is one of {', '.join(POOLINGS)}.")


class SequenceClassifier(nn.Module):
    """Logits of packed texts.

    Parameters
    ----------
    config : ModelConfig
    n_classes : int
    head : HeadSpec
    """

    def __init__(self, config: ModelConfig, n_classes: int, head: HeadSpec) -> None:
        super().__init__()
        self.config, self.spec = config, head
        self.backbone: GPT2 | Bert = BACKBONES[config.model_type](config)
        self.head = Linear(config.width, n_classes, bias=head.bias)

    def hidden_states(
        self, batch: PackedBatch, dropout: DropoutState | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Rows behind the last block and the final norm, shape [total, width]."""
        context = Context(batch, self.spec.causal, dropout, dtype)
        x = self.backbone.embed(context)
        for block in self.backbone.blocks:
            x = block(x, context)
        return self.backbone.finish(x)

    def forward(
        self, batch: PackedBatch, dropout: DropoutState | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Logits in fp32.

        Parameters
        ----------
        batch : PackedBatch
        dropout : DropoutState, optional
            Given in training only.
        dtype : torch.dtype
            Of the rows between the embedding and the logits, and of the matmuls. Parameters stay in fp32.

        Returns
        -------
        tensor, shape [texts, classes]
        """
        x = self.hidden_states(batch, dropout, dtype)
        pooled = ops.pool(x, batch.cu_seqlens, batch.lengths, self.spec.pooling)
        context = Context(_one_row_each(batch), self.spec.causal, dropout, dtype)
        pooled = self.backbone.pooled(pooled, context)
        if context.rates.head > 0.0:
            pooled = ops.dropout(pooled, context.rates.head, context.key(self.config.n_layers, HEAD))
        return self.head(pooled, context).float()


def _one_row_each(batch: PackedBatch) -> PackedBatch:
    """The batch as dropout sees it behind pooling: one row per text, at position 0."""
    n = len(batch)
    device = batch.cu_seqlens.device
    return replace(
        batch,
        positions=torch.zeros(n, dtype=torch.int32, device=device),
        cu_seqlens=torch.arange(n + 1, dtype=torch.int32, device=device),
        schedule=None,
    )
