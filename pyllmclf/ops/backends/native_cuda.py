"""The native core's CUDA ops on tensors: the functions of :mod:`pyllmclf.ops.backends.native_cpu`, and cross-entropy.

The ops run on torch's current stream, in fp32, bf16 or fp16. No call waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _C
from .native_cpu import _address, _flat_shape

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
BUILT = hasattr(_C, "cuda_layer_norm_forward")


def serves(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the CUDA ops take these tensors: all fp32, bf16 or fp16, on one CUDA device, outside autocast."""
    if not BUILT or not first.is_cuda or first.dtype not in DTYPES or torch.is_autocast_enabled("cuda"):
        return False
    return all(t is None or (t.dtype is first.dtype and t.device == first.device) for t in others)


def _place(x: Tensor) -> tuple[int, int, int]:
    return DTYPES[x.dtype], x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def _scratch(x: Tensor, width: int) -> Tensor:
    return x.new_empty(_C.cuda_sum_blocks(_flat_shape(x)[0]), width, dtype=torch.float32)


def layer_norm_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (norm y, sum s, stats [2, rows]: mean and inverse deviation, fp32); without a residual, s is x."""
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    rows, width = x.shape
    y, s = torch.empty_like(x), None if residual is None else torch.empty_like(x)
    stats = x.new_empty(2, rows, dtype=torch.float32)
    _C.cuda_layer_norm_forward(*map(_address, (x, residual, weight, bias, y, s, stats)), rows, width, eps, _place(x))
    return y, x if s is None else s, stats


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
    dy, weight = dy.contiguous(), weight.contiguous()
    dsum = None if dsum is None else dsum.contiguous()
    rows, width = s.shape
    ds = torch.empty_like(s) if input_needed else None
    dweight = dbias = scratch = None
    if parameters_needed:
        dweight, dbias, scratch = torch.empty_like(weight), torch.empty_like(weight), _scratch(s, 2 * width)
    _C.cuda_layer_norm_backward(
        *map(_address, (dy, dsum, s, weight, stats, ds, dweight, dbias, scratch)), rows, width, _place(s)
    )
    return ds, dweight, dbias


def gelu_forward(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    """Computes GELU(x + bias); ``x`` is contiguous."""
    y = torch.empty_like(x)
    _C.cuda_gelu_forward(*map(_address, (x, bias, y)), *_flat_shape(x), approximate == "tanh", _place(x))
    return y


def gelu_backward(
    dy: Tensor, x: Tensor, bias: Tensor | None, approximate: str, *, bias_needed: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns (dx, dbias)."""
    dy, dx = dy.contiguous(), torch.empty_like(x)
    rows, width = _flat_shape(x)
    dbias, scratch = (x.new_empty(width), _scratch(x, width)) if bias_needed else (None, None)
    _C.cuda_gelu_backward(
        *map(_address, (dy, x, bias, dx, dbias, scratch)), rows, width, approximate == "tanh", _place(x)
    )
    return dx, dbias


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
    _C.cuda_embedding_forward(
        *map(_address, (input_ids, positions, types, token, position, type_table, y)),
        rows,
        width,
        len(token),
        len(position),
        0 if type_table is None else len(type_table),
        _place(y),
    )
    if norm is None:
        return y, None
    y, _, stats = layer_norm_forward(y, None, *norm)
    return y, stats


def embedding_backward(dy: Tensor, index: Tensor | None, dtable: Tensor) -> None:
    """Adds the rows of ``dy`` to the rows ``index`` of ``dtable``, or to row 0 without an index."""
    if index is None:
        dtable[0] += dy.sum(dim=0)
        return
    order = torch.argsort(index, stable=True)
    rows, width = dy.shape
    _C.cuda_embedding_backward(*map(_address, (dy, index, order, dtable)), rows, width, _place(dy))


def cross_entropy_forward(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None, text_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns (loss [], log-sum-exp [rows]), both fp32. All inputs are contiguous, labels int64, weights fp32."""
    rows, classes = logits.shape
    loss = logits.new_empty((), dtype=torch.float32)
    log_sum_exp = logits.new_empty(rows, dtype=torch.float32)
    _C.cuda_cross_entropy_forward(
        *map(_address, (logits, labels, class_weight, text_weight, loss, log_sum_exp)), rows, classes, _place(logits)
    )
    return loss, log_sum_exp


def cross_entropy_backward(
    dloss: Tensor,
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None,
    text_weight: Tensor | None,
    log_sum_exp: Tensor,
) -> Tensor:
    """Returns dlogits, shape and dtype of the logits [rows, classes]."""
    rows, classes = logits.shape
    dlogits = torch.empty_like(logits)
    _C.cuda_cross_entropy_backward(
        *map(_address, (logits, labels, class_weight, text_weight, dloss, log_sum_exp, dlogits)),
        rows,
        classes,
        _place(logits),
    )
    return dlogits
