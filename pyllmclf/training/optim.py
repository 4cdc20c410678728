"""AdamW, its step within the backward pass, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .. import ops
from ..models.sequence_classifier import SequenceClassifier
from ..ops.backends import native_cpu as native
from .recipes import ResolvedSettings

SMALL = 1 << 16
"""Elements of a parameter up to which its step waits for the others: a call each costs more than the arithmetic."""
OUTSIDE = "a backward pass outside of the training step would change these parameters"


def make_optimizer(
    model: SequenceClassifier, settings: ResolvedSettings, *, capturable: bool = False
) -> torch.optim.AdamW:
    """Makes AdamW (Loshchilov and Hutter 2019) over the trained parameters, with weight decay on all of them.

    The head and the layers between it and the last block have ``learning_rate``. With ``layerwise_lr_decay`` each block
    has the rate of the block above it times the decay (Howard and Ruder 2018), and the embeddings have the least. The
    factor of a parameter group is its ``lr_share``.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, with ``requires_grad`` set.
    settings : Settings
    capturable : bool
        Whether steps may be recorded in a CUDA graph.
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
    """AdamW's state of a parameter: ``step``, ``exp_avg`` and ``exp_avg_sq``, initialised as torch's AdamW does."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


class StepInBackward:
    """Takes each parameter's AdamW step within the backward pass, as soon as its gradient is complete.

    Used as ``with steps: loss.backward()``; a backward pass outside of the block raises RuntimeError.

    The result is that of ``optimizer.step()`` afterwards, on the same state, but no memory holds the large gradients:
    each is used while it is in the processor's caches, and freed. Small ones are stepped together at the end. The bits
    are the same except for weights whose gradient is a product of few rows or in bf16: one kernel computes it and takes
    the step (``csrc/cpu/linear.cpp``, ``csrc/cpu/bf16_linear.cpp``). Clipping by the norm of all gradients,
    accumulation over several backward passes and loss scaling need all gradients together, and can't be used with it.

    Parameters
    ----------
    optimizer : AdamW
        Made by :func:`make_optimizer`. Its ``step()`` sees no gradients until :meth:`close`.
    reused : set of Parameter
        Parameters that a forward pass uses several times: autograd adds their gradients up before the step.
    """

    def __init__(self, optimizer: torch.optim.AdamW, reused: set[nn.Parameter]) -> None:
        self._optimizer = optimizer
        self._groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self._done: set[nn.Parameter] | None = None  # None: outside of the block
        self._small: list[tuple[nn.Parameter, torch.Tensor]] = []
        # State is allocated now, in one place: allocated in the first backward pass, it would lie between activations
        # and fragment their memory (3 % of the peak).
        for parameter in self._groups:
            self._state(parameter)
        # The ops hand gradients of matrices to `_update` and `_linear_step`; autograd's hooks receive the others.
        once = [parameter for parameter in self._groups if parameter not in reused]
        ops.use_gradient_buffers(once, self._update, self._linear_step)
        self._hooks = [p.register_post_accumulate_grad_hook(self._from_autograd) for p in self._groups]

    def __enter__(self) -> None:
        self._done = set()

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        small, self._small = self._small, []
        if error is None:
            self._update_small(small)
        self._done = None

    def close(self) -> None:
        """Releases the parameters: backward passes leave gradients in ``.grad`` again."""
        for hook in self._hooks:
            hook.remove()
        ops.drop_gradient_buffers(self._groups)

    def _from_autograd(self, parameter: nn.Parameter) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:  # an op has handed it to _update
            return
        if parameter.numel() > SMALL:
            self._update(parameter, [(slice(None), gradient)])
        elif self._done is None:
            raise RuntimeError(OUTSIDE)
        else:
            self._small.append((parameter, gradient))

    def _state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        return moments(self._optimizer, parameter)

    def _begin(self, parameter: nn.Parameter) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Counts the step of a parameter; returns its (group, state)."""
        if self._done is None:
            raise RuntimeError(OUTSIDE)
        if parameter in self._done:
            raise RuntimeError("a parameter has two gradients in one backward pass; the model must use it only once")
        self._done.add(parameter)
        state = self._state(parameter)
        state["step"] += 1
        return self._groups[parameter], state

    @torch.no_grad()
    def _linear_step(
        self, weight: nn.Parameter, products: Sequence[tuple[torch.Tensor, torch.Tensor]], input_needed: bool
    ) -> torch.Tensor | None:
        """Computes the input's gradient, or ``None``, and steps a weight of one or several concatenated layers.

        ``products`` are (dY, X) of each layer; dYᵀ X is the gradient of its rows of the weight.
        """
        group, state = self._begin(weight)
        settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        step, begin, dx = state["step"].item(), 0, None
        for dy, x in products:
            rows = slice(begin, begin + dy.shape[1])
            updated = weight[rows], state["exp_avg"][rows], state["exp_avg_sq"][rows]
            if dy.dtype is torch.bfloat16:
                dx = native.bf16_linear(dy, updated[0], transposed=True) if input_needed else None
                native.bf16_adamw(dy, x, *updated, step=step, **settings)
            else:
                dx = native.linear_adamw(dy, x, *updated, input_needed=input_needed, step=step, **settings)
            begin = rows.stop
        return dx

    @torch.no_grad()
    def _update(self, parameter: nn.Parameter, gradients: Iterable[tuple[slice, torch.Tensor]]) -> None:
        """Steps a parameter, from the gradients of disjoint slices of its rows."""
        group, state = self._begin(parameter)
        for rows, gradient in gradients:
            moments_of_rows = [state["exp_avg"][rows]], [state["exp_avg_sq"][rows]]
            _fused_adamw(group, [parameter[rows]], [gradient], *moments_of_rows, [state["step"]])

    @torch.no_grad()
    def _update_small(self, gradients: Iterable[tuple[nn.Parameter, torch.Tensor]]) -> None:
        """Steps parameters with their gradients, those of a group in one call."""
        by_group: dict[int, list[tuple[nn.Parameter, torch.Tensor, dict[str, torch.Tensor]]]] = {}
        for parameter, gradient in gradients:
            group, state = self._begin(parameter)
            by_group.setdefault(id(group), []).append((parameter, gradient, state))
        for group in self._optimizer.param_groups:
            parts = by_group.get(id(group), [])
            if parts:
                parameters, of_parameters, states = map(list, zip(*parts, strict=True))
                moments_of_all = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
                _fused_adamw(group, parameters, of_parameters, *moments_of_all)


def _fused_adamw(
    group: dict[str, Any],
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    exp_avg: list[torch.Tensor],
    exp_avg_sq: list[torch.Tensor],
    steps: list[torch.Tensor],
) -> None:
    """torch's AdamW step of parameters with the settings of a group; the steps are counted already."""
    torch._fused_adamw_(
        parameters,
        gradients,
        exp_avg,
        exp_avg_sq,
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def make_scheduler(
    optimizer: torch.optim.Optimizer, settings: ResolvedSettings, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Makes the schedule of the learning rates, over ``total_steps`` optimizer steps.

    They warm up linearly over ``warmup_ratio`` of the steps, then stay or fall to 0 linearly or as half a cosine.
    """
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
    """Sets the learning rates of the schedule after ``step`` steps."""
    scheduler.last_epoch = step
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
