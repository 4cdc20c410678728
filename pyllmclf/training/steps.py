"""Single training steps on packed batches: launched kernel by kernel, or replayed as CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch

from .. import ops
from ..compute import Compute
from ..data.packing import PackedBatch, Packer
from ..distributed import ProcessGroup
from ..errors import NonFiniteError
from ..models.layers import DropoutRates, DropoutState
from ..models.sequence_classifier import SequenceClassifier
from ..sharding import full_tensors, is_sharded, local_tensor
from .activation_cache import ActivationCache
from .cuda_graphs import GraphedSteps
from .gradient_step import GradientStep
from .micro_batches import MicroBatch, MicroBatcher
from .objective import AnyObjective, ContrastiveObjective, Objective
from .preemption import Preemption
from .recipes import ResolvedSettings
from .records import QueuedStep, not_finite
from .strategy import all_reduce_with_last, wrap_model


class StepTrainer:
    """Trains a classifier by single steps on packed batches.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, with ``requires_grad`` set.
    packer : Packer
        The training texts with their labels.
    settings : Settings
        With ``cuda_graphs``, a GPU replays launch-bound steps as CUDA graphs: never with dropout, whose masks differ by
        step, gradient accumulation, float16, several labels per text, or several processes.
    compute : Compute
        Parameters stay in fp32, whatever its dtype.
    total_steps : int
        Length of the learning rate's schedule.
    rates : DropoutRates, optional
        No dropout by default.
    objective : AnyObjective, optional
        The minimised loss; plain cross-entropy by default.
    cache : ActivationCache, optional
        The frozen layers' activations, from which steps start.
    preemption : Preemption, optional
    group : ProcessGroup, optional
        Processes that train this model together; each computes its share of every step.
    strategy : {"ddp", "fsdp"}
        Whether each of several processes has the whole model, or a shard of every parameter.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        packer: Packer,
        settings: ResolvedSettings,
        compute: Compute,
        *,
        total_steps: int,
        rates: DropoutRates | None = None,
        objective: AnyObjective | None = None,
        cache: ActivationCache | None = None,
        preemption: Preemption | None = None,
        group: ProcessGroup | None = None,
        strategy: str = "ddp",
    ) -> None:
        self.group, self.preemption = group or ProcessGroup(), preemption or Preemption(enabled=False)
        self.model, self.packer, self.settings = model, packer, settings
        self.rates, self.cache = rates or DropoutRates(), cache
        self.compute, self.device, self.dtype = compute, compute.device, compute.dtype
        self.objective = (objective or Objective()).to(compute.device)
        own_weights = None if packer.weights is None else torch.from_numpy(packer.weights)
        self._own_weights = None if own_weights is None else own_weights.to(compute.device)
        # On the host, so that a step's total is known without waiting for the device.
        self.text_weights: np.ndarray | None = None
        if packer.labels is not None:
            weights = self.objective.to(torch.device("cpu")).weights(packer.labels, own_weights)
            self.text_weights = None if weights is None else weights.numpy()
        self.step, self.total_steps = 0, total_steps
        # Texts of the last three steps, by step; errors name them.
        self._recent_texts: dict[int, np.ndarray] = {}
        one_label = packer.labels is None or packer.labels.dim() == 1
        recordable = self.device.type == "cuda" and self.dtype != torch.float16 and not self.rates.any
        # Whether the loss is one of what the head reads, and not of its logits.
        self.contrasts = isinstance(self.objective, ContrastiveObjective)
        recordable = recordable and one_label and not self.contrasts
        records = settings.cuda_graphs and recordable and self.group.world_size == 1
        # The module whose forward pass trains. The optimizer is made of the parameters after wrapping.
        self._wrapped = wrap_model(model, strategy, self.group, compute)
        self.gradient_step = GradientStep(
            model, settings, compute, total_steps=total_steps, world_size=self.group.world_size, capturable=records
        )
        self._batcher = MicroBatcher(packer, compute.device, self.optimizer.zero_grad)
        # On the device: a graph would record a number of the host as a constant.
        self._learning_rate = torch.zeros((), device=self.device)
        self._graphed_steps = self.make_graphed_steps() if records else None

    @property
    def optimizer(self) -> torch.optim.AdamW:
        """The optimizer of the trained parameters."""
        return self.gradient_step.optimizer

    def make_graphed_steps(self) -> GraphedSteps:
        """Makes the steps on static batches, which a GPU replays as CUDA graphs."""
        return GraphedSteps(self.model.config.width, self.device, self._compute_static, self.optimizer.zero_grad)

    @property
    def sharded(self) -> bool:
        """Whether each process has a shard of every parameter."""
        return is_sharded(self.model)

    def gather(self) -> SequenceClassifier:
        """Gathers the whole model in every process, after the last step; drops gradients and optimizer state."""
        if self.sharded:
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.state.clear()
            parameters = full_tensors(dict(self.model.named_parameters()), self.device)
            self.model = self._wrapped = self.model.with_parameters(parameters)
        return self.model

    def train_step(self, micro_batches: list[np.ndarray]) -> tuple[float, int]:
        """Takes one optimizer step over the texts of all micro-batches.

        The gradient is that of the mean loss over all texts, whatever the sizes of the micro-batches: losses are summed
        and divided once.

        Parameters
        ----------
        micro_batches : list of int64 arrays
            Texts of each.

        Returns
        -------
        (loss, correct) : (float, int)
            Mean loss over the texts, and number of correctly classified texts.

        Raises
        ------
        NonFiniteError
            If the loss or, with clipping, the norm of the gradient is not finite; no parameter has changed then.
        ResourceError
            If the device has no memory for the step.
        """
        return self.result_of(self.queue_step(micro_batches))

    def result_of(self, queued: QueuedStep) -> tuple[float, int]:
        """Waits for a step, as :meth:`QueuedStep.result`.

        Raises
        ------
        NonFiniteError
            If the step, or a parameter after the step before it, is not finite; the earlier step is named.
        """
        try:
            return queued.result()
        except NonFiniteError:
            if queued.step - 1 in self._recent_texts:
                self.check_parameters(queued.step - 1)
            raise

    def queue_step(self, micro_batches: list[np.ndarray], texts: np.ndarray | None = None) -> QueuedStep:
        """Computes forward and backward passes and the optimizer step; a GPU queues them, and the host doesn't wait.

        A step whose loss or gradient norm is not finite leaves the parameters unchanged, and so do the steps queued
        after it.

        Parameters
        ----------
        micro_batches : list of int64 arrays
            Texts of each, for this process.
        texts : ndarray of int64, optional
            Texts of the step, of all processes; by default those of ``micro_batches``.

        Raises
        ------
        ResourceError
            If the device has no memory for the step, or another process is lost.
        """
        ids = np.concatenate(micro_batches) if texts is None else texts
        learning_rate = self.gradient_step.learning_rate
        graphed = self._graphed_steps
        if graphed is not None and len(micro_batches) == 1 and graphed.is_launch_bound(self.packer.row_counts_of(ids)):
            self._learning_rate.fill_(learning_rate)
            stats = self._graphed_step(graphed, ids)
            if stats is None:
                del graphed  # the last reference to the graphs' memory
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                stats = self._compute_with_retry(micro_batches, ids, None)
        else:
            dropout = DropoutState(self.rates, self.settings.seed, self.step) if self.rates.any else None
            stats = self._compute_with_retry(micro_batches, ids, dropout)
        self.gradient_step.scheduler.step()
        self.step += 1
        recent = {step: old for step, old in self._recent_texts.items() if step > self.step - 3}
        self._recent_texts = {self.step: ids} | recent
        return QueuedStep(self.step, ids, self._total(ids), learning_rate, stats)

    def _graphed_step(self, graphed: GraphedSteps, ids: np.ndarray) -> torch.Tensor | None:
        """Computes a step on a static batch; without memory for it, drops ``_graphed_steps`` and returns ``None``."""
        stage, rows = self._lookup(ids) or (0, None)
        try:
            return graphed.step(self.packer.batch(ids), rows, one_row=self.model.one_row(stage))
        except torch.OutOfMemoryError:
            self._graphed_steps = None
            self.optimizer.zero_grad(set_to_none=True)
            warnings.warn(
                f"step {self.step + 1}: out of memory for steps that are recorded as CUDA graphs; from now on they are "
                "launched one kernel at a time.",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def _compute_with_retry(
        self, micro_batches: list[np.ndarray], ids: np.ndarray, dropout: DropoutState | None
    ) -> torch.Tensor:
        """Computes a step, as :meth:`MicroBatcher.run`."""
        total = self._total(ids)
        return self._batcher.run(
            lambda batches, count: self._compute(batches, count, ids, total, dropout),
            micro_batches,
            ids,
            lookup=self._lookup,
            step=self.step + 1,
            # Other processes wait in an all-reduce; a step in the backward pass has changed parameters.
            repeatable=self.group.world_size == 1 and self.gradient_step.in_backward is None,
            splittable=not self.contrasts,
        )

    def _total(self, ids: np.ndarray) -> float:
        """Sum of the texts' weights."""
        return float(len(ids) if self.text_weights is None else self.text_weights[ids].sum())

    def _lookup(self, ids: np.ndarray) -> tuple[int, torch.Tensor] | None:
        return None if self.cache is None else self.cache.lookup(self.packer, ids)

    def _compute(
        self,
        micro_batches: Iterable[MicroBatch],
        count: int,
        ids: np.ndarray,
        total: float | torch.Tensor,
        dropout: DropoutState | None,
        learning_rate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes forward and backward passes and the optimizer step; texts without a label don't count.

        Parameters
        ----------
        micro_batches : iterable of MicroBatch
        count : int
            Number of micro-batches.
        ids : ndarray of int64
            Texts of all processes.
        total : float or tensor
            Sum of their weights.
        dropout : DropoutState or None
        learning_rate : fp32 tensor, shape [], optional
            Replaces the schedule's learning rate in recorded steps.

        Returns
        -------
        fp32 tensor, shape [3] or [4]
            As :attr:`QueuedStep.stats`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        # Filled on the device: a copy from the host would be waited for, and can't be recorded.
        preempted = self.preemption.requested and self.group.world_size > 1
        preemptions = torch.full((), float(preempted), device=self.device)
        for number, (batch, cached, counts) in enumerate(micro_batches, 1):
            assert batch.labels is not None
            with ops.use_backend(self.compute.backend), all_reduce_with_last(self._wrapped, last=number == count):
                out = self._wrapped(batch, dropout, self.dtype, cached=cached, head=not self.contrasts)
                logits = out[: len(batch.labels)]
                loss = self.objective.loss_sum(logits, batch.labels, self._own_weights_of(batch))
                if counts:
                    loss_sum += loss.detach()
                    correct += self.objective.correct(logits, batch.labels)
                if self.gradient_step.in_backward is not None:  # checked before the backward pass changes parameters
                    stats = torch.stack([loss_sum, correct, preemptions])
                    self.result_of(QueuedStep(self.step + 1, ids, float(total), 0.0, stats))
                # Gradients are averaged over processes; their sum is needed.
                self.gradient_step.backward(loss * (self.group.world_size if counts else 0) / total)
        sums = list(self.group.all_reduce(torch.stack([loss_sum, correct, preemptions])))
        norm = self.gradient_step.clip()
        stats = torch.stack(sums if norm is None else [*sums, norm])
        self.gradient_step.step(stats, learning_rate)
        return stats

    def _own_weights_of(self, batch: PackedBatch) -> torch.Tensor | None:
        """Weights of the batch's texts without those of their classes; a dummy text, which has no label, has none."""
        if self._own_weights is None or batch.labels is None:
            return None
        return self._own_weights[batch.example_ids[: len(batch.labels)]]

    def _compute_static(self, batch: PackedBatch, rows: torch.Tensor | None) -> torch.Tensor:
        """Computes a step on a static batch, without waiting for the device or reading changing numbers of the host."""
        assert batch.labels is not None
        cached = None if self.cache is None or rows is None else (self.cache.stage, rows)
        total = self.objective.total(batch.labels, self._own_weights_of(batch))
        return self._compute([MicroBatch(batch, cached)], 1, np.arange(0), total, None, self._learning_rate)

    def close(self) -> None:
        """Releases the parameters: backward passes leave gradients in ``.grad`` again."""
        self.gradient_step.close()

    def check_parameters(self, step: int | None = None) -> None:
        """Checks the parameters after a step, by default the last one, whose effect no later loss shows.

        Raises
        ------
        NonFiniteError
            If a parameter is not finite.
        """
        step = self.step if step is None else step
        trained = [(name, local_tensor(p)) for name, p in self.model.named_parameters() if p.requires_grad]
        bad = next((i for i, (_, part) in enumerate(trained) if not bool(torch.isfinite(part).all())), len(trained))
        if self.sharded:
            bad = self.group.all_reduce_min(bad)
        if bad < len(trained):
            problem = f"{trained[bad][0]} is no longer finite"
            raise not_finite(step, problem, self._recent_texts.get(step, np.arange(0)))
