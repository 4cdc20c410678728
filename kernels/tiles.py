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
        self._lengths = {"q": lengths_q, "k": lengths_k}
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

    def pooled(self, *, causal: bool) -> PooledSchedule:
        """For one query of each text on all its keys; ``causal`` as all queries ask."""
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
        """The tiles of some texts, int32, shape [tiles, 2]: text and first row."""
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
    """The tiles of one query for each text: those of the keys are all queries' own.

    Parameters
    ----------
    whole : Schedule
        Of all queries.
    counts : (int, int, int)
        Its texts, queries and keys.
    causal : bool
        As all queries ask.
    """

    def __init__(self, whole: Schedule, counts: tuple[int, int, int], causal: bool) -> None:
        self._whole, self._causal = whole, causal
        self._texts, _, self._keys = counts
        self.device = whole.device

    def fits(self, texts: int, rows_q: int, rows_k: int, device: torch.device) -> bool:
        """As :meth:`Schedule.fits`."""
        return (texts, rows_q, rows_k) == (self._texts, self._texts, self._keys) and device == self.device

    def tiles(self, side: str, long: int, *, causal: bool) -> list[Tiles]:
        """As :meth:`Schedule.tiles`; a tile of keys has one query, whatever ``causal``."""
        if side == "q":
            return [Tiles(SMALLEST, self._texts, 1, None)] if self._texts else []
        return self._whole.tiles("k", long, causal=self._causal)


class FixedSchedule(Schedule):
    """The tiles of all batches of one shape, in tables that stay where they are, as CUDA graphs need them.

    A table has room for every such batch; entries that a batch doesn't need name a row behind a text's end, where
    programs have nothing to do.

    Parameters
    ----------
    texts, rows, longest : int
        Texts and rows of each batch, and at most the rows of a text.
    device : torch.device
    """

    _NOWHERE = 2**30

    def __init__(self, texts: int, rows: int, longest: int, device: torch.device) -> None:
        nothing = torch.zeros(texts + 1, dtype=torch.int32)
        super().__init__(nothing, nothing, device)
        self._counts = texts, rows, rows
        self._longest = longest

    def load(self, cu_seqlens: torch.Tensor) -> None:
        """Takes the next batch: int tensor on the CPU, shape [texts + 1]."""
        lengths = cu_seqlens.diff().long()
        self._lengths = {"q": lengths, "k": lengths}
        for key, launches in self._made.items():
            self._fill(key, launches)

    def _make(self, side: str, long: int, causal: bool) -> list[Tiles]:
        texts, rows, _ = self._counts
        sizes = [(SHORT, texts)]
        if self._longest > SHORT:
            # Of each text the last tile need not be full.
            sizes.insert(0, (long, rows // long + min(texts, rows // (SHORT + 1))))
        launches = [
            Tiles(size, count, 0, torch.empty(count, 2, dtype=torch.int32, device=self.device)) for size, count in sizes
        ]
        self._fill((side, long, causal), launches)
        return launches

    def _fill(self, key: tuple[str, int, bool], launches: list[Tiles]) -> None:
        side, _, causal = key
        # The launch for short texts is the last: there need not be one for long texts, whose tiles may be as small.
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
