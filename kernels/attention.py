"""Attention over packed texts, forward and backward: softmax(scale q kᵀ + mask) v within each text.

Forward: online softmax over blocks of keys (Milakov and Gimelshein 2018; Dao 2023). Backward: probabilities are
recomputed from the saved log2-sum-exp L:  P = 2^(S - L), dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - rowsum(dO O)),
dQ = scale dS K, dK = scale dSᵀ Q.  Dropout masks and scales P before the product with V, and dP likewise.

A program owns a tile of queries (forward, dQ) or of keys (dK and dV) of one text and one head, and loops over the other
side. So no sum needs atomics, and results have the same bits in every run. Only blocks on the diagonal or at a text's
end are masked. A head of keys and values may serve a group of query heads (Ainslie et al. 2023), which are neighbours;
the program of its dK and dV loops over them. dK and dV use Sᵀ = K Qᵀ, so that no probabilities are transposed.
"""

from functools import cache

import torch
import triton

from .attention_backward import _attention_backward_dkdv_kernel, _attention_backward_dq_kernel
from .attention_forward import _attention_forward_kernel
from .configs import AttentionConfig, attention_configs, capability
from .philox import Dropout
from .tiles import PooledSchedule, Schedule, Tiles, tile_rows

LOG2_E = 1.4426950408889634


@cache
def processors(device: torch.device) -> int:
    """Lower bound on the programs that run at once: the multiprocessors; 0 in the interpreter, which runs one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def depth_of(head_dim: int) -> int:
    """Columns of a tile: the next power of two, at least the 16 that a matrix instruction takes."""
    return max(16, triton.next_power_of_2(head_dim))


class Launch:
    """Arguments that the forward and backward kernels of one attention call share.

    Parameters
    ----------
    q : tensor, shape [rows_q, heads, head_dim]
    k : tensor, shape [rows_k, kv_heads, head_dim]
        ``heads`` is a multiple of ``kv_heads``.
    cu_seqlens_q, cu_seqlens_k : int32 tensor, shape [texts + 1]
    max_seqlen_q, max_seqlen_k : int
    causal : bool
    scale : float
    query_positions : int32 tensor, shape [rows_q], optional
    window : (int, int), optional
    dropout : Dropout, optional
    schedule : Schedule or PooledSchedule, optional
        Tiles of the batch, in order. Without it, every text takes as many tiles as the longest.
    """

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        *,
        causal: bool,
        scale: float,
        query_positions: torch.Tensor | None = None,
        window: tuple[int, int] | None = None,
        dropout: Dropout | None = None,
        schedule: Schedule | PooledSchedule | None = None,
    ) -> None:
        self.offsets = cu_seqlens_q, cu_seqlens_k
        self.longest = max_seqlen_q, max_seqlen_k
        self.rows_q, self.heads, self.head_dim = q.shape
        self.kv_heads = k.shape[1]
        self.bits = 8 * q.element_size()
        self.scale, self.causal = scale, causal
        self.positions, self.schedule = query_positions, schedule
        self.dropout, self.window = dropout, window
        self.device = q.device

    def tiles(self, side: str, long: int) -> list[Tiles]:
        """Launches of a kernel whose programs own tiles of queries (side "q") or of keys ("k"), ``long`` rows of long
        texts.
        """
        longest = self.longest[0 if side == "q" else 1]
        rows = tile_rows(longest, long)
        blocks = triton.cdiv(longest, rows)
        count = (len(self.offsets[0]) - 1) * blocks
        # If all programs run at once, their order doesn't matter, and a second launch costs more than larger tiles.
        if self.schedule is None or count * self.heads_of(side) <= processors(self.device):
            return [Tiles(rows, count, blocks, None)]
        return self.schedule.tiles(side, long, causal=self.causal and self.positions is None)

    def heads_of(self, side: str) -> int:
        """Heads of queries (side "q") or of keys ("k"): programs per tile."""
        return self.heads if side == "q" else self.kv_heads

    def configs(self, name: str) -> dict[int, AttentionConfig]:
        """Configurations of kernel "forward", "dq" or "dkdv", by the rows of a tile; the last is for long texts."""
        masked = self.dropout is not None or self.positions is not None or self.window is not None
        depth, at, grouped = depth_of(self.head_dim), capability(self.device), self.heads > self.kv_heads
        return attention_configs(name, self.bits, depth, at, masked=masked, grouped=grouped)

    def run(self, kernel, name: str, side: str, tensors: tuple, strides: tuple, scales: tuple[float, ...]) -> None:
        """Launches a kernel on all tiles of one side."""
        dropout, heads, configs = self.dropout or Dropout.none(), self.heads_of(side), self.configs(name)
        for tiles in self.tiles(side, max(configs)):
            if not tiles.count:
                continue
            config = configs[tiles.rows]
            with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
                kernel[(tiles.count * heads,)](
                    *tensors,
                    *self.offsets,
                    self.positions,
                    tiles.table,
                    dropout.example_ids,
                    *strides,
                    self.rows_q,
                    heads,
                    tiles.blocks,
                    *(self.window or (0, 0)),
                    *scales,
                    *dropout.words,
                    dropout.scale,
                    **self.constants(config, tiles.table is not None),
                    num_warps=config.num_warps,
                    num_stages=config.num_stages,
                    enable_fp_fusion=True,
                )

    def constants(self, config: AttentionConfig, tiled: bool) -> dict[str, int | bool]:
        """Compile-time arguments of a kernel; ``tiled``: whether its tiles come from a table."""
        return {
            "GROUP": self.heads // self.kv_heads,
            "HEAD_DIM": self.head_dim,
            "DEPTH": depth_of(self.head_dim),
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "CAUSAL": self.causal,
            "SUBSET": self.positions is not None,
            "WINDOW": self.window is not None,
            "TILED": tiled,
            "DROPOUT": self.dropout is not None,
        }


def attention_forward(
    launch: Launch, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes attention and the log-sum-exp that its backward pass needs.

    Parameters
    ----------
    launch : Launch
    q : tensor, shape [rows_q, heads, head_dim]
        fp32, bf16 or fp16. The last axis is contiguous; rows and heads may have any stride.
    k, v : tensor, shape [rows_k, kv_heads, head_dim]
        As ``q``.

    Returns
    -------
    out : tensor, shape [rows_q, heads, head_dim], contiguous
    log_sum_exp : fp32 tensor, shape [heads, rows_q]
        In base 2.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    log_sum_exp = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
    launch.run(
        _attention_forward_kernel,
        "forward",
        "q",
        (q, k, v, out, log_sum_exp),
        _strides(q, k, v, out),
        (launch.scale * LOG2_E,),
    )
    return out, log_sum_exp


def attention_backward(
    launch: Launch,
    inputs: tuple[torch.Tensor, ...],
    dout: torch.Tensor,
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Writes dq, dk and dv, which may be views of one tensor.

    Parameters
    ----------
    launch : Launch
    inputs : (q, k, v, out, log_sum_exp)
        Arguments and results of :func:`attention_forward`.
    dout : tensor, shape [rows_q, heads, head_dim]
        The last axis is contiguous.
    gradients : (dq, dk, dv)
        Outputs, of the shapes and dtypes of q, k and v; the last axis is contiguous.
    """
    dq, dk, dv = gradients
    delta = backward_dq(launch, inputs, dout, dq)
    backward_dkdv(launch, inputs, dout, delta, dk, dv)


