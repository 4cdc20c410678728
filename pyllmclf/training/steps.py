"""Single training steps: forward, backward and the optimizer's part, by one process or several."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .. import ops
from ..compute import Compute
from ..data.packing import PackedBatch, Packer
from ..distributed import ProcessGroup, lost_processes
from ..errors import NonFiniteError, ResourceError
from ..models.layers import DropoutRates, DropoutState
from ..models.sequence_classifier import SequenceClassifier
from ..settings import Settings
from ..sharding import full_tensor, full_tensors, is_sharded, local_tensor, shard
from .activation_cache import ActivationCache
from .cuda_graphs import FixedShapes
from .objective import MultiLabelObjective, Objective
from .optim import StepInBackward, make_optimizer, make_scheduler
from .preemption import Preemption
from .records import QueuedStep, not_finite


class StepTrainer:
    """Trains a classifier by single steps on packed batches.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, with ``requires_grad`` set.
    packer : Packer
        The training texts with their labels.
    settings : Settings
    compute : Compute
        Parameters stay fp32, whatever its dtype. ``settings.cuda_graphs`` says whether steps that a GPU runs faster
        than the host launches them are replayed as CUDA graphs. Never with dropout, whose masks differ by step,
        accumulation, fp16, or several labels for a text.
    total_steps : int
        Length of the learning rate's schedule.
    rates : DropoutRates, optional
        None is dropped by default.
    objective : Objective or MultiLabelObjective, optional
        What is minimised; plain cross-entropy by default.
    cache : ActivationCache, optional
        The frozen layers' activations, from which steps start.
    preemption : Preemption, optional
        Whether training is asked to end before its end.
    group : ProcessGroup, optional
        Those that train this model together; each computes its share of every step.
    strategy : {"ddp", "fsdp"}
        Whether each of several processes has the whole model, or a part of every parameter.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        packer: Packer,
        settings: Settings,
        compute: Compute,
        *,
        total_steps: int,
        rates: DropoutRates | None = None,
        objective: Objective | MultiLabelObjective | None = None,
        cache: ActivationCache | None = None,
        preemption: Preemption | None = None,
        group: ProcessGroup | None = None,
        strategy: str = "ddp",
    ) -> None:
        self.group, self.preemption = group or ProcessGroup(), preemption or Preemption(enabled=False)
        # Of a micro-batch, once memory has run out.
        self._most_texts: int | None = None
        self.model, self.packer, self.settings = model, packer, settings
        self.rates, self.cache = rates or DropoutRates(), cache
        self.compute, self.device, self.dtype = compute, compute.device, compute.dtype
        self.objective = (objective or Objective()).to(compute.device)
        # On the host, so that a step's total is known without asking the device.
        weight = self.objective.class_weight
        self._text_weights: np.ndarray | None = None
        if weight is not None:
            assert packer.labels is not None
            self._text_weights = weight.cpu().numpy()[packer.labels.numpy()]
        self.step = 0
        # Of the last steps.
        self._texts_of: dict[int, np.ndarray] = {}
        self.total_steps = total_steps
        one_label = packer.labels is None or packer.labels.dim() == 1
        alone = self.group.world_size == 1
        on_gpu = self.device.type == "cuda"
        records = settings.cuda_graphs and on_gpu and self.dtype != torch.float16 and not self.rates.any
        records &= one_label and alone
        # What a forward pass in training goes through. The optimizer gets the parameters that there are then.
        self._wrapped: nn.Module = model
        if strategy == "fsdp":
            shard(model, model.backbone.blocks, self.group, self.device, self.dtype)
        else:
            self._wrapped = self.group.data_parallel(model, self.device)
        self.optimizer = make_optimizer(model, settings, capturable=records)
        self.scheduler = make_scheduler(self.optimizer, settings, self.total_steps)
        # fp16 gradients underflow without loss scaling; for other dtypes this does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        # On a GPU asking for the loss before the backward pass would make it wait.
        needs_all_gradients = settings.max_grad_norm is not None or settings.gradient_accumulation_steps > 1
        # Whether a step was not finite; no parameter changes from then on.
        self._failed = torch.zeros((), dtype=torch.bool, device=self.device)
        # A float would be recorded as it is at that time.
        self._learning_rate = torch.zeros((), device=self.device)
        self._in_backward: StepInBackward | None = None
        if not alone:
            pass  # torch takes the gradients to the other processes as autograd gives them
        elif self.device.type == "cpu" and not needs_all_gradients and not self.scaler.is_enabled():
            self._in_backward = StepInBackward(self.optimizer)
        else:
            ops.use_gradient_buffers(model.parameters())
        self._fixed_shapes = self.make_fixed_shapes() if records else None

    def make_fixed_shapes(self) -> FixedShapes:
        """Steps on memory that stays where it is."""
        return FixedShapes(self.model.config.width, self.device, self._compute_fixed, self.optimizer.zero_grad)

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of every parameter."""
        return is_sharded(self.model)

    def gather(self) -> SequenceClassifier:
        """Gives every process the whole model again, once nothing is left to train."""
        if self.sharded:
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.state.clear()
            parameters = full_tensors(dict(self.model.named_parameters()), self.device)
            self.model = self._wrapped = self.model.with_parameters(parameters)
        return self.model

    def train_step(self, micro_batches: list[np.ndarray]) -> tuple[float, int]:
        """One optimizer step over the texts of all micro-batches.

        The gradient is that of the mean loss over all texts, whatever the micro-batches' sizes: losses are summed and
        divided once.

        Returns
        -------
        (loss, correct) : (float, int)
            Mean loss over the texts, and how many were classified rightly.

        Raises
        ------
        NonFiniteError
            If the loss or, with clipping, the norm of the gradient is not finite; no parameter has changed then.
        """
        return self.result_of(self.queue_step(micro_batches))

    def result_of(self, queued: QueuedStep) -> tuple[float, int]:
        """As :meth:`QueuedStep.result`; of two steps the error names the one whose gradient was not finite.

        Raises
        ------
        NonFiniteError
        """
        try:
            return queued.result()
        except NonFiniteError:
            if queued.step - 1 in self._texts_of:  # which may have left parameters with which no loss is finite
                self.check_parameters(queued.step - 1)
            raise

    def queue_step(self, micro_batches: list[np.ndarray], texts: np.ndarray | None = None) -> QueuedStep:
        """Forward, backward and the optimizer's step; on a GPU all is queued, and the host waits for nothing.

        ``texts`` are those of all processes, where there are several.

        A step whose loss or norm of the gradient is not finite leaves the parameters as they were, and so do the steps
        that were queued after it.
        """
        ids = np.concatenate(micro_batches) if texts is None else texts
        learning_rate = self.optimizer.param_groups[-1]["lr"]  # the head's
        fixed = self._fixed_shapes
        if fixed is not None and len(micro_batches) == 1 and fixed.takes(self.packer.row_counts_of(ids)):
            self._learning_rate.fill_(learning_rate)
            stats = self._fixed_step(fixed, ids)
            if stats is None:
                del fixed  # the last that holds the recordings' memory
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                stats = self._compute_in_memory(micro_batches, ids, None)
        else:
            dropout = DropoutState(self.rates, self.settings.seed, self.step) if self.rates.any else None
            stats = self._compute_in_memory(micro_batches, ids, dropout)
        self.scheduler.step()
        self.step += 1
        self._texts_of = {self.step: ids} | {step: old for step, old in self._texts_of.items() if step > self.step - 3}
        return QueuedStep(self.step, ids, self._total(ids), learning_rate, stats)

    def _fixed_step(self, fixed: FixedShapes, ids: np.ndarray) -> torch.Tensor | None:
        """A step on fixed memory; ``None``, and none of later ones, where there is no memory for it."""
        stage, rows = self._cached(ids) or (0, None)
        try:
            return fixed.step(self.packer.batch(ids), rows, one_row=self.model.one_row(stage))
        except torch.OutOfMemoryError:
            self._fixed_shapes = None
            self.optimizer.zero_grad(set_to_none=True)
            warnings.warn(
                f"step {self.step + 1}: out of memory for steps that are recorded as CUDA graphs; from now on they are "
                "launched one kernel at a time.",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def _compute_in_memory(
        self, micro_batches: list[np.ndarray], ids: np.ndarray, dropout: DropoutState | None
    ) -> torch.Tensor:
        """:meth:`_compute`, in smaller micro-batches where the device has no memory for these; the step is the same.

        Raises
        ------
        ResourceError
            If there is none for a single text.
        """
        while True:
            most = max(map(len, micro_batches))
            if self._most_texts is not None and most > self._most_texts:
                pieces = [np.array_split(part, -(-len(part) // self._most_texts) or 1) for part in micro_batches]
                micro_batches = [piece for parts in pieces for piece in parts]
            # A process without texts of its own computes one for nothing: the others wait for its part in the sum.
            batches = (
                (self.packer.batch(texts).to(self.device), self._cached(texts), len(part) > 0)
                for part in micro_batches
                for texts in [part if len(part) else ids[:1]]
            )
            try:
                with lost_processes():
                    return self._compute(batches, len(micro_batches), ids, self._total(ids), dropout)
            except torch.OutOfMemoryError as error:
                most = max(map(len, micro_batches))
                # The other processes have begun to add up; a step in the backward pass has changed weights.
                if most <= 1 or self.group.world_size > 1 or self._in_backward is not None:
                    raise ResourceError(
                        f"step {self.step + 1}: out of memory on {self.device} with {most} texts of up to "
                        f"{int(self.packer.row_counts_of(ids).max())} tokens at a time; use a smaller batch_size with "
                        "gradient_accumulation_steps, shorter texts (max_length) or a smaller model."
                    ) from error
                self._most_texts = -(-most // 2)
                self.optimizer.zero_grad(set_to_none=True)
                warnings.warn(
                    f"out of memory with {most} texts at a time; from now on {self._most_texts} are computed at a "
                    "time, with the same result.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _total(self, ids: np.ndarray) -> float:
        """Sum of the texts' weights."""
        return float(len(ids) if self._text_weights is None else self._text_weights[ids].sum())

    def _cached(self, ids: np.ndarray) -> tuple[int, torch.Tensor] | None:
        return None if self.cache is None else self.cache.lookup(self.packer, ids)

    def _compute(
        self,
        batches: Iterable[tuple[PackedBatch, tuple[int, torch.Tensor] | None, bool]],
        count: int,
        ids: np.ndarray,
        total: float | torch.Tensor,
        dropout: DropoutState | None,
        learning_rate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Forward, backward and the optimizer's step; of a batch's texts those count that have a label.

        Parameters
        ----------
        batches : iterable of (PackedBatch, cached activations, bool)
            With what :meth:`SequenceClassifier.forward` starts from, and whether its texts count at all.
        count : int
            Batches.
        ids : ndarray of int64
            Texts of all processes.
        total : float or tensor
            Sum of their weights.

        Returns
        -------
        tensor
            As :attr:`QueuedStep.stats`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        # Filled on the device: what comes from the host's memory would be waited for, and can't be recorded.
        asked = torch.full((), float(self.preemption.requested and self.group.world_size > 1), device=self.device)
        for number, (batch, cached, counts) in enumerate(batches, 1):
            assert batch.labels is not None
            with ops.use_backend(self.compute.backend), self._added_up(last=number == count):
                logits = self._wrapped(batch, dropout, self.dtype, cached=cached)[: len(batch.labels)]
                loss = self.objective.loss_sum(logits, batch.labels)
                if counts:
                    loss_sum += loss.detach()
                    correct += self.objective.correct(logits, batch.labels)
                if self._in_backward is not None:  # which would change parameters
                    stats = torch.stack([loss_sum, correct, asked])
                    self.result_of(QueuedStep(self.step + 1, ids, float(total), 0.0, stats))
                with self._in_backward or nullcontext():
                    # The mean over processes is taken of gradients.
                    self._backward(loss * (self.group.world_size if counts else 0) / total)
        figures = list(self.group.all_reduce(torch.stack([loss_sum, correct, asked])))
        if self.settings.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = full_tensor(nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm))
            if not self.scaler.is_enabled():  # with loss scaling an overflow is skipped, and the scale lowered
                figures.append(norm)
        stats = torch.stack(figures)
        self._optimizer_step(stats, learning_rate)
        return stats

    def _compute_fixed(self, batch: PackedBatch, rows: torch.Tensor | None) -> torch.Tensor:
        """What is recorded; nothing in it may depend on numbers that differ by step and lie on the host."""
        assert batch.labels is not None
        cached = None if self.cache is None or rows is None else (self.cache.stage, rows)
        total = self.objective.total(batch.labels)
        return self._compute([(batch, cached, True)], 1, np.arange(0), total, None, self._learning_rate)

    def _added_up(self, *, last: bool) -> AbstractContextManager[None]:
        """Of several batches of a step, gradients go to the other processes with the last."""
        wrapped = self._wrapped
        return nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()

    def _backward(self, loss: torch.Tensor) -> None:
        if self.scaler.is_enabled():
            # The scaler looks at the gradients alone, which can be finite where the loss is not.
            self._failed |= ~torch.isfinite(loss.detach())
            loss = loss * torch.where(self._failed, torch.nan, 1.0)
        self.scaler.scale(loss).backward()

    def _optimizer_step(self, stats: torch.Tensor, learning_rate: torch.Tensor | None) -> None:
        """With the optimizer's own learning rate, or with the one that a tensor holds."""
        if self.scaler.is_enabled() or self._in_backward is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        self._failed |= ~torch.isfinite(stats).all()
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        # What loss scaling uses, too: the fused AdamW reads it on the device and steps only where it is 0.
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
        """Afterwards the model's parameters are like any others."""
        if self._in_backward is not None:
            self._in_backward.close()
            self._in_backward = None
        ops.drop_gradient_buffers(self.model.parameters())

    def check_parameters(self, step: int | None = None) -> None:
        """Looks at what a step made of the parameters, the last one by default, where no later loss has told.

        Raises
        ------
        NonFiniteError
            If one is not finite.
        """
        step = self.step if step is None else step
        trained = [(name, local_tensor(p)) for name, p in self.model.named_parameters() if p.requires_grad]
        bad = next((i for i, (_, part) in enumerate(trained) if not bool(torch.isfinite(part).all())), len(trained))
        if self.sharded:
            bad = self.group.all_reduce_min(bad)
        if bad < len(trained):
            what = f"{trained[bad][0]} is no longer finite"
            raise not_finite(step, what, self._texts_of.get(step, np.arange(0)))
