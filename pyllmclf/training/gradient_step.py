"""Backward passes and the optimizer step: loss scaling, clipping, and no step where loss or gradient is not finite."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from .. import ops
from ..compute import Compute
from ..models.sequence_classifier import SequenceClassifier
from ..sharding import full_tensor
from .optim import StepInBackward, make_optimizer, make_scheduler
from .recipes import ResolvedSettings


class GradientStep:
    """Takes optimizer steps from backward passes.

    On a CPU, where no step needs all gradients together, each parameter is stepped within the backward pass
    (:class:`StepInBackward`); elsewhere gradients are written into buffers that are allocated once.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, sharded or wrapped already, with ``requires_grad`` set.
    settings : Settings
    compute : Compute
    total_steps : int
        Length of the learning rate's schedule.
    world_size : int
        Number of processes that train the model.
    capturable : bool
        Whether steps may be recorded in a CUDA graph.

    Attributes
    ----------
    optimizer : AdamW
    scheduler : LambdaLR
    scaler : GradScaler
        Enabled for float16, whose gradients underflow without loss scaling.
    in_backward : StepInBackward or None
        Takes the steps in the backward pass, until :meth:`close`.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        settings: ResolvedSettings,
        compute: Compute,
        *,
        total_steps: int,
        world_size: int = 1,
        capturable: bool = False,
    ) -> None:
        self._model, self._settings = model, settings
        self.optimizer = make_optimizer(model, settings, capturable=capturable)
        self.scheduler = make_scheduler(self.optimizer, settings, total_steps)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
        needs_all_gradients = settings.max_grad_norm is not None or settings.gradient_accumulation_steps > 1
        # Whether a step was not finite: no later step changes a parameter. On the device, which the host doesn't wait
        # for.
        self._failed = torch.zeros((), dtype=torch.bool, device=compute.device)
        self.in_backward: StepInBackward | None = None
        if world_size > 1:
            return  # torch all-reduces the gradients that autograd computes
        if compute.device.type == "cpu" and not needs_all_gradients and not self.scaler.is_enabled():
            self.in_backward = StepInBackward(self.optimizer, model.reused_parameters)
        else:
            ops.use_gradient_buffers(model.parameters())

    @property
    def learning_rate(self) -> float:
        """Learning rate of the head."""
        return self.optimizer.param_groups[-1]["lr"]

    def backward(self, loss: torch.Tensor) -> None:
        """Computes the gradients of a loss, a scalar tensor; with ``in_backward`` it steps the parameters too."""
        with self.in_backward or nullcontext():
            if self.scaler.is_enabled():
                # The scaler checks only the gradients, which can be finite where the loss is not.
                self._failed |= ~torch.isfinite(loss.detach())
                loss = loss * torch.where(self._failed, torch.nan, 1.0)
            self.scaler.scale(loss).backward()

    def clip(self) -> torch.Tensor | None:
        """Clips the gradients to ``max_grad_norm``.

        Returns
        -------
        fp32 tensor, shape [], or None
            Norm of the gradient before clipping. ``None`` without clipping, and with loss scaling, where a norm that is
            not finite makes the scaler skip the step and lower the scale.
        """
        if self._settings.max_grad_norm is None:
            return None
        self.scaler.unscale_(self.optimizer)
        norm = full_tensor(nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.max_grad_norm))
        return None if self.scaler.is_enabled() else norm

    def step(self, stats: torch.Tensor, learning_rate: torch.Tensor | None = None) -> None:
        """Takes the optimizer step, unless this step or an earlier one is not finite.

        Parameters
        ----------
        stats : tensor
            Finite only if loss and gradient norm are; as :attr:`QueuedStep.stats`.
        learning_rate : fp32 tensor, shape [], optional
            Replaces the schedule's learning rate in recorded steps.
        """
        if self.scaler.is_enabled() or self.in_backward is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        self._failed |= ~torch.isfinite(stats).all()
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        # Loss scaling sets it, too: the fused AdamW reads it on the device, and steps only where it is 0.
        self.optimizer.found_inf = self._failed.float()  # type: ignore[attr-defined]
        try:
            for group in groups if learning_rate is not None else ():
                share = group["lr_share"]
                group["lr"] = learning_rate if share == 1.0 else learning_rate * share
            self.optimizer.step()
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            del self.optimizer.found_inf  # type: ignore[attr-defined]

    def close(self) -> None:
        """Releases the parameters: backward passes leave gradients in ``.grad`` again."""
        if self.in_backward is not None:
            self.in_backward.close()
            self.in_backward = None
        ops.drop_gradient_buffers(self._model.parameters())
