"""Data of any kind that a user may name, as :class:`TextData`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..paths import user_path
from ..suggestions import did_you_mean
from .named import PARTITIONS, Splits, is_named, load_named
from .readers import (
    SPLITS,
    Column,
    FileGroup,
    ReadOptions,
    TextData,
    check_no_address,
    folder_splits,
    format_of_name,
    has_columns,
    has_tables,
    is_file_name,
    joined_data,
    read_data_object,
    read_folder,
    read_parts,
    read_path,
    split_of,
    with_weights,
    without_empty,
)


def load_dataset(name: str, partition: str | None = None, *, split: str | None = None) -> Splits:
    """Loads a named data set.

    Parameters
    ----------
    name : str
        ``"sms_spam"``, ``"imdb"`` or ``"sample"``, optionally with a partition: ``"sms_spam:full"``.
    partition : str, optional
        ``"balanced"`` (default) or ``"full"`` for ``sms_spam``, ``"official"`` (default) or ``"published"`` for
        ``imdb``.
    split : str, optional
        Deprecated name of ``partition``.

    Returns
    -------
    dict of str to TextData
        The splits of the partition, by name: ``"train"``, ``"validation"``, ``"test"``, or ``"all"``.

    Raises
    ------
    UsageError
        For an unknown name or partition, or if both ``partition`` and ``split`` are given.
    DataError
        If the files are damaged, or are neither on this machine nor can be fetched.
    """
    if split is not None:
        if partition is not None:
            raise UsageError("split is the deprecated name of partition; leave split out.")
        warnings.warn(
            f"load_dataset(split={split!r}) is deprecated; say partition={split!r}.", DeprecationWarning, stacklevel=2
        )
        partition = split
    return load_named(name, partition)


def read_data(
    data: Any,
    *,
    split: str | None = None,
    default_split: str = "all",
    text_column: Column | Sequence[Column] | None = None,
    label_column: Column | None = None,
    text_pair_column: Column | None = None,
    pairs: bool | None = None,
    labelled: bool = True,
    label_separator: str | None = None,
    empty_texts: str = "keep",
    encoding_errors: str = "strict",
    encoding: str = "auto",
    delimiter: str | None = None,
    header: bool = True,
    missing: str = "error",
) -> TextData:
    """Reads any supported kind of data.

    Parameters
    ----------
    data
        Name of a data set, path of a file or folder, or an object as :func:`.readers.read_data_object` takes it.
    split : str, optional
        Split of a data set that has splits: ``"train"``, ``"validation"``, ``"test"`` or ``"all"``.
    default_split : str
        Split to read without ``split``, if the data set has it; otherwise all of them, or for ``"test"`` the
        validation split if there is one.
    text_column, label_column, text_pair_column, pairs, labelled, label_separator, empty_texts, encoding_errors
        As for :class:`ReadOptions`.
    encoding, delimiter, header, missing
        As for :class:`ReadOptions`.

    Raises
    ------
    UsageError
        If an option is unknown or does not apply to this kind of data, or the split does not exist.
    DataError
        If the data can't be read.
    """
    data = user_path(data)
    options = ReadOptions(
        text_column=text_column,
        label_column=label_column,
        text_pair_column=text_pair_column,
        pairs=pairs,
        labelled=labelled,
        label_separator=label_separator,
        empty_texts=empty_texts,
        encoding_errors=encoding_errors,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        missing=missing,
    )
    check_options(options, data)
    return read_source(data, options, split=split, default_split=default_split)


def read_source(data: Any, options: ReadOptions, *, split: str | None = None, default_split: str = "all") -> TextData:
    """:func:`read_data` with options that are known to be :func:`applicable`."""
    data = user_path(data)
    if is_named(data):
        return _split_of_named(read_named(data, options), data, split, default_split)
    if parts := split_sources(data):
        wanted = split or _default(parts, default_split, _kind(data))
        if wanted == "all":
            kind = _kind(data)
            return joined_data(read_parts(read_source, list(parts.values()), options, kind), f"{kind} (all)")
        if wanted not in parts:
            raise UsageError(f"{_kind(data)} has no split {wanted!r}; it has {', '.join(parts)}.")
        return read_source(parts[wanted], options)
    if split is not None:
        raise UsageError(f"split={split!r} can be chosen only for a data set that has splits, not for {_kind(data)}.")
    if isinstance(data, FileGroup):
        return read_folder(data, options)
    if isinstance(data, (str, Path)):
        check_no_address(str(data))
        if not _exists(data) and not is_file_name(str(data)):
            raise DataError(
                f"{str(data)[:80]}: neither a file or folder nor the name of a data set; "
                f"the named ones are {', '.join(PARTITIONS)}{did_you_mean(data, PARTITIONS)}."
            )
        return read_folder(Path(data), options) if Path(data).is_dir() else read_path(Path(data), options)
    return read_data_object(data, options)


def _split_of_named(splits: Splits, name: str, split: str | None, default_split: str) -> TextData:
    wanted = split or _default(splits, default_split, name)
    if wanted == "all" and "all" not in splits:
        return joined_data(list(splits.values()), f"{name} (all)")
    if wanted not in splits:
        raise UsageError(f"{name} has no split {wanted!r}; it has {', '.join(splits)}.")
    return splits[wanted]


def _default(splits: Mapping[str, Any], wanted: str, name: str) -> str:
    """The split that is read by default; for an absent test split the validation split, or all with a warning."""
    if wanted in splits or wanted != "test":
        return wanted if wanted in splits else "all"
    if "validation" in splits:
        return "validation"
    if "train" in splits:
        warnings.warn(
            f"{name} has no test split: all of its texts are read, those for training among them.",
            RuntimeWarning,
            stacklevel=3,
        )
    return "all"


def split_sources(data: Any) -> dict[str, Any]:
    """The splits of data that hold several: ``"train"``, ``"validation"``, ``"test"``, each a source of its own.

    Such data are a folder whose subfolders or files are named after splits, and a dictionary of data sets, as
    ``datasets.DatasetDict``, whose other keys are left out. Empty for other data.
    """
    if isinstance(data, (str, Path)):
        return folder_splits(Path(data)) if not is_named(data) and _exists(data) and Path(data).is_dir() else {}
    if not isinstance(data, Mapping) or not all(map(_is_data_set, data.values())):
        return {}
    parts: dict[str, Any] = {}
    for name, value in data.items():
        if (split := split_of(str(name))) is not None:
            parts.setdefault(split, value)
    return {split: parts[split] for split in SPLITS if split in parts}


def _is_data_set(value: Any) -> bool:
    """Whether a value of a dictionary is a source with columns, rather than a column."""
    if isinstance(value, (str, Path)):
        return True
    return has_columns(value) and (
        isinstance(value, list) or hasattr(value, "columns") or hasattr(value, "column_names")
    )


def read_named(name: str, options: ReadOptions) -> Splits:
    """All splits of a named data set, with ``empty_texts`` applied; ``sample_weight`` is that of the training split.

    Raises
    ------
    UsageError
        For an unknown partition, or if the options ask for several labels per text, or for pairs of texts.
    DataError
        As :func:`load_named`, :func:`with_weights` and :func:`without_empty`.
    """
    if options.label_separator is not None:
        raise UsageError(f"the texts of {name} have one label each; leave multi_label out.")
    if options.pairs is True:
        raise UsageError(f"{name} has single texts, and the classifier reads pairs of texts; give other data.")
    splits = load_named(name)
    train = "train" if "train" in splits else "all"
    splits = splits | {train: with_weights(splits[train], options.sample_weight)}
    return {split: without_empty(data, options.empty_texts) for split, data in splits.items()}


def applicable(options: ReadOptions, data: Any) -> ReadOptions:
    """The options with those that don't apply to this kind of data at their defaults.

    Column names apply to files and to objects with columns, encodings to files, and ``delimiter`` and ``header`` to
    delimited files; a pipe may be any of them.
    """
    if is_named(data) or not has_columns(data) or _is_folder_of_texts(data):
        options = replace(options, text_column=None, text_pair_column=None, label_column=None)
    is_file = not is_named(data) and isinstance(data, (str, Path, FileGroup))
    file_format = format_of_name(str(data)) if is_file else None
    if not is_file:
        options = replace(options, encoding_errors="strict")
    if not is_file or (file_format is not None and not file_format.is_text):
        options = replace(options, encoding="auto")
    if not is_file or (file_format is not None and not file_format.is_delimited):
        options = replace(options, delimiter=None)
    if not is_file or (file_format is not None and not file_format.has_header):
        options = replace(options, header=True)
    return options


def check_options(options: ReadOptions, data: Any) -> None:
    """Raises :class:`UsageError` for an option that does not apply to this kind of data."""
    usable = applicable(options, data)
    if options.chooses_columns and not usable.chooses_columns:
        raise UsageError(f"{_kind(data)} has no columns to choose from; leave {_choices(options)} out.")
    for name, about in _OF_FILES.items():
        if getattr(usable, name) != getattr(options, name):
            raise UsageError(f"{name} is about {about}, which {_kind(data)} is not; leave {name} out.")


def check_applicable(options: ReadOptions, sources: Sequence[Any]) -> None:
    """Raises :class:`UsageError` if columns, or options of files, are chosen and apply to no source."""
    usable = [applicable(options, data) for data in sources]
    if options.chooses_columns and not any(each.chooses_columns for each in usable):
        raise UsageError(f"{_choices(options)} choose columns of files or frames, and none is given.")
    for name, about in _OF_FILES.items():
        value = getattr(options, name)
        if value != getattr(ReadOptions, name) and all(getattr(one, name) != value for one in usable):
            raise UsageError(f"{name} is about {about}, and none is given.")


# Options that are about files, or some of them.
_OF_FILES = {
    "encoding_errors": "the bytes of files",
    "encoding": "files of text",
    "delimiter": "delimited files, such as CSV",
    "header": "delimited files, such as CSV",
}


def _choices(options: ReadOptions) -> str:
    """The arguments that choose columns, for a message."""
    pair = "" if options.text_pair_column is None else ", text_pair_column"
    return f"text_column{pair} and label_column"


def _is_folder_of_texts(data: Any) -> bool:
    return isinstance(data, (str, Path)) and _exists(data) and Path(data).is_dir() and not has_tables(Path(data))


def _exists(path: str | Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):  # too long for a name, or with a NUL in it: probably a text
        return False


def _kind(data: Any) -> str:
    return str(data) if isinstance(data, (str, Path)) else f"data of type {type(data).__name__}"
