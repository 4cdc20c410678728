"""The classifier: a backbone, pooling to one row per text, and the head."""

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
from .context import Context, DropoutState, PooledRows
from .layers import Linear
from .pooling import pooling_of


@dataclass(frozen=True)
class HeadSpec:
    """Pooling, attention mask and head of a classifier.

    Attributes
    ----------
    pooling : {"last", "last_position", "first", "mean"}
    causal : bool
        Whether attention has a causal mask.
    bias : bool
        Whether the head has a bias.
    pooler : bool
        Whether BERT's pooler stands between the pooled row and the head. sentence-transformers' models are trained
        without it.
    """

    pooling: str
    causal: bool
    bias: bool
    pooler: bool = True

    @classmethod
    def resolve(
        cls,
        config: ModelConfig,
        pooling: str | None,
        causal: bool | None,
        head_bias: bool | None,
        *,
        pooler: bool = True,
    ) -> HeadSpec:
        """Replaces ``None`` by the convention of the architecture.

        That of GPT-2 and Llama's kind is causal, last real token, no bias; that of the others bidirectional, first
        token, bias. ModernBERT's
        configuration may choose the mean as pooling.

        Parameters
        ----------
        config : ModelConfig
        pooling : {"last", "last_position", "first", "mean"} or None
        causal, head_bias : bool or None
        pooler : bool
            Architectures other than BERT have none that is pretrained; it is always ``True`` there.

        Raises
        ------
        UsageError
            If the pooling is unknown, or a flag is neither a bool nor ``None``.
        """
        if pooling is not None:
            pooling_of(pooling)
        for name, value in (("causal", causal), ("head_bias", head_bias)):
            if not isinstance(value, (bool, type(None))):
                raise UsageError(f"{name}={value!r} must be True, False or None.")
        values = {"pooling": pooling, "causal": causal, "bias": head_bias}
        explicit = {name: value for name, value in values.items() if value is not None}
        architecture = architecture_of(config)
        pooler = pooler or not architecture.pretrained_pooler
        return cls(**(architecture.convention(config) | explicit), pooler=pooler)


