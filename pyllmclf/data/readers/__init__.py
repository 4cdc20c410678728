"""Readers of labelled texts, one module per format.

``files`` holds the table of file formats; a new format is one module and one line there. Each rule has one module:
``options`` declares the options, ``columns`` picks the columns, ``encoding`` turns bytes into text, ``values`` checks
texts and labels. Every reader returns a :class:`TextData`, whose texts are exactly those of the source.
"""

from .encoding import decode, read_bytes
from .files import FILE_TYPES, read_file, read_path
from .objects import read_data_object, read_object
from .options import ReadOptions, check_reading
from .text_data import INTEGERS, Fault, Label, Labels, TextData, without_empty
from .values import shorten
from .weights import with_weights, without_zero_weights

__all__ = [
    "FILE_TYPES",
    "INTEGERS",
    "Fault",
    "Label",
    "Labels",
    "ReadOptions",
    "TextData",
    "check_reading",
    "decode",
    "read_bytes",
    "read_data_object",
    "read_file",
    "read_object",
    "read_path",
    "shorten",
    "with_weights",
    "without_empty",
    "without_zero_weights",
]
