"""The native core's CPU ops, on fp32 tensors unless a name says bf16.

Allocates outputs, and passes addresses, sizes and the thread count. Shapes are those of the public ops in
:mod:`pyllmclf.ops`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ... import _C
from ...errors import UsageError
from ..philox import DropoutKey

MAX_HEAD_DIM = 256
WITH_MEMORY = (Tensor, torch.nn.Parameter)
# In the order of csrc's enumeration.
ACTIVATIONS = ("silu", "gelu_tanh", "gelu")
# Up to this many rows, memory bandwidth for the weight limits a linear layer, and csrc/cpu/linear.cpp beats the
# libraries: forward 1.1 to 1.5 times, backward with AdamW's step 1.3 to 2.9 times.
FEW_ROWS = 24


def serves(*tensors: Tensor | None, also: torch.dtype | None = None) -> bool:
    """Whether the CPU ops take these tensors: fp32, or the dtype ``also``, in the CPU's memory, outside autocast.

    Tensors of tracers and other subclasses have no memory, and the memory of a negated view holds other numbers.
    """
    if torch.is_autocast_enabled("cpu"):
        return False
    for t in tensors:
        if t is None or (t.dtype in (torch.float32, also) and t.is_cpu and type(t) in WITH_MEMORY and not t.is_neg()):
            continue
        return False
    return True


@cache
def simd_level() -> str:
    """Name of the core's SIMD build that runs: the processor's, or the one of the environment variable PYLLMCLF_SIMD.

    Raises
    ------
    UsageError
        If the variable names a build that doesn't run here.
    """
    try:
        return str(_C.build_config()["simd"])
    except ValueError as error:
        raise UsageError(str(error)) from None


@cache
def multiplies_bf16_faster() -> bool:
    """Whether :func:`bf16_linear` beats fp32 matmuls on this processor.

    It does where AVX512-BF16 has twice the rate of fp32 (measured on AMD Zen 4: 1.8 to 2.0 times). Intel's processors
    have that rate in AMX alone, which this core uses on request alone. AVX512-VBMI tells Zen 4 and its successors from
    Cooper Lake, and AVX512-FP16 tells them from Sapphire Rapids and later, whose AMX a virtual machine may hide.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    has = simd_level() == "avx512-bf16" and capabilities.get("avx512_vbmi", False)
    return has and not any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_fp16"))


@cache
def torch_multiplies_int8() -> bool:
    """Whether torch's int8 matmul has instructions on this processor.

    Without them it multiplies a number at a time: 2 GOP/s on an AMD Zen 3 core, where :func:`int8_linear` reaches 130.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_vnni", "amx_int8"))


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _gradient(x: Tensor) -> Tensor:
    """Returns the gradient contiguous and in fp32; a backward pass inside autocast has other dtypes."""
    return x.float().contiguous()


def _indices(x: Tensor) -> Tensor:
    return x.to(torch.int32).contiguous()


def layer_norm_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (norm y, sum s, stats [2, rows]: mean and inverse deviation); without a residual, s is x."""
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    rows, width = x.shape
    y, stats = torch.empty_like(x), x.new_empty(2, rows)
    if residual is None:
        s, addresses = x, (0, 0)
    else:
        residual, s = residual.contiguous(), torch.empty_like(x)
        addresses = residual.data_ptr(), s.data_ptr()
    _C.layer_norm_forward(
        x.data_ptr(),
        addresses[0],
        weight.data_ptr(),
        bias.data_ptr(),
        y.data_ptr(),
        addresses[1],
        stats.data_ptr(),
        rows,
        width,
        eps,
        torch.get_num_threads(),
    )
    return y, s, stats