def backward_dq(launch: Launch, inputs: tuple[torch.Tensor, ...], dout: torch.Tensor, dq: torch.Tensor) -> torch.Tensor:
    """Writes dq; returns rowsum(dO O), fp32, shape [heads, rows_q]."""
    q, k, v, out, log_sum_exp = inputs
    delta = torch.empty_like(log_sum_exp)
    launch.run(
        _attention_backward_dq_kernel,
        "dq",
        "q",
        (q, k, v, out, dout, log_sum_exp, delta, dq),
        _strides(q, k, v, out, dout, dq),
        (launch.scale * LOG2_E, launch.scale),
    )
    return delta


def backward_dkdv(
    launch: Launch,
    inputs: tuple[torch.Tensor, ...],
    dout: torch.Tensor,
    delta: torch.Tensor,
    dk: torch.Tensor,
    dv: torch.Tensor,
) -> None:
    """Writes dk and dv; ``delta`` is the result of :func:`backward_dq`."""
    q, k, v, _, log_sum_exp = inputs
    launch.run(
        _attention_backward_dkdv_kernel,
        "dkdv",
        "k",
        (q, k, v, dout, log_sum_exp, delta, dk, dv),
        _strides(q, k, v, dout, dk, dv),
        (launch.scale * LOG2_E, launch.scale),
    )


def _strides(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(t.stride(axis) for t in tensors for axis in (0, 1))
