"""Logits of texts whose tokens' embeddings are moved towards a baseline, and the gradients there, in packed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data.packing import PackedBatch, budget_bounds
from ..errors import NonFiniteError
from ..models.sequence_classifier import SequenceClassifier
from .tokens import TokenizedTexts


@dataclass(frozen=True)
class Points:
    """Windows to compute, each with its tokens somewhere between baseline (0) and text (1).

    Attributes
    ----------
    windows : ndarray of int64, shape [points]
    scales : ndarray of float64, shape [points]
    weights : ndarray of float64, shape [points]
        Factors of the gradients.
    """

    windows: np.ndarray
    scales: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, count: int, scales: np.ndarray, weights: np.ndarray) -> Points:
        """All scales for each of ``count`` windows."""
        windows = np.repeat(np.arange(count), len(scales))
        return cls(windows, np.tile(scales, count), np.tile(weights, count))


@dataclass(frozen=True)
class MovedRows:
    """Computes with the rows of texts' tokens; special tokens and padding stay as they are.

    Attributes
    ----------
    model : SequenceClassifier
        Of :func:`.twin.without_parameter_gradients`.
    texts : TokenizedTexts
    table : tensor, shape [vocab_size, embedding_width]
        Embeddings of the tokens.
    baseline : fp32 tensor, shape [embedding_width]
    device : torch.device
    budget : int
        Most rows of a batch, which has at least one window.
    advance : callable
        Called with a number of points that are computed.
    """

    model: SequenceClassifier
    texts: TokenizedTexts
    table: Tensor
    baseline: Tensor
    device: torch.device
    budget: int
    advance: Callable[[int], object]

    def logits(self, scale: float) -> np.ndarray:
        """Logits of all windows at a scale, float64, shape [windows, classes].

        Raises
        ------
        NonFiniteError
            If a logit is not a finite number.
        """
        points = Points.of(len(self.texts.packer), np.array([scale]), np.ones(1))
        found = []
        with torch.no_grad():
            for part in self._batches(points):
                rows, batch, _, _ = self._moved(points, part)
                found.append(self._computed(batch, rows))
        logits = torch.cat(found).double().cpu().numpy() if found else np.zeros((0, len(self.model.head.weight)))
        if not np.isfinite(logits).all():
            text = self.texts.text_of[np.flatnonzero(~np.isfinite(logits).all(axis=1))[0]]
            raise NonFiniteError(f"the logits of text {text} are not finite; the model is damaged or diverged.")
        return logits

    def products(self, points: Points, targets: np.ndarray) -> list[np.ndarray]:
        """Sums over points of weight · (embedding − baseline) · d logit / d embedding.

        Parameters
        ----------
        points : Points
        targets : ndarray of int64, shape [windows]
            Class whose logit it is.

        Returns
        -------
        list of ndarray of float64
            A number for each of a window's :attr:`.TokenizedTexts.rows`.
        """
        sums = [np.zeros(len(rows)) for rows in self.texts.rows]
        for part in self._batches(points):
            rows, batch, index, difference = self._moved(points, part)
            rows.requires_grad_()
            windows = points.windows[part]
            logits = self._computed(batch, rows)
            chosen = torch.from_numpy(targets[windows]).to(self.device)
            (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), rows)
            products = (difference * gradient[index]).sum(1).double().cpu().numpy()
            sizes = [len(self.texts.rows[window]) for window in windows]
            for point, values in zip(part, np.split(products, np.cumsum(sizes)[:-1]), strict=True):
                sums[points.windows[point]] += points.weights[point] * values
        return sums

    def _batches(self, points: Points) -> Iterator[np.ndarray]:
        bounds = budget_bounds(self.texts.packer.row_counts_of(points.windows), self.budget)
        if len(points.windows):
            yield from np.split(np.arange(len(points.windows)), bounds[1:-1])

    def _moved(self, points: Points, part: np.ndarray) -> tuple[Tensor, PackedBatch, Tensor, Tensor]:
        """Rows of some points, their batch, the index of the rows that moved, and (embedding − baseline) of these."""
        windows = points.windows[part]
        batch = self.texts.packer.batch(windows)
        index = self.rows_of(batch, windows)
        sizes = np.array([len(self.texts.rows[window]) for window in windows])
        scales = torch.from_numpy(np.repeat(points.scales[part], sizes)).float().to(self.device)
        batch = batch.to(self.device)
        rows = torch.nn.functional.embedding(batch.input_ids, self.table).float()
        difference = rows[index] - self.baseline
        rows[index] = self.baseline + scales[:, None] * difference
        return rows, batch, index, difference

    def rows_of(self, batch: PackedBatch, windows: np.ndarray) -> Tensor:
        """Index in a batch of all :attr:`.TokenizedTexts.rows` of its windows, int64."""
        starts = batch.cu_seqlens[:-1].numpy().astype(np.int64)
        found = [start + self.texts.rows[window] for start, window in zip(starts, windows, strict=True)]
        return torch.from_numpy(np.concatenate(found)).to(self.device)

    def _computed(self, batch: PackedBatch, rows: Tensor) -> Tensor:
        logits = self.model(replace(batch, token_rows=rows))
        self.advance(len(batch))
        return logits
