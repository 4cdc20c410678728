"""A backbone, one row per text, and the classification head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..data.packing import PackedBatch
from ..errors import UsageError
from ..ops.philox import HEAD
from .architectures.registry import architecture_of
from .config import ModelConfig
from .layers import Context, DropoutState, Linear, PooledRows
from .pooling import pooling_of


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
    def resolve(cls, config: ModelConfig, pooling: str | None, causal: bool | None, head_bias: bool | None) -> HeadSpec:
        """Fills what is ``None`` with the architecture's own convention.

        GPT-2: causal, last real token, no bias. The others: bidirectional, first token, bias; ModernBERT's
        configuration may say that the mean is read.
        """
        if pooling is not None:
            pooling_of(pooling)
        for name, value in (("causal", causal), ("head_bias", head_bias)):
            if not isinstance(value, (bool, type(None))):
                raise UsageError(f"{name}={value!r} must be True, False or None.")
        values = {"pooling": pooling, "causal": causal, "bias": head_bias}
        chosen = {name: value for name, value in values.items() if value is not None}
        return cls(**(architecture_of(config).convention(config) | chosen))


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
        self.config, self.spec, self.pooling = config, head, pooling_of(head.pooling)
        self.backbone: Any = architecture_of(config).backbone(config)
        self.head = Linear(config.width, n_classes, bias=head.bias)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> SequenceClassifier:
        """A model like this one with these parameters, which it takes over without a copy."""
        model = SequenceClassifier(self.config, self.head.weight.shape[0], self.spec)
        model.load_state_dict(parameters, assign=True)
        return model.to(model.head.weight.device)

    @property
    def classifier_modules(self) -> list[nn.Module]:
        """What belongs to the classifier and not to the pretrained model: the head, and what some have before it."""
        before = getattr(self.backbone, "prediction_head", None)
        return [self.head] if before is None else [before, self.head]

    @property
    def depth(self) -> int:
        """Stages before the head: the embedding, each block, and what follows them up to the pooled row."""
        return self.config.n_layers + 2

    def hidden_states(
        self, batch: PackedBatch, dropout: DropoutState | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """All rows behind the last block and the final norm, shape [total, width]."""
        return self.hidden_rows(Context(batch, self.spec.causal, dropout, dtype))

    def hidden_rows(self, context: Context) -> Tensor:
        """As :meth:`hidden_states`, of a forward pass."""
        x = self.backbone.embed(context)
        for block in self.backbone.blocks:
            x = block(x, context)
        return self.backbone.finish(x)

    def read(self, batch: PackedBatch) -> PackedBatch:
        """The batch without the rows that no logit depends on: causal, a first token sees itself alone."""
        return batch.first_tokens() if self._first_alone else batch

    @property
    def _first_alone(self) -> bool:
        return self.spec.causal and self.pooling.first_alone

    @property
    def sees_only_before(self) -> bool:
        """Whether texts that begin alike have the same rows there, of which several are read."""
        return self.spec.causal and not self.pooling.first_alone

    def one_row(self, stage: int) -> bool:
        """Whether the rows before a stage are one for each text."""
        behind_blocks = self.depth - 1
        return self._first_alone or stage > behind_blocks or (stage == behind_blocks and self.pooling.chooses)

    def advance(
        self,
        x: Tensor | None,
        batch: PackedBatch,
        start: int,
        end: int,
        dropout: DropoutState | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The rows before stage ``end`` from those before stage ``start``.

        Parameters
        ----------
        x : tensor, shape [total, width], or [texts, width] where :meth:`one_row` says so; ``None`` for stage 0
        batch : PackedBatch
            What :meth:`read` leaves of it.
        start, end : int
            From 0 to :attr:`depth`.
        dropout, dtype
            As for :meth:`forward`.
        """
        context = Context(batch, self.spec.causal, dropout, dtype)
        if start == 0 < end:
            x = self.backbone.embed(context)
            if batch.shared is not None and dropout is None and self.sees_only_before:
                x, context = batch.shared.computed(x), replace(context, shared=batch.shared)
        last = self.depth - 2
        for stage, block in enumerate(self.backbone.blocks, 1):
            if start <= stage < end:
                # Behind the last block one row per text is read: its keys and values are all that others are for.
                pooled = PooledRows.of(context, self.pooling) if stage == last else None
                if pooled is not None and context.shared is not None and x is not None:
                    x, context = context.shared.all(x), replace(context, shared=None)
                x = block(x, context, pooled)
        assert x is not None
        if context.shared is not None:
            x, context = context.shared.all(x), replace(context, shared=None)
        if start < end == self.depth:
            x = self.backbone.finish(x)
            if not self.one_row(self.depth - 1):
                x = self.pooling(x, batch.cu_seqlens, batch.lengths)
            x = self.backbone.pooled(x, self._behind_pooling(context))
        return x

    def forward(
        self,
        batch: PackedBatch,
        dropout: DropoutState | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        cached: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        """Logits in fp32.

        Parameters
        ----------
        batch : PackedBatch
        dropout : DropoutState, optional
            Given in training only.
        dtype : torch.dtype
            Of the rows between the embedding and the logits, and of the matmuls. Parameters stay in fp32.
        cached : (int, tensor), optional
            A stage and the rows before it, from which the computation starts.

        Returns
        -------
        tensor, shape [texts, classes]
        """
        batch = self.read(batch)
        start, x = (0, None) if cached is None else cached
        pooled = self.advance(x, batch, start, self.depth, dropout, dtype) if x is None or start < self.depth else x
        context = self._behind_pooling(Context(batch, self.spec.causal, dropout, dtype))
        if context.rates.head > 0.0:
            pooled = ops.dropout(pooled, context.rates.head, context.key(self.config.n_layers, HEAD))
        return self.head(pooled, context).float()

    def _behind_pooling(self, context: Context) -> Context:
        """One row per text, for dropout masks at position 0."""
        batch = context.batch
        return replace(context, batch=batch.one_row_each(torch.zeros_like(batch.lengths)))
