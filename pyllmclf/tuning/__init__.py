"""Chooses model, trained parameters and settings on the user's own data, within a time limit."""

from .result import TuneResult
from .tuner import tune

__all__ = ["TuneResult", "tune"]
