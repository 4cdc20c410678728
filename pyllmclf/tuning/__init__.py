"""Chooses model, trained parameters and settings on the user's own data, within a time limit."""

from .result import TuneResult
from .suspicious_labels import label_issues
from .tuner import tune

__all__ = ["TuneResult", "label_issues", "tune"]
