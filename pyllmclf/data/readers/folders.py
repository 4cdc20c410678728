"""Folders of data: a subfolder of texts for each class, or files of one table."""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...file_types import listed
from .arrow_columns import needed, pick_columns, table_data
from .columns import Columns
from .encoding import open_text
from .files import format_name, read_path
from .notes import Notes
from .options import ReadOptions
from .split_names import SPLITS, split_of
from .text_data import TextData, joined_data, without_empty
from .usual_names import plain_name
from .values import checked_data
from .weights import read_parts

# Folders of texts without labels, such as IMDb's.
UNLABELLED = ("unsup", "unsupervised", "unlabelled", "unlabeled")
_TEXT_ENDINGS = ("", ".txt", ".text")
_ENDING = re.compile(r"\.[a-z][a-z0-9]{0,5}", re.IGNORECASE)
_ABOUT = re.compile(r"(readme|licen[cs]e|changelog|copying|notice)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class FileGroup:
    """Files of a folder that are one split, as ``train-00000-of-00002.parquet`` and its like.

    Attributes
    ----------
    folder : Path
    files : tuple of Path
        In the order of their rows.
    """

    folder: Path
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.files[0]} and {len(self.files) - 1:,} more"


@dataclass(frozen=True)
class PlacedData(TextData):
    """Texts of several files.

    Attributes
    ----------
    place : callable
        Name of the place of a row, by its index among all that were read.
    """

    place: Callable[[int], str] = field(default=str, repr=False)

    def where(self, row: int) -> str:
        """Name of row ``row`` (0-based) for a message."""
        return self.place(row if self.rows is None else self.rows[row])

    def select(self, rows: Sequence[int]) -> TextData:
        """The rows with these indices, in this order."""
        return placed(super().select(rows), self.place)


def placed(data: TextData, place: Callable[[int], str]) -> PlacedData:
    """The same texts with names for their places."""
    return PlacedData(**{each.name: getattr(data, each.name) for each in fields(TextData)}, place=place)


def folder_splits(folder: Path) -> dict[str, Path | FileGroup]:
    """The splits that the names of a folder's subfolders or files tell; empty where they tell none.

    A subfolder is a split if it holds a subfolder for each class, or files of a table; files are, where the names of
    all tables of the folder name splits.

    Raises
    ------
    DataError
        If two subfolders, or files of different formats, are named after one split.
    """
    splits: dict[str, Path | FileGroup] = {}
    for part in _subfolders(folder):
        split = split_of(part.name)
        if split is not None and (_subfolders(part) or _tables(part)):
            if split in splits:
                raise _two_of_a_split(folder, split, splits[split], part)
            splits[split] = part
    if splits:
        return {split: splits[split] for split in SPLITS if split in splits}
    tables = [table for table in _tables(folder) if table.parent in (folder, folder / "data")]
    names = [split_of(table.name) for table in tables]
    if None in names:
        return {}
    for split in SPLITS:
        files = tuple(table for table, name in zip(tables, names, strict=True) if name == split)
        if files:
            other = next((file for file in files if format_name(file.name) != format_name(files[0].name)), None)
            if other is not None:
                raise _two_of_a_split(folder, split, files[0], other)
            splits[split] = files[0] if len(files) == 1 else FileGroup(folder, files)
    return splits


def _two_of_a_split(folder: Path, split: str, first: Path | FileGroup, second: Path) -> DataError:
    names = " and ".join(str(path.relative_to(folder)) for path in (first, second) if isinstance(path, Path))
    return DataError(f"{folder}: {names} are both named after the {split} split; leave one of them, or name a file.")


def has_tables(folder: Path) -> bool:
    """Whether a folder holds files of tables, whose columns can be chosen."""
    return bool(_tables(folder))


def read_folder(source: Path | FileGroup, options: ReadOptions) -> TextData:
    """Reads a folder, or some of its files.

    Parameters
    ----------
    source : Path or FileGroup
        A folder with a subfolder for each class, in which each file is a text; or files of one table, one below the
        other, such as Spark and ``datasets`` write. Hidden files and what else lies there is left out. Unlabelled texts
        may also lie in the folder itself.
    options : ReadOptions

    Raises
    ------
    DataError
        If there are no data, or they can't be read; names the file.
    """
    folder, tables = (source, _tables(source)) if isinstance(source, Path) else (source.folder, list(source.files))
    if tables:
        _warn_joined(folder, tables)
        if {table.suffix.lower() for table in tables} <= {".parquet"}:
            return _read_parquet(folder, tables, options)
        return _read_tables(str(source), tables, options)
    return _read_texts(folder, options)


def _warn_joined(folder: Path, tables: list[Path]) -> None:
    """Warns where the files of one table have names of splits and others, so that test texts may be among them."""
    if len({split_of(table.name) for table in tables}) < 2:
        return
    names = [str(table.relative_to(folder)) for table in tables]
    shown = names[:8] + [f"{len(names) - 8:,} more"] * (len(names) > 8)
    warnings.warn(
        f"{folder}: {', '.join(shown[:-1])} and {shown[-1]} are read one below the other, as one table, though some "
        "are named after splits and not all.",
        RuntimeWarning,
        stacklevel=3,
    )


