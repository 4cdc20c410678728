"""GPT-2 as a text classifier in plain PyTorch: the baseline of the benchmarks, and an oracle for the tests.

It fine-tunes GPT-2 into a classifier in the straightforward way: it pads every text on the right to one length, writes
attention out as matrix products and a softmax, and computes logits at every position, of which the loss reads one per
text. It depends on PyTorch alone, and uses neither fused attention nor compilation.

In the shapes below, ``batch`` is the number of texts, ``T`` the padded length and ``width`` the model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PlainConfig:
    """Sizes and options of the model; the defaults are those of the smallest GPT-2 (124M parameters).

    Attributes
    ----------
    vocab_size, n_positions, width, n_layers, n_heads : int
        Sizes of the model. A head is ``width // n_heads`` wide, the hidden layer of the MLP ``4 * width``.
    dropout : float
        Rate of every dropout: on the embeddings, the attention weights and both residual branches.
    layer_norm_eps : float
        Epsilon of the layer norms.
    causal : bool
        Whether a position sees only itself and those before it. Without it a position sees every other one,
        padding included.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    width: int = 768
    n_layers: int = 12
    n_heads: int = 12
    dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    causal: bool = True

    def __post_init__(self) -> None:
        if self.width % self.n_heads != 0:
            raise ValueError(f"width ({self.width}) must be a multiple of n_heads ({self.n_heads})")


