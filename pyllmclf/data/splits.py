"""Stratified fractions."""

from __future__ import annotations

from collections import Counter

from ..errors import DataError, UsageError
from .readers import TextData


def stratified_split(data: TextData, fraction: float, seed: int) -> tuple[TextData, TextData]:
    """Takes ``fraction`` of the rows away, every class in its proportion; where texts have several labels, by chance.

    Returns
    -------
    (rest, taken) : tuple of TextData
        Both in the order of ``data``.

    Raises
    ------
    UsageError
        If the fraction is not strictly between 0 and 1.
    DataError
        If a class has a single member, or the fraction leaves a side without room for every class.
    """
    from sklearn.model_selection import train_test_split

    if not 0.0 < fraction < 1.0:
        raise UsageError(f"a fraction of the training data must lie between 0 and 1, not {fraction}.")
    assert data.labels is not None
    if any(isinstance(label, tuple) for label in data.labels):
        try:
            rest, taken = train_test_split(range(len(data)), test_size=fraction, random_state=seed)
        except ValueError as error:
            raise DataError(f"{data.origin}: a fraction of {fraction} can't be split off ({error}).") from error
        return data.select(sorted(rest)), data.select(sorted(taken))
    labels = [str(label) for label in data.labels]
    rarest, count = min(Counter(labels).items(), key=lambda item: item[1])
    if count < 2:
        raise DataError(f"{data.origin}: the class {rarest!r} has one text only; a fraction of it can't be split off.")
    try:
        rest, taken = train_test_split(range(len(data)), test_size=fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{data.origin}: a fraction of {fraction} can't be split off ({error}).") from error
    return data.select(sorted(rest)), data.select(sorted(taken))
