"""The trained classifier: its state, its files, and prediction. Imports nothing of training."""

from .classifier import Classifier, evaluate, load

__all__ = ["Classifier", "evaluate", "load"]
