"""The texts to train, validate and test on, from what ``finetune`` is given."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from .named import is_named, load_named
from .readers import TextData, without_empty
from .sources import has_columns, has_encoding, read_data
from .splits import stratified_split


def read_parts(
    train: Any, validation: Any, test: Any, columns: dict[str, str | None], reading: dict[str, Any], seed: int
) -> tuple[TextData, TextData | None, TextData | None]:
    """Texts for training, validation and test.

    Parameters
    ----------
    train, validation, test
        As for :func:`finetune`.
    columns : dict
        ``text_column`` and ``label_column``, for what has columns.
    reading : dict
        Other arguments of :func:`read_data`.
    seed : int
        Of the split, where ``validation`` is a fraction of the training texts.

    Raises
    ------
    UsageError
        If columns or an encoding are given, and nothing has them.
    DataError
        If something can't be read.
    """
    check_of_use(columns, reading["encoding_errors"], [data for data in (train, validation, test) if _is_data(data)])
    own = load_named(train) if is_named(train) else {}
    if own and reading["label_separator"] is not None:
        raise UsageError(f"the texts of {train} have one label each; leave multi_label out.")
    own = {name: without_empty(data, reading["empty_texts"]) for name, data in own.items()}

    def read(data: Any, name: str) -> TextData:
        chosen = columns if has_columns(data) else {}
        errors = reading["encoding_errors"] if has_encoding(data) else "strict"
        return read_data(data, default_split=name, **(reading | chosen | {"encoding_errors": errors}))

    def part(value: Any, name: str) -> TextData | None:
        if value is False:
            return None
        return own.get(name) if value is None else read(value, name)

    train_data = (own.get("train") or own["all"]) if own else read(train, "train")
    test_data = part(test, "test")
    if is_number(validation):
        train_data, taken = stratified_split(train_data, float(validation), seed)
        return train_data, taken, test_data
    return train_data, part(validation, "validation"), test_data


def check_of_use(columns: dict[str, str | None], encoding_errors: str, given: Sequence[Any]) -> None:
    """Raises :class:`UsageError` if columns or an encoding are chosen, and none of the given data has them."""
    if any(columns.values()) and not any(map(has_columns, given)):
        raise UsageError("text_column and label_column choose columns of files or frames, and none is given.")
    if encoding_errors != "strict" and not any(map(has_encoding, given)):
        raise UsageError("encoding_errors is about the bytes of files, and none is given.")


def is_number(value: Any) -> bool:
    """Whether it is a number; as ``validation``, a fraction of the training texts."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_data(value: Any) -> bool:
    return value is not None and value is not False and not is_number(value)
