"""The training, validation and test texts of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from ..checks import is_number
from ..errors import DataError, UsageError
from .named import is_named
from .readers import ReadOptions, TextData
from .sources import applicable, check_applicable, read_named, read_source, split_sources


def read_splits(
    train: Any, validation: Any, test: Any, /, *, seed: int, **options: Any
) -> tuple[TextData, TextData | None, TextData | None]:
    """Reads the texts of all three splits.

    Parameters
    ----------
    train, validation, test
        As for :func:`pyllmclf.finetune`: data of any kind; ``None`` takes the split of a ``train`` that has splits,
        ``False`` none; a number as ``validation`` splits that fraction off the training texts.
    seed : int
        Seed of the split where ``validation`` is a fraction.
    **options
        Fields of :class:`ReadOptions`. Each is used for the sources that it applies to, ``sample_weight`` for
        ``train`` alone.

    Returns
    -------
    (train, validation, test) : tuple of TextData, the last two or None

    Raises
    ------
    UsageError
        If an option is unknown, or columns or an encoding are chosen and no source has them, or a column of weights and
        ``train`` has no columns.
    DataError
        If a source can't be read, or no fraction can be split off.
    """
    read_options = ReadOptions(**options)
    check_applicable(read_options, [data for data in (train, validation, test) if _is_source(data)])
    named = read_named(train, read_options) if is_named(train) else {}
    if parts := split_sources(train):
        train = parts.get("train", train)
        validation, test = (
            parts.get(split) if value is None else value
            for split, value in (("validation", validation), ("test", test))
        )

    def read(data: Any, split: str) -> TextData:
        weight = read_options.sample_weight if split == "train" else None
        return read_source(data, applicable(replace(read_options, sample_weight=weight), data), default_split=split)

    def read_if_any(value: Any, split: str) -> TextData | None:
        if value is False:
            return None
        return named.get(split) if value is None else read(value, split)

    train_data = (named.get("train") or named["all"]) if named else read(train, "train")
    test_data = read_if_any(test, "test")
    if is_number(validation):
        train_data, validation_data = stratified_split(train_data, float(validation), seed)
        return train_data, validation_data, test_data
    return train_data, read_if_any(validation, "validation"), test_data


def stratified_split(data: TextData, fraction: float, seed: int) -> tuple[TextData, TextData]:
    """Splits a fraction of the rows off, in each class's proportion; at random where texts have several labels.

    Parameters
    ----------
    data : TextData
        Labelled.
    fraction : float
        Share of the rows to split off, between 0 and 1, both excluded.
    seed : int

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
    labels = None
    if not any(isinstance(label, tuple) for label in data.labels):
        labels = [str(label) for label in data.labels]
        rarest, count = min(Counter(labels).items(), key=lambda item: item[1])
        if count < 2:
            raise DataError(
                f"{data.origin}: the class {rarest!r} has one text only; a fraction of it can't be split off."
            )
    try:
        rest, taken = train_test_split(range(len(data)), test_size=fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{data.origin}: a fraction of {fraction} can't be split off ({error}).") from error
    return data.select(sorted(rest)), data.select(sorted(taken))


def _is_source(value: Any) -> bool:
    """Whether an argument names data, rather than a fraction or nothing."""
    return value is not None and value is not False and not is_number(value)
