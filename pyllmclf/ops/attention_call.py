"""One call of attention, in the form that each backend takes it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .backends import native_cpu, reference, torch_attention
from .backends import triton as triton_backend
from .philox import DropoutKey

if TYPE_CHECKING:
    from ..kernels.attention import Launch
    from ..kernels.tiles import PooledSchedule, Schedule


@dataclass(frozen=True)
class AttentionCall:
    """All arguments of :func:`attention` but q, k and v, which each backend takes in another form."""

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    _: KW_ONLY
    causal: bool
    scale: float
    query_positions: Tensor | None = None
    window: tuple[int, int] | None = None
    dropout_p: float = 0.0
    dropout_key: DropoutKey | None = None
    schedule: Schedule | PooledSchedule | None = None
    operands: torch.dtype | None = None

    def native_shape(self, q: torch.Size, k: torch.Size) -> native_cpu.AttentionShape:
        """Arguments of the native core's kernels, for the shapes of q and k."""
        rows_q, heads, head_dim = q
        return native_cpu.AttentionShape(
            self.cu_seqlens_q,
            self.cu_seqlens_k,
            rows_q=rows_q,
            rows_k=k[0],
            heads=heads,
            kv_heads=k[1],
            head_dim=head_dim,
            scale=self.scale,
            causal=self.causal,
            query_positions=self.query_positions,
            window=self.window,
            dropout_p=self.dropout_p,
            dropout_key=self.dropout_key,
            operands=self.operands,
        )

    def triton_launch(self, q: Tensor, k: Tensor) -> tuple[Launch, ModuleType]:
        """Arguments of the Triton kernels for q [rows_q, heads, head_dim] and k, and their module."""
        from ..kernels import attention as kernels

        positions = self.query_positions
        launch = kernels.Launch(
            q,
            k,
            self.cu_seqlens_q,
            self.cu_seqlens_k,
            self.max_seqlen_q,
            self.max_seqlen_k,
            causal=self.causal,
            scale=self.scale,
            query_positions=None if positions is None else positions.to(torch.int32).contiguous(),
            window=self.window,
            dropout=triton_backend.attention_dropout(self.dropout_p, self.dropout_key),
            schedule=self.schedule,
        )
        return launch, kernels

    def by_torch(self, chosen: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Computes attention by ops of torch, which bring their own backward pass."""
        plain = self.query_positions is None and self.window is None and self.dropout_p == 0.0
        if chosen == "torch" and plain and self.operands is None:
            return torch_attention.attention(
                q, k, v, self.cu_seqlens_q, self.max_seqlen_q, causal=self.causal, scale=self.scale
            )
        with torch.autocast(q.device.type, enabled=False):  # the reference computes half precision in fp32
            return reference.attention(
                q,
                k,
                v,
                self.cu_seqlens_q,
                self.cu_seqlens_k,
                causal=self.causal,
                query_positions=self.query_positions,
                scale=self.scale,
                window=self.window,
                dropout_p=self.dropout_p,
                dropout_key=self.dropout_key,
                operands=self.operands,
            )
