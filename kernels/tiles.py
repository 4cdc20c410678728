"""Which tile of which text each program of an attention kernel takes; made on the host, once for a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Up to here a text is one tile of 16, 32 or 64 rows; longer texts are cut into tiles of the kernel's own size.
SHORT = 64
SMALLEST = 16


@dataclass(frozen=True)
class Tiles:
    """One launch.

    Attributes
    ----------
    rows : int
        Rows of a tile.
    count : int
    blocks : int
        Tiles of each text where there is no table.
    table : int32 tensor, shape [count, 2], or None
        Text and first row in it of each tile, in the order in which they are begun. None: all tiles of the first text,
        then those of the next.
    """

    rows: int
    count: int
    blocks: int
    table: torch.Tensor | None


def tile_rows(longest: int, long: int) -> int:
    """Rows of a tile for texts up to this length; ``long`` for those above SHORT."""
    rows = SMALLEST
    while rows < longest and rows < SHORT:
        rows *= 2
    return long if longest > rows else rows


class Schedule:
    """The tiles of a batch, those with the most work first, so that no long one is left for the end.

    Short and long texts get launches of their own where a batch has both: a short text does not fill a tile for long
    ones, and a long text would take many tiles for short ones.

    Parameters
    ----------
    cu_seqlens_q, cu_seqlens_k : int tensor on the CPU, shape [texts + 1]
    device : torch.device
        Where the kernels run.
    """

    def __init__(self, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, device: torch.device) -> None:
        lengths_q = cu_seqlens_q.diff().long()
        lengths_k = lengths_q if cu_seqlens_k is cu_seqlens_q else cu_seqlens_k.diff().long()
        self._counts = len(lengths_q), int(lengths_q.sum()), int(lengths_k.sum())
        self._owned = {"q": lengths_q, "k": lengths_k}
        self._other = {"q": lengths_k, "k": lengths_q}
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        self._made: dict[tuple[str, int, bool], list[Tiles]] = {}

    def fits(self, texts: int, rows_q: int, rows_k: int, device: torch.device) -> bool:
        """Whether a batch on a device has as many texts, queries and keys as the one this was made for."""
        return (texts, rows_q, rows_k) == self._counts and device == self.device

    def tiles(self, side: str, long: int, *, causal: bool) -> list[Tiles]:
        """The launches for tiles of queries (side "q") or of keys ("k"), with ``long`` rows for long texts.

        Every layer asks for the same; the tables are made and moved at the first call.
        """
        key = side, long, causal
        if key not in self._made:
            self._made[key] = self._make(side, long, causal)
        return self._made[key]

    def _make(self, side: str, long: int, causal: bool) -> list[Tiles]:
        owned, other = self._owned[side], self._other[side]
        is_short = owned <= SHORT
        launches = []
        for wanted in (~is_short, is_short):
            texts = (wanted & (owned > 0)).nonzero().squeeze(1)
            if not len(texts):
                continue
            rows = tile_rows(int(owned[texts].max()), long)
            counts = (owned[texts] + rows - 1) // rows
            text = texts.repeat_interleave(counts)
            before = counts.cumsum(0) - counts
            first = (torch.arange(len(text)) - before.repeat_interleave(counts)) * rows
            if not causal:
                work = other[text]
            elif side == "q":
                work = torch.minimum(first + rows, owned[text])
            else:
                work = other[text] - first
            order = work.argsort(descending=True, stable=True)
            table = torch.stack([text, first], dim=1)[order].int()
            launches.append(Tiles(rows, len(table), 0, self._move(table)))
        return launches

    def _move(self, table: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            return table.pin_memory().to(self.device, non_blocking=True)
        return table
