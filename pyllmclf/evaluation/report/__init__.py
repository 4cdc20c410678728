"""The report of an evaluation: one HTML page that needs no network, and is complete without its script."""

from .errors import errors_of
from .lengths import accuracy_by_length
from .provenance import provenance
from .summary import Baselines
from .write import Search, write_report

__all__ = ["Baselines", "Search", "accuracy_by_length", "errors_of", "provenance", "write_report"]
