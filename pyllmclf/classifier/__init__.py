"""The trained classifier: its state, its files, and prediction. Imports nothing of training."""

from .classifier import Classifier
from .functions import evaluate, load

__all__ = ["Classifier", "evaluate", "load"]
