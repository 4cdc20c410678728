"""Tiles of the attention kernels: which rows of which text each program owns. The host makes them once per batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# A text of up to this many rows is one tile of 16, 32 or 64 rows, if the kernel has tiles of that size; any other text
# is split into tiles of the kernel's size for long texts.
SHORT = 64
SMALLEST = 16


@dataclass(frozen=True)
class Tiles:
    """Tiles of one launch.

    Attributes
    ----------
    rows : int
        Rows per tile.
    count : int
        Number of tiles.
    blocks : int
        Tiles per text, without a table.
    table : int32 tensor, shape [count, 2], or None
        Text and first row of each tile, in launch order. None: the tiles of the first text, then of the next.
    """

    rows: int
    count: int
    blocks: int
    table: torch.Tensor | None


def tile_rows(longest: int, long: int) -> int:
    """Rows per tile for texts of up to ``longest`` rows: 16, 32 or 64, and ``long`` at most or above SHORT."""
    rows = SMALLEST
    while rows < longest and rows < SHORT:
        rows *= 2
    return long if longest > rows else min(rows, long)


class Schedule:
    """Tiles of a batch, those with the most work first, so that no long one runs alone at the end.

    If a batch has short and long texts, each kind gets a launch: a short text does not fill a tile for long ones, and a
    long text would take many tiles for short ones.

    Parameters
    ----------
    cu_seqlens_q, cu_seqlens_k : int tensor on the CPU, shape [texts + 1]
        First row of each text's queries and keys, and the end of the last.
    device : torch.device
        Device that the kernels run on.
    """

    def __init__(self, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, device: torch.device) -> None:
        lengths_q = cu_seqlens_q.diff().long()
        lengths_k = lengths_q if cu_seqlens_k is cu_seqlens_q else cu_seqlens_k.diff().long()
        self._counts = len(lengths_q), int(lengths_q.sum()), int(lengths_k.sum())
        self._lengths = {"q": lengths_q, "k": lengths_k}
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        self._made: dict[tuple[str, int, bool], list[Tiles]] = {}

    def fits(self, texts: int, rows_q: int, rows_k: int, device: torch.device) -> bool:
        """Whether a batch on ``device`` has as many texts, queries and keys as the schedule's batch."""
        return (texts, rows_q, rows_k) == self._counts and device == self.device

    def tiles(self, side: str, long: int, *, causal: bool) -> list[Tiles]:
        """Launches for tiles of queries (side "q") or of keys ("k"), with ``long`` rows per tile for long texts.

        The first call makes the tables and copies them to the device; later layers reuse them.
        """
        key = side, long, causal
        if key not in self._made:
            self._made[key] = self._make(side, long, causal)
        return self._made[key]

    def pooled(self, *, causal: bool) -> PooledSchedule:
        """Schedule of one query per text on all its keys; ``causal`` as in the batch's other blocks."""
        return PooledSchedule(self, self._counts, causal)

    def _make(self, side: str, long: int, causal: bool) -> list[Tiles]:
        launches = []
        for texts in self._long_and_short(side):
            if len(texts):
                rows = tile_rows(int(self._lengths[side][texts].max()), long)
                table = self._table(side, texts, rows, causal)
                launches.append(Tiles(rows, len(table), 0, _on_device(table, self.device)))
        return launches

    def _long_and_short(self, side: str) -> list[torch.Tensor]:
        lengths = self._lengths[side]
        return [mask.nonzero().squeeze(1) for mask in (lengths > SHORT, (lengths <= SHORT) & (lengths > 0))]

    def _table(self, side: str, texts: torch.Tensor, rows: int, causal: bool) -> torch.Tensor:
        """Tiles of some texts, int32, shape [tiles, 2]: text and first row."""
        owned, other = self._lengths[side], self._lengths["k" if side == "q" else "q"]
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
        return torch.stack([text, first], dim=1)[order].int()


class PooledSchedule:
    """Tiles of one query per text; the tiles of keys are those of the batch's schedule.

    Parameters
    ----------
    whole : Schedule
        Schedule of all queries.
    counts : (int, int, int)
        Its texts, queries and keys.
    causal : bool
        As in the batch's other blocks, whose tables of keys are reused.
    """

    def __init__(self, whole: Schedule, counts: tuple[int, int, int], causal: bool) -> None:
        self._whole, self._causal = whole, causal
        self._texts, _, self._keys = counts
        self.device = whole.device

    def fits(self, texts: int, rows_q: int, rows_k: int, device: torch.device) -> bool:
        """As :meth:`Schedule.fits`."""
        return (texts, rows_q, rows_k) == (self._texts, self._texts, self._keys) and device == self.device

    def tiles(self, side: str, long: int, *, causal: bool) -> list[Tiles]:
        """As :meth:`Schedule.tiles`; ``causal`` is ignored, since every tile of keys meets one query."""
        if side == "q":
            return [Tiles(SMALLEST, self._texts, 1, None)] if self._texts else []
        return self._whole.tiles("k", long, causal=self._causal)


class FixedSchedule(Schedule):
    """Tiles of all batches of one shape, in tables at fixed addresses, as CUDA graphs need them.

    A table is large enough for every such batch. Unused entries name a row past a text's end, where programs return.

    Parameters
    ----------
    texts, rows, longest : int
        Texts and rows of each batch, and an upper bound on the rows of a text.
    device : torch.device
    """

    _NOWHERE = 2**30

    def __init__(self, texts: int, rows: int, longest: int, device: torch.device) -> None:
        empty = torch.zeros(texts + 1, dtype=torch.int32)
        super().__init__(empty, empty, device)
        self._counts = texts, rows, rows
        self._longest = longest

    def load(self, cu_seqlens: torch.Tensor) -> None:
        """Fills the tables for the next batch; ``cu_seqlens`` is an int tensor on the CPU, shape [texts + 1]."""
        lengths = cu_seqlens.diff().long()
        self._lengths = {"q": lengths, "k": lengths}
        for key, launches in self._made.items():
            self._fill(key, launches)

    def _make(self, side: str, long: int, causal: bool) -> list[Tiles]:
        texts, rows, _ = self._counts
        short = min(SHORT, long)
        sizes = [(short, texts * SHORT // short)]
        if self._longest > SHORT:
            # Each text's last tile may be partly empty.
            sizes.insert(0, (long, rows // long + min(texts, rows // (SHORT + 1))))
        launches = [
            Tiles(size, count, 0, torch.empty(count, 2, dtype=torch.int32, device=self.device)) for size, count in sizes
        ]
        self._fill((side, long, causal), launches)
        return launches

    def _fill(self, key: tuple[str, int, bool], launches: list[Tiles]) -> None:
        side, _, causal = key
        # The launch for short texts comes last, or is the only one; tiles for long texts may have as few rows.
        for texts, tiles in zip(self._long_and_short(side)[-len(launches) :], launches, strict=True):
            assert tiles.table is not None
            table = self._table(side, texts, tiles.rows, causal)
            whole = torch.zeros(tiles.count, 2, dtype=torch.int32)
            whole[:, 1] = self._NOWHERE
            whole[: len(table)] = table
            tiles.table.copy_(_pinned(whole, self.device), non_blocking=True)


def _pinned(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    return table.pin_memory() if device.type == "cuda" else table


def _on_device(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    return _pinned(table, device).to(device, non_blocking=True)
