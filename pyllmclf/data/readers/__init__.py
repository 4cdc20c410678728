"""Readers of labelled texts, one module per format.

``files`` holds the table of file formats; a new format is one module and one line there. Each rule has one module:
``options`` declares the options, ``data_file`` opens and ``compression`` unpacks files, ``encoding`` turns bytes into
text, ``dialect`` finds delimiters and quoting, ``columns`` picks the columns, by ``usual_names`` or ``column_values``,
``notes`` says in one line what was found, ``values`` checks texts and labels. Every reader
returns a :class:`TextData`, whose texts are exactly those of the source.
"""

from .columns import Column
from .data_file import DataFile, check_no_address
from .encoding import decode, read_bytes
from .files import FILE_TYPES, format_of_name, is_file_name, read_file, read_path
from .folders import FileGroup, folder_splits, has_tables, read_folder
from .objects import has_columns, read_data_object, read_object
from .options import ReadOptions, check_reading
from .split_names import SPLITS, split_of
from .text_data import INTEGERS, Fault, Label, Labels, TextData, joined_data, without_empty
from .values import shorten
from .weights import read_parts, with_weights, without_zero_weights

__all__ = [
    "FILE_TYPES",
    "INTEGERS",
    "SPLITS",
    "Column",
    "DataFile",
    "Fault",
    "FileGroup",
    "Label",
    "Labels",
    "ReadOptions",
    "TextData",
    "check_no_address",
    "check_reading",
    "decode",
    "folder_splits",
    "format_of_name",
    "has_columns",
    "has_tables",
    "is_file_name",
    "joined_data",
    "read_bytes",
    "read_data_object",
    "read_file",
    "read_folder",
    "read_object",
    "read_parts",
    "read_path",
    "shorten",
    "split_of",
    "with_weights",
    "without_empty",
    "without_zero_weights",
]