def layer_norm_backward(
    dy: Tensor,
    dsum: Tensor | None,
    s: Tensor,
    weight: Tensor,
    stats: Tensor,
    *,
    input_needed: bool,
    parameters_needed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Returns (ds, dweight, dbias), each ``None`` if it is not needed."""
    dy, weight = _gradient(dy), weight.contiguous()
    dsum = None if dsum is None else _gradient(dsum)
    rows, width = s.shape
    ds = torch.empty_like(s) if input_needed else None
    dweight, dbias = (s.new_empty(width), s.new_empty(width)) if parameters_needed else (None, None)
    _C.layer_norm_backward(
        *map(_address, (dy, dsum, s, weight, stats, ds, dweight, dbias)), rows, width, torch.get_num_threads()
    )
    return ds, dweight, dbias


def rms_norm_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (norm y, sum s, inverse root mean square of each row [rows]); without a residual, s is x."""
    x, weight = x.contiguous(), weight.contiguous()
    rows, width = x.shape
    y, rstd = torch.empty_like(x), x.new_empty(rows)
    residual = None if residual is None else residual.contiguous()
    s = x if residual is None else torch.empty_like(x)
    _C.rms_norm_forward(
        *map(_address, (x, residual, weight, y, None if residual is None else s, rstd)),
        rows,
        width,
        eps,
        offset,
        torch.get_num_threads(),
    )
    return y, s, rstd


def rms_norm_backward(
    dy: Tensor,
    dsum: Tensor | None,
    s: Tensor,
    weight: Tensor,
    rstd: Tensor,
    offset: float,
    *,
    input_needed: bool,
    weight_needed: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Returns (ds, dweight), each ``None`` if it is not needed."""
    dy, weight = _gradient(dy), weight.contiguous()
    dsum = None if dsum is None else _gradient(dsum)
    ds = torch.empty_like(s) if input_needed else None
    dweight = torch.empty_like(weight) if weight_needed else None
    _C.rms_norm_backward(
        *map(_address, (dy, dsum, s, weight, rstd, ds, dweight)), *s.shape, offset, torch.get_num_threads()
    )
    return ds, dweight


def gated_forward(gate: Tensor, up: Tensor, activation: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Computes act(gate) up, in fp32 or rounded to bf16; rows are contiguous, at any row stride."""
    gate, up = _rows_contiguous(gate), _rows_contiguous(up)
    y = torch.empty(gate.shape, dtype=dtype)
    _C.gated_forward(
        _rows(gate),
        _rows(up),
        y.data_ptr(),
        dtype is torch.bfloat16,
        *gate.shape,
        ACTIVATIONS.index(activation),
        torch.get_num_threads(),
    )
    return y


def gated_backward(dy: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Returns (dgate, dup), the halves of one tensor."""
    dy, gate, up = _gradient(dy), _rows_contiguous(gate), _rows_contiguous(up)
    width = gate.shape[1]
    dgate, dup = gate.new_empty(len(gate), 2 * width).split(width, dim=1)
    _C.gated_backward(
        dy.data_ptr(),
        *map(_rows, (gate, up, dgate, dup)),
        *gate.shape,
        ACTIVATIONS.index(activation),
        torch.get_num_threads(),
    )
    return dgate, dup


def rotary_rows(x: Tensor, cosine: Tensor, sine: Tensor, heads: int, *, inverse: bool = False) -> Tensor:
    """Turns the first ``heads`` heads of each row by its angles, or by their negatives."""
    x = _rows_contiguous(x)
    rows, half = cosine.shape
    y = x.new_empty(x.shape)
    _C.rotary_rows(
        *_rows(x),
        *map(_address, (cosine, sine, y)),
        rows,
        heads,
        half,
        x.shape[1] - 2 * half * heads,
        inverse,
        torch.get_num_threads(),
    )
    return y


def gelu_forward(x: Tensor, bias: Tensor | None, approximate: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Computes GELU(x + bias), in fp32 or rounded to bf16; ``x`` is contiguous."""
    y = torch.empty_like(x, dtype=dtype)
    rows, width = _flat_shape(x)
    _C.gelu_forward(
        *map(_address, (x, bias, y)),
        dtype is torch.bfloat16,
        rows,
        width,
        approximate == "tanh",
        torch.get_num_threads(),
    )
    return y


def gelu_backward(
    dy: Tensor, x: Tensor, bias: Tensor | None, approximate: str, *, bias_needed: bool, in_place: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Returns (dx, dbias); with ``in_place``, dx takes the memory of ``dy``."""
    dy = _gradient(dy)
    dx = dy if in_place else torch.empty_like(x)
    rows, width = _flat_shape(x)
    dbias = x.new_empty(width) if bias_needed else None
    _C.gelu_backward(
        *map(_address, (dy, x, bias, dx, dbias)), rows, width, approximate == "tanh", torch.get_num_threads()
    )
    return dx, dbias


def _flat_shape(x: Tensor) -> tuple[int, int]:
    width = x.shape[-1] if x.dim() else 1
    return (x.numel() // width if width else 0), max(width, 1)


def embedding_forward(
    input_ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    tables: tuple[Tensor, Tensor, Tensor | None],
    norm: tuple[Tensor, Tensor, float] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Returns (sum of the embeddings [total, width], or its norm; stats [2, total] of the norm, or ``None``).

    Ids, positions and types are int32 and contiguous, the tables contiguous.
    """
    token, position, type_table = tables
    rows, width = len(input_ids), token.shape[1]
    y = token.new_empty(rows, width)
    weight, bias, eps = norm or (None, None, 0.0)
    stats = None if norm is None else y.new_empty(2, rows)
    _C.embedding_forward(
        *map(_address, (input_ids, positions, types, token, position, type_table, weight, bias, y, stats)),
        rows,
        width,
        len(token),
        len(position),
        0 if type_table is None else len(type_table),
        eps,
        torch.get_num_threads(),
    )
    return y, stats


def embedding_backward(dy: Tensor, index: Tensor | None, dtable: Tensor) -> None:
    """Adds the rows of ``dy`` to the rows ``index`` of ``dtable``, or to row 0 without an index."""
    rows, width = dy.shape
    _C.embedding_backward(*map(_address, (dy, index, dtable)), rows, width, torch.get_num_threads())


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x Wᵀ + b for few rows; the weight is contiguous, in fp32 or bf16."""
    x = x if x.stride(1) == 1 else x.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty(len(x), len(weight))
    _C.linear_forward(
        x.data_ptr(),
        x.stride(0),
        weight.data_ptr(),
        weight.dtype is torch.bfloat16,
        *map(_address, (bias, y)),
        len(x),
        *weight.shape,
        torch.get_num_threads(),
    )
    return y


def linear_adamw(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    input_needed: bool,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    step: float,
) -> Tensor | None:
    """Returns dy W if needed, then takes AdamW's step of W and its moments, with the gradient dyᵀ x.

    W and its moments are contiguous, shape [out, in]; dy [rows, out] and x [rows, in] may have any row stride. ``step``
    counts from 1.
    """
    dy, x = (t if t.stride(1) == 1 else t.contiguous() for t in (dy, x))
    dx = x.new_empty(x.shape) if input_needed else None
    _C.linear_adamw(
        dy.data_ptr(),
        dy.stride(0),
        x.data_ptr(),
        x.stride(0),
        *map(_address, (weight, exp_avg, exp_avg_sq, dx)),
        len(dy),
        *weight.shape,
        (lr, *betas, eps, weight_decay, step),
        torch.get_num_threads(),
    )
    return dx


def to_bf16(x: Tensor) -> Tensor:
    """Rounds rows to bf16, as :func:`bf16_linear` takes them: a zero follows each row of an odd width."""
    width = x.shape[1]
    if width % 2 == 0:
        return x.to(torch.bfloat16, memory_format=torch.contiguous_format).contiguous()
    padded = x.new_zeros(len(x), width + 1, dtype=torch.bfloat16)
    padded[:, :width] = x
    return padded[:, :width]


def bf16_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: bool = False,
    scale: float = 1.0,
    adapter: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """Computes x (s W)ᵀ + b, or x (s W) + b, in bf16 with fp32 sums.

    Parameters
    ----------
    x : bf16 tensor, shape [rows, in]
        Of :func:`to_bf16`.
    weight : fp32 or bf16 tensor, shape [out, in], or [in, out] if ``transposed``
        In fp32, times ``scale``, it is rounded as it is read; in bf16, the scale is 1.
    bias : fp32 tensor, shape [out], optional
    transposed : bool
    scale : float
    adapter : (bf16 tensor, fp32 tensor, float), optional
        Rows [rows, rank], a factor of the weight's layout with rank in place of in, and a scale: their product is
        added.

    Returns
    -------
    fp32 tensor, shape [rows, out]
    """
    bias = None if bias is None else bias.contiguous()
    weight = _rows_contiguous(weight)
    if adapter is not None:
        adapter = adapter[0], _rows_contiguous(adapter[1]), adapter[2]
    outputs = weight.shape[1 if transposed else 0]
    y = torch.empty(len(x), outputs, dtype=torch.float32)
    _C.bf16_linear(
        _operands(x, weight, scale),
        None if adapter is None else _operands(*adapter),
        transposed,
        *map(_address, (bias, y)),
        len(x),
        outputs,
        torch.get_num_threads(),
    )
    return y


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _rows(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), x.stride(0)


def _operands(x: Tensor, weight: Tensor, scale: float) -> tuple[int, int, int, int, int, float, bool]:
    is_bf16 = weight.dtype is torch.bfloat16
    return x.data_ptr(), x.stride(0), weight.data_ptr(), weight.stride(0), x.shape[1], scale, is_bf16


def bf16_weight_gradient(dy: Tensor, x: Tensor, out: Tensor, *, accumulate: bool = False) -> None:
    """Writes dyᵀ x, or adds it: bf16 [rows, out] and [rows, in], fp32 [out, in] contiguous, with fp32 sums."""
    _bf16_weight_gradient(dy, x, (out.data_ptr(), accumulate), out)


def bf16_adamw(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    step: float,
) -> None:
    """Takes AdamW's step of W and its moments, with the gradient dyᵀ x of bf16 [rows, out] and [rows, in].

    W and its moments are fp32 and contiguous, shape [out, in]. ``step`` counts from 1.
    """
    addresses = map(_address, (weight, exp_avg, exp_avg_sq))
    _bf16_weight_gradient(dy, x, (*addresses, (lr, *betas, eps, weight_decay, step)), weight)


def _bf16_weight_gradient(dy: Tensor, x: Tensor, target: tuple[Any, ...], weight: Tensor) -> None:
    _C.bf16_weight_gradient(
        dy.data_ptr(),
        dy.stride(0),
        x.data_ptr(),
        x.stride(0),
        target,
        len(x),
        *weight.shape,
        torch.get_num_threads(),
    )


def quantize_rows(x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns int8 rows, and the scale of each that multiplies them: its largest magnitude / 127.

    With ``factors`` [width], the rows are x times these.
    """
    x = x.contiguous()
    q, scales = torch.empty(x.shape, dtype=torch.int8), x.new_empty(len(x))
    _C.quantize_rows(*map(_address, (x, factors, q, scales)), *x.shape, torch.get_num_threads())
    return q, scales


def dequantize_rows(product: Tensor, row_scales: Tensor, column_scales: Tensor, bias: Tensor | None) -> Tensor:
    """Multiplies an int32 product [rows, width] by both scales and adds the bias, in its memory, which becomes fp32."""
    bias = None if bias is None else bias.contiguous()
    y = product.view(torch.float32)
    _C.dequantize_rows(*map(_address, (y, row_scales, column_scales, bias)), *y.shape, torch.get_num_threads())
    return y


INT8_PANEL = 16
"""Outputs of a panel of :func:`packed_int8`."""


def packed_int8(values: Tensor) -> Tensor:
    """Packs an int8 weight [out, in] for :func:`int8_linear`.

    Returns
    -------
    int16 tensor, shape [panels, pairs of inputs, 16, 2]
        Panels of 16 outputs, and 0 beyond the weight's outputs and inputs.
    """
    outputs, inputs = values.shape
    padded = torch.nn.functional.pad(values.to(torch.int16), (0, inputs % 2, 0, -outputs % INT8_PANEL))
    return padded.view(-1, INT8_PANEL, padded.shape[1] // 2, 2).transpose(1, 2).contiguous()


def int8_linear(
    x: Tensor, factors: Tensor | None, packed: Tensor, column_scales: Tensor, bias: Tensor | None
) -> Tensor:
    """Computes x Wᵀ + b of fp32 rows, which are quantised as by :func:`quantize_rows`, and a packed weight in int8."""
    x, y = x.contiguous(), x.new_empty(len(x), len(column_scales))
    bias = None if bias is None else bias.contiguous()
    addresses = map(_address, (x, factors, packed, column_scales, bias, y))
    _C.int8_linear(*addresses, *x.shape, len(column_scales), torch.get_num_threads())
    return y


def dropout_rows(x: Tensor, p: float, key: DropoutKey) -> Tensor:
    """Computes x * mask / (1 - p)."""
    x = _gradient(x)
    y = torch.empty_like(x)
    examples, positions = key.row_example_ids.to(torch.int64).contiguous(), _indices(key.row_positions)
    rows, width = x.shape
    if width:
        _C.dropout_rows(
            *map(_address, (x, y, examples, positions)),
            rows,
            width,
            (key.seed, key.step, key.stream, p),
            torch.get_num_threads(),
        )
    return y


class AttentionShape:
    """All arguments of an attention call but q, k and v; holds references to its tensors."""

    def __init__(
        self,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        *,
        rows_q: int,
        rows_k: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        causal: bool,
        query_positions: Tensor | None = None,
        window: tuple[int, int] | None = None,
        dropout_p: float = 0.0,
        dropout_key: DropoutKey | None = None,
        operands: torch.dtype | None = None,
    ) -> None:
        self.heads, self.kv_heads, self.rows_q = heads, kv_heads, rows_q
        offsets = [_indices(cu_seqlens_q), _indices(cu_seqlens_k)]
        positions = None if query_positions is None else _indices(query_positions)
        examples, dropout = None, (0, 0, 0, 0.0)
        if dropout_p > 0.0:
            assert dropout_key is not None
            examples = dropout_key.example_ids.to(torch.int64).contiguous()
            dropout = (dropout_key.seed, dropout_key.step, dropout_key.stream, dropout_p)
        self._alive = (*offsets, positions, examples)
        self.arguments = (
            *map(_address, self._alive),
            len(cu_seqlens_q) - 1,
            rows_q,
            rows_k,
            heads,
            kv_heads,
            head_dim,
            scale,
            causal,
            *((-1, -1) if window is None else window),
            operands is torch.bfloat16,
            dropout,
            torch.get_num_threads(),
        )


def _heads(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)


def attention_forward(shape: AttentionShape, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (out [rows_q, heads, head_dim], log-sum-exp [heads, rows_q]).

    The last axis of q [rows_q, heads, head_dim], k and v [rows_k, kv_heads, head_dim] is contiguous.
    """
    out = q.new_empty(q.shape)
    log_sum_exp = q.new_empty(shape.heads, shape.rows_q)
    _C.attention_forward(shape.arguments, *map(_heads, (q, k, v, out)), log_sum_exp.data_ptr())
    return out, log_sum_exp


def attention_backward(
    shape: AttentionShape, inputs: tuple[Tensor, ...], dout: Tensor, gradients: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Writes dq, dk and dv; ``inputs`` is (q, k, v, out, log-sum-exp)."""
    q, k, v, out, log_sum_exp = inputs
    _C.attention_backward(
        shape.arguments, *map(_heads, (q, k, v, out, dout)), log_sum_exp.data_ptr(), *map(_heads, gradients)
    )
