"""The trained classifier: state, files, prediction and evaluation; imports no training."""

from .classifier import Classifier
from .functions import evaluate, load

__all__ = ["Classifier", "evaluate", "load"]
