"""Explains predictions: what each word of a text adds to the logit of a class.

:mod:`.words` and :mod:`.tokens` know the characters of each token, :mod:`.rows` computes logits and gradients in packed
batches, :mod:`.gradients` and :mod:`.occlusion` are the methods, :mod:`.explainer` puts them together,
:mod:`.explanation` is the result, and :mod:`.html` and :mod:`.terminal` show it.
"""

from .baseline import BASELINES, METHODS
from .explainer import STEPS, Explainer
from .explanation import Explanation, Explanations, Weight
from .html import HIGHLIGHT_CSS, highlight

__all__ = [
    "BASELINES",
    "HIGHLIGHT_CSS",
    "METHODS",
    "STEPS",
    "Explainer",
    "Explanation",
    "Explanations",
    "Weight",
    "highlight",
]
