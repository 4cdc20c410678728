"""Weights of words by what the logit loses without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data.packing import PackedBatch, budget_bounds
from .rows import MovedRows


def occlusion(
    rows: MovedRows, logits: np.ndarray, targets: np.ndarray, word_of: list[np.ndarray], token: int | None
) -> list[dict[int, float]]:
    """Occlusion (Zeiler and Fergus 2014; of words Li et al. 2016): the logit less that with one word replaced.

    Each token of the word is replaced, at its place. The weights of a text don't add up to anything: words that say the
    same lose nothing alone, and words that need each other lose twice.

    Parameters
    ----------
    rows : MovedRows
    logits : ndarray, shape [windows, classes]
        Of the texts as they are.
    targets : ndarray of int64, shape [windows]
    word_of : list of ndarray of int64
        Word of each of a window's :attr:`.TokenizedTexts.rows`; -1 where there is none.
    token : int or None
        Token that replaces those of a word; ``None`` where the baseline of ``rows`` is no token's embedding.

    Returns
    -------
    list of dict of int to float
        Weight of each word of each window.
    """
    windows, words = [], []
    for window, of_rows in enumerate(word_of):
        # The last word first: texts of a causal model then share all that stands before it with the text before.
        present = sorted(set(of_rows[of_rows >= 0].tolist()), reverse=True)
        windows += [window] * len(present)
        words += present
    found: list[dict[int, float]] = [{} for _ in word_of]
    for part in _batches(rows, np.array(windows, dtype=np.int64)):
        chosen = [windows[item] for item in part]
        occluded = [words[item] for item in part]
        with torch.no_grad():
            computed = rows.model(_occluded(rows, np.array(chosen), occluded, word_of, token)).double().cpu().numpy()
        rows.advance(len(part))
        for window, word, values in zip(chosen, occluded, computed, strict=True):
            found[window][word] = float(logits[window, targets[window]] - values[targets[window]])
    return found


def _batches(rows: MovedRows, windows: np.ndarray) -> Iterator[np.ndarray]:
    bounds = budget_bounds(rows.texts.packer.row_counts_of(windows), rows.budget)
    if len(windows):
        yield from np.split(np.arange(len(windows)), bounds[1:-1])


def _occluded(
    rows: MovedRows, windows: np.ndarray, words: list[int], word_of: list[np.ndarray], token: int | None
) -> PackedBatch:
    packer = rows.texts.packer
    batch = packer.batch(windows)
    hidden = np.concatenate([word_of[window] == word for window, word in zip(windows, words, strict=True)])
    index = rows.rows_of(batch, windows).cpu()[torch.from_numpy(hidden)]
    if token is not None:
        # Positions remain those of the text's own tokens.
        batch = replace(batch, input_ids=batch.input_ids.index_fill(0, index, token))
        shares = rows.model.can_share_prefixes and packer.without_position is None
        return (batch.share_prefixes() if shares else batch).to(rows.device)
    batch = batch.to(rows.device)
    embedded: Tensor = torch.nn.functional.embedding(batch.input_ids, rows.table).float()
    embedded[index.to(rows.device)] = rows.baseline
    return replace(batch, token_rows=embedded)