class GELU(nn.Module):
    """GELU in the tanh approximation that GPT-2 was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation element by element; any shape."""
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate query, key and value layers."""

    causal_mask: Tensor

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.head_width = config.width // config.n_heads
        self.causal = config.causal
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.projection = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        mask = torch.ones(config.n_positions, config.n_positions, dtype=torch.bool).triu(diagonal=1)
        self.register_buffer("causal_mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of each text.

        Parameters
        ----------
        x : Tensor, [batch, T, width]

        Returns
        -------
        Tensor, [batch, T, width]
        """
        batch, length, width = x.shape
        # [batch, n_heads, T, head_width]
        q = self.query(x).view(batch, length, self.n_heads, self.head_width).transpose(1, 2)
        k = self.key(x).view(batch, length, self.n_heads, self.head_width).transpose(1, 2)
        v = self.value(x).view(batch, length, self.n_heads, self.head_width).transpose(1, 2)

        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_width)  # [batch, n_heads, T, T]
        if self.causal:
            scores.masked_fill_(self.causal_mask[:length, :length], -torch.inf)
        weights = self.dropout(torch.softmax(scores, dim=-1))

        context = (weights @ v).transpose(1, 2).reshape(batch, length, width)
        return self.projection(context)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each on a residual branch."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            GELU(),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; ``x`` and the result are [batch, T, width]."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class PlainGPT2Classifier(nn.Module):
    """GPT-2 with a classification head in place of the language-model head.

    Parameters
    ----------
    config : PlainConfig
    num_classes : int
    head_bias : bool
        Whether the head has a bias.
    """

    def __init__(self, config: PlainConfig, num_classes: int = 2, head_bias: bool = True) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.n_positions, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layers)))
        self.final_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.out_head = nn.Linear(config.width, num_classes, bias=head_bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Compute the logits of every position.

        Parameters
        ----------
        input_ids : LongTensor, [batch, T]
            Token ids, padded on the right; ``T`` is at most ``config.n_positions``.

        Returns
        -------
        Tensor, [batch, T, num_classes]
        """
        length = input_ids.shape[1]
        if length > self.config.n_positions:
            raise ValueError(f"{length} tokens do not fit the model's {self.config.n_positions} positions")
        positions = torch.arange(length, device=input_ids.device)
        x = self.dropout(self.token_embedding(input_ids) + self.position_embedding(positions))
        return self.out_head(self.final_norm(self.blocks(x)))


def load_huggingface_state_dict(model: PlainGPT2Classifier, state: dict[str, Tensor]) -> None:
    """Copy the weights of a transformers GPT-2 into ``model``, in place.

    Call it before `replace_linears_with_lora`, which renames the parameters.

    Parameters
    ----------
    model : PlainGPT2Classifier
    state : dict[str, Tensor]
        State dict of a ``GPT2Model`` or ``GPT2ForSequenceClassification``, names with or without the
        ``transformer.`` prefix. Without ``score.weight`` the head of ``model`` keeps its values; with it but
        without ``score.bias``, a bias of the head is set to zero, so that the logits are those of the checkpoint.

    Raises
    ------
    KeyError
        If ``state`` lacks tensors, or ``model`` has no parameter for some; the message names all of them.
    RuntimeError
        If a tensor and its parameter differ in shape.
    """
    source = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    renamed = {"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"}
    for i in range(model.config.n_layers):
        renamed |= {
            f"blocks.{i}.norm1": f"h.{i}.ln_1",
            f"blocks.{i}.attention.query": f"h.{i}.attn.c_attn",
            f"blocks.{i}.attention.key": f"h.{i}.attn.c_attn",
            f"blocks.{i}.attention.value": f"h.{i}.attn.c_attn",
            f"blocks.{i}.attention.projection": f"h.{i}.attn.c_proj",
            f"blocks.{i}.norm2": f"h.{i}.ln_2",
            f"blocks.{i}.mlp.0": f"h.{i}.mlp.c_fc",
            f"blocks.{i}.mlp.2": f"h.{i}.mlp.c_proj",
        }
    body = [(ours, theirs, kind) for ours, theirs in renamed.items() for kind in ("weight", "bias")]
    body = [entry for entry in body if entry[1:] not in (("wte", "bias"), ("wpe", "bias"))]
    missing = dict.fromkeys(f"{theirs}.{kind}" for _, theirs, kind in body if f"{theirs}.{kind}" not in source)
    if missing:
        raise KeyError(f"missing from the state dict: {', '.join(missing)}")

    target: dict[str, Tensor] = {}
    for ours, theirs, kind in body:
        tensor = source[f"{theirs}.{kind}"]
        if theirs.endswith("c_attn"):
            # The fused layer keeps query, key and value side by side on its output axis.
            third = ("query", "key", "value").index(ours.rpartition(".")[2])
            tensor = tensor.chunk(3, dim=-1)[third]
        # Conv1D keeps its weight as [in, out], nn.Linear as [out, in]; the embeddings agree.
        is_conv1d = kind == "weight" and theirs.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc")
        target[f"{ours}.{kind}"] = tensor.t() if is_conv1d else tensor
    if "score.weight" in source:
        target["out_head.weight"] = source["score.weight"]
        if "score.bias" in source:
            target["out_head.bias"] = source["score.bias"]
        elif model.out_head.bias is not None:
            target["out_head.bias"] = torch.zeros_like(model.out_head.bias)

    unexpected = target.keys() - model.state_dict().keys()
    # A deeper checkpoint would otherwise load without complaint as a model of fewer layers.
    unexpected |= {name for name in source if name.startswith(f"h.{model.config.n_layers}.")}
    if unexpected:
        raise KeyError(f"no such parameter in the model: {', '.join(sorted(unexpected))}")
    # Not strict, because the head may be left out; every other name was checked above.
    model.load_state_dict(target, strict=False)


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update: ``linear(x) + alpha * (x @ A @ B)``.

    Parameters
    ----------
    linear : nn.Linear
        The layer to wrap, [in] to [out]; its parameters are frozen.
    rank : int
        Rank of the update: ``A`` is [in, rank], ``B`` is [rank, out].
    alpha : float
        Factor of the update. It is not divided by the rank.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.alpha = alpha
        self.A = nn.Parameter(linear.weight.new_empty(linear.in_features, rank))
        self.B = nn.Parameter(linear.weight.new_zeros(rank, linear.out_features))
        # With A kept as [in, rank], PyTorch takes the rank for the fan-in: the published runs start from these values.
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return self.linear(x) + self.alpha * (x @ self.A @ self.B)


def replace_linears_with_lora(model: nn.Module, rank: int, alpha: float, include_head: bool = True) -> None:
    """Freeze ``model`` and wrap its linear layers in `LoRALinear`, in place; only ``A`` and ``B`` are trained.

    Parameters
    ----------
    model : nn.Module
    rank : int
    alpha : float
    include_head : bool
        Whether ``out_head`` is wrapped too. If not, it stays as it is, frozen like the rest.
    """
    model.requires_grad_(False)
    for parent in list(model.modules()):
        if isinstance(parent, LoRALinear):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and (include_head or name != "out_head"):
                setattr(parent, name, LoRALinear(child, rank, alpha))


def set_trainable(model: PlainGPT2Classifier, layers: Literal["all", "last_block", "last_two_blocks", "head"]) -> None:
    """Choose the trainable parameters, by their ``requires_grad``.

    Parameters
    ----------
    model : PlainGPT2Classifier
    layers : {"all", "last_block", "last_two_blocks", "head"}
        The choices named after blocks train those, the final norm and the head; ``"head"`` the head alone.
    """
    if layers not in ("all", "last_block", "last_two_blocks", "head"):
        raise ValueError(f"unknown choice of trainable layers: {layers!r}")
    model.requires_grad_(layers == "all")
    model.out_head.requires_grad_(True)
    if layers in ("last_block", "last_two_blocks"):
        model.final_norm.requires_grad_(True)
        model.blocks[-1 if layers == "last_block" else -2 :].requires_grad_(True)


def pad_batch(token_lists: list[list[int]], length: int, pad_id: int = 50256) -> Tensor:
    """Pad texts on the right, or truncate them, to one length.

    Parameters
    ----------
    token_lists : list[list[int]]
        Token ids of each text.
    length : int
    pad_id : int

    Returns
    -------
    LongTensor, [batch, length]
    """
    rows = [tokens[:length] + [pad_id] * (length - len(tokens)) for tokens in token_lists]
    # The reshape gives an empty batch its second dimension.
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), length)


def classification_loss(model: nn.Module, input_ids: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
    """Cross entropy of the logits read at one position of each text, averaged over the batch.

    Parameters
    ----------
    model : nn.Module
        Maps [batch, T] to logits [batch, T, num_classes].
    input_ids : LongTensor, [batch, T]
    labels : LongTensor, [batch]
    positions : LongTensor, [batch], optional
        Index of the token to read in each row. By default the last one, which may be padding.

    Returns
    -------
    Tensor, []
    """
    logits = model(input_ids)
    if positions is None:
        selected = logits[:, -1]
    else:
        selected = logits[torch.arange(logits.shape[0], device=logits.device), positions]
    return nn.functional.cross_entropy(selected, labels)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    input_ids: Tensor,
    labels: Tensor,
    positions: Tensor | None = None,
) -> float:
    """Take one optimizer step on a batch and return its loss; shapes as in `classification_loss`."""
    optimizer.zero_grad()
    loss = classification_loss(model, input_ids, labels, positions)
    loss.backward()
    optimizer.step()
    return loss.item()


def make_optimizer(
    model: nn.Module, lr: float = 5e-5, weight_decay: float = 0.1, fused: bool = False
) -> torch.optim.AdamW:
    """Make an AdamW over the trainable parameters of ``model``; biases and norms are decayed like the rest.

    Parameters
    ----------
    model : nn.Module
    lr : float
    weight_decay : float
    fused : bool
        Whether to ask for the fused implementation. If not, PyTorch chooses as it does by default.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # An explicit False would also turn off the default multi-tensor implementation on GPUs.
    return torch.optim.AdamW(trainable, lr=lr, weight_decay=weight_decay, fused=True if fused else None)
