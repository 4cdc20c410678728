"""The classifier on padded batches, in plain torch: what can be exported to other runtimes.

The same modules as :mod:`pyllmclf.models.sequence_classifier` has, computed with a mask as other libraries do.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..ops.backends.reference import rotary_angles
from .architectures.bert import Bert, Roberta
from .architectures.distilbert import DistilBert
from .architectures.gpt2 import GPT2
from .architectures.modernbert import ModernBert
from .layers import LayerNorm, Linear
from .sequence_classifier import SequenceClassifier


class PaddedClassifier(nn.Module):
    """Logits of padded texts.

    Parameters
    ----------
    model : SequenceClassifier
        Its parameters are shared, not copied.

    Raises
    ------
    UsageError
        With ``pooling="last_position"``, which reads padding.
    """

    def __init__(self, model: SequenceClassifier) -> None:
        super().__init__()
        if model.spec.pooling == "last_position":
            raise UsageError("a classifier that reads the last position, padding or not, can't mask padding.")
        self.model = model
        self.spec, self.heads = model.spec, model.config.n_heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, fp32, shape [texts, classes].

        Parameters
        ----------
        input_ids : int64 tensor, shape [texts, length]
            Padded on the right.
        attention_mask : int64 tensor, shape [texts, length]
            1 for real tokens, 0 for padding.
        """
        backbone = self.model.backbone
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        # An empty text is read as one token, which is the one that pads.
        attention_mask = torch.where(positions == 0, 1, attention_mask)
        mask = attention_mask.bool()[:, None, None, :]
        if self.spec.causal:
            mask = mask & (positions[None, :] <= positions[:, None])[None, None]
        if isinstance(backbone, GPT2):
            x = self._gpt2(backbone, input_ids, positions, mask)
        elif isinstance(backbone, DistilBert):
            x = self._distilbert(backbone, input_ids, positions, mask)
        elif isinstance(backbone, ModernBert):
            x = self._modernbert(backbone, input_ids, positions, mask)
        else:
            x = self._bert(backbone, input_ids, positions, mask)
        return linear(self.model.head, self._before_head(self._pool(x, attention_mask)))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)

    def _gpt2(self, backbone: GPT2, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        x = F.embedding(ids, backbone.wte.weight) + F.embedding(positions, backbone.wpe.weight)
        block: Any
        for block in backbone.h:
            q, k, v = linear(block.attn.c_attn, norm(block.ln_1, x)).chunk(3, dim=2)
            x = x + linear(block.attn.c_proj, self._attention(q, k, v, mask, block.attn.scale))
            inner = F.gelu(linear(block.mlp.c_fc, norm(block.ln_2, x)), approximate=block.mlp.gelu)
            x = x + linear(block.mlp.c_proj, inner)
        return norm(backbone.ln_f, x)

    def _bert(self, backbone: Bert, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        tables = backbone.embeddings
        x = F.embedding(ids, tables.word_embeddings.weight)
        x = x + F.embedding(positions + tables.offset, tables.position_embeddings.weight)
        x = norm(tables.LayerNorm, x + tables.token_type_embeddings.weight[0])
        layer: Any
        for layer in backbone.blocks:
            own = layer.attention.self
            q, k, v = (linear(part, x) for part in (own.query, own.key, own.value))
            attended = linear(layer.attention.output.dense, self._attention(q, k, v, mask, own.scale))
            x = norm(layer.attention.output.LayerNorm, attended + x)
            inner = F.gelu(linear(layer.intermediate.dense, x), approximate=layer.gelu)
            x = norm(layer.output.LayerNorm, linear(layer.output.dense, inner) + x)
        return x

    def _distilbert(self, backbone: DistilBert, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        tables = backbone.embeddings
        x = F.embedding(ids, tables.word_embeddings.weight) + F.embedding(positions, tables.position_embeddings.weight)
        x = norm(tables.LayerNorm, x)
        layer: Any
        for layer in backbone.blocks:
            own = layer.attention
            q, k, v = (linear(part, x) for part in (own.q_lin, own.k_lin, own.v_lin))
            x = norm(layer.sa_layer_norm, linear(own.out_lin, self._attention(q, k, v, mask, own.scale)) + x)
            inner = F.gelu(linear(layer.ffn.lin1, x), approximate=layer.ffn.gelu)
            x = norm(layer.output_layer_norm, linear(layer.ffn.lin2, inner) + x)
        return x

    def _modernbert(self, backbone: ModernBert, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        x = norm(backbone.embeddings.norm, F.embedding(ids, backbone.embeddings.tok_embeddings.weight))
        distance = positions[None, :] - positions[:, None]
        layer: Any
        for layer in backbone.layers:
            own = layer.attn
            before = norm(layer.attn_norm, x) if isinstance(layer.attn_norm, LayerNorm) else x
            q, k, v = linear(own.Wqkv, before).chunk(3, dim=2)
            q, k = (self._turned(t, positions, **own.turned) for t in (q, k))
            seen = mask if own.window is None else mask & (distance.abs() <= own.window[0])[None, None]
            x = x + linear(own.Wo, self._attention(q, k, v, seen, own.scale))
            activated, gate = linear(layer.mlp.Wi, norm(layer.mlp_norm, x)).chunk(2, dim=2)
            x = x + linear(layer.mlp.Wo, F.gelu(activated, approximate=layer.mlp.gelu) * gate)
        return norm(backbone.final_norm, x)

    def _turned(self, x: Tensor, positions: Tensor, *, head_dim: int, theta: float) -> Tensor:
        cosine, sine = (t[None, :, None] for t in rotary_angles(positions, head_dim, theta))
        first, second = x.unflatten(2, (self.heads, 2, head_dim // 2)).unbind(3)
        turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=3)
        return turned.flatten(2)

    def _pool(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """The row of each text that is read, shape [texts, width]."""
        if self.spec.pooling == "first":
            return x[:, 0]
        if self.spec.pooling == "mean":
            weight = attention_mask.to(x.dtype)[:, :, None]
            return (x * weight).sum(dim=1) / weight.sum(dim=1)
        last = attention_mask.sum(dim=1) - 1
        return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]

    def _before_head(self, x: Tensor) -> Tensor:
        backbone = self.model.backbone
        if isinstance(backbone, GPT2):
            return x
        if isinstance(backbone, DistilBert):
            return linear(backbone.prediction_head, x).relu()
        if isinstance(backbone, ModernBert):
            head = backbone.prediction_head
            return norm(head.norm, F.gelu(linear(head.dense, x), approximate=head.gelu))
        dense = backbone.prediction_head if isinstance(backbone, Roberta) else backbone.pooler.dense
        return linear(dense, x).tanh()


def linear(layer: Linear, x: Tensor) -> Tensor:
    """x (W + s B A)ᵀ + b."""
    return F.linear(x, layer.whole_weight(x.dtype), layer.bias)


def norm(layer: LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation."""
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)