def _read_parquet(folder: Path, tables: list[Path], options: ReadOptions) -> TextData:
    """Reads Parquet files as one table; ``label=pos/`` in a path is a column, as Spark and Hive write it."""
    import pyarrow as pa
    from pyarrow import dataset

    try:
        source = dataset.dataset(
            list(map(str, tables)),
            format="parquet",
            partitioning=dataset.partitioning(flavor="hive"),
            partition_base_dir=str(folder),
        )
        columns = pick_columns(source.schema.names, source.to_batches, str(folder), options)
        table = source.to_table(columns=needed(columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: the Parquet files can't be read as one table ({error}).") from error
    return table_data(table, columns, str(folder), options)


def _read_tables(origin: str, tables: list[Path], options: ReadOptions) -> TextData:
    """Reads files with the same columns, one below the other."""
    picked: list[Columns] = []

    def read(table: Path, options: ReadOptions) -> TextData:
        before = len(picked)
        data = read_path(table, replace(options, on_pick=picked.append))
        for columns in picked[before:]:
            if options.on_pick is not None:
                options.on_pick(columns)
            first, other = _found(picked[0], options), _found(columns, options)
            if list(map(plain_name, first)) != list(map(plain_name, other)):
                raise DataError(
                    f"{origin}: {tables[0].name} and {table.name} would be one table, and the columns to read are "
                    f"{', '.join(map(repr, first))} in the first and {', '.join(map(repr, other))} in the second; say "
                    "text_column and label_column (--text-column, --label-column), or name a file."
                )
        return data

    parts = read_parts(read, tables, options, origin)
    starts = [0, *accumulate(map(len, parts))]

    def place(row: int) -> str:
        part = bisect_right(starts, row) - 1
        return parts[part].where(row - starts[part])

    return placed(joined_data(parts, origin), place)


def _found(columns: Columns, options: ReadOptions) -> list[str]:
    """Names of the columns that a reader has found, rather than the user chosen."""
    names = list(columns.text_names) if options.text_column is None else []
    if options.text_pair_column is None and columns.pair_name is not None:
        names.append(columns.pair_name)
    if options.label_column is None and columns.label_name is not None:
        names.append(columns.label_name)
    return names


def _read_texts(folder: Path, options: ReadOptions) -> TextData:
    """Reads a text from each file of the subfolders, whose names are the labels."""
    notes = Notes(str(folder))
    classes = {part.name: _texts(part) for part in _subfolders(folder)}
    unlabelled = [name for name in classes if options.labelled and name.lower() in UNLABELLED]
    left_out = {name: len(classes.pop(name)) for name in unlabelled}
    files = [(file, name) for name, texts in classes.items() for file in texts]
    if left_out and files:
        counts = ", ".join(f"{count:,} texts of {name}" for name, count in left_out.items())
        notes.add(f"without the {counts}, which have no label")
    if not options.labelled and not files:
        files = [(file, "") for file in _texts(folder)]
    if not files:
        raise DataError(
            f"{folder}: the folder holds neither a table (of {listed()} files) nor a subfolder of .txt files for each "
            "class, with the class's name."
        )
    texts: list[Any] = [open_text(file, options.encoding_errors, options.encoding, notes).read() for file, _ in files]
    notes.say()
    labels = [name for _, name in files] if options.labelled else None
    data = checked_data(texts, labels, str(folder), None, replace(options, empty_texts="keep"), untyped=True)
    return without_empty(placed(data, lambda row: str(files[row][0])), options.empty_texts)


def _subfolders(folder: Path) -> list[Path]:
    """The subfolders that may hold data, in natural order."""
    return [path for path in _visible(folder) if path.is_dir() and path.name != "__MACOSX"]


def _tables(folder: Path) -> list[Path]:
    """Files of tables in a folder and below it, in natural order.

    Beside files of Parquet or Arrow, others are no data: ``datasets`` describes its own in JSON, for one.
    """
    tables = _all_tables(folder)
    for name in ("Parquet", "Arrow"):
        of_format = [table for table in tables if format_name(table.name) == name]
        if of_format:
            return of_format
    return tables


def _all_tables(folder: Path) -> list[Path]:
    inside = [path for path in _visible(folder) if not path.name.startswith("_")]  # Spark's _SUCCESS, for one
    found = [path for path in inside if path.is_file() and format_name(path.name) not in (None, "text")]
    below = [table for path in inside if path.is_dir() and not path.is_symlink() for table in _all_tables(path)]
    return found + below


def _texts(folder: Path) -> list[Path]:
    """Files of text in a folder and below it, in natural order: named .txt, or without an ending as 20 Newsgroups'."""
    found = []
    for path in _visible(folder):
        if path.is_dir():
            found += [] if path.is_symlink() else _texts(path)
        elif path.is_file() and not _ABOUT.fullmatch(path.name):
            ending = path.suffix.lower()
            if ending in _TEXT_ENDINGS or not _ENDING.fullmatch(ending):
                found.append(path)
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error}).") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts part-2 before part-10."""
    pieces = re.split(r"(\d+)", path.name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
