"""Texts of one part of data that nearly are texts of another: MinHash (Broder 1997) and banded LSH by datasketch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..text_pair import Text, parts_of
from .readers import TextData

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 5
"""Characters of a shingle: short enough that a typo changes few shingles of a short message."""
SIMILARITY = 0.7
"""Least Jaccard similarity of near-duplicates. In IMDb all pairs above it are copies (docs/data.md)."""
PERMUTATIONS, BANDS, ROWS = 126, 21, 6
"""Bands of rows that find 93 % of the pairs of similarity 0.7, and 99.8 % of those of 0.8."""
INSTALL = "pip install 'pyllmclf[labels]'"

_NO_WORD = re.compile(r"\W+")
_BLANK = re.compile(r"\s+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, as in Fibonacci hashing
_SHIFT = np.uint64(32)
# Least similarity that signatures must estimate for the shingles to be compared: five standard deviations below 0.7.
_ESTIMATE = 0.5
# Most candidates whose shingles are compared, those with the highest estimates: thousands of messages of one template
# are candidates of each other.
_COMPARED = 32


@dataclass(frozen=True)
class NearDuplicate:
    """A text and the most similar text of another part.

    Attributes
    ----------
    first, second : int
        Rows in the two parts; of texts that occur more than once, the first ones.
    similarity : float
        Jaccard similarity of their shingles, at least :data:`SIMILARITY`; of pairs of texts, that of the less similar
        of both. 1 if only case, punctuation or white space differ.
    """

    first: int
    second: int
    similarity: float


def is_available() -> bool:
    """Whether datasketch is installed."""
    return importlib.util.find_spec("datasketch") is not None


def shingles(text: Text) -> list[np.ndarray]:
    """Hashes of the runs of five characters of a text, or of each text of a pair.

    Case doesn't count, and characters between words count as one space, unless there is nothing else.

    Returns
    -------
    list of ndarray of uint32, each of shape [shingles]
        In the order of the text, at least one for each text.
    """
    return [_hashes(_normalised(part), place) for place, part in enumerate(parts_of(text))]


def _normalised(text: str) -> str:
    folded = text.casefold()
    return _NO_WORD.sub(" ", folded).strip() or _BLANK.sub(" ", folded).strip()


def _hashes(text: str, seed: int) -> np.ndarray:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    count = len(codes) - SHINGLE + 1
    hashes = np.full(count, seed, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes = (hashes ^ codes[offset : offset + count]) * _MULTIPLIER
        hashes ^= hashes >> _SHIFT
    return hashes.astype(np.uint32)


def similarity(first: Text, second: Text) -> float:
    """Jaccard similarity of the shingles of two texts; of two pairs, that of their less similar texts."""
    return min(_jaccard(a, b) for a, b in zip(shingles(first), shingles(second), strict=True))


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    a, b = np.unique(first), np.unique(second)
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def near_duplicates(
    parts: Sequence[TextData], advance: Callable[[int], object] = lambda count: None
) -> dict[tuple[int, int], list[NearDuplicate]]:
    """Finds the texts of each part that nearly are texts of an earlier part. Equal texts are left out.

    Parameters
    ----------
    parts : sequence of TextData
        All with single texts, or all with pairs.
    advance : callable
        Called with the number of texts that are done.

    Returns
    -------
    dict of (int, int) to list of NearDuplicate
        By the numbers of two parts, the earlier one first: for each distinct text of the second part with near
        duplicates in the first, the most similar one, in the order of the second part.
    """
    from datasketch import MinHashLSH

    rows = [_first_rows(part) for part in parts]
    signatures = [list(_signatures(list(each), advance)) for each in rows]
    found: dict[tuple[int, int], list[NearDuplicate]] = {}
    index: dict[int, Any] = {}
    for first, second in combinations(range(len(parts)), 2):
        if first not in index:
            index = {first: MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))}
            for place, signature in enumerate(signatures[first]):
                index[first].insert(place, signature, check_duplication=False)
            hashes = np.array([each.hashvalues for each in signatures[first]]).reshape(-1, PERMUTATIONS)
            numbers = np.array(list(rows[first].values()), dtype=np.int64)
        matches = []
        for (text, row), signature in zip(rows[second].items(), signatures[second], strict=True):
            if text not in rows[first]:
                places = _likely(index[first].query(signature), hashes, signature.hashvalues)
                matches += _most_similar(parts[first], numbers[places].tolist(), text, row)
        found[first, second] = matches
    return found


def _likely(candidates: Sequence[int], hashes: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of candidates, increasing, those whose signature in ``hashes`` [texts, permutations] is most like ``own``."""
    places = np.sort(np.array(candidates, dtype=np.int64))
    estimates = (hashes[places] == own).mean(axis=1)
    most = np.argsort(-estimates, kind="stable")[:_COMPARED]
    return np.sort(places[most[estimates[most] >= _ESTIMATE]])


def _most_similar(part: TextData, candidates: Sequence[int], text: Text, row: int) -> list[NearDuplicate]:
    """The most similar of some rows, the first one of several; none if it is not similar enough."""
    alike = [NearDuplicate(each, row, similarity(part.texts[each], text)) for each in candidates]
    best = max(alike, key=lambda each: each.similarity, default=None)
    return [] if best is None or best.similarity < SIMILARITY else [best]


def _first_rows(part: TextData) -> dict[Text, int]:
    """First row of each distinct text that is not blank."""
    rows: dict[Text, int] = {}
    for row, text in enumerate(part.texts):
        if any(each.strip() for each in parts_of(text)):
            rows.setdefault(text, row)
    return rows


def _signatures(texts: Sequence[Text], advance: Callable[[int], object]) -> Iterator[MinHash]:
    """A MinHash of each text; of a pair, of the shingles of both.

    Those of the second text have hashes of their own. The similarity of all shingles of two pairs is then between those
    of their first and of their second texts, so that no pair is missed whose texts are both similar.
    """
    from datasketch import MinHash

    # The shingles are hashes already.
    sets = (np.concatenate(shingles(text)).tolist() for text in texts)
    for signature in MinHash.generator(sets, num_perm=PERMUTATIONS, hashfunc=int, scheme="affine32"):
        advance(1)
        yield signature
