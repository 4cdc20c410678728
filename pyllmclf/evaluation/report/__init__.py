"""The report of an evaluation: one HTML page that needs no network, and is complete without its script."""

from .errors import errors_of
from .lengths import accuracy_by_length
from .near_duplicates import NearDuplicates, find_near_duplicates
from .provenance import provenance
from .summary import Baselines
from .write import Search, write_report

__all__ = [
    "Baselines",
    "NearDuplicates",
    "Search",
    "accuracy_by_length",
    "errors_of",
    "find_near_duplicates",
    "provenance",
    "write_report",
]
