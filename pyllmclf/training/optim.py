"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .. import ops
from ..models.sequence_classifier import SequenceClassifier
from ..ops.backends import native_cpu as native
from ..settings import Settings


def make_optimizer(model: SequenceClassifier, settings: Settings, *, capturable: bool = False) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over the trained parameters, weight decay on all of them.

    The head, and what stands between it and the last block, have the learning rate; with ``layerwise_lr_decay`` each
    block below has that of the block above it times the decay (Howard and Ruder 2018), the embeddings the least. A
    group's ``lr_share`` is its part of the learning rate.

    ``capturable``: whether its steps may be recorded in a CUDA graph.
    """
    decay, top = settings.layerwise_lr_decay, model.depth - 1
    stages: list[tuple[float, list[nn.Module]]] = [
        (decay ** (top - stage), modules) for stage, modules in enumerate(model.backbone.stages)
    ]
    groups: list[dict[str, Any]] = []
    head: list[nn.Module] = [model.head]
    for share, modules in [*stages, (1.0, head)]:
        trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        if not trained:
            continue
        if groups and groups[-1]["lr_share"] == share:
            groups[-1]["params"] += trained
        else:
            groups.append({"params": trained, "lr": settings.learning_rate * share, "lr_share": share})
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=capturable,
    )


def moments(optimizer: torch.optim.AdamW, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """A parameter's state; where it has none yet, what torch's fused AdamW begins with."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


class StepInBackward:
    """Takes AdamW's step for each parameter in a backward pass, as soon as its gradient is complete.

    ``with steps: loss.backward()``; a backward pass outside of the block is refused.

    The same as ``optimizer.step()`` afterwards, on the same state, without memory for the gradients: each is used
    while it is in the caches, and gone then. The same bits, but for weights whose gradient is a product of few rows:
    these are read once for the backward pass and the step (``csrc/cpu/linear.cpp``). Not for clipping by the norm of
    all gradients, accumulation over several backward passes, or loss scaling, which need all gradients together.

    Parameters
    ----------
    optimizer : AdamW
        Made by :func:`make_optimizer`. Its own ``step()`` finds no gradients from now on.
    """

    def __init__(self, optimizer: torch.optim.AdamW) -> None:
        self._optimizer = optimizer
        self._groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self._done: set[nn.Parameter] | None = None  # None: outside of the block
        # Made now, all in one place: made in the first backward pass, they would lie between its activations, and the
        # allocator could not use that memory well afterwards (3 % of the peak).
        for parameter in self._groups:
            self._state(parameter)
        # Matrices whose gradient the ops write themselves come through the consumer, all else through autograd.
        ops.keep_gradients(self._groups, self._update, self._linear_step)
        self._hooks = [p.register_post_accumulate_grad_hook(self._from_autograd) for p in self._groups]

    def __enter__(self) -> None:
        self._done = set()

    def __exit__(self, *error: object) -> None:
        self._done = None

    def close(self) -> None:
        """Lets go of the parameters: gradients are left in ``.grad`` again."""
        for hook in self._hooks:
            hook.remove()
        ops.forget_gradients(self._groups)

    def _from_autograd(self, parameter: nn.Parameter) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is not None:  # None: an op has handed it over itself
            self._update(parameter, [(slice(None), gradient)])

    def _state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        return moments(self._optimizer, parameter)

    def _begin(self, parameter: nn.Parameter) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(group, state) of a parameter that takes its step now."""
        if self._done is None:
            raise RuntimeError("a backward pass outside of the training step, in which these parameters change")
        if parameter in self._done:
            raise RuntimeError("a parameter got two gradients in one backward pass; it must be used once")
        self._done.add(parameter)
        state = self._state(parameter)
        state["step"] += 1
        return self._groups[parameter], state

    @torch.no_grad()
    def _linear_step(
        self, weight: nn.Parameter, products: Sequence[tuple[torch.Tensor, torch.Tensor]], input_needed: bool
    ) -> torch.Tensor | None:
        group, state = self._begin(weight)
        settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        step, begin, dx = state["step"].item(), 0, None
        for dy, x in products:
            rows = slice(begin, begin + dy.shape[1])
            of_rows = weight[rows], state["exp_avg"][rows], state["exp_avg_sq"][rows]
            dx = native.linear_adamw(dy, x, *of_rows, input_needed=input_needed, step=step, **settings)
            begin = rows.stop
        return dx

    @torch.no_grad()
    def _update(self, parameter: nn.Parameter, parts: Iterable[tuple[slice, torch.Tensor]]) -> None:
        group, state = self._begin(parameter)
        for rows, gradient in parts:
            torch._fused_adamw_(
                [parameter[rows]],
                [gradient],
                [state["exp_avg"][rows]],
                [state["exp_avg_sq"][rows]],
                [],
                [state["step"]],
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def make_scheduler(
    optimizer: torch.optim.Optimizer, settings: Settings, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over ``warmup_ratio`` of the steps, then constant, or linear or half a cosine to zero."""
    warmup = math.ceil(settings.warmup_ratio * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total_steps - warmup)
        if settings.scheduler == "linear":
            return 1.0 - progress
        if settings.scheduler == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def restore_schedule(scheduler: torch.optim.lr_scheduler.LambdaLR, step: int) -> None:
    """Puts the learning rates where they are after so many steps."""
    scheduler.last_epoch = step
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