class SequenceClassifier(nn.Module):
    """Computes the logits of packed texts, in stages.

    Stage 0 is the embedding, stages 1 to ``n_layers`` are the blocks, the next one is what follows them up to the
    pooled rows; the head comes after :attr:`depth` stages.

    Parameters
    ----------
    config : ModelConfig
    n_classes : int
    head : HeadSpec

    Attributes
    ----------
    config : ModelConfig
    spec : HeadSpec
    pooling : Pooling
    backbone : Backbone
    head : Linear
        From [texts, width] to [texts, classes].
    """

    def __init__(self, config: ModelConfig, n_classes: int, head: HeadSpec) -> None:
        super().__init__()
        self.config, self.spec, self.pooling = config, head, pooling_of(head.pooling)
        self.backbone: Any = architecture_of(config).backbone(config)
        self.head = Linear(config.width, n_classes, bias=head.bias)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> SequenceClassifier:
        """A model of the same configuration with these parameters, which are not copied."""
        model = SequenceClassifier(self.config, self.head.weight.shape[0], self.spec)
        model.load_state_dict(parameters, assign=True)
        return model.to(model.head.weight.device)

    @property
    def classifier_modules(self) -> list[nn.Module]:
        """The modules that the pretrained model lacks: ``prediction_head``, if there is one, and the head."""
        prediction_head = getattr(self.backbone, "prediction_head", None)
        return [self.head] if prediction_head is None else [prediction_head, self.head]

    @property
    def reused_parameters(self) -> set[nn.Parameter]:
        """Parameters of linear layers that a pass uses several times."""
        reused = (module for module in self.modules() if isinstance(module, Linear) and module.reused)
        return {parameter for module in reused for parameter in module.parameters()}

    @property
    def depth(self) -> int:
        """Number of stages before the head: the embedding, the blocks, and what follows them up to the pooled rows."""
        return self.config.n_layers + 2

    def hidden_states(
        self, batch: PackedBatch, dropout: DropoutState | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Hidden states after the last block and the final norm, shape [total, width]; arguments as :meth:`forward`."""
        return self.hidden_rows(Context.make(batch, self.spec.causal, dropout, dtype))

    def hidden_rows(self, context: Context) -> Tensor:
        """:meth:`hidden_states` of a context, shape [total, width]."""
        x = self.backbone.embed(context)
        for block in self.backbone.blocks:
            x = block(x, context)
        return self.backbone.finish(x)

    def read(self, batch: PackedBatch) -> PackedBatch:
        """The batch without the rows that no logit depends on: a causal first token attends to itself only."""
        return batch.first_tokens() if self.reads_first_row_only else batch

    @property
    def reads_first_row_only(self) -> bool:
        """Whether logits depend on each text's first token alone, as with a causal mask and that token's pooling."""
        return self.spec.causal and self.pooling.first_row_only

    @property
    def can_share_prefixes(self) -> bool:
        """Whether texts with a common prefix have the same hidden states there, and rows after the first are read."""
        return self.spec.causal and not self.pooling.first_row_only

    def one_row(self, stage: int) -> bool:
        """Whether a stage takes one row per text rather than all rows."""
        after_blocks = self.depth - 1
        return self.reads_first_row_only or stage > after_blocks or (stage == after_blocks and self.pooling.selects_row)

    def advance(
        self,
        x: Tensor | None,
        batch: PackedBatch,
        start: int,
        end: int,
        dropout: DropoutState | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Runs the stages from ``start`` up to ``end``, exclusive.

        Parameters
        ----------
        x : tensor, shape [total, width], or [texts, width] where ``one_row(start)``, or None
            The input of stage ``start``; ``None`` for stage 0.
        batch : PackedBatch
            As :meth:`read` returns it.
        start, end : int
            From 0 to :attr:`depth`.
        dropout : DropoutState, optional
            In training only.
        dtype : torch.dtype
            Dtype of the computation; see :func:`~pyllmclf.models.context.hidden_dtype`.

        Returns
        -------
        tensor, shape [total, width], or [texts, width] where ``one_row(end)``
            The input of stage ``end``.
        """
        context = Context.make(batch, self.spec.causal, dropout, dtype)
        x = None if x is None else x.to(context.dtype)  # kept rows may be narrower
        if start == 0 < end:
            x = self.backbone.embed(context)
        shares = batch.shared is not None and dropout is None and self.can_share_prefixes
        if shares and batch.shared is not None and x is not None and start < end and not self.one_row(start):
            x, context = batch.shared.computed(x), replace(context, shared=batch.shared)
        last_block = self.depth - 2
        for stage, block in enumerate(self.backbone.blocks, 1):
            if start <= stage < end:
                # Only the pooled rows of the last block are read: of the others it needs keys and values alone.
                pooled = PooledRows.of(context, self.pooling) if stage == last_block else None
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
            x = self.transformed(x, self._after_pooling(context))
        return x

    def transformed(self, x: Tensor, context: Context) -> Tensor:
        """What the head reads, shape [texts, width], of the pooled rows x [texts, width]."""
        return self.backbone.pooled(x, context) if self.spec.pooler else x

    @property
    def unused_modules(self) -> list[nn.Module]:
        """Modules of the backbone on which no logit depends."""
        return [] if self.spec.pooler else [self.backbone.pooler]

    def forward(
        self,
        batch: PackedBatch,
        dropout: DropoutState | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        cached: tuple[int, Tensor] | None = None,
        head: bool = True,
    ) -> Tensor:
        """Computes the logits of a batch, or what the head reads.

        Parameters
        ----------
        batch : PackedBatch
        dropout : DropoutState, optional
            In training only.
        dtype : torch.dtype
            Dtype of the computation; see :func:`~pyllmclf.models.context.hidden_dtype`. Parameters stay in fp32.
        cached : (int, tensor), optional
            A stage and its input, from which the computation starts.
        head : bool
            Whether the head follows.

        Returns
        -------
        fp32 tensor, shape [texts, classes], or [texts, width] without the head
        """
        batch = self.read(batch)
        start, x = (0, None) if cached is None else cached
        pooled = self.advance(x, batch, start, self.depth, dropout, dtype) if x is None or start < self.depth else x
        if not head:
            return pooled.float()
        context = self._after_pooling(Context.make(batch, self.spec.causal, dropout, dtype))
        pooled = pooled.to(context.dtype)
        if context.rates.head > 0.0:
            pooled = ops.dropout(pooled, context.rates.head, context.key(self.config.n_layers, HEAD))
        return self.head(pooled, context).float()

    def _after_pooling(self, context: Context) -> Context:
        """The context with one row per text, whose dropout masks are those of position 0; matmuls are not rounded."""
        batch = context.batch
        return replace(context, batch=batch.one_row_each(torch.zeros_like(batch.lengths)), operands=None)
