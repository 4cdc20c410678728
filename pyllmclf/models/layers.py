"""Layers that the architectures consist of; their parameters have Hugging Face's names.

The module also exports the state of a forward pass that the layers take, from :mod:`pyllmclf.models.context`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import overload

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .. import ops
from ..data.packing import PackedBatch
from .context import Context, DropoutRates, DropoutState, PooledRows

__all__ = [
    "Context",
    "DropoutRates",
    "DropoutState",
    "Embedding",
    "LayerNorm",
    "Linear",
    "PooledRows",
    "RmsNorm",
    "in_dtype",
]

# The cast of a frozen parameter, and the state of the parameter that it was made in. An entry ends with its parameter.
_casts: MutableMapping[Tensor, tuple[tuple[int, int, torch.device, torch.dtype], Tensor]] = WeakIdKeyDictionary()


@overload
def in_dtype(parameter: nn.Parameter, dtype: torch.dtype) -> Tensor: ...
@overload
def in_dtype(parameter: nn.Parameter | None, dtype: torch.dtype) -> Tensor | None: ...


def in_dtype(parameter: nn.Parameter | None, dtype: torch.dtype) -> Tensor | None:
    """A parameter, which is stored in fp32 or, frozen, in bf16, in the dtype of the computation.

    A trained parameter is cast in every call, and its gradient is fp32. The cast of a frozen parameter is cached until
    the parameter is written to, moved or trained; writes through ``.data`` go unnoticed, since torch does not count
    them. That of one that is kept in bf16 isn't: it would take twice the memory that this saves.

    Parameters
    ----------
    parameter : Parameter or None
    dtype : torch.dtype

    Returns
    -------
    tensor of the same shape, or None without a parameter
    """
    if parameter is None:
        return None
    if parameter.requires_grad:
        _casts.pop(parameter, None)  # torch does not count the writes of the fused optimizer
    if parameter.dtype == dtype:
        return parameter
    if parameter.requires_grad or parameter.is_inference() or parameter.dtype is torch.bfloat16:
        return parameter.to(dtype)
    state = parameter._version, parameter.data_ptr(), parameter.device, dtype
    entry = _casts.get(parameter)
    if entry is None or entry[0] != state:
        # An inference tensor would be unusable in later training.
        with torch.inference_mode(False), torch.no_grad():
            entry = _casts[parameter] = state, parameter.to(dtype)
    return entry[1]


class Linear(nn.Module):
    """y = x Wᵀ + b; after :meth:`add_lora`, y = x Wᵀ + b + s drop(x) Aᵀ Bᵀ (LoRA, Hu et al. 2021).

    Parameters are uninitialised until weights are loaded or drawn.

    Parameters
    ----------
    inputs, outputs : int
    layer, site : int
        Layer and site (:mod:`pyllmclf.ops.philox`) of the dropout mask before A.
    bias : bool
    reused : bool
        Whether a pass uses the layer several times, so that its gradients are complete only after all of them.

    Attributes
    ----------
    weight : Parameter, shape [outputs, inputs]
        In this layout for GPT-2 too, whose files hold the transpose. In bf16 where the file is, if that is the dtype
        of the computation, too, and the weight is not trained; else in fp32.
    bias : Parameter, shape [outputs], or None
    lora_a : Parameter, shape [rank, inputs], or None
    lora_b : Parameter, shape [outputs, rank], or None
    scaling : float
        The factor s before B A.
    int8 : Int8Weight, callable or None
        The weight in int8, for classifying; :meth:`forward`, :meth:`after_gelu` and :meth:`after_gate` then compute
        with it. It takes rows and the bias or ``None``.
    """

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(
        self, inputs: int, outputs: int, *, layer: int = 0, site: int = 0, bias: bool = True, reused: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.layer, self.site, self.reused = layer, site, reused
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)
        self.scaling = 0.0
        self.int8: ops.Int8Weight | Callable[[Tensor, Tensor | None], Tensor] | None = None

    def add_lora(self, rank: int, scaling: float, generator: torch.Generator) -> None:
        """Adds A [rank, inputs], drawn as PEFT draws it (Kaiming uniform, a = sqrt 5), and B [outputs, rank], zero."""
        outputs, inputs = self.weight.shape
        a = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        device = self.weight.device
        self.lora_a = nn.Parameter(a.to(device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.scaling = scaling

    def merge_lora(self) -> None:
        """Adds s B A to the weight, in place, and removes A and B."""
        if self.lora_a is None or self.lora_b is None:
            return
        with torch.no_grad():
            self.weight.data = self.weight.float()
            self.weight.add_(self.lora_b @ self.lora_a, alpha=self.scaling)
        self.lora_a = self.lora_b = None

    def forward(self, x: Tensor, context: Context, *, add_bias: bool = True) -> Tensor:
        """The outputs, shape [rows, outputs], of x [rows, inputs]; without b where the next op adds it."""
        if self.int8 is not None:
            return self.int8(x, self.bias if add_bias else None)
        if self.lora_a is not None:
            return self._with_lora(x, context, add_bias=add_bias)
        weight, bias = self._weight(x, context), in_dtype(self.bias if add_bias else None, x.dtype)
        return ops.linear(x, weight, bias, operands=context.operands)

    def _weight(self, x: Tensor, context: Context) -> Tensor:
        """The weight as the ops take it for rows x."""
        if self.weight.dtype is torch.bfloat16 and context.operands is torch.bfloat16:
            return self.weight
        return in_dtype(self.weight, x.dtype)

    def query_key_value(self, x: Tensor, context: Context, pooled: PooledRows) -> tuple[Tensor, Tensor]:
        """The fused projection of attention where queries of the pooled rows suffice.

        Parameters
        ----------
        x : tensor, shape [total, inputs]
        context : Context
            Context of all rows.
        pooled : PooledRows

        Returns
        -------
        (tensor, tensor), shapes [texts, width] and [total, 2 width], with outputs = 3 width
            Queries of the pooled rows; keys and values of all rows.
        """
        if self.lora_a is None:
            weight, bias = in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype)
            return ops.query_key_value(x, pooled.index, weight, bias, operands=context.operands)
        width = len(self.weight) // 3
        return (
            self._with_lora(pooled(x), pooled.context, slice(0, width)),
            self._with_lora(x, context, slice(width, None)),
        )

    def merged_weight(self, dtype: torch.dtype) -> Tensor:
        """W + s B A, shape [outputs, inputs]; equals the layer where no dropout comes before A."""
        if self.lora_a is None or self.lora_b is None:
            return in_dtype(self.weight, dtype)
        return torch.addmm(self.weight.float(), self.lora_b, self.lora_a, alpha=self.scaling).to(dtype)

    def _with_lora(self, x: Tensor, context: Context, outputs: slice | None = None, *, add_bias: bool = True) -> Tensor:
        """All outputs or a slice of them, with the low-rank product."""
        assert self.lora_a is not None and self.lora_b is not None
        weight, lora_b = self._weight(x, context), in_dtype(self.lora_b, x.dtype)
        bias = in_dtype(self.bias if add_bias else None, x.dtype)
        if outputs is not None:
            weight, lora_b = weight[outputs], lora_b[outputs]
            bias = None if bias is None else bias[outputs]
        p = context.rates.lora
        return ops.lora_linear(
            x,
            weight,
            bias,
            in_dtype(self.lora_a, x.dtype),
            lora_b,
            scaling=self.scaling,
            dropout_p=p,
            dropout_key=context.key(self.layer, self.site) if p > 0.0 else None,
            operands=context.operands,
        )

    def after_gelu(self, x: Tensor, x_bias: nn.Parameter | None, approximate: str, context: Context) -> Tensor:
        """The layer applied to GELU(x + x_bias).

        Parameters
        ----------
        x : tensor, shape [rows, inputs]
        x_bias : Parameter, shape [inputs], or None
        approximate : {"tanh", "none"}
            Formula of GELU; see :func:`pyllmclf.ops.gelu`.
        context : Context

        Returns
        -------
        tensor, shape [rows, outputs]
        """
        gelu_bias = in_dtype(x_bias, x.dtype)
        if self.lora_a is None and self.int8 is None:
            weight, bias = self._weight(x, context), in_dtype(self.bias, x.dtype)
            return ops.gelu_linear(x, gelu_bias, weight, bias, approximate, operands=context.operands)
        return self(ops.gelu(x, gelu_bias, approximate), context)

    def after_gate(self, gate: Tensor, up: Tensor, activation: str, context: Context) -> Tensor:
        """The layer applied to act(gate) * up.

        Parameters
        ----------
        gate, up : tensor, shape [rows, inputs]
        activation : {"silu", "gelu_tanh", "gelu"}
            See :func:`pyllmclf.ops.gated`.
        context : Context

        Returns
        -------
        tensor, shape [rows, outputs]
        """
        if self.lora_a is None and self.int8 is None:
            weight, bias = self._weight(gate, context), in_dtype(self.bias, gate.dtype)
            return ops.gated_linear(gate, up, weight, bias, activation, operands=context.operands)
        return self(ops.gated(gate, up, activation), context)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016); see :func:`pyllmclf.ops.layer_norm`.

    Parameters
    ----------
    width : int
    eps : float
    bias : bool
        Without it, zeros are added.

    Attributes
    ----------
    weight : Parameter, shape [width]
    bias : Parameter or buffer, shape [width]
    """

    bias: nn.Parameter

    def __init__(self, width: int, eps: float, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        if bias:
            self.bias = nn.Parameter(torch.empty(width))
        else:
            self.register_buffer("bias", torch.zeros(width), persistent=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The norm, shape [rows, width], of x [rows, width]."""
        return ops.layer_norm(x, in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype), self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual), each of shape [rows, width]."""
        return ops.layer_norm(x, in_dtype(self.weight, x.dtype), in_dtype(self.bias, x.dtype), self.eps, residual)


class RmsNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019); see :func:`pyllmclf.ops.rms_norm`.

    Parameters
    ----------
    width : int
    eps : float
    offset : float
        Added to the weight.

    Attributes
    ----------
    weight : Parameter, shape [width]
    """

    def __init__(self, width: int, eps: float, *, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        """The norm, shape [rows, width], of x [rows, width]."""
        return ops.rms_norm(x, in_dtype(self.weight, x.dtype), self.eps, offset=self.offset)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual), each of shape [rows, width]."""
        return ops.rms_norm(x, in_dtype(self.weight, x.dtype), self.eps, residual, offset=self.offset)

    def by_head(self, x: Tensor) -> Tensor:
        """The norm of each head of x [rows, heads * width]."""
        return self(x.reshape(-1, len(self.weight))).view(x.shape)


class Embedding(nn.Module):
    """A table of vectors, which :func:`pyllmclf.ops.embedding` reads.

    Parameters
    ----------
    rows, width : int

    Attributes
    ----------
    weight : Parameter, shape [rows, width]
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def read(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Ids [total] and table of a batch's tokens, as the op takes them: rows of the batch take the table's place."""
        if batch.token_rows is None:
            return batch.input_ids, self.weight
        rows = batch.token_rows
        return torch.arange(len(rows), dtype=torch.int32, device=rows.device), rows
