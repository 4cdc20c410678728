"""The training, validation and test texts of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..checks import is_number
from ..errors import DataError, UsageError
from ..random_state import keeps_random_state
from ..text_pair import Text
from .label_types import each_label, quoted, settle_types
from .named import is_named
from .readers import Label, ReadOptions, TextData
from .sources import applicable, check_applicable, read_named, read_source, split_sources

# Most classes that a line names.
SHOWN = 10
HELD_OUT, LEAST_OF_CLASS, MOST_HELD_OUT = 0.1, 2, 10_000
"""Share of the texts that are held out; at least so many of a class that has twice as many; at most so many in all."""


def read_splits(
    train: Any, validation: Any, test: Any, /, *, seed: int, classes: Sequence[Label] | None = None, **options: Any
) -> tuple[TextData, TextData | None, TextData | None]:
    """Reads the texts of all three splits.

    Parameters
    ----------
    train, validation, test
        As for :func:`pyllmclf.finetune`: data of any kind; ``None`` takes the split of a ``train`` that has splits,
        ``False`` none; a number as ``validation`` splits that fraction off the training texts.
    seed : int
        Seed of the split where ``validation`` is a fraction.
    classes : sequence of str, int or bool, optional
        Classes of the resumed run.
    **options
        Fields of :class:`ReadOptions`. Each is used for the sources that it applies to, ``sample_weight`` for
        ``train`` alone.

    Returns
    -------
    (train, validation, test) : tuple of TextData, the last two or None
        Labels of sources of text have the type that all labels of all splits can have; see
        :func:`.label_types.settle_types`.

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

    pairs = read_options.pairs

    def read(data: Any, split: str) -> TextData:
        weight = read_options.sample_weight if split == "train" else None
        options = replace(read_options, sample_weight=weight, pairs=pairs)
        return read_source(data, applicable(options, data), default_split=split)

    def read_if_any(value: Any, split: str) -> TextData | None:
        if value is False:
            return None
        return named.get(split) if value is None else read(value, split)

    train_data = (named.get("train") or named["all"]) if named else read(train, "train")
    pairs = train_data.has_pairs
    test_data = read_if_any(test, "test")
    validation_data = None if is_number(validation) else read_if_any(validation, "validation")
    settled = settle_types([train_data, validation_data, test_data], classes)
    assert settled[0] is not None
    if is_number(validation):
        settled[:2] = stratified_split(settled[0], float(validation), seed)
    return settled[0], settled[1], settled[2]


def stratified_split(data: TextData, fraction: float, seed: int) -> tuple[TextData, TextData]:
    """Splits a fraction of the rows off, in each class's proportion; at random where texts have several labels.

    The text of a class with one text alone is not split off.

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
        If the fraction leaves a side without room for every class that has more than one text.
    """
    with keeps_random_state():
        from sklearn.model_selection import train_test_split

    if not 0.0 < fraction < 1.0:
        raise UsageError(f"a fraction of the training data must lie between 0 and 1, not {fraction}.")
    assert data.labels is not None
    labels: list[str] | None = None
    rows, kept = list(range(len(data))), []
    if not any(isinstance(label, tuple) for label in data.labels):
        labels = [str(label) for label in data.labels]
        counts = Counter(labels)
        kept = [row for row in rows if counts[labels[row]] == 1]
        rows = [row for row in rows if counts[labels[row]] > 1]
        labels = [labels[row] for row in rows]
    try:
        rest, taken = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{data.origin}: a fraction of {fraction} can't be split off ({error}).") from error
    return data.select(sorted([*rest, *kept])), data.select(sorted(taken))


def hold_out(data: TextData, seed: int) -> tuple[TextData, TextData] | None:
    """Holds a tenth of the rows out, by class where texts have one label; equal texts stay on one side.

    Of a class with few texts two are held out, or one of three; a class with fewer is kept whole.

    Parameters
    ----------
    data : TextData
        Labelled.
    seed : int

    Returns
    -------
    (rest, taken) : tuple of TextData, or None
        Both in the order of ``data``. ``None`` where fewer than two texts, or the texts of one class alone, would be
        held out.
    """
    assert data.labels is not None
    several = any(isinstance(label, tuple) for label in data.labels)
    rows_of: dict[Text, list[int]] = {}
    for row, text in enumerate(data.texts):
        rows_of.setdefault(text, []).append(row)
    by_class: dict[str, list[list[int]]] = {}
    for rows in rows_of.values():
        by_class.setdefault("" if several else str(data.labels[rows[0]]), []).append(rows)
    share, random = min(HELD_OUT, MOST_HELD_OUT / len(data)), np.random.default_rng(seed)
    taken: list[int] = []
    for groups in by_class.values():
        texts = sum(map(len, groups))
        wanted, count = max(round(share * texts), min(LEAST_OF_CLASS, texts // 2 if texts > 3 else texts // 3)), 0
        for index in random.permutation(len(groups)):
            if count + len(groups[index]) <= wanted:
                taken += groups[index]
                count += len(groups[index])
    classes = {"" if several else str(data.labels[row]) for row in taken}
    if len(taken) < LEAST_OF_CLASS or (len(classes) == 1 and len(by_class) > 1):
        return None
    chosen = set(taken)
    return data.select([row for row in range(len(data)) if row not in chosen]), data.select(sorted(taken))


def without_validation(train: TextData, validation: TextData) -> str | None:
    """One line that names the classes of the training texts that no validation text has; ``None`` if there are none.

    Parameters
    ----------
    train, validation : TextData
        Labelled, the second split off the first.
    """
    measured = set(map(str, each_label(validation)))
    counts = Counter(label for label in map(str, each_label(train)) if label not in measured)
    if not counts:
        return None
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    listed = ", ".join(f"{quoted(name)} ({count:,} text{'' if count == 1 else 's'})" for name, count in rarest[:SHOWN])
    more = f" and {len(rarest) - SHOWN:,} more" if len(rarest) > SHOWN else ""
    return (
        f"no validation text has the class{'' if len(rarest) == 1 else 'es'} {listed}{more}: "
        f"{'its texts stay' if len(rarest) == 1 else 'their texts stay'} in training, and the macro-F1 of the "
        f"validation texts leaves {'it' if len(rarest) == 1 else 'them'} out"
    )


def _is_source(value: Any) -> bool:
    """Whether an argument names data, rather than a fraction or nothing."""
    return value is not None and value is not False and not is_number(value)
